"""Primary contrasts: the comparisons that a suite names before it is run, as its question.

Records carry them outside of their cells, so that a report, which reads records alone, can tell
what was asked beforehand from what was found. Imports neither torch nor zoo.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from benchmarks.records.bounds import Brief, Name, Options
from benchmarks.records.cell import MOST_SEED, REFERENCE, BudgetMetric, BudgetValue, Cell, Origin
from benchmarks.records.strict import Many, Strict

__all__ = ["Arm", "Contrast", "Primary"]


class Arm(Strict):
    """One side of a contrast: a method, with those settings that differ from its defaults."""

    method: Name
    settings: Options = {}
    origin: Origin | None = None

    @property
    def name(self) -> str:
        """The method with its settings, as tables name it."""
        named = ", ".join(f"{key}={value}" for key, value in sorted(self.settings.items()))
        return f"{self.method} ({named})" if named else self.method

    def holds(self, cell: Cell) -> bool:
        """Whether a cell is of this side; controls and networks from scratch are of none."""
        is_plain = cell.scratch is None and cell.longer is None
        mine = (self.method, self.settings, self.origin)
        return is_plain and (cell.method, cell.settings, cell.origin) == mine


class Contrast(Strict):
    """A method, what it is compared with, and the budget.

    What is compared is the final accuracy under the common finish, paired by seed, on every network
    and data set of the suite. Where methods come from is filled in when a run is planned.
    """

    method: Name
    settings: Options = {}
    origin: Origin | None = None
    against: Name = REFERENCE
    against_settings: Options = {}
    against_origin: Origin | None = None
    budget: BudgetValue

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """The method, and what it is compared with."""
        return (
            Arm(method=self.method, settings=self.settings, origin=self.origin),
            Arm(method=self.against, settings=self.against_settings, origin=self.against_origin),
        )


class Primary(Strict):
    """A contrast as records carry it: with what the budget limits, seeds and networks planned.

    `networks` are those of the whole suite, whichever a run does first, each with its data; see
    `benchmarks.records.cell.network_name`. Records that are older than the field have none.
    """

    contrast: Contrast
    metric: BudgetMetric
    seeds: Many[Annotated[int, Field(ge=0, le=MOST_SEED)]] = Field(min_length=1, max_length=10_000)
    networks: Many[Brief] = Field(default=(), max_length=100_000)

    @property
    def question(self) -> Primary:
        """The same without the networks: a suite that gets another one asks no other question."""
        return self.model_copy(update={"networks": ()})

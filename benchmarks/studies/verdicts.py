"""The rule by which a number becomes a verdict, and what the rows of one claim leave of it.

The words of a verdict follow the number of seeds. A claim that is tried in many settings has as
many chances of a clear row, so Holm's correction goes over its rows. Imports neither torch nor zoo.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.analysis.uncertainty import ERROR, Estimate, estimate, holm
from benchmarks.studies.claim_schema import Test

__all__ = [
    "FEWEST",
    "MANY",
    "UNTESTED",
    "Begun",
    "Outcome",
    "Verdict",
    "correct",
    "judge",
    "largest",
    "reach",
    "verdict_of",
]

FEWEST = 3
"""Seeds below which nothing is said."""

MANY = 5
"""Seeds from which a verdict is a plain one; below, it is a hint."""

Verdict = Literal[
    "holds here",
    "does not hold here",
    "points that way here",
    "points the other way here",
    "not supported here",
    "cannot be tested here",
]

UNTESTED: Verdict = "cannot be tested here"


@dataclass(frozen=True)
class Outcome:
    """What came of a test in one setting.

    Attributes:
        setting: what was tried.
        control: what it was compared with.
        records: folder and protocol that the number comes from.
        number: what was found.
        verdict: by the rule that the page states.
        why: what the verdict rests on, or what is missing.
        p_value: of the paired t-test behind the verdict, for this row alone; None without one.
    """

    setting: str
    control: str
    records: str
    number: str
    verdict: Verdict
    why: str = ""
    p_value: float | None = None


@dataclass(frozen=True)
class Begun:
    """An outcome that has no verdict yet."""

    setting: str
    control: str
    records: str
    number: str

    def numbered(self, number: str) -> Begun:
        """The same with another number."""
        return Begun(self.setting, self.control, self.records, number)

    def beside(self, control: str, number: str) -> Begun:
        """The same with a second control and its number."""
        both = f"{self.number} against {self.control}; {number}"
        return Begun(self.setting, f"{self.control}; {control}", self.records, both)

    def ended(self, verdict: Verdict, why: str = "", p_value: float | None = None) -> Outcome:
        """With a verdict."""
        mine = (self.setting, self.control, self.records, self.number)
        return Outcome(*mine, verdict, why, p_value)

    def untested(self, why: str, p_value: float | None = None) -> Outcome:
        """With nothing said of the claim."""
        return self.ended(UNTESTED, why, p_value)


def judge(test: Test, begun: Begun, found: Estimate | None) -> Outcome:
    """The rule that the page states, for a row alone."""
    if found is None:
        return begun.untested("no seed has both results")
    seeds = len(found.values)
    if seeds < FEWEST:
        return begun.untested(f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, needs {FEWEST}")
    limit, way = (test.at_most, -1) if test.at_most is not None else (test.at_least or 0.0, 1)
    margin = estimate([way * (value - limit) for value in found.values])
    if not margin.spreads:
        return begun.untested(f"{seeds} seeds whose differences do not spread, so there is no test")
    if margin.sign:
        return begun.ended(verdict_of(margin.sign, seeds), f"{seeds} seeds", margin.p_value)
    return begun.untested(f"no clear difference{reach(test, margin)}", margin.p_value)


def verdict_of(sign: int, seeds: int) -> Verdict:
    """Words of certainty by the number of seeds: three leave two degrees of freedom."""
    if seeds < MANY:
        return "points that way here" if sign > 0 else "points the other way here"
    return "holds here" if sign > 0 else "does not hold here"


def reach(test: Test, margin: Estimate) -> str:
    """How wide Student's interval is: what so few seeds could not have shown."""
    width = margin.half_width
    if not width:
        return ""
    shown = f"{width:.2f}" if test.kind in ("tau", "seconds") else f"{100 * width:.1f} points"
    seeds = len(margin.values)
    return f"; with {seeds} seeds Student's interval reaches {shown} to either side"


def largest(p_values: Iterable[float | None]) -> float | None:
    """Of a statement that needs all of several tests; None if one of them could not be made."""
    known = [*p_values]
    return None if None in known else max(p for p in known if p is not None)


def correct(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of one claim, those that Holm's correction over them leaves with their verdict.

    A row without a p-value counts among them as 1. A runtime, which is judged by the noise of its
    own timing, has none and keeps its verdict.
    """
    if len(outcomes) < 2:
        return [*outcomes]
    together = holm([outcome.p_value for outcome in outcomes])
    return [
        _among(outcome, p, len(outcomes)) for outcome, p in zip(outcomes, together, strict=True)
    ]


def _among(outcome: Outcome, p_value: float, rows: int) -> Outcome:
    if outcome.verdict == UNTESTED or outcome.p_value is None:
        return outcome
    if p_value <= ERROR:
        why = f"{outcome.why}; p = {p_value:.2g} after Holm over the {rows} rows of the claim"
        return replace(outcome, why=why)
    alone = f"clear alone (p = {outcome.p_value:.2g})"
    why = f"{alone}, not over the {rows} rows of the claim (p = {p_value:.2g} after Holm)"
    return replace(outcome, verdict=UNTESTED, why=why)

"""What a search will cost, said before it starts, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from zoo.core.meter import Meter, Phase
from zoo.core.method.problem import Problem
from zoo.core.progress import Tell

__all__ = ["Efforts", "share_of_budget", "told_effort", "watched"]


Efforts = Mapping[Phase, int]
"""Multiply-adds that phases of a search will cost, about, forward and backward; empty where that is
not worth telling."""

_DOING: Mapping[Phase, str] = {"scoring": "scoring channels", "search": "searching"}


def share_of_budget(problem: Problem) -> float:
    """The budget, as a share of the parent's cost."""
    return problem.budget.limit / problem.full_cost


def told_effort(method: str, efforts: Efforts, finetune_macs: int) -> str:
    """A line on what a search will cost.

    Args:
        method: its name.
        efforts: by phase.
        finetune_macs: multiply-adds of the fine-tuning, to compare with; 0 for none.
    """
    macs = sum(efforts.values())
    line = f"{method} will search for about {macs / 1e9:,.3g} GMACs"
    if finetune_macs:
        line += f", {macs / finetune_macs:.2g} times what fine-tuning takes"
    return line


@contextmanager
def watched(meter: Meter, efforts: Efforts, tell: Tell) -> Iterator[None]:
    """Tell how far a search is, by what it has spent, while the context is open.

    Args:
        meter: of the search.
        efforts: what is expected, by phase.
        tell: shows progress; of phases that train, the training itself tells.
    """

    def look() -> None:
        phase = meter.open_phase
        if phase is None or phase not in _DOING:
            return
        done = meter.spent[phase].macs
        total = efforts.get(phase, 0)
        if done < total:
            tell(_DOING[phase], done, total)
        else:  # more than expected: nobody knows how much
            tell(_DOING[phase], 0, None)

    meter.listener = look
    try:
        yield
    finally:
        meter.listener = None

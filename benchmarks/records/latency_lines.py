"""Budgets of latency in words: which networks take another time than was predicted for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.records.plain import counted
from benchmarks.records.record import Record
from benchmarks.records.runtime import Measured

__all__ = ["latency_lines"]

TOLERATED = 0.02
"""Relative difference that is never told, as `zoo.prune` does not tell it either."""


@dataclass(frozen=True)
class _Held:
    """A predicted latency against what the clock said, in the unit of the budget.

    Attributes:
        label: of the cell.
        unit: in words.
        predicted, measured: of the pruned network.
        low, high: what may be measured by chance.
        parents: milliseconds of the parent, predicted and measured.
    """

    label: str
    unit: str
    predicted: float
    measured: float
    low: float
    high: float
    parents: tuple[float, float]

    @property
    def gap(self) -> float:
        """Relative difference; 0 where noise or the last digit of a budget explain it."""
        if self.low <= self.predicted <= self.high:
            return 0.0
        found = abs(self.measured / self.predicted - 1)
        return found if found > TOLERATED else 0.0


def latency_lines(records: Sequence[Record]) -> list[str]:
    """A line on networks that disagree with their prediction beyond noise; none if all agree.

    Args:
        records: with the times that belong to them; those without a budget of latency, or without
            times, or timed on another processor than the prediction is for, are left out. A
            network that was timed under several releases of PyTorch counts once, under that of its
            prediction if it was timed there.
    """
    by_id: dict[str, _Held] = {}
    for record in sorted(records, key=_is_timed_as_predicted):  # the last of a network stays
        if (found := _held(record)) is not None:
            by_id[record.id] = found
    off = sorted((each for each in by_id.values() if each.gap), key=lambda each: -each.gap)
    if not off:
        return []
    worst = off[0]
    return [
        f"Latency of {len(off)} of {counted(len(by_id), 'pruned network')} is not as predicted, "
        f"beyond noise; furthest off is {worst.label}: "
        f"predicted {worst.predicted:.2f}{worst.unit}, measured {worst.measured:.2f}{worst.unit} "
        f"(noise: {worst.low:.2f} to {worst.high:.2f}). The machine was busier while operators "
        "were timed, or now (parent predicted "
        f"{worst.parents[0]:.3g} ms, measured {worst.parents[1]:.3g} ms), or small operators take "
        "no less time with fewer channels. With a new folder as --results, operators are timed "
        "anew; let nothing else run."
    ]


def _is_timed_as_predicted(record: Record) -> bool:
    """Whether it was timed under the release of PyTorch that its operators were timed under."""
    on = record.timed_on
    return on is None or on.environment.torch == record.environment.torch


def _held(record: Record) -> _Held | None:
    predicted = record.predicted_latency
    if predicted is None or not record.is_timed_where_trained:
        return None
    found = next((each for each in record.latency if each.batch == predicted.batch), None)
    if found is None:
        return None
    is_ms = record.cell.metric == "latency_ms"
    low, high = _noise(found, is_ms)
    return _Held(
        label=record.cell.label,
        unit=" ms" if is_ms else " of the parent's",
        predicted=predicted.pruned_ms / (1 if is_ms else predicted.parent_ms),
        measured=found.pruned_ms.median if is_ms else found.ratio.median,
        low=low,
        high=high,
        parents=(predicted.parent_ms, found.parent_ms.median),
    )


def _noise(found: Measured, is_ms: bool) -> tuple[float, float]:
    """What may be measured by chance: between rounds, and by how the parent's copy is off."""
    drift = abs(found.control.median - 1)
    if is_ms:
        low, high = found.pruned_ms.q25, found.pruned_ms.q75
    elif found.ratio_interval is not None:
        low, high = found.ratio_interval.low, found.ratio_interval.high
    else:
        low, high = found.ratio.q25, found.ratio.q75
    return low * (1 - drift), high * (1 + drift)

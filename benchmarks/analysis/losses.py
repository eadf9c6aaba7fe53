"""How much worse a new record is than an old one, check by check."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from benchmarks.analysis.apart import NO_WORDS, Words, taught
from benchmarks.analysis.comparison import DECIDING, one_a_seed, spent_macs, timing_of
from benchmarks.analysis.names import method_name
from benchmarks.records.plain import told_budget
from benchmarks.records.record import Record

__all__ = [
    "CHECKS",
    "EXPECTED",
    "IMAGES_COUNT_AS",
    "LOSSES",
    "OF_TIMES",
    "WHY_NOT",
    "CannotJudge",
    "Check",
    "Noise",
    "Pair",
]


Check = Literal["accuracy", "recalibrated", "macs", "cost", "latency", "config"]


CHECKS: tuple[Check, ...] = get_args(Check)


OF_TIMES: tuple[Check, ...] = ("latency",)
"""Checks of times, which belong to a device; their losses are logarithms of ratios."""


IMAGES_COUNT_AS = 10
"""Repetitions that the spread due to test images counts as, beside the spread over seeds."""


UNSEEN = 2.0
"""With one seed, noise is taken as so many times what the test images let an accuracy vary: the
median of that ratio over published rows with several seeds."""


class CannotJudge(ValueError):
    """A number of a pair is missing or not finite."""


@dataclass(frozen=True)
class Pair:
    """The records of one cell.

    Attributes:
        base: what to compare with.
        new: what to judge.
        copies: the same, once for each device that both sides have, with the times measured there.
        words: what tells its network, data and recipe from others of the same names.
    """

    base: Record
    new: Record
    copies: tuple[Pair, ...] = ()
    words: Words = NO_WORDS

    @property
    def task(self) -> str:
        """Network, data, recipe and budget."""
        cell = self.base.cell
        recipe = f"{taught(cell)}{self.words.recipe}"
        return f"{self.network}{recipe} at {told_budget(cell.budget, cell.metric)}"

    @property
    def network(self) -> str:
        """Network and data."""
        return self.words.network(self.base.cell)

    @property
    def method(self) -> str:
        """The method, with the settings that differ from its defaults."""
        return method_name(self.base.cell)

    @property
    def row(self) -> tuple[str, str]:
        """The cell without its seed, and the processor; pairs that share both repeat each other."""
        return self.base.cell.variant, self.base.trained_on

    @property
    def timings(self) -> tuple[tuple[str, str], ...]:
        """Side and name of the timings of base and new, which other cells may share."""
        return ("base", timing_of(self.base)), ("new", timing_of(self.new))


Noise = Callable[[Sequence[Pair]], list[float]]
"""Standard deviation of the difference of each pair of a task, if nothing changed."""


def _accuracy_noise(value: Callable[[Record], float | None]) -> Noise:
    """Spread of an accuracy's difference over seeds, averaged with that due to the test images."""

    def noise(pairs: Sequence[Pair]) -> list[float]:
        rows: dict[str, list[float]] = {}
        for record in one_a_seed(pair.base for pair in pairs):
            rows.setdefault(record.cell.variant, []).append(value(record) or 0.0)
        count = max(min(pair.base.images.get("test", 0) for pair in pairs), 1)
        typical = statistics.fmean(top1 for row in rows.values() for top1 in row)
        # One image more or less at the ends, where the plain formula says there is no spread.
        typical = min(max(typical, 1 / count), 1 - 1 / count)
        by_images = max(typical * (1 - typical), 0.0) / count
        own = {key: statistics.variance(row) if len(row) > 1 else 0.0 for key, row in rows.items()}
        over_seeds = sum((len(row) - 1) * own[key] for key, row in rows.items())
        repeats = sum(len(row) - 1 for row in rows.values())
        pooled = (IMAGES_COUNT_AS * by_images + over_seeds) / (IMAGES_COUNT_AS + repeats)
        if not repeats:
            pooled = UNSEEN**2 * by_images
        return [math.sqrt(2 * max(pooled, own[pair.base.cell.variant])) for pair in pairs]

    return noise


def _latency_noise(pairs: Sequence[Pair]) -> list[float]:
    """Spread of a log ratio's difference, from the parents that were timed against themselves."""
    sides = [
        side for pair in pairs for side in zip(pair.timings, (pair.base, pair.new), strict=True)
    ]
    controls = [math.log(ratio) for ratio in _controls(dict(sides).values())]
    # The second moment about 0, which is what a quiet machine would show.
    noise = math.sqrt(2 * float(np.mean(np.square(controls)))) if controls else 0.0
    return [noise] * len(pairs)


def _controls(records: Iterable[Record]) -> list[float]:
    """Times of the parent over its own."""
    return [measured.control.median for record in records for measured in record.latency]


def _both(
    pair: Pair, value: Callable[[Record], float | None], *, is_due: bool
) -> tuple[float, float] | None:
    """A number of the base and of the new record; None if neither has one and none is due.

    Raises:
        CannotJudge: if a side lacks it, or it is not finite.
    """
    before, after = value(pair.base), value(pair.new)
    if before is None and after is None and not is_due:
        return None
    for found, side in ((before, "base"), (after, "new set")):
        if found is None:
            raise CannotJudge(f"the record of the {side} does not have it")
        if not math.isfinite(found):
            raise CannotJudge(f"in the {side} it is {found}")
    assert before is not None and after is not None
    return before, after


def _accuracy_loss(
    value: Callable[[Record], float | None], *, of_members: bool
) -> Callable[[Pair], float | None]:
    """Fall of an accuracy, which every cell has that trains a network; some only if it is pruned.

    Args:
        value: the accuracy.
        of_members: whether members of a sample, which are trained alone, have it, too.
    """

    def loss(pair: Pair) -> float | None:
        cell = pair.base.cell
        is_due = cell.sample is None or (of_members and cell.member is not None)
        found = _both(pair, value, is_due=is_due)
        if found is None:
            return None
        tested = [record.images.get("test", 0) for record in (pair.base, pair.new)]
        if not tested[0] or tested[0] != tested[1]:
            raise CannotJudge(
                f"{tested[0]} and {tested[1]} test images stand behind it in base and new set; "
                "how far it varies by itself follows from one number of them, above 0"
            )
        return found[0] - found[1]

    return loss


def _macs_loss(pair: Pair) -> float | None:
    is_due = pair.base.cell.sample is None or pair.base.cell.member is not None
    found = _both(pair, lambda record: record.size.macs if record.size else None, is_due=is_due)
    return None if found is None else _growth(*found)


def _cost_loss(pair: Pair) -> float | None:
    before, after = (spent_macs(r, [*DECIDING, "finetune"]) for r in (pair.base, pair.new))
    return None if before == after == 0 else _growth(before, after)


def _growth(before: float, after: float) -> float:
    """Relative growth.

    Raises:
        CannotJudge: if a number is not above 0.
    """
    if not (before > 0 and after > 0):
        raise CannotJudge(f"it is {before:g} in the base and {after:g} in the new set")
    return after / before - 1


def _latency_loss(pair: Pair) -> float | None:
    """Mean log ratio of pruned over parent, new over base; None for times of two machines."""
    if pair.base.runs_on != pair.new.runs_on:
        return None
    base, new = (
        {found.batch: found.ratio.median for found in record.latency}
        for record in (pair.base, pair.new)
    )
    if base.keys() != new.keys():
        raise CannotJudge(f"timed at the batches {sorted(base)} in the base, now {sorted(new)}")
    times = [*base.values(), *new.values(), *_controls((pair.base, pair.new))]
    if not all(0 < time < math.inf for time in times):
        raise CannotJudge("a ratio of times is not above 0")
    changes = [math.log(new[batch] / base[batch]) for batch in base]
    return statistics.fmean(changes) if changes else None


def _config_loss(pair: Pair) -> float | None:
    """Share of the kept channels that are not the same ones."""
    configs = [record.config for record in (pair.base, pair.new)]
    if configs == [None, None]:
        return None
    if None in configs:
        raise CannotJudge(f"the {'base' if configs[0] is None else 'new set'} does not have it")
    if {(g.name, g.size) for g in pair.base.groups} != {(g.name, g.size) for g in pair.new.groups}:
        raise CannotJudge("the two networks do not have the same groups of channels")
    common = kept = 0
    for group in pair.base.groups:
        before, after = (_kept(record, group.name, group.size) for record in (pair.base, pair.new))
        common += len(before & after)
        kept += max(len(before), len(after))
    return 1 - common / kept if kept else None


def _kept(record: Record, name: str, size: int) -> set[int]:
    channels = (record.config or {}).get(name)
    if not isinstance(channels, list):
        return set(range(size))
    return {channel for channel in channels if isinstance(channel, int)}


LOSSES: Mapping[Check, Callable[[Pair], float | None]] = {
    "accuracy": _accuracy_loss(lambda record: record.top1.finetuned, of_members=True),
    "recalibrated": _accuracy_loss(lambda record: record.top1.recalibrated, of_members=False),
    "macs": _macs_loss,
    "cost": _cost_loss,
    "latency": _latency_loss,
    "config": _config_loss,
}


EXPECTED: Mapping[Check, Noise] = {
    "accuracy": _accuracy_noise(lambda record: record.top1.finetuned),
    "recalibrated": _accuracy_noise(lambda record: record.top1.recalibrated),
    "latency": _latency_noise,
}


WHY_NOT: Mapping[Check, str] = {
    "accuracy": "they train no network",
    "recalibrated": "they recalibrate no network",
    "macs": "they make no network",
    "cost": "nothing was spent",
    "latency": "not timed, or on another processor or release of torch",
    "config": "no record has a configuration",
}

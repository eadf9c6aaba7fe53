"""Two sets of records, cell by cell and seed by seed: what got worse by more than noise.

A change to a program acts on a run as another seed does, even where it is meant to change nothing;
so the noise of a difference is what two runs with different seeds would differ by. It is estimated
for each task (network, data, budget) from three sources:

- the spread over seeds in the base, pooled over the methods of the task, or a method's own if that
  is larger, times the root of two;
- where there is one seed, what the number of test images alone lets an accuracy vary; with few
  seeds the two are averaged, this one counted like ten repetitions;
- the spread of the differences themselves, by their median absolute deviation, if it is larger and
  at least six methods and seeds were paired.

Times take the spread of the parent timed against itself instead of the first two, and counts, which
do not vary with the seed's luck, have only the third. A change is called worse if it is larger than
its tolerance and its one-sided p-value is below the level after Holm's correction over everything
tested: all cells, every method, every network, every row. Reads records and nothing else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from benchmarks.record import Record, current_records
from benchmarks.report import DECIDING, method_name, spent_macs

__all__ = ["CHECKS", "TOLERANCES", "Check", "Finding", "Pair", "Verdict", "judge", "pair_up"]

Check = Literal["accuracy", "recalibrated", "macs", "cost", "latency", "config"]
CHECKS: tuple[Check, ...] = get_args(Check)

TOLERANCES: Mapping[Check, float] = {
    "accuracy": 0.01,
    "recalibrated": 0.05,
    "macs": 0.03,
    "cost": 0.10,
    "latency": 0.10,
    "config": 0.20,
}
"""Changes up to this size are never called worse: fractions of images, of the base, of channels."""

LEVEL = 0.001
"""Chance of a false alarm of one check on an unchanged program."""

IMAGES_COUNT_AS = 10
"""Repetitions that the spread due to the test images stands for beside that over seeds."""

ENOUGH = 6
"""Differences from which their own spread is taken."""


@dataclass(frozen=True)
class Pair:
    """The records of one cell."""

    base: Record
    new: Record

    @property
    def task(self) -> str:
        """Network, data and budget."""
        cell = self.base.cell
        return f"{self.network} at {cell.budget:g} {cell.metric}"

    @property
    def network(self) -> str:
        """Network and data."""
        return f"{self.base.cell.model.name} on {self.base.cell.data.name}"

    @property
    def method(self) -> str:
        """The method, with the settings that differ from its defaults."""
        return method_name(self.base.cell)


Noise = Callable[[Sequence[Pair]], list[float]]
"""Standard deviation of the difference of each pair of a task, if nothing changed."""


@dataclass(frozen=True)
class Finding:
    """What became of one number in one group of cells.

    Attributes:
        check: which number.
        group: which cells.
        pairs: how many.
        loss: mean change, positive if worse; the unit is that of the tolerance.
        noise: standard error of the mean change of an unchanged program.
        verdict: worse, better, or same within tolerance and noise.
    """

    check: Check
    group: str
    pairs: int
    loss: float
    noise: float
    verdict: Literal["worse", "better", "same"]


@dataclass(frozen=True)
class Verdict:
    """All that a comparison says.

    Attributes:
        findings: one for each check and group.
        broken: cells that ended well in the base and do not any more, with the reason.
        notes: what was left out, and why.
    """

    findings: tuple[Finding, ...]
    broken: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse by more than noise."""
        return bool(self.broken) or any(found.verdict == "worse" for found in self.findings)


def pair_up(base: Iterable[Record], new: Iterable[Record], *, partial: bool = False) -> list[Pair]:
    """Pairs the records of two sets by cell, seed included.

    Args:
        base: what to compare with; cells that did not end well in it are left out.
        new: what to judge; cells that only it has are left out.
        partial: whether cells of the base may be missing.

    Raises:
        ValueError: if the sets share no cell, or some of the base are missing.
    """
    old = {r.cell.key: r for r in current_records(list(base)) if r.status == "ok"}
    now = {record.cell.key: record for record in current_records(list(new))}
    if not old:
        raise ValueError(
            "the base has no record that ended well, so there is nothing to hold on to"
        )
    pairs = [Pair(record, now[key]) for key, record in old.items() if key in now]
    if not pairs:
        raise ValueError(f"the two sets share no cell; {_difference(old, now)}")
    missing = [record for key, record in old.items() if key not in now]
    if missing and not partial:
        raise ValueError(
            f"{len(missing)} of {len(old)} cells of the base are missing in the new set "
            f"(the first: {missing[0].cell.label}; {_difference({'': missing[0]}, now)}); "
            "run them, or compare what both have with --partial"
        )
    return pairs


def judge(
    pairs: Sequence[Pair],
    checks: Sequence[Check] = CHECKS,
    *,
    tolerances: Mapping[Check, float] = TOLERANCES,
    level: float = LEVEL,
) -> Verdict:
    """Compares every number in every group of cells.

    Args:
        pairs: of records.
        checks: which numbers.
        tolerances: by check, see `TOLERANCES`.
        level: chance of a false alarm for each check.

    Raises:
        ValueError: if none of the numbers can be compared.
    """
    broken = [_breakage(pair) for pair in pairs if pair.new.status != "ok"]
    whole = [pair for pair in pairs if pair.new.status == "ok"]
    findings, notes = [], []
    for check in checks:
        changes = {id(pair): loss for pair in whole if (loss := LOSSES[check](pair)) is not None}
        known = [pair for pair in whole if id(pair) in changes]
        if not known:
            notes.append(f"{check}: not compared, {WHY_NOT[check]}")
            continue
        if len(known) < len(whole):
            notes.append(f"{check}: {len(whole) - len(known)} cells left out, {WHY_NOT[check]}")
        losses = [changes[id(pair)] for pair in known]
        findings += _test(check, known, losses, tolerances[check], level)
    if not findings and not broken:
        raise ValueError("nothing can be compared: " + "; ".join(notes))
    return Verdict(tuple(findings), tuple(broken), tuple(notes))


def _test(
    check: Check, pairs: Sequence[Pair], losses: Sequence[float], tolerance: float, level: float
) -> list[Finding]:
    """Every group's mean change against its noise, Holm's correction over the groups."""
    noises = _noises(check, pairs, losses)
    tested = []
    for group, members in _groups(pairs).items():
        loss = statistics.fmean(losses[i] for i in members)
        error = math.sqrt(sum(noises[i] ** 2 for i in members)) / len(members)
        tested.append((_p_value(abs(loss), error), group, len(members), loss, error))
    tested.sort()
    findings, is_open = [], True
    for rank, (p_value, group, count, loss, error) in enumerate(tested):
        is_open = is_open and p_value <= level / (len(tested) - rank)
        counts = is_open and abs(loss) > tolerance
        # A configuration can only be another one; whether that is better, accuracy says.
        verdict: Literal["worse", "better"] = "worse" if loss > 0 else "better"
        findings.append(Finding(check, group, count, loss, error, verdict if counts else "same"))
    order = list(_groups(pairs))
    return sorted(findings, key=lambda found: order.index(found.group))


def _groups(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Positions of the pairs of all cells, of every network, of every method and of every row."""
    groups: dict[str, list[int]] = {"all cells": list(range(len(pairs)))}
    named: Sequence[Callable[[Pair], str]] = (
        lambda pair: pair.network,
        lambda pair: pair.method,
        lambda pair: f"{pair.method}, {pair.task}",
    )
    for name in named:
        for index, pair in enumerate(pairs):
            groups.setdefault(name(pair), []).append(index)
    return groups


def _p_value(loss: float, error: float) -> float:
    """One-sided, of a normal distribution; without noise any change is certain."""
    if error == 0:
        return 0.0 if loss else 1.0
    return 0.5 * math.erfc(loss / error / math.sqrt(2))


def _noises(check: Check, pairs: Sequence[Pair], losses: Sequence[float]) -> list[float]:
    """Standard deviation of each difference under no change, by task."""
    tasks: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        tasks.setdefault(pair.task, []).append(index)
    noises = [0.0] * len(pairs)
    for members in tasks.values():
        expect = EXPECTED.get(check)
        expected = expect([pairs[i] for i in members]) if expect else [0.0] * len(members)
        own = [losses[i] for i in members]
        spread = 0.0
        if len(own) >= ENOUGH:
            centre = statistics.median(own)
            spread = 1.4826 * statistics.median(abs(value - centre) for value in own)
        for index, noise in zip(members, expected, strict=True):
            noises[index] = max(noise, spread)
    return noises


def _accuracy_noise(value: Callable[[Record], float | None]) -> Noise:
    """Spread of an accuracy's difference: over seeds, moderated by that of the test images."""

    def noise(pairs: Sequence[Pair]) -> list[float]:
        rows: dict[str, list[float]] = {}
        for pair in pairs:
            rows.setdefault(pair.base.cell.variant, []).append(value(pair.base) or 0.0)
        count = max(min(pair.base.images.get("test", 0) for pair in pairs), 1)
        typical = statistics.fmean(top1 for row in rows.values() for top1 in row)
        # One image more or less at the ends, where the plain formula says there is no spread.
        typical = min(max(typical, 1 / count), 1 - 1 / count)
        by_images = max(typical * (1 - typical), 0.0) / count
        own = {key: statistics.variance(row) if len(row) > 1 else 0.0 for key, row in rows.items()}
        over_seeds = sum((len(row) - 1) * own[key] for key, row in rows.items())
        repeats = sum(len(row) - 1 for row in rows.values())
        pooled = (IMAGES_COUNT_AS * by_images + over_seeds) / (IMAGES_COUNT_AS + repeats)
        return [math.sqrt(2 * max(pooled, own[pair.base.cell.variant])) for pair in pairs]

    return noise


def _latency_noise(pairs: Sequence[Pair]) -> list[float]:
    """Spread of a log ratio's difference, from the parents that were timed against themselves."""
    controls = [
        math.log(measured.control.median)
        for pair in pairs
        for record in (pair.base, pair.new)
        for measured in record.latency
    ]
    # The second moment about 0, which is what a quiet machine would show.
    noise = math.sqrt(2 * float(np.mean(np.square(controls)))) if controls else 0.0
    return [noise] * len(pairs)


def _accuracy_loss(value: Callable[[Record], float | None]) -> Callable[[Pair], float | None]:
    def loss(pair: Pair) -> float | None:
        before, after = value(pair.base), value(pair.new)
        return None if before is None or after is None else before - after

    return loss


def _macs_loss(pair: Pair) -> float | None:
    before, after = (r.size.macs if r.size else None for r in (pair.base, pair.new))
    return after / before - 1 if before and after else None


def _cost_loss(pair: Pair) -> float | None:
    before, after = (spent_macs(r, [*DECIDING, "finetune"]) for r in (pair.base, pair.new))
    return after / before - 1 if before else None


def _latency_loss(pair: Pair) -> float | None:
    """Mean log ratio of pruned over parent, new over base; None for times of two machines."""
    if pair.base.runs_on != pair.new.runs_on:
        return None
    new = {measured.batch: measured.ratio.median for measured in pair.new.latency}
    changes = [
        math.log(new[measured.batch] / measured.ratio.median)
        for measured in pair.base.latency
        if measured.batch in new
    ]
    return statistics.fmean(changes) if changes else None


def _config_loss(pair: Pair) -> float | None:
    """Share of the kept channels that are not the same ones."""
    if pair.base.config is None or pair.new.config is None:
        return None
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
    "accuracy": _accuracy_loss(lambda record: record.top1.finetuned),
    "recalibrated": _accuracy_loss(lambda record: record.top1.recalibrated),
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
    "accuracy": "a record has no final accuracy",
    "recalibrated": "a record has no accuracy before fine-tuning",
    "macs": "a record has no MACs",
    "cost": "nothing was spent in the base",
    "latency": "not timed at the same batches, or on another processor or release of torch",
    "config": "a record has no configuration",
}


def _breakage(pair: Pair) -> str:
    return f"{pair.new.cell.label}: {pair.new.status}, {pair.new.reason}"


def _difference(old: Mapping[str, Record], new: Mapping[str, Record]) -> str:
    """In which settings two cells differ, of one label if there are such, in half a sentence."""
    if not new:
        return "the new set is empty"
    cells = {record.cell.label: _flat(record) for record in new.values()}
    alike = [record for record in old.values() if record.cell.label in cells]
    first = next(iter(alike or old.values()))
    before = _flat(first)
    nearest = cells.get(first.cell.label) or next(iter(cells.values()))
    changed = [
        f"{name} ({before.get(name)} in the base, {nearest.get(name)} in the new set)"
        for name in sorted(before.keys() | nearest.keys())
        if before.get(name) != nearest.get(name)
    ]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{first.cell.label} differs in {', '.join(changed[:3])}{more}"


def _flat(record: Record) -> dict[str, str]:
    """The settings of a cell, nested ones by dotted names."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = str(value)

    walk("", record.cell.model_dump(mode="json"))
    return flat

"""Two sets of records, cell by cell and seed by seed: what got worse by more than noise.

A change to a program acts on a run as another seed does, even where it is meant to change nothing;
so the noise of a difference is what two runs with different seeds would differ by. It is estimated
for each task (network, data, budget; each image folder and processor by itself) from three sources:

- the spread over seeds in the base, pooled over the methods of the task, or a method's own if that
  is larger, times the root of two;
- what the number of test images alone lets an accuracy vary: averaged with the spread over seeds,
  where it counts like ten repetitions; where there is one seed, twice as much;
- the spread of the differences over the seeds of a method, pooled over methods or its own, if it is
  larger, but up to twice the others, or half the tolerance, only (see `benchmarks.analysis.noise`).

Times take the spread of the parent timed against itself instead of the first two, each timing once,
however many seeds and methods share its network; and counts, which
do not vary with the seed's luck, have only the third. A change is called worse if it is larger than
its tolerance and its one-sided p-value, of Student's t, is below the level after Holm's correction
over everything tested: all cells, every method, every network, every row, the same cells once, and
of times each of them on every device that both sides were timed on. What should be compared and
cannot be, because a number is missing or not finite, fails the gate. Reads records only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.analysis.apart import taught, words_apart
from benchmarks.analysis.comparison import hardware
from benchmarks.analysis.losses import (
    CHECKS,
    LOSSES,
    OF_TIMES,
    WHY_NOT,
    CannotJudge,
    Check,
    Pair,
)
from benchmarks.analysis.noise import noises, p_value, standard_error
from benchmarks.analysis.uncertainty import holm
from benchmarks.records.cell import Cell
from benchmarks.records.files import Loaded, current_records
from benchmarks.records.plain import counted
from benchmarks.records.record import Record

__all__ = [
    "TOLERANCES",
    "Finding",
    "MissingCells",
    "Verdict",
    "compare_sets",
    "judge",
    "pair_up",
    "require_limits",
]


TOLERANCES: Mapping[Check, float] = {
    "accuracy": 0.01,
    "recalibrated": 0.05,
    "macs": 0.03,
    "cost": 0.10,
    "latency": 0.10,
    "config": 0.20,
}
"""Changes up to this size are never called worse: fractions of images, of the base, of channels."""

SHARES: tuple[Check, ...] = ("accuracy", "recalibrated", "config")
"""Checks whose changes are differences of shares, and so at most 1."""

LEVEL = 0.001
"""Chance of a false alarm of one check on an unchanged program."""


@dataclass(frozen=True)
class Finding:
    """How one number changed in one group of cells.

    Attributes:
        check: which number.
        group: which cells.
        pairs: how many.
        loss: mean change, positive if worse; the unit is that of the tolerance.
        noise: standard error of the mean change of an unchanged program.
        verdict: worse, better, or same within tolerance and noise.
        device: of the times; empty where there is one, and for what belongs to none.
    """

    check: Check
    group: str
    pairs: int
    loss: float
    noise: float
    verdict: Literal["worse", "better", "same"]
    device: str = ""


@dataclass(frozen=True)
class Verdict:
    """All that a comparison says.

    Attributes:
        findings: one for each check and group.
        broken: cells that ended well in the base and do not any more, with the reason.
        notes: what was left out, and why.
        unjudged: what should have been compared and could not be, with the reason.
    """

    findings: tuple[Finding, ...]
    broken: tuple[str, ...]
    notes: tuple[str, ...]
    unjudged: tuple[str, ...] = ()

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse by more than noise."""
        return bool(self.broken) or any(found.verdict == "worse" for found in self.findings)

    @property
    def fails(self) -> bool:
        """Whether anything got worse, or could not be judged."""
        return self.is_worse or bool(self.unjudged)


class MissingCells(ValueError):
    """Cells of the base are missing in the new set."""


def pair_up(base: Iterable[Record], new: Iterable[Record], *, partial: bool = False) -> list[Pair]:
    """Pair the records of two sets by cell, seed included.

    Args:
        base: what to compare with; cells that did not end well in it are left out.
        new: what to judge; cells that only it has are left out.
        partial: whether cells of the base may be missing.

    Raises:
        ValueError: if the sets share no cell.
        MissingCells: if some of the base are missing.
    """
    bases = [record for record in current_records(list(base)) if record.status == "ok"]
    news = current_records(list(new))
    old, now = ({record.cell.key: record for record in side} for side in (bases, news))
    if not old:
        raise ValueError(
            "the base has no record that ended well, so there is nothing to hold on to"
        )
    pairs = _on_one_processor(bases, news)
    paired = {pair.base.cell.key for pair in pairs}
    pairs += [Pair(record, now[key]) for key, record in old.items() if key in {*now} - paired]
    if not pairs:
        raise ValueError(f"the two sets share no cell; {_difference(old, now)}")
    missing = [record for key, record in old.items() if key not in now]
    if missing and not partial:
        first = missing[0].cell.label
        is_other = any(record.cell.label == first for record in now.values())
        why = f"; {_difference({'': missing[0]}, now)}" if is_other else ""
        raise MissingCells(
            f"missing in the new set: {len(missing)} of {counted(len(old), 'cell')} of the base "
            f"(the first: {first}{why}); run them, or compare what both have with --partial"
        )
    return _told_apart(pairs)


def _told_apart(pairs: Sequence[Pair]) -> list[Pair]:
    """The same, each knowing what tells it from others of the same names."""
    words = words_apart([pair.base.cell for pair in pairs], _part)
    return [
        replace(pair, words=mine, copies=tuple(replace(copy, words=mine) for copy in pair.copies))
        for pair, mine in zip(pairs, words, strict=True)
    ]


def _part(cell: Cell) -> str:
    """What needs no word: a sample is trained and scored by recipes of its own."""
    return f"{cell.sample is not None} {cell.member is not None}{taught(cell)}"


def _on_one_processor(bases: Iterable[Record], news: Iterable[Record]) -> list[Pair]:
    """Pairs of the cells that one kind of processor trained on both sides, once for each kind.

    Times are compared on every device that both sides have.
    """
    there: dict[tuple[str, str], dict[str, Record]] = {}
    for record in news:
        there.setdefault((record.cell.key, record.trained_on), {})[record.runs_on] = record
    found: dict[tuple[str, str], Pair] = {}
    for record in bases:
        place = (record.cell.key, record.trained_on)
        if (timed := there.get(place)) is None:
            continue
        last = found.setdefault(place, Pair(record, [*timed.values()][-1]))
        if (beside := timed.get(record.runs_on)) is not None:
            copies = (*last.copies, Pair(record, beside))
            found[place] = Pair(record, beside, copies)
    return [*found.values()]


def compare_sets(
    base: Loaded[Record],
    new: Loaded[Record],
    checks: Sequence[Check],
    *,
    tolerances: Mapping[Check, float] = TOLERANCES,
    level: float = LEVEL,
    partial: bool = False,
) -> tuple[Verdict, int]:
    """Judge two folders of records; what is missing or unreadable there cannot be judged.

    Args:
        base: what to compare with.
        new: what to judge.
        checks: which numbers.
        tolerances: by check, see `TOLERANCES`.
        level: chance of a false alarm for each check.
        partial: whether cells of the base may be missing.

    Returns:
        The verdict, and how many cells were paired.

    Raises:
        ValueError: if the sets share no cell, or none of the numbers can be compared.
    """
    missing: list[str] = []
    try:
        pairs = pair_up(base.records, new.records, partial=partial)
    except MissingCells as error:
        missing.append(str(error))
        pairs = pair_up(base.records, new.records, partial=True)
    unread = [
        f"a file of the {side}, {file}"
        for side, loaded in (("base", base), ("new set", new))
        for file in loaded.unread
    ]
    verdict = judge(pairs, checks, tolerances=tolerances, level=level)
    return replace(verdict, unjudged=(*missing, *unread, *verdict.unjudged)), len(pairs)


def judge(
    pairs: Sequence[Pair],
    checks: Sequence[Check] = CHECKS,
    *,
    tolerances: Mapping[Check, float] = TOLERANCES,
    level: float = LEVEL,
) -> Verdict:
    """Compare every number in every group of cells.

    Args:
        pairs: of records.
        checks: which numbers.
        tolerances: by check, see `TOLERANCES`.
        level: chance of a false alarm for each check.

    Raises:
        ValueError: if none of the numbers can be compared, or a tolerance or the level cannot be.
    """
    require_limits(tolerances, level)
    broken = [_breakage(pair) for pair in pairs if pair.new.status != "ok"]
    whole = [pair for pair in pairs if pair.new.status == "ok"]
    findings, notes, unjudged = [], [], []
    for check in checks:
        families, obstacles, left_out = _collect(check, whole)
        unjudged += obstacles
        if left_out:
            what = (
                "not compared"
                if left_out == len(whole)
                else f"{counted(left_out, 'cell')} left out"
            )
            notes.append(f"{check}: {what}, {WHY_NOT[check]}")
        if families:
            findings += _test(check, families, tolerances[check], level)
    if not findings and not broken and not unjudged:
        raise ValueError("nothing can be compared: " + "; ".join(notes))
    return Verdict(tuple(findings), tuple(broken), tuple(notes), tuple(unjudged))


def require_limits(tolerances: Mapping[Check, float], level: float = LEVEL) -> None:
    """Refuse limits with which nothing could ever be called worse.

    Raises:
        ValueError: naming the limit.
    """
    if not 0 < level <= 0.5:
        raise ValueError(f"the level {level} is no chance of a false alarm; give one up to 0.5")
    for check, size in tolerances.items():
        most = 1.0 if check in SHARES else math.inf
        if not 0 <= size < most:
            unit = "below 1, as a fraction" if check in SHARES else "that is finite"
            raise ValueError(
                f"tolerance {check}={size:g}: give one of at least 0 {unit}, e.g. "
                f"{check}={TOLERANCES[check]:g}"
            )


def _loss(check: Check, pair: Pair) -> float | None:
    """The loss of a pair; None where neither side has what is compared.

    Raises:
        CannotJudge: if one side lacks it, or it is no number.
    """
    loss = LOSSES[check](pair)
    if loss is not None and not math.isfinite(loss):
        raise CannotJudge("the numbers are not finite")
    return loss


def _collect(
    check: Check, pairs: Sequence[Pair]
) -> tuple[dict[str, list[tuple[Pair, float]]], list[str], int]:
    """The losses of pairs.

    Returns:
        Pairs with their losses, times by device and all others under one empty name; what cannot be
        judged; and how many pairs neither side has the number of.
    """
    families: dict[str, list[tuple[Pair, float]]] = {}
    obstacles, left_out = [], 0
    for pair in pairs:
        copies = (pair.copies if check in OF_TIMES else ()) or (pair,)
        is_told = False
        for copy in copies:
            try:
                loss = _loss(check, copy)
            except CannotJudge as error:
                where = f" on {hardware(copy.base)}" if len(copies) > 1 else ""
                obstacles.append(f"{check} of {pair.base.cell.label}{where}: {error}")
                is_told = True
                continue
            if loss is not None:
                device = copy.base.runs_on if check in OF_TIMES else ""
                families.setdefault(device, []).append((copy, loss))
                is_told = True
        left_out += not is_told
    return families, obstacles, left_out


def _test(
    check: Check,
    families: Mapping[str, Sequence[tuple[Pair, float]]],
    tolerance: float,
    level: float,
) -> list[Finding]:
    """Every group's mean change against its noise, Holm's correction over groups that differ.

    A set's only network is all its cells: groups of the same pairs are one hypothesis.

    Args:
        check: which number.
        families: pairs with their losses, those of times by device; the groups are formed in each.
        tolerance: changes up to it are the same.
        level: chance of a false alarm over all families.
    """
    tested = []
    chances: dict[tuple[str, tuple[int, ...]], float] = {}
    limit = math.log1p(tolerance) if check in OF_TIMES else tolerance
    for place, family in families.items():
        pairs, losses = [pair for pair, _ in family], [loss for _, loss in family]
        spread = noises(check, pairs, losses, limit)
        device = hardware(pairs[0].base) if len(families) > 1 else ""
        for group, members in _groups(pairs).items():
            loss = statistics.fmean(losses[i] for i in members)
            error = standard_error(check, [(pairs[i], spread[i]) for i in members])
            hypothesis = (place, tuple(members))
            chances[hypothesis] = p_value(check, abs(loss), error, [pairs[i] for i in members])
            is_large = abs(loss) > limit
            if check in OF_TIMES:  # from logarithms to growth, the unit of the tolerance
                loss, error = math.expm1(loss), math.expm1(error)
            found = Finding(check, group, len(members), loss, error, "same", device)
            tested.append((hypothesis, is_large, found))
    corrected = dict(zip(chances, holm([*chances.values()]), strict=True))
    findings = []
    for hypothesis, is_large, found in tested:
        counts = corrected[hypothesis] <= level and is_large
        # A configuration can only be another one; whether that is better, accuracy says.
        verdict: Literal["worse", "better"] = "worse" if found.loss > 0 else "better"
        findings.append(replace(found, verdict=verdict) if counts else found)
    return findings


def _groups(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Positions of the pairs of all cells, of every network, of every method and of every row."""
    groups: dict[str, list[int]] = {"all cells": list(range(len(pairs)))}
    rows = _row_names(pairs)
    named: Sequence[Callable[[Pair], str]] = (
        lambda pair: pair.network,
        lambda pair: pair.method,
        lambda pair: rows[pair.row],
    )
    for name in named:
        for index, pair in enumerate(pairs):
            groups.setdefault(name(pair), []).append(index)
    return groups


def _row_names(pairs: Iterable[Pair]) -> dict[tuple[str, str], str]:
    """What every row is called; those of one name tell the processor and settings that differ."""
    alike: dict[str, dict[tuple[str, str], None]] = {}
    for pair in pairs:
        alike.setdefault(f"{pair.method}, {pair.task}", {})[pair.row] = None
    names = {}
    for name, rows in alike.items():
        variants, processors = ({*each} for each in zip(*rows, strict=True))
        for row in rows:
            told = f", settings {row[0]}" if len(variants) > 1 else ""
            where = f", trained on {row[1]}" if len(processors) > 1 else ""
            names[row] = f"{name}{told}{where}"
    return names


def _breakage(pair: Pair) -> str:
    return f"{pair.new.cell.label}: {pair.new.status}, {pair.new.reason}"


def _difference(old: Mapping[str, Record], new: Mapping[str, Record]) -> str:
    """Half a sentence: the settings in which a cell differs from the nearest of the new set."""
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

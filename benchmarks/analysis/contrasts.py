"""Primary contrasts: what records say of the comparisons that were named before they were made.

A contrast is confirmatory only if all records of its two sides carry it, seeds and all, those that
were replaced since among them, if all of these seeds ended, and if none was run again to another
accuracy; else it was named or changed after the first results, is not finished, or its results
could be chosen from. Each is tried on every network and data set, and Holm's correction goes over
them all: it counts once on each and under each recipe, finished, begun or only planned, and again
where another processor's seeds finish it, too. Reads records and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.uncertainty import ERROR, Estimate, holm, paired
from benchmarks.records.cell import network_name
from benchmarks.records.contrast import Arm, Primary
from benchmarks.records.plain import counted
from benchmarks.records.record import Record

__all__ = ["Confirmed", "named_contrasts", "primary_contrasts"]


@dataclass(frozen=True)
class Confirmed:
    """What came of a primary contrast on one network and data set.

    Attributes:
        title: network and data, and what trained it where several did.
        sides: names of the method and of what it is compared with, as in the comparison's table.
        primary: what was asked, see `benchmarks.records.contrast.Primary.question`.
        gain: difference of final accuracies, paired by seed; None if it cannot be told.
        problem: why it is not confirmatory or cannot be told; empty if it is and can.
        p_value: Holm-corrected over all primary contrasts; 1 if there is no test.
        family: how many primary contrasts the correction counts.
    """

    title: str
    sides: tuple[str, str]
    primary: Primary
    gain: Estimate | None
    problem: str
    p_value: float = 1.0
    family: int = 1

    @property
    def is_clear(self) -> bool:
        """Whether the two sides differ at a family-wise level of 5 %."""
        return not self.problem and self.p_value <= ERROR

    @property
    def detectable(self) -> float | None:
        """The true difference that Holm's first step, the hardest, finds with 80 % power."""
        return self.gain.detectable(ERROR / self.family) if self.gain else None


def primary_contrasts(
    comparisons: Iterable[Comparison], shown_keys: Collection[str] | None = None
) -> list[Confirmed]:
    """The contrasts that records carry, in the order of the comparisons.

    Args:
        comparisons: all of a folder, since the correction counts all of their contrasts.
        shown_keys: of the cells of whose comparisons the contrasts come back; None for all.
    """
    each_once = distinct(comparisons)
    asked = [(each, primary) for each in each_once for primary in named_contrasts(each)]
    found = [(each.cell.setting, _confirmed(each, primary)) for each, primary in asked]
    family = _family(found)
    tests = [found[place][1] for place in family]
    p_values = [each.gain.p_value if each.gain and not each.problem else None for each in tests]
    unrecorded = _unrecorded(each_once)
    corrected = dict(zip(family, holm([*p_values, *[None] * unrecorded]), strict=False))
    return [
        replace(each, p_value=corrected.get(place, 1.0), family=len(family) + unrecorded)
        for place, (_, each) in enumerate(found)
        if shown_keys is None or asked[place][0].holds_any(shown_keys)
    ]


def _family(found: Sequence[tuple[str, Confirmed]]) -> list[int]:
    """Places of the contrasts that Holm's correction counts, of those with their settings.

    What another processor has only begun is no further test.
    """
    asked = [(setting, each.primary) for setting, each in found]
    is_whole = [not each.problem for _, each in found]
    whole = [key for key, is_tested in zip(asked, is_whole, strict=True) if is_tested]
    return [
        place
        for place, key in enumerate(asked)
        if is_whole[place] or (key not in whole and key not in asked[:place])
    ]


def _unrecorded(comparisons: Iterable[Comparison]) -> int:
    """How often contrasts were planned on a network and data set that has no record yet.

    Each counts once under the recipe of the records that tell of the plan.
    """
    planned: dict[Hashable, Counter[str]] = {}
    recorded: dict[Hashable, dict[str, str]] = {}  # names by setting
    for comparison in comparisons:
        cell = comparison.cell
        for primary in _carried(comparison):
            asked = cell.recipe, primary.question.model_dump_json()
            planned[asked] = planned.get(asked, Counter()) | Counter(primary.networks)
            name = network_name(cell.model, cell.data)
            recorded.setdefault(asked, {})[cell.setting] = name
    return sum(
        (names - Counter(recorded[asked].values())).total() for asked, names in planned.items()
    )


def named_contrasts(comparison: Comparison) -> list[Primary]:
    """Contrasts that any record of a comparison carries, each once and without networks."""
    named: list[Primary] = []
    for primary in _carried(comparison):
        if primary.question not in named:
            named.append(primary.question)
    return named


def _carried(comparison: Comparison) -> list[Primary]:
    """The same with the networks, once for each plan."""
    carried: list[Primary] = []
    for row in comparison.rows:
        for record in row.records:
            carried += [primary for primary in record.primary if primary not in carried]
    return carried


def _confirmed(comparison: Comparison, primary: Primary) -> Confirmed:
    arms = primary.contrast.arms
    found = [_row(comparison, primary, arm) for arm in arms]
    new, base = (
        arm.name if row is None else comparison.label(row)
        for arm, row in zip(arms, found, strict=True)
    )
    rows = [row for row in found if row is not None]
    if len(rows) < 2:
        return Confirmed(comparison.heading, (new, base), primary, None, "not run yet")
    gain = paired(rows[0].top1_by_seed, rows[1].top1_by_seed)
    return Confirmed(
        comparison.heading, (new, base), primary, gain, _problem(comparison, primary, rows)
    )


def _row(comparison: Comparison, primary: Primary, arm: Arm) -> Row | None:
    wanted = (primary.metric, primary.contrast.budget)
    for row in comparison.rows:
        if arm.holds(row.cell) and row.asked == wanted:
            return row
    return None


def _problem(comparison: Comparison, primary: Primary, rows: list[Row]) -> str:
    """Why the rows do not confirm anything; empty if they do."""
    records: list[Record] = [r for row in rows for r in (*row.records, *row.earlier)]
    others = sum(primary not in [p.question for p in record.primary] for record in records)
    if others:
        return (
            f"not named like this when {others} of its {counted(len(records), 'record')} came about"
        )
    if lost := [f"{comparison.label(row)}: {row.seeds}" for row in rows if row.lost]:
        return "; ".join(lost)
    for row in rows:
        if missing := sorted({*primary.seeds} - {*row.top1_by_seed}):
            name = comparison.label(row)
            return f"{name}: not all planned seeds are there, seed {missing[0]} is not"
    if again := sorted({seed for row in rows for seed in _run_again(row)}):
        return f"seed {again[0]} was run again after its accuracy was known"
    return ""


def _run_again(row: Row) -> set[int]:
    """Seeds of cells that had ended with another accuracy before; a mere repetition is harmless.

    On another processor a seed is another one, unless its record replaces the first.
    """
    counted = {record.cell.seed: record for record in row.records}
    return {
        old.cell.seed
        for old in row.earlier
        if (new := counted[old.cell.seed]).top1.finetuned != old.top1.finetuned
        and (new.trained_on == old.trained_on or new.supersedes == old.id)
    }

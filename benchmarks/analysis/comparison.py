"""Records grouped into comparisons and rows, with the numbers that tables and figures show.

Records that were held equal in everything but method, budget and seed, and that one kind of
processor trained and one device timed, form a comparison; its rows hold the seeds of one method at
one budget. Reads records and nothing else.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.analysis.apart import NO_WORDS, Words, network_of, taught, words_apart
from benchmarks.analysis.names import (
    method_name,
    settings_of,
    short_name,
    told_settings,
)
from benchmarks.analysis.uncertainty import ERROR, Estimate, differences, estimate, holm
from benchmarks.records.cell import PARENT, REFERENCE, Cell
from benchmarks.records.files import current_records
from benchmarks.records.join import network_key
from benchmarks.records.plain import asked_budget, told_budget
from benchmarks.records.record import DECIDING, Phase, Record, spent_macs
from benchmarks.records.runtime import Measured, aligned_share, realised_share

__all__ = [
    "DECIDING",
    "NOISE",
    "REFERENCE",
    "Comparison",
    "Row",
    "aligned",
    "compare",
    "control_speedup",
    "hardware",
    "is_noise",
    "is_noisy_speed",
    "latency_at",
    "macs_ratio",
    "one_a_seed",
    "realised",
    "share",
    "shared_seeds",
    "speedup",
    "spent_macs",
    "spent_seconds",
    "timing_of",
]

NOISE = "noise"
"""What stands beside a speed that is no result."""


@dataclass(frozen=True)
class Row:
    """One method at one budget: the records of its seeds and what they give on average.

    `uniform` are the accuracies of uniform width at that budget, by seed; None if it was not run.

    A row that lost a seed has no mean: which seeds fail depends on the method, so the mean of the
    others is one of something else.

    `earlier` are records of its cells that ended well and were replaced since.
    """

    cell: Cell
    records: tuple[Record, ...]
    uniform: Mapping[int, float] | None = None
    earlier: tuple[Record, ...] = ()

    @cached_property
    def ok(self) -> tuple[Record, ...]:
        """The records that ran to the end."""
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def lost(self) -> int:
        """How many records did not run to the end."""
        return len(self.records) - len(self.ok)

    @cached_property
    def top1_by_seed(self) -> dict[int, float]:
        """Final test accuracy of each seed that has one; none if a seed was lost."""
        if self.lost:
            return {}
        found = {record.cell.seed: record.top1.finetuned for record in self.ok}
        return {seed: top1 for seed, top1 in found.items() if top1 is not None}

    @cached_property
    def method(self) -> str:
        """Name of the method with the settings that differ from its defaults."""
        return method_name(self.cell)

    def settings_beyond(self, other: "Row") -> str:
        """The settings in which this row differs from another one of its method."""
        mine, theirs = settings_of(self.cell), settings_of(other.cell)
        changed = {key: value for key, value in mine.items() if theirs.get(key) != value}
        undone = {key: "default" for key in theirs if key not in mine}
        return told_settings({**changed, **undone})

    @property
    def budget(self) -> str:
        """The budget as it was asked for."""
        return asked_budget(self.cell.budget)

    @property
    def asked(self) -> tuple[str, float]:
        """Metric and budget."""
        return self.cell.metric, self.cell.budget

    @property
    def seeds(self) -> str:
        """How many seeds the row has, and how many of them failed."""
        if self.lost:
            kinds = sorted({record.status for record in self.records} - {"ok"})
            return f"{self.lost} of {len(self.records)} {'/'.join(kinds)}"
        return "one seed" if len(self.records) == 1 else f"{len(self.records)} seeds"

    def mean(self, value: Callable[[Record], float | None]) -> Estimate | None:
        """A number averaged over the seeds that have it; None if none has or a seed was lost."""
        return None if self.lost else _mean(self.ok, value)

    @cached_property
    def timed(self) -> tuple[Record, ...]:
        """One record of each timing: seeds that gave one network share what was measured of it."""
        return _once(self.ok)

    def mean_of_times(self, value: Callable[[Record], float | None]) -> Estimate | None:
        """What a clock gave, averaged over the networks that were timed; None as for `mean`."""
        return None if self.lost else _mean(self.timed, value)

    @cached_property
    def gain(self) -> Estimate | None:
        """Difference of final top-1 to uniform width, paired by seed."""
        return estimate([*self.gain_by_seed.values()]) if self.gain_by_seed else None

    @cached_property
    def gain_by_seed(self) -> dict[int, float]:
        """The same for each seed that both have; none if either lost a seed."""
        return differences(self.top1_by_seed, self.uniform or {}) if self.is_compared else {}

    @property
    def is_compared(self) -> bool:
        """Whether uniform width stands beside it, at its budget."""
        return self.method != REFERENCE and self.uniform is not None


@dataclass(frozen=True)
class Comparison:
    """Rows that may be compared, best budget first, best accuracy first within a budget.

    Accuracies are put in order by their means over the seeds that all rows of the budget have.

    Attributes:
        cell: one of the cells.
        hardware: that timed the networks, or else trained them, with its fingerprint if it has one.
        rows: one for each method and budget.
        words: what its title says to tell it from others of the same names.
        has_other_trainer: whether another processor trained a comparison of the same title, too.
        has_other_timer: whether other hardware timed one of the same title and training.
        among: all rows where `rows` are only those shown, so that names, tests and the parent are
            those of all; empty if all are shown.
    """

    cell: Cell
    hardware: str
    rows: tuple[Row, ...]
    words: Words = NO_WORDS
    has_other_trainer: bool = False
    has_other_timer: bool = False
    among: tuple[Row, ...] = ()

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Those that count, shown or not."""
        return self.among or self.rows

    def showing(self, rows: Iterable[Row]) -> "Comparison":
        """The same with some of its rows shown."""
        return replace(self, rows=tuple(rows), among=self.all_rows)

    @property
    def network(self) -> tuple[Hashable, ...]:
        """Names the network with its data by content: what is drawn as one cluster."""
        return network_of(self.cell)

    @property
    def model_title(self) -> str:
        """The network, told from others of the same name."""
        return f"{self.cell.model.title}{self.words.model}"

    @property
    def data_title(self) -> str:
        """The data, whether the common loss has a teacher, and what else tells it apart."""
        words = self.words
        return f"{self.cell.data.title}{words.data}{taught(self.cell)}{words.recipe}"

    @property
    def title(self) -> str:
        """Network and data, with what tells it from other comparisons."""
        return f"{self.model_title} on {self.data_title}"

    @property
    def trained_on(self) -> str:
        """Name of the processor that trained all its networks."""
        return self.rows[0].records[0].trained_on

    @property
    def heading(self) -> str:
        """The title, and what trained its networks if that tells it from another comparison."""
        return (
            f"{self.title}, trained on {self.trained_on}" if self.has_other_trainer else self.title
        )

    @property
    def timed_heading(self) -> str:
        """The heading of what shows times: it tells the hardware, too, if another one timed it."""
        verb = "timed" if any(record.latency for record in self.ok) else "run"
        return (
            f"{self.heading}, {verb} on {self.hardware}" if self.has_other_timer else self.heading
        )

    def label(self, row: Row) -> str:
        """The method's name, with the settings in which the comparison's variants of it differ."""
        return short_name(row.cell, [other.cell for other in self.all_rows])

    def told_budget(self, row: Row) -> str:
        """A row's budget, with its metric where the comparison has budgets of several."""
        metrics = {each.cell.metric for each in self.all_rows if each.cell.method != PARENT}
        return told_budget(row.cell.budget, row.cell.metric) if len(metrics) > 1 else row.budget

    def noted(self, row: Row) -> str:
        """The label, and how many seeds failed, for which the row has no mean."""
        return f"{self.label(row)}, {row.seeds}" if row.lost else self.label(row)

    @property
    def ok(self) -> list[Record]:
        """All records that ran to the end."""
        return [record for row in self.all_rows for record in row.ok]

    def p_value(self, row: Row) -> float | None:
        """Of a row's gain, Holm-corrected over all gains of the comparison; None if untested."""
        if row.gain is None or row.gain.p_value is None:
            return None
        return self._corrected[row.cell.variant]

    def is_clear_gain(self, row: Row) -> bool:
        """Whether a row is more accurate than uniform width at a family-wise level of 5 %."""
        p_value = self.p_value(row)
        return p_value is not None and p_value <= ERROR and bool(row.gain and row.gain.mean > 0)

    def detectable(self, row: Row) -> float | None:
        """The true gain that Holm's first step, the hardest, would find with 80 % power."""
        return row.gain.detectable(ERROR / len(self._corrected)) if row.gain else None

    @cached_property
    def _corrected(self) -> Mapping[str, float]:
        """Corrected p-values by variant; a row that lost seeds or has one counts in the family."""
        rows = [row for row in self.all_rows if row.is_compared]
        corrected = holm([row.gain.p_value if row.gain else None for row in rows])
        return {row.cell.variant: p for row, p in zip(rows, corrected, strict=True)}

    @cached_property
    def timed(self) -> tuple[Record, ...]:
        """One record of each timing, see `Row.timed`; rows may share a network, too."""
        return _once(self.ok)

    def holds_any(self, keys: Collection[str]) -> bool:
        """Whether a record is of one of some cells, which are named by their keys."""
        return any(record.cell.key in keys for row in self.rows for record in row.records)

    def control(self, smallest: bool) -> Estimate | None:
        """Speed-up of the parent over itself, one value for each timing: the noise floor."""
        return _mean(self.timed, lambda record: control_speedup(record, smallest))

    @property
    def parent_top1(self) -> Estimate | None:
        """Test accuracy of the unpruned networks, one for each seed."""
        found = {record.cell.seed: record.top1.parent for record in self.ok}
        known = [top1 for top1 in found.values() if top1 is not None]
        return estimate(known) if known else None


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Group records into comparisons and rows, in the order of model, data and device."""
    records = [record for record in records if record.cell.sample is None]  # no part of a ranking
    current = current_records(records)
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in current:
        place = (record.cell.comparison, record.trained_on, record.timed_by)
        groups.setdefault(place, []).append(record)
    counted_ids = {record.id for record in current}
    earlier: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok" and record.id not in counted_ids:
            earlier.setdefault(record.cell.key, []).append(record)
    found = [_comparison(group, earlier) for group in groups.values()]
    return sorted(_told_apart(found), key=_order)


def hardware(record: Record) -> str:
    """The processor that the networks ran on, with the fingerprint that the record holds."""
    name, on = record.processor, record.timed_on
    known = on.fingerprint if on else record.fingerprint
    return f"{name} ({known})" if known else name


def latency_at(record: Record, smallest: bool) -> Measured | None:
    """The measurement at the smallest batch or at the largest."""
    measured = sorted(record.latency, key=lambda found: found.batch)
    if not measured:
        return None
    return measured[0] if smallest else measured[-1]


def timing_of(record: Record) -> str:
    """Names the timing on its device that a record's times are of: its network's, or its own."""
    return (network_key(record) if record.timed_on else None) or record.id


def _once(records: Iterable[Record]) -> tuple[Record, ...]:
    """The first record of each timing."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(timing_of(record), record)
    return tuple(found.values())


def _mean(records: Iterable[Record], value: Callable[[Record], float | None]) -> Estimate | None:
    """A number over the records that have it."""
    values = [found for record in records if (found := value(record)) is not None]
    return estimate(values) if values else None


def one_a_seed(records: Iterable[Record]) -> list[Record]:
    """The records without the controls that were fine-tuned longer, but less long than another one.

    A dearer method that is added later makes a control of the same seed anew, for longer.
    """
    records = list(records)
    lengths = [record.cell.longer or 0 for record in records]
    places = [(record.cell.variant, record.cell.seed) for record in records]
    longest: dict[tuple[str, int], int] = {}
    for place, length in zip(places, lengths, strict=True):
        longest[place] = max(longest.get(place, 0), length)
    return [
        record
        for record, place, length in zip(records, places, lengths, strict=True)
        if length == longest[place]
    ]


def _comparison(records: Sequence[Record], earlier: Mapping[str, Sequence[Record]]) -> Comparison:
    """Rows from the current records of one comparison, and from the replaced ones by cell."""
    variants: dict[str, list[Record]] = {}
    for record in one_a_seed(records):
        variants.setdefault(record.cell.variant, []).append(record)
    alone = [
        Row(
            group[0].cell,
            tuple(sorted(group, key=lambda r: r.cell.seed)),
            earlier=tuple(old for record in group for old in earlier.get(record.cell.key, ())),
        )
        for group in variants.values()
    ]
    uniform = {row.asked: row.top1_by_seed for row in alone if row.method == REFERENCE}
    rows = [replace(row, uniform=uniform.get(row.asked)) for row in alone]
    places = {record.runs_on for record in records}  # several only of networks without times
    where = hardware(records[0]) if len(places) == 1 else records[0].processor
    return Comparison(records[0].cell, where, tuple(_in_order(rows)))


def _told_apart(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same, each knowing what its heading must name to tell it from the others."""
    words = words_apart([each.cell for each in comparisons], taught)
    found = [replace(e, words=mine) for e, mine in zip(comparisons, words, strict=True)]
    several = _several(found, lambda each: each.title, lambda each: each.trained_on)
    found = [replace(e, has_other_trainer=e.title in several) for e in found]
    several = _several(found, lambda e: (e.title, e.trained_on), lambda each: each.hardware)
    return [replace(e, has_other_timer=(e.title, e.trained_on) in several) for e in found]


def _several(
    comparisons: Iterable[Comparison],
    shared: Callable[[Comparison], Hashable],
    own: Callable[[Comparison], Hashable],
) -> set[Hashable]:
    """What comparisons share that differ in something else."""
    found: dict[Hashable, set[Hashable]] = {}
    for each in comparisons:
        found.setdefault(shared(each), set()).add(own(each))
    return {name for name, values in found.items() if len(values) > 1}


def _order(each: Comparison) -> tuple[str, ...]:
    cell = each.cell
    return cell.model.name, cell.data.name, each.hardware, cell.comparison, each.trained_on


def shared_seeds(rows: Iterable[Row]) -> set[int]:
    """The seeds in which every row has a final accuracy; none of no rows."""
    seeds = [set(row.top1_by_seed) for row in rows]
    return set.intersection(*seeds) if seeds else set()


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Ratios before counts, larger budgets first, then the better method over the same seeds."""
    found: list[Row] = []
    at_budget = sorted(rows, key=_place)
    for _, group in itertools.groupby(at_budget, _place):
        beside = list(group)
        seeds = shared_seeds(row for row in beside if row.top1_by_seed)
        means = {row.cell.variant: _top1(row, seeds) for row in beside}
        found += sorted(beside, key=lambda row: (-means[row.cell.variant], row.method))
    return found


def _place(row: Row) -> tuple[str, bool, float]:
    metric, budget = row.cell.metric, row.cell.budget
    is_count = metric != "latency_ms" and budget > 1  # milliseconds are no ratios, whole or not
    return metric, is_count, -budget


def _top1(row: Row, seeds: Collection[int]) -> float:
    """Mean accuracy over some seeds, over its own if there are none; least where it has none."""
    known = [top1 for seed, top1 in row.top1_by_seed.items() if seed in seeds or not seeds]
    return statistics.fmean(known) if known else -math.inf


def share(record: Record, metric: str) -> float | None:
    """Keep ratio of a record's MACs or parameters."""
    if record.size is None:
        return None
    kept, full = (
        (record.size.macs, record.size.full_macs)
        if metric == "macs"
        else (record.size.params, record.size.full_params)
    )
    return None if kept is None else kept / full


def speedup(record: Record, smallest: bool) -> float | None:
    """The parent's time over the pruned network's, at the smallest batch or the largest."""
    measured = latency_at(record, smallest)
    return 1 / measured.ratio.median if measured else None


def control_speedup(record: Record, smallest: bool) -> float | None:
    """The parent's time over its own, measured again in the same rounds."""
    measured = latency_at(record, smallest)
    return 1 / measured.control.median if measured else None


def is_noise(row: Row, measurement: Callable[[Record], Measured | None]) -> bool:
    """Whether any of a row's times is noise: then its mean is shown greyed, and as no result.

    Args:
        row: a method at one budget.
        measurement: of a record, at the batch that is asked for.
    """
    return any((found := measurement(record)) and found.is_noise for record in row.ok)


def is_noisy_speed(row: Row, smallest: bool) -> bool:
    """The same of the speed-up at the smallest batch or at the largest."""
    return is_noise(row, lambda record: latency_at(record, smallest))


def macs_ratio(record: Record) -> float | None:
    """The parent's MACs over the pruned network's: the speed-up if time went with MACs."""
    kept = share(record, "macs")
    return 1 / kept if kept else None


def realised(record: Record, smallest: bool) -> float | None:
    """Share of the gain in MACs that became a gain in time; None where there is hardly any."""
    theory, practice = macs_ratio(record), speedup(record, smallest)
    return None if theory is None or practice is None else realised_share(practice, theory)


def aligned(record: Record) -> float | None:
    """Share of the channel groups whose width is a multiple of 8."""
    return aligned_share([group.kept for group in record.groups]) if record.groups else None


def spent_seconds(record: Record, phases: Sequence[Phase]) -> float:
    """Wall-clock seconds of some phases."""
    return sum(record.spent[phase].seconds for phase in phases if phase in record.spent)

"""Records grouped into comparisons and rows, with the numbers that tables and figures show.

Records that were held equal in everything but method, budget and seed, and that have the same
device fingerprint, form a comparison; its rows hold the seeds of one method at one budget. Reads
records and nothing else.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.analysis.uncertainty import ERROR, Estimate, differences, estimate, holm
from benchmarks.records.cell import PARENT, REFERENCE, Cell, Schedule
from benchmarks.records.files import current_records
from benchmarks.records.join import network_key
from benchmarks.records.plain import counted
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
    "method_name",
    "one_a_seed",
    "plain_name",
    "realised",
    "settings_of",
    "share",
    "shared_seeds",
    "short_name",
    "shown_names",
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
    """

    cell: Cell
    records: tuple[Record, ...]
    uniform: Mapping[int, float] | None = None

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
        return _named({**changed, **undone})

    @property
    def budget(self) -> str:
        """The budget as it was asked for."""
        value = self.cell.budget
        return f"{value:g}" if isinstance(value, float) else f"{value:,}"

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
    """

    cell: Cell
    hardware: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Network and data, and whether the common loss has a teacher."""
        taught = " with distillation" if self.cell.distill else ""
        return f"{self.cell.model.title} on {self.cell.data.name}{taught}"

    def label(self, row: Row) -> str:
        """The method's name, with the settings in which the comparison's variants of it differ."""
        return short_name(row.cell, [other.cell for other in self.rows])

    def noted(self, row: Row) -> str:
        """The label, and how many seeds failed, for which the row has no mean."""
        return f"{self.label(row)}, {row.seeds}" if row.lost else self.label(row)

    @property
    def ok(self) -> list[Record]:
        """All records that ran to the end."""
        return [record for row in self.rows for record in row.ok]

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
        rows = [row for row in self.rows if row.is_compared]
        corrected = holm([row.gain.p_value if row.gain else None for row in rows])
        return {row.cell.variant: p for row, p in zip(rows, corrected, strict=True)}

    @cached_property
    def timed(self) -> tuple[Record, ...]:
        """One record of each timing, see `Row.timed`; rows may share a network, too."""
        return _once(self.ok)

    def control(self, smallest: bool) -> Estimate | None:
        """Speed-up of the parent over itself, one value for each timing: the noise floor."""
        return _mean(self.timed, lambda record: control_speedup(record, smallest))

    @property
    def caption(self) -> str:
        """What was held equal, in a sentence or two."""
        records = self.ok
        digest = self.cell.model.weights
        start = f" started from weights {digest}," if digest else ""
        sentences = [
            f"Parent{start} trained for {_epochs(self.cell.parent)}, every pruned network "
            f"fine-tuned for {_epochs(self.cell.finetune)}{self._loss}."
        ]
        if records and (size := records[0].size):
            top1 = self.parent_top1
            sentences.insert(
                0,
                f"Parent: {size.full_macs:,} MACs, {size.full_params:,} parameters, top-1 "
                f"{top1.shown('.1f', 100) + ' %' if top1 else 'unknown'}.",
            )
            sentences.append(_where(next((r for r in records if r.latency), records[0])))
        return " ".join(sentences)

    @property
    def _loss(self) -> str:
        """The common loss, in words; protocol 1 had none."""
        if self.cell.protocol < 2:
            return ""
        taught = f" and {self.cell.distill:g} x distillation of the parent's logits"
        return f" with cross-entropy{taught if self.cell.distill else ''}"

    @property
    def parent_top1(self) -> Estimate | None:
        """Test accuracy of the unpruned networks, one for each seed."""
        found = {record.cell.seed: record.top1.parent for record in self.ok}
        known = [top1 for top1 in found.values() if top1 is not None]
        return estimate(known) if known else None


def method_name(cell: Cell) -> str:
    """Name of a method with the settings that differ from its defaults."""
    settings = _named(settings_of(cell))
    return f"{_full_name(cell)} ({settings})" if settings else _full_name(cell)


def short_name(cell: Cell, beside: Iterable[Cell]) -> str:
    """Name of a method with only the settings that vary among its cells.

    A method in a file is named by its class, where no other method beside it is.

    Args:
        cell: to be named.
        beside: the cells that its name must differ from, itself among them or not.
    """
    beside = list(beside)
    mine, name = settings_of(cell), plain_name(cell, beside)
    others = [settings_of(other) for other in beside if other.method == cell.method]
    told = {
        key: value
        for key, value in mine.items()
        if any(key not in other or other[key] != value for other in others)
    }
    return f"{name} ({_named(told)})" if told else name


def plain_name(cell: Cell, beside: Iterable[Cell]) -> str:
    """The same without any settings; see `short_name`."""
    names = shown_names([cell.method, *(other.method for other in beside)])
    return _full_name(cell) if cell.method == PARENT else names[cell.method]


def shown_names(methods: Iterable[str]) -> dict[str, str]:
    """What methods are called beside each other: one in a file by its class, if nothing else is."""
    classes = {method: method.partition(".py:")[2] or method for method in methods}
    taken = [*classes.values(), *(name for name in classes if name != classes[name])]
    return {m: name if taken.count(name) == 1 else m for m, name in classes.items()}


def _full_name(cell: Cell) -> str:
    """Tells the control from the parent that everything starts from."""
    return "parent, fine-tuned" if cell.method == PARENT else cell.method


def settings_of(cell: Cell) -> dict[str, object]:
    """Settings that differ from the method's defaults, edition, and how networks are trained."""
    named: dict[str, object] = dict(cell.settings)
    if cell.scratch is not None:
        named["from scratch"] = _epochs(cell.scratch)
    if cell.longer is not None:
        named["fine-tuned"] = "longer"  # by how much differs with the budget
    if cell.origin is not None:
        named["edition"] = cell.origin.edition
    return named


def _named(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Group records into comparisons and rows, in the order of model, data and device."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in current_records(list(records)):
        if record.cell.sample is not None:
            continue  # part of a ranking
        groups.setdefault((record.cell.comparison, record.runs_on), []).append(record)
    comparisons = [_comparison(group) for group in groups.values()]
    return sorted(
        comparisons,
        key=lambda c: (c.cell.model.name, c.cell.data.name, c.hardware, c.cell.comparison),
    )


def hardware(record: Record) -> str:
    """The processor that the networks ran on, with the fingerprint that the record holds."""
    name = record.processor
    return f"{name} ({record.fingerprint})" if record.fingerprint else name


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


def _comparison(records: Sequence[Record]) -> Comparison:
    variants: dict[str, list[Record]] = {}
    for record in one_a_seed(records):
        variants.setdefault(record.cell.variant, []).append(record)
    alone = [
        Row(group[0].cell, tuple(sorted(group, key=lambda r: r.cell.seed)))
        for group in variants.values()
    ]
    uniform = {
        (row.cell.metric, row.cell.budget): row.top1_by_seed
        for row in alone
        if row.method == REFERENCE
    }
    rows = [replace(row, uniform=uniform.get((row.cell.metric, row.cell.budget))) for row in alone]
    return Comparison(records[0].cell, hardware(records[0]), tuple(_in_order(rows)))


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
    budget = row.cell.budget
    return row.cell.metric, isinstance(budget, int), -budget


def _top1(row: Row, seeds: Collection[int]) -> float:
    """Mean accuracy over some seeds, over its own if there are none; least where it has none."""
    known = [top1 for seed, top1 in row.top1_by_seed.items() if seed in seeds or not seeds]
    return statistics.fmean(known) if known else -math.inf


def _epochs(schedule: Schedule) -> str:
    return counted(schedule.epochs, "epoch")


def _where(record: Record) -> str:
    environment = record.timed_on.environment if record.timed_on else record.environment
    if not record.latency:
        return f"Run on {hardware(record)}."
    measured = record.latency[0]
    threads, workers = counted(measured.threads, "thread"), environment.workers
    trained = record.environment.processor(record.cell.device)
    trained = "" if trained == record.processor else f"Trained on {trained}. "
    beside = "one cell at a time" if workers == 1 else f"{workers} cells side by side"
    return (
        f"{trained}Latency on {hardware(record)}, {threads}, {measured.dtype}, "
        f"{measured.memory_format}, {beside}; "
        "speed-up is the parent's time over the pruned network's, median of paired rounds."
    )


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

"""Records to tables: Markdown, CSV and LaTeX.

Records that were held equal in everything but method, budget and seed, and that ran on the same
processor, form a comparison and share a table; its rows are means over seeds. Reads records and
nothing else.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import Cell, Measured, Phase, Record, Schedule, current_records

__all__ = [
    "DECIDING",
    "Comparison",
    "Estimate",
    "Row",
    "compare",
    "estimate",
    "hardware",
    "latency_at",
    "method_name",
    "share",
    "shown",
    "speedup",
    "spent_macs",
    "spent_seconds",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write_tables",
]

UNITS = {"macs": "MACs", "params": "params", "latency": "latency", "latency_ms": "ms"}
REFERENCE = "uniform"
"""The method that differences are taken to."""

DECIDING: tuple[Phase, ...] = ("scoring", "supernet", "search")
"""Phases that a method spends on its decision, before fine-tuning."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and half the width of its 95 % interval, which one seed does not have."""

    mean: float
    half_width: float | None = None

    def shown(self, pattern: str, scale: float = 1.0) -> str:
        """Mean and half width, each scaled and formatted with `pattern`."""
        text = format(scale * self.mean, pattern)
        if self.half_width is None:
            return text
        return f"{text} ± {format(scale * self.half_width, pattern.lstrip('+'))}"


@dataclass(frozen=True)
class Row:
    """One method at one budget: the records of its seeds and what they give on average."""

    cell: Cell
    records: tuple[Record, ...]
    uniform: Mapping[int, float]

    @property
    def ok(self) -> tuple[Record, ...]:
        """The records that ran to the end."""
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def method(self) -> str:
        """Name of the method with the settings that differ from its defaults."""
        return method_name(self.cell)

    def settings_beyond(self, other: "Row") -> str:
        """The settings in which this row differs from another of the same method."""
        mine, theirs = _settings(self.cell), _settings(other.cell)
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
        """How many seeds stand behind the row, and how many of them did not end well."""
        lost = len(self.records) - len(self.ok)
        if lost:
            kinds = sorted({record.status for record in self.records} - {"ok"})
            return f"{lost} of {len(self.records)} {'/'.join(kinds)}"
        return "one seed" if len(self.records) == 1 else f"{len(self.records)} seeds"

    def mean(self, value: Callable[[Record], float | None]) -> Estimate | None:
        """A number averaged over the seeds that have it; None if none has."""
        values = [found for record in self.ok if (found := value(record)) is not None]
        return estimate(values) if values else None

    @property
    def gain(self) -> Estimate | None:
        """Difference of final top-1 to uniform width, paired by seed."""
        if self.cell.method == REFERENCE and not self.cell.settings:
            return None
        pairs = [
            record.top1.finetuned - self.uniform[record.cell.seed]
            for record in self.ok
            if record.top1.finetuned is not None and record.cell.seed in self.uniform
        ]
        return estimate(pairs) if pairs else None


@dataclass(frozen=True)
class Comparison:
    """Rows that may be compared, best budget first, best accuracy first within a budget."""

    cell: Cell
    hardware: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Network and data."""
        return f"{self.cell.model.title} on {self.cell.data.name}"

    def label(self, row: Row) -> str:
        """The method's name, with its settings only where the comparison has variants of it."""
        variants = {other.method for other in self.rows if other.cell.method == row.cell.method}
        return row.method if len(variants) > 1 else row.cell.method

    @property
    def caption(self) -> str:
        """What was held equal, in a sentence or two."""
        records = [record for row in self.rows for record in row.ok]
        sentences = [
            f"Parent trained for {_epochs(self.cell.parent)}, every pruned network "
            f"fine-tuned for {_epochs(self.cell.finetune)}."
        ]
        if records and (size := records[0].size):
            top1 = self.mean_parent_top1(records)
            sentences.insert(
                0,
                f"Parent: {size.full_macs:,} MACs, {size.full_params:,} parameters, top-1 {top1}.",
            )
            sentences.append(_where(records[0]))
        return " ".join(sentences)

    @staticmethod
    def mean_parent_top1(records: Sequence[Record]) -> str:
        """Mean test accuracy of the unpruned networks, one per seed, in per cent."""
        by_seed = {
            record.cell.seed: record.top1.parent
            for record in records
            if record.top1.parent is not None
        }
        return f"{estimate(list(by_seed.values())).shown('.1f', 100)} %" if by_seed else "unknown"


@dataclass(frozen=True)
class Column:
    """A column of the readable tables."""

    pattern: str
    text: Callable[[Row], str]
    is_number: bool = True

    def heading(self, cell: Cell) -> str:
        """The heading, which may name the smallest and the largest batch."""
        batches = cell.latency.batches
        return self.pattern.format(small=min(batches), large=max(batches))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and half width of Student's 95 % interval, from the sample deviation (n - 1)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean)
    from scipy.stats import t  # slow to import, and one seed does not need it

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, float(t.ppf(0.975, len(values) - 1)) * spread)


def method_name(cell: Cell) -> str:
    """Name of a method with the settings that differ from its defaults."""
    settings = _named(_settings(cell))
    return f"{cell.method} ({settings})" if settings else cell.method


def _settings(cell: Cell) -> dict[str, object]:
    """Settings that differ from the method's defaults, and how its networks are trained."""
    if cell.scratch is None:
        return dict(cell.settings)
    return {**cell.settings, "from scratch": _epochs(cell.scratch)}


def _named(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Groups records into comparisons and rows, in the order of model, data and device."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in current_records(list(records)):
        if record.cell.sample is not None:
            continue  # part of a ranking
        groups.setdefault((record.cell.comparison, hardware(record)), []).append(record)
    comparisons = [_comparison(group) for group in groups.values()]
    return sorted(
        comparisons,
        key=lambda c: (c.cell.model.name, c.cell.data.name, c.hardware, c.cell.comparison),
    )


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """One heading, caption and table for each comparison."""
    parts = []
    for comparison in comparisons:
        heads = "| " + " | ".join(column.heading(comparison.cell) for column in COLUMNS) + " |"
        rule = "|" + "|".join("---:" if column.is_number else "---" for column in COLUMNS) + "|"
        rows = [
            "| " + " | ".join(column.text(row).replace("|", r"\|") for column in COLUMNS) + " |"
            for row in comparison.rows
        ]
        table = "\n".join([heads, rule, *rows])
        parts.append(f"### {comparison.title}\n\n{comparison.caption}\n\n{table}\n")
    return "\n".join(parts)


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """One booktabs table for each comparison."""
    parts = []
    for comparison in comparisons:
        align = "".join("r" if column.is_number else "l" for column in COLUMNS)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(comparison.title)}. {_tex(comparison.caption)}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(_tex(column.heading(comparison.cell)) for column in COLUMNS) + r" \\",
            r"\midrule",
            *(
                " & ".join(_tex(column.text(row)) for column in COLUMNS) + r" \\"
                for row in comparison.rows
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """All rows in one table, numbers unrounded, an empty field for what was not measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADINGS)
    for comparison in comparisons:
        writer.writerows(_csv_row(row) for row in comparison.rows)
    return out.getvalue()


def write_tables(records: Iterable[Record], folder: Path) -> list[Path]:
    """Writes `results.md`, `results.csv` and `results.tex`; returns their paths."""
    comparisons = compare(records)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.md": to_markdown(comparisons),
        "results.csv": to_csv(comparisons),
        "results.tex": to_latex(comparisons),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def hardware(record: Record) -> str:
    """The processor that the networks ran on; times of different ones are never averaged."""
    on_gpu = record.cell.device.startswith("cuda")
    return (record.environment.gpu if on_gpu else record.environment.cpu) or "unknown hardware"


def latency_at(record: Record, smallest: bool) -> Measured | None:
    """The measurement at the smallest batch or at the largest."""
    measured = sorted(record.latency, key=lambda found: found.batch)
    if not measured:
        return None
    return measured[0] if smallest else measured[-1]


def _comparison(records: Sequence[Record]) -> Comparison:
    variants: dict[str, list[Record]] = {}
    for record in records:
        variants.setdefault(record.cell.variant, []).append(record)
    uniform = {
        (record.cell.metric, record.cell.budget, record.cell.seed): record.top1.finetuned
        for record in records
        if record.cell.method == REFERENCE and not record.cell.settings and record.status == "ok"
    }
    rows = []
    for group in variants.values():
        cell = group[0].cell
        reference = {
            seed: top1
            for (metric, budget, seed), top1 in uniform.items()
            if (metric, budget) == (cell.metric, cell.budget) and top1 is not None
        }
        rows.append(Row(cell, tuple(sorted(group, key=lambda r: r.cell.seed)), reference))
    return Comparison(records[0].cell, hardware(records[0]), tuple(sorted(rows, key=_row_order)))


def _row_order(row: Row) -> tuple[str, bool, float, float, str]:
    """Ratios before counts, larger budgets first, then the better method."""
    top1 = row.mean(lambda record: record.top1.finetuned)
    budget = row.cell.budget
    return (
        row.cell.metric,
        isinstance(budget, int),
        -budget,
        -top1.mean if top1 else math.inf,
        row.method,
    )


def _epochs(schedule: Schedule) -> str:
    return "1 epoch" if schedule.epochs == 1 else f"{schedule.epochs} epochs"


def _where(record: Record) -> str:
    environment = record.environment
    if not record.latency:
        return f"Run on {hardware(record)}."
    measured = record.latency[0]
    threads = f"{measured.threads} thread{'s' if measured.threads > 1 else ''}"
    return (
        f"Latency on {hardware(record)}, {threads}, {measured.dtype}, "
        f"{measured.memory_format}, {environment.workers} cells side by side; "
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


def _control(record: Record, smallest: bool) -> float | None:
    measured = latency_at(record, smallest)
    return measured.control.median if measured else None


def _pruned_ms(record: Record, smallest: bool) -> float | None:
    measured = latency_at(record, smallest)
    return measured.pruned_ms.median if measured else None


def _parent_ms(record: Record, smallest: bool) -> float | None:
    measured = latency_at(record, smallest)
    return measured.parent_ms.median if measured else None


def spent_macs(record: Record, phases: Sequence[Phase]) -> float:
    """Multiply-adds of some phases, forward and backward."""
    return sum(record.spent[phase].macs for phase in phases if phase in record.spent)


def spent_seconds(record: Record, phases: Sequence[Phase]) -> float:
    """Wall-clock seconds of some phases."""
    return sum(record.spent[phase].seconds for phase in phases if phase in record.spent)


def shown(found: Estimate | None, pattern: str, scale: float = 1.0) -> str:
    """An estimate scaled and formatted, a dash for what is not known."""
    return found.shown(pattern, scale) if found else "–"


def _tex(text: str) -> str:
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text.replace("±", r"$\pm$").replace("×", r"$\times$").replace("–", "--")


NUMBERS: Mapping[str, Callable[[Record], float | None]] = {
    "parent_top1": lambda r: r.top1.parent,
    "pruned_top1": lambda r: r.top1.pruned,
    "recalibrated_top1": lambda r: r.top1.recalibrated,
    "finetuned_top1": lambda r: r.top1.finetuned,
    "macs_share": lambda r: share(r, "macs"),
    "params_share": lambda r: share(r, "params"),
    "macs": lambda r: r.size.macs if r.size else None,
    "full_macs": lambda r: r.size.full_macs if r.size else None,
    "params": lambda r: r.size.params if r.size else None,
    "full_params": lambda r: r.size.full_params if r.size else None,
    "parent_ms_small_batch": lambda r: _parent_ms(r, True),
    "pruned_ms_small_batch": lambda r: _pruned_ms(r, True),
    "speedup_small_batch": lambda r: speedup(r, True),
    "control_small_batch": lambda r: _control(r, True),
    "parent_ms_large_batch": lambda r: _parent_ms(r, False),
    "pruned_ms_large_batch": lambda r: _pruned_ms(r, False),
    "speedup_large_batch": lambda r: speedup(r, False),
    "control_large_batch": lambda r: _control(r, False),
    "baseline_macs": lambda r: spent_macs(r, ["baseline"]),
    "search_macs": lambda r: spent_macs(r, DECIDING),
    "finetune_macs": lambda r: spent_macs(r, ["finetune"]),
    "search_seconds": lambda r: spent_seconds(r, DECIDING),
    "finetune_seconds": lambda r: spent_seconds(r, ["finetune"]),
}
"""What the CSV holds of each row, averaged over seeds."""


def _number(name: str, pattern: str, scale: float = 1.0) -> Callable[[Row], str]:
    value = NUMBERS[name]
    return lambda row: shown(row.mean(value), pattern, scale)


COLUMNS: tuple[Column, ...] = (
    Column("Budget", lambda row: f"{row.budget} {UNITS[row.cell.metric]}"),
    Column("Method", lambda row: row.method, is_number=False),
    Column("Seeds", lambda row: row.seeds, is_number=False),
    Column("MACs %", _number("macs_share", ".1f", 100)),
    Column("Params %", _number("params_share", ".1f", 100)),
    Column("Top-1 %, pruned", _number("pruned_top1", ".1f", 100)),
    Column("Recalibrated", _number("recalibrated_top1", ".1f", 100)),
    Column("Fine-tuned", _number("finetuned_top1", ".1f", 100)),
    Column("To uniform", lambda row: shown(row.gain, "+.1f", 100)),
    Column("Speed-up, batch {small}", _number("speedup_small_batch", ".2f")),
    Column("Speed-up, batch {large}", _number("speedup_large_batch", ".2f")),
    Column("Search TMACs", _number("search_macs", ".2f", 1e-12)),
    Column("Fine-tune TMACs", _number("finetune_macs", ".2f", 1e-12)),
    Column("Search s", _number("search_seconds", ".1f")),
)

CSV_HEADINGS = (
    "comparison", "model", "data", "device", "metric", "budget", "method",
    "seeds", "ok", *NUMBERS, "finetuned_top1_half_width",
    "top1_to_uniform", "top1_to_uniform_half_width", "records",
)  # fmt: skip


def _csv_row(row: Row) -> list[object]:
    cell = row.cell
    means = {name: row.mean(value) for name, value in NUMBERS.items()}
    final, gain = means["finetuned_top1"], row.gain
    return [
        cell.comparison, cell.model.name, cell.data.name, cell.device, cell.metric, cell.budget,
        row.method, len(row.records), len(row.ok),
        *(found.mean if found else None for found in means.values()),
        final.half_width if final else None,
        gain.mean if gain else None,
        gain.half_width if gain else None,
        " ".join(record.id for record in row.records),
    ]  # fmt: skip

"""What the rows of a comparison have in common, in words. Reads records and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.names import told_epochs
from benchmarks.records.cell import Cell
from benchmarks.records.plain import counted
from benchmarks.records.record import Record

__all__ = ["caption"]


def caption(comparison: Comparison) -> str:
    """What was held equal, in a sentence or two."""
    cell, records = comparison.cell, comparison.ok
    start = f" started from weights {cell.model.weights}," if cell.model.weights else ""
    sentences = [
        f"Parent{start} trained for {told_epochs(cell.parent)}, every pruned network "
        f"fine-tuned for {told_epochs(cell.finetune)}{_loss(cell)}."
    ]
    if records and (size := records[0].size):
        top1 = comparison.parent_top1
        sentences.insert(
            0,
            f"Parent: {size.full_macs:,} MACs, {size.full_params:,} parameters, top-1 "
            f"{top1.shown('.1f', 100) + ' %' if top1 else 'unknown'}.",
        )
        sentences.append(_where(records, comparison.hardware))
    return " ".join(sentences)


def _loss(cell: Cell) -> str:
    """The common loss, in words; protocol 1 had none."""
    if cell.protocol < 2:
        return ""
    taught = f" and {cell.distill:g} x distillation of the parent's logits"
    return f" with cross-entropy{taught if cell.distill else ''}"


def _where(records: Sequence[Record], hardware: str) -> str:
    record = next((each for each in records if each.latency), records[0])
    if not record.latency:
        is_elsewhere = record.timed_on is not None  # where only others of them were timed
        return f"Trained on {record.trained_on}." if is_elsewhere else f"Run on {hardware}."
    measured = record.latency[0]
    threads = counted(measured.threads, "thread")
    environment = record.timed_on.environment if record.timed_on else record.environment
    workers = {each.environment.workers for each in records}
    trained = f"Trained on {record.trained_on}"
    if workers != {environment.workers}:
        trained = f"{trained}, {_beside(workers)}. "
    else:
        trained = "" if record.trained_on == record.processor else f"{trained}. "
    return (
        f"{trained}Latency on {hardware}, {threads}, {measured.dtype}, "
        f"{measured.memory_format}, {_beside({environment.workers})}; "
        "speed-up is the parent's time over the pruned network's, median of paired rounds."
    )


def _beside(workers: Collection[int]) -> str:
    """How many cells ran at once."""
    low, high = min(workers), max(workers)
    if high == 1:
        return "one cell at a time"
    return f"{high if low == high else f'{low} to {high}'} cells side by side"

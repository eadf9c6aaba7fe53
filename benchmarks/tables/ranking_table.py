"""How well scores rank a sample, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.analysis.comparison import DECIDING, spent_macs, spent_seconds
from benchmarks.analysis.ranking import Agreement, Ranking
from benchmarks.records.plain import in_markdown

__all__ = ["ranking_table"]


def ranking_table(rankings: Sequence[Ranking]) -> str:
    """Markdown: one heading, caption and table for each ranking, the best tau first."""
    return "\n".join(_one_table(ranking) for ranking in rankings)


def _one_table(ranking: Ranking) -> str:
    rows = [
        (
            ranking.agreements[scorer.name],
            scorer.name,
            len(scorer.records),
            scorer.mean(lambda record: spent_macs(record, DECIDING)) / 1e12,
            scorer.mean(lambda record: spent_seconds(record, DECIDING)),
        )
        for scorer in ranking.scorers
    ]
    rows.sort(key=lambda row: (-np.nan_to_num(row[0].tau, nan=-2.0), row[1]))
    lines = [_line(*row) for row in rows]
    if top := ranking.ceiling:
        name, seeds = "one training alone (the ceiling)", len(ranking.truth)
        lines.insert(0, _line(top, name, seeds, ranking.alone_tmacs, ranking.alone_seconds))
    truth, cell = 100 * ranking.mean_truth, ranking.cell
    trained = "one seed" if len(ranking.truth) == 1 else f"{len(ranking.truth)} seeds"
    caption = (
        f"Each configuration trained alone for {cell.finetune.epochs} epochs from {cell.start} "
        f"weights, {trained}: top-1 from {truth.min():.1f} to {truth.max():.1f} %, standard "
        f"deviation {truth.std(ddof=1):.1f}. Tau is Kendall's tau-b with its bootstrap 95 % "
        "interval over configurations; regret is the accuracy lost by taking the best-scored one."
    )
    head = "| Scores of | Seeds | Tau | 95 % interval | Regret, points | TMACs | Seconds |"
    rule = "|---|---:|---:|---:|---:|---:|---:|"
    title = f"### {in_markdown(ranking.title)}\n"
    return "\n".join([title, f"{caption}\n", head, rule, *lines, ""])


def _line(found: Agreement, name: str, seeds: int, tmacs: float, seconds: float) -> str:
    interval = f"{found.low:.2f} to {found.high:.2f}"
    return (
        f"| {in_markdown(name)} | {seeds} | {found.tau:.2f} | {interval} "
        f"| {100 * found.regret:.1f} | {tmacs:.2f} | {seconds:.1f} |"
    )

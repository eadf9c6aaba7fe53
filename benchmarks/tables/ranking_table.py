"""How well scores rank a sample, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.analysis.comparison import DECIDING, spent_macs, spent_seconds
from benchmarks.analysis.ranking import Agreement, Ranking
from benchmarks.records.plain import counted, in_markdown
from benchmarks.tables.markdown import markdown_table

__all__ = ["ranking_table"]

HEADINGS = ("Scores of", "Seeds", "Tau", "95 % interval", "Regret, points", "TMACs", "Seconds")


def ranking_table(rankings: Sequence[Ranking]) -> str:
    """Markdown: one heading, caption and table for each ranking, the best tau first.

    Scorers that lost seeds stand last and say how many failed.
    """
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
    cells = [_cells(*row) for row in rows]
    if top := ranking.ceiling:
        name, seeds = "one training alone (the ceiling)", len(ranking.truth)
        cells.insert(0, _cells(top, name, seeds, ranking.alone_tmacs, ranking.alone_seconds))
    cells += [(scorer.name, scorer.seeds, *"–––––") for scorer in ranking.lost]
    truth, cell = 100 * ranking.mean_truth, ranking.cell
    trained = "one seed" if len(ranking.truth) == 1 else f"{len(ranking.truth)} seeds"
    caption = (
        f"Each configuration trained alone for {counted(cell.finetune.epochs, 'epoch')} from "
        f"{cell.start} weights, {trained}: top-1 from {truth.min():.1f} to "
        f"{truth.max():.1f} %, standard deviation {truth.std(ddof=1):.1f}. Tau is Kendall's "
        "tau-b with its bootstrap 95 % interval over configurations; regret is the accuracy lost "
        "by taking the best-scored one, on average over those that tie."
    )
    table = markdown_table(HEADINGS, "lrrrrrr", cells)
    return f"### {in_markdown(ranking.title)}\n\n{caption}\n\n{table}"


def _cells(
    found: Agreement, name: str, seeds: int, tmacs: float, seconds: float
) -> tuple[str, ...]:
    interval = f"{found.low:.2f} to {found.high:.2f}"
    regret = f"{100 * found.regret:.1f}"
    return name, f"{seeds}", f"{found.tau:.2f}", interval, regret, f"{tmacs:.2f}", f"{seconds:.1f}"

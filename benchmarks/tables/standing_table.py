"""Average ranks and their stability, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.standing import Stability, Standing
from benchmarks.records.plain import in_markdown

__all__ = ["standing_table"]


def standing_table(standing: Standing | None, pairs: Sequence[Stability]) -> str:
    """Markdown: average ranks with the critical difference, then tau between budgets."""
    parts = []
    if standing is not None:
        p_value = standing.p_value
        test = "" if p_value is None else f" Friedman's test: p = {p_value:.2g}."
        lines = [
            f"| {in_markdown(name)} | {rank:.2f} |"
            for name, rank in zip(standing.methods, standing.average, strict=True)
        ]
        parts.append(
            f"### Average ranks over {standing.tasks} tasks\n\n"
            f"Average ranks that differ by less than {standing.critical_difference:.2f} do not "
            f"differ significantly (Nemenyi, 5 %).{test}\n\n"
            "| Method | Average rank |\n|---|---:|\n" + "\n".join(lines) + "\n"
        )
    if pairs:
        lines = [
            f"| {in_markdown(pair.title)} | {pair.budgets[0]} and {pair.budgets[1]} "
            f"| {pair.methods} | {_n_seeds(pair.seeds)} | {pair.tau:.2f} "
            f"| {pair.low:.2f} to {pair.high:.2f} |"
            for pair in pairs
        ]
        parts.append(
            "### Stability of the ranking between budgets\n\n"
            "Kendall's tau-b between the methods' final accuracies at two budgets, 95 % interval "
            "from resampled methods and seeds.\n\n"
            "| Network and data | Budgets | Methods | Seeds | Tau | 95 % interval |\n"
            "|---|---|---:|---|---:|---:|\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


def _n_seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"

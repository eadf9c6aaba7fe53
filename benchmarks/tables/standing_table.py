"""Average ranks and their stability, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.standing import Stability, Standing
from benchmarks.tables.markdown import markdown_table

__all__ = ["standing_table"]


def standing_table(standing: Standing | None, pairs: Sequence[Stability]) -> str:
    """Markdown: average ranks with the critical difference, then tau between budgets."""
    parts = []
    if standing is not None:
        p_value = standing.p_value
        test = "" if p_value is None else f" Friedman's test: p = {p_value:.2g}."
        ranks = [f"{rank:.2f}" for rank in standing.average]
        rows = zip(standing.methods, ranks, strict=True)
        table = markdown_table(("Method", "Average rank"), "lr", rows)
        parts.append(
            f"### Average ranks over {standing.tasks} tasks\n\n"
            f"Average ranks that differ by less than {standing.critical_difference:.2f} do not "
            f"differ significantly (Nemenyi, 5 %).{test}\n\n{table}"
        )
    if pairs:
        table = markdown_table(
            ("Network and data", "Budgets", "Methods", "Seeds", "Tau", "95 % interval"),
            "llrlrr",
            [
                (pair.title, " and ".join(pair.budgets), f"{pair.methods}", _n_seeds(pair.seeds),
                 f"{pair.tau:.2f}", f"{pair.low:.2f} to {pair.high:.2f}")
                for pair in pairs
            ],
        )  # fmt: skip
        parts.append(
            "### Stability of the ranking between budgets\n\n"
            "Kendall's tau-b between the methods' final accuracies at two budgets, 95 % interval "
            f"from resampled methods and seeds.\n\n{table}"
        )
    return "\n".join(parts)


def _n_seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"

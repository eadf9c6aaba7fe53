"""The table of pruners, made from the cards in their modules."""

from benchmarks.tables.markdown import Written, markdown_table
from zoo.core.method.card import card
from zoo.core.method.discovery import get_pruner, list_pruners

__all__ = ["methods_table"]


def methods_table() -> str:
    """A Markdown table with one row per pruner: methods, baselines, then peers."""
    rows = []
    for name in list_pruners():
        cls = get_pruner(name)
        sections = card(cls)
        idea, paper = (Written(_first_sentence(sections[s])) for s in ("Idea", "Paper"))
        rows.append([Written(f"[`{name}`]({cls.__module__.replace('.', '/')}.py)"), idea, paper])
    return markdown_table(("Pruner", "Idea", "Paper"), "lll", rows)


def _first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, on one line."""
    return " ".join(text.split()).split(". ")[0].rstrip(".").replace("|", "/")

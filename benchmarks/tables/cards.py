"""The table of pruners, made from the cards in their modules."""

from benchmarks.records.plain import first_sentence
from benchmarks.tables.markdown import Written, markdown_table
from zoo.core.method.card import card
from zoo.core.method.discovery import Kind, get_pruner, list_pruners

__all__ = ["methods_table"]


def methods_table() -> str:
    """A Markdown table with one row per pruner: methods first, then baselines."""
    rows = []
    folders: dict[Kind, str] = {"method": "zoo", "baseline": "baselines"}
    for kind, folder in folders.items():
        for name in list_pruners(kind):
            sections = card(get_pruner(name))
            idea, paper = (Written(first_sentence(sections[s])) for s in ("Idea", "Paper"))
            rows.append([Written(f"[`{name}`]({folder}/{name}.py)"), idea, paper])
    return markdown_table(("Pruner", "Idea", "Paper"), "lll", rows)

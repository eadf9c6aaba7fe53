"""The table of pruners, made from the cards in their modules."""

from benchmarks.records.plain import first_sentence
from benchmarks.tables.markdown import Written, markdown_table
from zoo.core.method.card import card
from zoo.core.method.discovery import PACKAGES, get_pruner, list_pruners

__all__ = ["methods_table"]


def methods_table() -> str:
    """A Markdown table with one row per pruner: methods, baselines, then peers."""
    rows = []
    for name in (name for kind in PACKAGES.values() for name in list_pruners(kind)):
        cls = get_pruner(name)
        sections = card(cls)
        idea, paper = (Written(first_sentence(sections[s])) for s in ("Idea", "Paper"))
        rows.append([Written(f"[`{name}`]({cls.__module__.replace('.', '/')}.py)"), idea, paper])
    return markdown_table(("Pruner", "Idea", "Paper"), "lll", rows)

"""The leaderboard as files: a Markdown text and a page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from benchmarks.records.plain import visible
from benchmarks.records.record import Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.leaderboard import HEADINGS, NOTE, Board, boards, to_markdown

__all__ = ["build_leaderboard", "write_leaderboard"]

WORDS = ("Method", "Machine", "Origin")
"""Columns of words, which are aligned to the left."""


def write_leaderboard(records: Mapping[str, Sequence[Record]], folder: Path) -> list[Path]:
    """Write `leaderboard.md` and `leaderboard.html`; return their paths.

    Args:
        records: of each folder, by its name.
        folder: to write to.
    """
    found = boards(records)
    texts = {"leaderboard.md": to_markdown(found), "leaderboard.html": build_leaderboard(found)}
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def build_leaderboard(found: Sequence[Board]) -> str:
    """The page as a text; what records say is text everywhere."""
    ours = resources.files("benchmarks.page")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    template = environment.from_string(ours.joinpath("leaderboard.html.j2").read_text("utf-8"))
    css = Markup(ours.joinpath("page.css").read_text("utf-8"))
    return template.render(boards=found, headings=HEADINGS, words=WORDS, note=NOTE, css=css)

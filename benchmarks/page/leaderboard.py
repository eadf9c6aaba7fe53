"""The leaderboard as files: a Markdown text and a page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.page.template import own_text, page_template
from benchmarks.records.record import Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.leaderboard import ALIGN, HEADINGS, NOTE, Board, boards, to_markdown

__all__ = ["build_leaderboard", "write_leaderboard"]


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
    words = [name for name, letter in zip(HEADINGS, ALIGN, strict=True) if letter == "l"]
    template = page_template("leaderboard.html.j2")
    css = own_text("page.css")
    return template.render(boards=found, headings=HEADINGS, words=words, note=NOTE, css=css)

"""How a report names and counts the files that are no records.

Imports neither torch nor zoo.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from benchmarks.records.files import Unread
from benchmarks.records.plain import in_markdown, in_tex

__all__ = ["show_unread", "unread_count", "unread_lines", "unread_markdown", "unread_tex"]

MOST = 20
"""Files that are named; the others are counted."""


def unread_count(unread: Sequence[Unread]) -> str:
    """A sentence; empty if every file was a record."""
    if not unread:
        return ""
    files = "1 file is" if len(unread) == 1 else f"{len(unread)} files are"
    return f"{files} no whole record and left out."


def unread_lines(unread: Sequence[Unread]) -> list[str]:
    """The sentence, then a line for each of the first files; none if every file was a record."""
    if not unread:
        return []
    more = [f"and {len(unread) - MOST} more"] if len(unread) > MOST else []
    return [unread_count(unread), *map(str, unread[:MOST]), *more]


def unread_markdown(unread: Sequence[Unread]) -> str:
    """A paragraph and a list, empty if every file was a record."""
    count, *lines = unread_lines(unread) or [""]
    return "\n".join([count, "", *(f"- {in_markdown(line)}" for line in lines), ""]) * bool(count)


def unread_tex(unread: Sequence[Unread]) -> str:
    """A paragraph, empty if every file was a record."""
    count, *lines = unread_lines(unread) or [""]
    return f"{in_tex(count)} {in_tex('; '.join(lines))}\n" * bool(count)


def show_unread(console: Console, unread: Sequence[Unread]) -> None:
    """Print the sentence and the lines."""
    for line in unread_lines(unread):
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True, highlight=False, emoji=False)

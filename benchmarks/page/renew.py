"""Renew the marked blocks of a Markdown page from records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.records.whole_file import write_whole

if TYPE_CHECKING:
    from benchmarks.analysis.findings import Findings
    from benchmarks.records.files import Loaded
    from benchmarks.records.record import Record

__all__ = ["loaded_records", "marked_blocks", "renew_blocks", "special_tables"]


def special_tables(findings: Findings) -> dict[str, Callable[[], str]]:
    """Tables that answer one question each, by name; an empty text if the records do not say."""
    from benchmarks.tables.ablation import ablation_table
    from benchmarks.tables.published_table import published_table
    from benchmarks.tables.ranking_table import ranking_table
    from benchmarks.tables.standing_table import standing_table
    from benchmarks.tables.supernets import reach_table, sharing_table, supernet_table

    return {
        "standing": lambda: standing_table(findings.effects, findings.standing, findings.stability),
        "ablation": lambda: ablation_table(findings.comparisons),
        "ranking": lambda: ranking_table(findings.rankings),
        "supernets": lambda: supernet_table(findings.rankings),
        "supernet-reach": lambda: reach_table(findings.rankings),
        "supernet-sharing": lambda: sharing_table(findings.comparisons),
        "published": lambda: published_table(findings.comparisons),
    }


BLOCKS = ("report", "results", "finding", "standing", "ablation", "ranking", "supernets",
          "supernet-reach", "supernet-sharing", "published", "pruners")  # fmt: skip
"""Names of the blocks that a page can have."""


def marked_blocks(path: Path) -> list[str]:
    """Names of the blocks that a page has markers for.

    Raises:
        ValueError: if it is no text file, or has no markers.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError(f"{path} is no file; give the path of a text with marked blocks")
    from benchmarks.tables.marked_blocks import has_block

    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8; give a text with marked blocks") from error
    names = [name for name in BLOCKS if has_block(text, name)]
    if not names:
        raise ValueError(
            f"{path} has no block to renew; put markers in: <!-- zoo NAME: begin --> and "
            f"<!-- zoo NAME: end -->, NAME one of {', '.join(BLOCKS)}"
        )
    return names


def renew_blocks(path: Path, findings: Findings) -> list[str]:
    """Renew every marked block of a text that the records say something on.

    Other blocks stay, so that a page can be made from the records of several folders in turn.

    Returns:
        The names of the blocks that were written.

    Raises:
        ValueError: if it is no text file, or has no markers.
    """
    from benchmarks.tables.cards import methods_table
    from benchmarks.tables.finding_table import finding_table
    from benchmarks.tables.marked_blocks import replace_block
    from benchmarks.tables.tables import to_markdown, to_short_markdown, with_unread

    comparisons, unread = findings.comparisons, findings.unread
    blocks = {
        "report": lambda: with_unread(to_short_markdown(comparisons), unread),
        "results": lambda: with_unread(to_markdown(comparisons), unread),
        "finding": lambda: with_unread(finding_table(comparisons), unread),
        **special_tables(findings),
        "pruners": methods_table,
    }
    names = marked_blocks(path)
    text = path.read_text("utf-8")
    written = {name: block for name in names if (block := blocks[name]())}
    for name, block in written.items():
        text = replace_block(text, block, name)
    write_whole(path, text)
    return list(written)


def loaded_records(results: Path) -> Loaded[Record]:
    """Records of a results folder, or of a folder of records, and the files there that are none.

    Raises:
        ValueError: if there is no record.
        OSError: if the folder cannot be read.
    """
    from benchmarks.records.join import read_results
    from benchmarks.tables.unread import unread_lines

    folder = results / "records" if (results / "records").exists() else results
    if not folder.is_dir():
        what = "it is no folder" if folder.exists() else "there is no such folder"
        raise ValueError(
            f"no records in {folder}: {what}; make some with: zoo run SUITE --results PATH"
        )
    loaded = read_results(results)
    if not loaded.records:
        why = "; ".join(unread_lines(loaded.unread)) or "it holds none"
        raise ValueError(
            f"no records in {folder}: {why}; make some with: zoo run SUITE --results PATH"
        )
    return loaded

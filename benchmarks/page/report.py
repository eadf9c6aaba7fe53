"""All that is made of a folder of records: tables, figures and the page, and what is printed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.page.renew import loaded_records, special_tables
from benchmarks.records.plain import in_markup
from benchmarks.records.whole_file import require_writable, write_whole
from benchmarks.tables.terminal import terminal_table

if TYPE_CHECKING:
    from benchmarks.analysis.findings import Findings
    from benchmarks.running.submission import Fault

__all__ = ["refuse_beside_folders", "report_leaderboard", "show_faults", "write_report"]

LONGEST = 4000
"""Characters of a line that are shown."""


def write_report(
    console: Console,
    results: Path,
    shown_keys: Collection[str] | None = None,
    *,
    is_for_paper: bool = False,
    methods: str | None = None,
) -> Findings:
    """Write tables, figures and page of all records, and print the tables of some.

    Args:
        console: where to print.
        results: folder that holds the records, and that gets the rest.
        shown_keys: of the cells whose tables are printed, as the folder has them; None for all.
        is_for_paper: whether the folder `paper` is written, too.
        methods: that a paper shows, names with commas between; None for all.

    Raises:
        ValueError, FileNotFoundError: if there are no records, or none of one of the methods.
        OSError: if the folder cannot be read or written.
    """
    # Slow to import, and `zoo --help` reads this module.
    from benchmarks.analysis.findings import Findings
    from benchmarks.figures.all_figures import draw_light_and_dark
    from benchmarks.page.page import write_page
    from benchmarks.page.paper import asked_methods, show_paper
    from benchmarks.records.latency_lines import latency_lines
    from benchmarks.tables.contrast_lines import contrast_lines
    from benchmarks.tables.tables import write_tables
    from benchmarks.tables.unread import show_unread

    if methods is not None and not is_for_paper:
        raise ValueError("--methods chooses what a paper shows; add --paper")
    findings = Findings.of(*loaded_records(results))
    chosen = asked_methods(methods, findings.comparisons)
    shown = findings.comparisons
    if shown_keys is not None:
        shown = [each for each in shown if each.holds_any(shown_keys)]
    for line in contrast_lines(findings.comparisons, shown_keys):
        console.print(in_markup(line, LONGEST), soft_wrap=True)
    for comparison in shown:
        console.print(terminal_table(comparison))
    for line in latency_lines([record for each in shown for record in each.ok]):
        console.print(f"[yellow]{in_markup(line, LONGEST)}[/]", soft_wrap=True)
    show_unread(console, findings.unread)
    for folder in ("tables", "figures"):
        require_writable(results / folder, "--results")
    write_tables(findings, results / "tables")
    for name, table in special_tables(findings).items():
        path = results / "tables" / f"{name}.md"
        if text := table():
            write_whole(path, text)
        else:  # what earlier records said holds no longer
            path.unlink(missing_ok=True)
    figures, dark = draw_light_and_dark(findings, results / "figures")
    title = f"Pruning results: {results.resolve().name}"
    page = write_page(findings, results / "page.html", title=title, figures=figures, dark=dark)
    tables, drawn, page_at = (
        in_markup(str(each), LONGEST) for each in (results / "tables", results / "figures", page)
    )
    console.print(f"tables in {tables}, figures in {drawn}, page: {page_at}", soft_wrap=True)
    if is_for_paper:
        show_paper(console, findings, results / "paper", chosen)
    return findings


def refuse_beside_folders(**given: object) -> None:
    """Refuse options that a leaderboard does not have.

    Raises:
        ValueError: naming the first that was given.
    """
    for name, value in given.items():
        if value:
            raise ValueError(
                f"--{name} belongs to the report of one folder; leave it out, or give that folder "
                "as --results"
            )


def report_leaderboard(console: Console, folders: Sequence[Path], results: Path) -> None:
    """Write one leaderboard of several folders of results, and say where it is.

    Args:
        console: where to print.
        folders: of results; named by what tells them apart.
        results: folder to write to.

    Raises:
        ValueError: if there is one folder alone, one twice, or one without records.
        OSError: if a folder cannot be read or written.
    """
    from benchmarks.page.leaderboard import write_leaderboard
    from benchmarks.tables.unread import show_unread

    if len(folders) == 1:
        raise ValueError(
            f"one folder makes no leaderboard; for its report: zoo report --results {folders[0]}"
        )
    records, known = {}, dict[Path, Path]()
    for folder in folders:
        first = known.setdefault(folder.resolve(), folder)
        if str(folder) in records:
            raise ValueError(f"{folder} is given twice; give every folder once")
        if first is not folder:
            raise ValueError(f"{folder} is the folder {first}; give every folder once")
        records[str(folder)], unread = loaded_records(folder)
        show_unread(console, unread)
    require_writable(results, "--results")
    text, page = write_leaderboard(records, results)
    console.print(f"leaderboard in {in_markup(str(text), LONGEST)}, page: {page}", soft_wrap=True)


def show_faults(console: Console, folder: Path, count: int, faults: Sequence[Fault]) -> None:
    """Print what is off in a submission, what is alike once, and the verdict."""
    alike: dict[str, list[str]] = {}
    for fault in faults:
        alike.setdefault(fault.text, []).append(fault.where)
    for text, places in alike.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        console.print(
            f"[red]off[/] {in_markup(places[0], 120)}{more}: {in_markup(text, 500)}",
            soft_wrap=True,
        )
    verdict = f"faults: {len(faults)}" if faults else "nothing is missing or off"
    console.print(f"{in_markup(str(folder), 200)}: records: {count}, {verdict}", soft_wrap=True)

r"""What a paper takes from records: a table and figures as wide as a column, and a try of them.

``paper.tex`` is a two-column article that holds them all, to look at and to copy from; whole tables
stay in ``tables/results.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import TITLES, draw_for_paper
from benchmarks.records.plain import in_markup, visible
from benchmarks.records.whole_file import require_writable, write_whole
from benchmarks.tables.paper_table import PACKAGES, breakable, chosen_rows, names_of, paper_table

__all__ = ["asked_methods", "require_known", "show_paper", "write_paper"]

LONGEST_NAME = 60
"""Characters of a comparison in the name of a file."""

FIGURE = r"""\begin{{figure}}
\centering
\includegraphics[width=\columnwidth,height=0.85\textheight,keepaspectratio]{{{name}}}
\caption{{{caption}}}
\label{{fig:{name}}}
\end{{figure}}
"""


def asked_methods(text: str | None, comparisons: Sequence[Comparison]) -> list[str]:
    """Names in a list with commas, each once, in the order that they were given in.

    A name may hold commas itself, as "parent, fine-tuned" does: of what stands next in the list,
    the longest that is a name is one.

    Args:
        text: the list; None for no choice.
        comparisons: whose rows are chosen among.

    Raises:
        ValueError: if a list without a name is given, or names that no row has.
    """
    if text is None:
        return []
    known = _known(comparisons)
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise ValueError("--methods names no method; give names with commas between: bnp,uniform")
    found: list[str] = []
    while pieces:
        ends = range(len(pieces), 0, -1)
        end = next((end for end in ends if ", ".join(pieces[:end]) in known), 1)
        found.append(", ".join(pieces[:end]))
        del pieces[:end]
    require_known(comparisons, found)
    return [*dict.fromkeys(found)]


def show_paper(
    console: Console, findings: Findings, folder: Path, methods: Collection[str]
) -> None:
    """Write what a paper takes, and print where it is; see `write_paper`."""
    require_writable(folder, "--results")
    article = in_markup(str(write_paper(findings, folder, methods)))
    console.print(
        f"for a paper: {article}; whole tables stay in tables/results.csv", soft_wrap=True
    )


def write_paper(findings: Findings, folder: Path, methods: Collection[str] = ()) -> Path:
    """Write the tables, the figures and the article that shows them; return its path.

    Args:
        findings: of all records, chosen or not.
        folder: for the files.
        methods: names of methods or of their variants that are shown; empty for all.

    Raises:
        ValueError: if one of them is in no comparison, or there is no comparison at all.
        OSError: if the folder cannot be written.
    """
    named = _named(findings.comparisons)
    require_known(findings.comparisons, methods)
    folder.mkdir(parents=True, exist_ok=True)
    tables, figures = [], []
    for name, comparison in named.items():
        rows = chosen_rows(comparison, methods)
        if not rows:
            continue
        tables.append(paper_table(comparison, methods, name))
        shown = comparison.showing(rows)
        if any(row.ok for row in rows):
            paths = draw_for_paper(shown, folder, "" if len(named) == 1 else f"-{name}")
            figures += [_figure(path, comparison) for path in paths]
    write_whole(folder / "tables.tex", "\n".join(tables))
    write_whole(folder / "figures.tex", "\n".join(figures))
    write_whole(folder / "paper.tex", _article(tables, figures))
    return folder / "paper.tex"


def require_known(comparisons: Sequence[Comparison], methods: Collection[str]) -> None:
    """Refuse names that no row has.

    Raises:
        ValueError: naming them, and those that there are.
    """
    known = _known(comparisons)
    if unknown := [name for name in methods if name not in known]:
        there = visible("; ".join(sorted(known)), 600)
        raise ValueError(f"no records of {'; '.join(unknown)}; --methods can name: {there}")


def _known(comparisons: Sequence[Comparison]) -> set[str]:
    """All names that a row can be chosen by."""
    return {name for each in comparisons for row in each.rows for name in names_of(each, row)}


def _named(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """Comparisons by names that are fit for labels and files; no two are alike."""
    if not comparisons:
        raise ValueError("no comparison in these records, so nothing for a paper; run a suite")
    found: dict[str, Comparison] = {}
    for comparison in comparisons:
        plain = f"{comparison.cell.model.title}-{comparison.cell.data.name}".lower()
        name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_NAME] or "results"
        found[name if name not in found else f"{name}-{len(found)}"] = comparison
    return found


def _figure(path: Path, comparison: Comparison) -> str:
    kind = path.stem.partition("-")[0]
    caption = f"{TITLES[kind]}: {breakable(comparison.timed_heading)}."
    return FIGURE.format(name=path.stem, caption=caption)


def _article(tables: Sequence[str], figures: Sequence[str]) -> str:
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    return "\n".join(
        [
            "% Made by zoo report --paper; pdflatex paper.tex shows every table and figure.",
            r"\documentclass[twocolumn]{article}",
            packages,
            r"\begin{document}",
            *(r"\input{tables}" for _ in tables[:1]),
            r"\clearpage",
            *(r"\input{figures}" for _ in figures[:1]),
            r"\end{document}",
            "",
        ]
    )

"""Figures from records, as PNG and PDF, one set for each device.

A PNG carries a digest of what is plotted, so that a test can tell whether it is still what the
records say without comparing pixels, which differ between releases of matplotlib. Reads records and
published numbers and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.collections import Collection
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.ranking import Ranking
from benchmarks.figures.accuracy import (
    accuracy_against_cost,
    accuracy_against_latency,
    accuracy_against_macs,
    accuracy_against_params,
)
from benchmarks.figures.rows import kept_widths, training_cost
from benchmarks.figures.search import (
    critical_difference,
    proxy_against_accuracy,
    search_traces,
    traced,
)
from benchmarks.figures.style import PAPER, darken, drawn_for
from benchmarks.records.record import Record
from benchmarks.records.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "TITLES",
    "digest_of",
    "draw_figures",
    "draw_for_paper",
    "draw_light_and_dark",
    "figures_of",
    "plotted",
]

DIGEST = "zoo-plotted"
"""Name of the text in a PNG that holds the digest of what it plots."""

TITLES: Mapping[str, str] = {
    "accuracy_macs": "Accuracy against MACs",
    "accuracy_params": "Accuracy against parameters",
    "accuracy_latency": "Accuracy against latency",
    "accuracy_cost": "Accuracy against total training cost",
    "training_cost": "Training cost by phase",
    "kept_widths": "Kept widths",
    "proxy_accuracy": "Scores against accuracies of networks trained alone",
    "search_traces": "Search traces",
    "critical_difference": "Average ranks",
}
"""Figures in the order in which a reader meets them."""

TIMES = "accuracy_latency"
"""The figure that differs between devices that timed the same networks."""

_DRAWN = re.compile(
    rf"({'|'.join(TITLES)})(-[a-z0-9-]*(cpu|cuda)-[0-9a-f]{{8}}(-\d+)?)?\.(png|pdf)"
)
"""Names of figures, with a device's name and fingerprint or without."""

DPI = 160
MOST_PIXELS = 30_000
"""Of a side; above 65,536 nothing is drawn."""
MOST_AREA = 80_000_000
"""Pixels; above 89 millions Pillow takes an image for an attack."""

LONGEST_SLUG = 120
"""Characters of a device in the name of a file."""

Draw = Callable[[], "Figure"]


@contextlib.contextmanager
def _odd_names_allowed() -> Iterator[None]:
    """No warnings of letters that the font lacks, drawn as boxes, and of names without room."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection: a figure is a heap of live objects that it would search in vain."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def draw_figures(findings: Findings, folder: Path) -> list[Path]:
    """Draw every figure that there are numbers for, as PNG and PDF; return the paths.

    Figures of earlier records, which these do not make, are removed: files named as this function
    names them. What somebody else put into the folder stays.
    """
    return _draw(findings, folder)


def draw_light_and_dark(findings: Findings, folder: Path) -> tuple[list[Path], dict[str, bytes]]:
    """As `draw_figures`; return the paths, and PNGs of the same for a dark ground, by name."""
    dark: dict[str, bytes] = {}
    return _draw(findings, folder, dark), dark


@_odd_names_allowed()
def _draw(findings: Findings, folder: Path, dark: dict[str, bytes] | None = None) -> list[Path]:
    drawn = []
    for name, draw in figures_of(findings).items():
        figure = _laid_out(draw)
        drawn += _write(figure, folder / name)
        if dark is not None:
            dark[name] = _png_on_dark(figure)
    for path in set(folder.iterdir()) - set(drawn):
        if _DRAWN.fullmatch(path.name):
            path.unlink()
    return drawn


@_odd_names_allowed()
def draw_for_paper(comparison: Comparison, folder: Path, suffix: str) -> list[Path]:
    """Draw the figures of one comparison as wide as a paper's column, as PDF; return the paths.

    Args:
        comparison: at least one of its rows ran to the end.
        folder: to put them into.
        suffix: of their names.
    """
    found = dict(_of_comparisons([comparison]))
    if [*traced([comparison])]:
        found["search_traces"] = lambda: search_traces([comparison])
    with drawn_for(PAPER):
        return [
            path
            for name, draw in found.items()
            for path in _write(_laid_out(draw), folder / f"{name}{suffix}", ["pdf"])
        ]


def figures_of(findings: Findings) -> dict[str, Draw]:
    """What can be drawn, by file name.

    Devices have figures of their own, with their names, where a network was run on several of them;
    networks that were run on one each share a figure, as panels. Where several devices timed what
    was trained once, that goes for the figures of times; the others are drawn once.
    """
    devices = findings.by_device
    if len(devices) == 1 or (_are_apart(findings.comparisons) and not findings.rankings):
        return dict(_drawings(findings))
    slugs = _slugs(devices).items()
    sets = {f"-{slug}": dict(_drawings(devices[device])) for device, slug in slugs}
    if _are_apart([*distinct(findings.comparisons), *findings.rankings]):
        whole = dict(_drawings(findings))
        whole.pop(TIMES, None)
        timed = {slug: {TIMES: each[TIMES]} for slug, each in sets.items() if TIMES in each}
        sets = {"": whole, **timed}
    return {name + slug: draw for slug, each in sets.items() for name, draw in each.items()}


def _are_apart(panels: Sequence[Comparison | Ranking]) -> bool:
    """Whether their titles tell them apart, so that they can be panels of one figure."""
    titles = [panel.title for panel in panels]
    return len({*titles}) == len(titles)


def plotted(figure: Figure) -> str:
    """A digest of all places, widths, shades and texts in a figure, not of how they look."""
    parts: list[str] = []
    for axis in figure.axes:
        for artist in axis.get_children():
            if isinstance(artist, Line2D):
                parts += [_numbers(artist.get_xdata()), _numbers(artist.get_ydata())]
            elif isinstance(artist, Rectangle):
                parts.append(_numbers((*artist.get_xy(), artist.get_width(), artist.get_height())))
            elif isinstance(artist, AxesImage):
                parts.append(_numbers(artist.get_array()))
            elif isinstance(artist, Collection):
                parts += [_numbers(path.vertices) for path in artist.get_paths()]
            elif isinstance(artist, Text):
                parts.append(artist.get_text())
        labels = (*axis.get_xticklabels(), *axis.get_yticklabels())
        parts += [axis.get_title(), axis.get_xlabel(), axis.get_ylabel()]
        # Numbers on an axis follow from its data; names do not.
        parts += [label.get_text() for label in labels if re.search("[a-z]", label.get_text())]
    parts += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str | None:
    """The digest that a PNG carries; None if it has none."""
    with Image.open(path) as image:
        found = image.info.get(DIGEST)
    return found if isinstance(found, str) else None


def _drawings(findings: Findings) -> Iterator[tuple[str, Draw]]:
    comparisons = [c for c in findings.comparisons if any(row.ok for row in c.rows)]
    yield from _of_comparisons(comparisons)
    rankings = [ranking for ranking in findings.rankings if ranking.scorers]
    if rankings:
        yield "proxy_accuracy", lambda: proxy_against_accuracy(rankings)
    if with_traces := list(traced(distinct(comparisons))):
        yield "search_traces", lambda: search_traces(with_traces)
    if (standing := findings.standing) and standing.is_testable:
        yield "critical_difference", lambda: critical_difference(standing)


def _of_comparisons(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Draw]]:
    once = distinct(comparisons)
    drawings: Mapping[str, Callable[[Sequence[Comparison]], Figure]] = {
        "accuracy_macs": accuracy_against_macs,
        "accuracy_cost": accuracy_against_cost,
        "accuracy_latency": accuracy_against_latency,
        "accuracy_params": accuracy_against_params,
        "training_cost": training_cost,
        "kept_widths": kept_widths,
    }
    shown = {
        "kept_widths": [c for c in once if any(record.groups for record in _shown(c))],
        # What was not timed yet would be an empty panel.
        TIMES: [c for c in comparisons if any(record.latency for record in _shown(c))],
    }
    for name, draw in drawings.items():
        if drawn := shown.get(name, once):
            yield name, functools.partial(draw, drawn)


def _shown(comparison: Comparison) -> Iterator[Record]:
    """The records that ran to the end of the rows that are shown."""
    return (record for row in comparison.rows for record in row.ok)


@_collector_off()
def _laid_out(draw: Draw) -> Figure:
    """A figure with its resolution, its panels and legend in their places.

    Matplotlib would lay it out, and draw it, twice a format.
    """
    figure = draw()
    figure.dpi = _resolution(*figure.get_size_inches())
    layout = figure.get_layout_engine()
    assert layout is not None  # every figure is made with one
    layout.execute(figure)
    figure.set_layout_engine(None)
    return figure


@_collector_off()
def _write(
    figure: Figure, stem: Path, formats: Sequence[Literal["png", "pdf"]] = ("png", "pdf")
) -> list[Path]:
    """Write one figure in some formats."""
    notes = {"png": {DIGEST: plotted(figure)}, "pdf": {"CreationDate": None}}
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    for path, suffix in zip(paths, formats, strict=True):
        with whole_file(path) as hidden:
            figure.savefig(hidden, format=suffix, dpi=figure.dpi, metadata=notes[suffix])
    return paths


@_collector_off()
def _png_on_dark(figure: Figure) -> bytes:
    """A PNG of the figure on a dark ground; the figure keeps the dark colours."""
    darken(figure)
    with io.BytesIO() as memory:
        figure.savefig(memory, format="png", dpi=figure.dpi)
        return memory.getvalue()


def _numbers(values: object) -> str:
    """To six digits, so that the last bits of another machine's arithmetic do not count."""
    array: np.ndarray = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).ravel()
    return " ".join(f"{value:.6g}" for value in array + 0.0)


def _resolution(width: float, height: float) -> float:
    """Dots per inch: 160, fewer for a figure that would be too large to be drawn or shown."""
    return min(DPI, MOST_PIXELS / max(width, height), math.sqrt(MOST_AREA / (width * height)))


def _slugs(devices: Iterable[str]) -> dict[str, str]:
    """Parts of file names for devices, which come in alphabetical order; no two are alike."""
    slugs: dict[str, str] = {}
    for device in sorted(devices):
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:LONGEST_SLUG]
        slugs[device] = f"{slug}-{len(slugs)}" if slug in slugs.values() else slug
    return slugs

"""How figures look: one colour and marker for each method in every figure, and panels in rows.

A figure is drawn for a canvas: a light page, a dark page, or a column of a paper. Reads nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import matplotlib
import numpy as np
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from benchmarks.analysis.names import shown_names
from benchmarks.records.cell import PARENT
from benchmarks.records.plain import figure_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "COLUMN_WIDTH",
    "DARK",
    "FAINT",
    "LABEL",
    "LABEL_SIZE",
    "LIGHT",
    "METHODS",
    "PAPER",
    "Canvas",
    "darken",
    "drawn_for",
    "ink",
    "legend_below",
    "look",
    "name_rows",
    "new_panels",
    "set_title",
]

# Okabe and Ito's palette without its yellow, then Paul Tol's muted one; markers differ as well, so
# a reader who cannot tell two colours apart still can tell two methods apart.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#444444", "#E69F00",
    "#56B4E9", "#882255", "#999933", "#332288", "#44AA99", "#AA4499",
)  # fmt: skip
ON_DARK = (
    "#4A9CE8", "#F58742", "#2FC79B", "#E596C2", "#BBBBBB", "#F2B53D",
    "#9AD7FA", "#DB6FA6", "#C6C65F", "#9C8CF2", "#74D5C5", "#DB7ACD",
)  # fmt: skip
"""The same hues, light enough for a dark ground."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")

METHODS = (
    "knapsack", "bnp", "pse_net", "stagewise", "uniform", "random_search", "l1_norm",
    "bn_scale", "taylor", "fpgm", "autoslim", "bcnet",
)  # fmt: skip
"""Methods in the order in which looks are dealt out; new ones are appended, never inserted."""

# A name is a text, and a dollar in it no formula.
matplotlib.rcParams["text.parse_math"] = False

FAINT = "#8A8F96"
"""Of what is no result, readable on both grounds."""

COLUMN_WIDTH = 3.3
"""Inches, of a column in a two-column paper; LaTeX's own article has 3.32, at ten points."""

LABEL_SIZE = 7.5
"""Points, of small print that is still read at 100 %."""

LETTER = 0.6
"""Width of a letter of titles, of its size."""

SMALL_PRINT = 6.5
"""Points, in a paper."""

LABEL = 56
"""Characters of a name beside a panel, which longer ones would leave no room."""


@dataclass(frozen=True)
class Canvas:
    """What figures are drawn for.

    Attributes:
        is_dark: whether the ground is.
        width: of a whole figure, inches, with one panel in a row; None leaves it to the figure.
        settings: of matplotlib.
    """

    is_dark: bool = False
    width: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # Any: as matplotlib has it


LIGHT = Canvas()
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
DARK = Canvas(
    is_dark=True,
    settings={
        **dict.fromkeys(_INKED, "#E4E8EC"),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "#14181D"),
        "grid.color": "#5A6470",
    },
)
PAPER = Canvas(
    width=COLUMN_WIDTH,
    settings={
        "font.size": 7,
        "axes.linewidth": 0.6,
        "pdf.fonttype": 42,
        "axes.unicode_minus": True,
    },
)
_canvas: ContextVar[Canvas] = ContextVar("canvas", default=LIGHT)


@contextlib.contextmanager
def drawn_for(canvas: Canvas) -> Iterator[None]:
    """Figures that are made inside are for this canvas."""
    before = _canvas.set(canvas)
    try:
        with matplotlib.rc_context(cast(Any, dict(canvas.settings))):  # Any: a literal's keys
            yield
    finally:
        _canvas.reset(before)


def darken(figure: Figure) -> None:
    """Give a figure for a light page the colours that it would have on a dark one.

    Colours of methods, ink and grid change, and the ground of figure and panels; all else stays.
    """
    hues = {to_rgba(light): to_rgba(own) for light, own in zip(COLOURS, ON_DARK, strict=True)}
    settings = cast(Mapping[str, Any], matplotlib.rcParams)  # its keys are literals
    for key in (*_INKED, "grid.color"):
        hues[to_rgba(settings[key])] = to_rgba(DARK.settings[key])

    def on_dark(colour: Any) -> Any:  # Any: as matplotlib has it
        """One colour, or one of each row."""
        if np.ndim(colour) == 2:
            return [on_dark(each) for each in colour]
        if isinstance(colour, str) and colour == "none":
            return colour
        red, green, blue, alpha = to_rgba(colour)
        opaque = (red, green, blue, 1.0)
        return (*hues.get(opaque, opaque)[:3], alpha)

    for artist in figure.findobj(lambda each: isinstance(each, Line2D | Text | Patch | Collection)):
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            read, change = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            if read and change:
                change(on_dark(read()))
    for ground in (figure.patch, *(axis.patch for axis in figure.axes)):
        ground.set_facecolor(DARK.settings["figure.facecolor"])


def ink() -> str:
    """Colour of lines and texts that belong to no method: black, or white on a dark ground."""
    return "#E4E8EC" if _canvas.get().is_dark else "#000000"


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method; one that is not listed gets its look from its name."""
    if method == PARENT:
        return ink(), "v"  # as the parent itself
    if method in METHODS:
        place = METHODS.index(method)
    else:
        place = len(METHODS) + zlib.crc32(method.encode()) % (len(COLOURS) * len(MARKERS))
    colours = ON_DARK if _canvas.get().is_dark else COLOURS
    # The two lengths share no factor, so colour and marker repeat together only after all pairs.
    return colours[place % len(colours)], MARKERS[place % len(MARKERS)]


def new_panels(
    count: int, height: float = 3.3, *, width: float = 4.4, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows, with room for a legend below.

    Args:
        count: how many panels.
        height: of one panel, inches.
        width: of one panel, inches; a paper has its own.
        columns: most panels in a row; in a paper one, or three that are smaller than half of it.
    """
    whole = _canvas.get().width
    if whole is not None:
        columns = min(columns, 3 if width < whole / 2 else 1)
        height = min(height, 0.66 * whole) if columns == 1 and height < whole else height
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (whole or width * columns + 0.6, height * rows + 0.9)
    figure = Figure(size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def set_title(axis: Axes, title: str, **looks: Any) -> None:  # Any: what matplotlib takes
    """Title a panel with nothing above it.

    Matplotlib would look for tick labels and offsets in the way, which lays all of them out again.
    """
    if _canvas.get().width and "fontsize" in looks:
        looks["fontsize"] = min(looks["fontsize"], SMALL_PRINT)
    room = _title_room(axis, looks.get("fontsize", 10.0))
    lines = [textwrap.fill(line, room) for line in title.split("\n")]
    axis.set_title("\n".join(lines), y=1.0, **looks)


def _title_room(axis: Axes, size: float) -> int:
    """Letters of a size in points that stand above a panel without running over its neighbour."""
    place, figure = axis.get_subplotspec(), axis.get_figure(root=True)
    columns = place.get_gridspec().ncols if place else 1
    assert figure is not None
    return max(int(72 * figure.get_size_inches()[0] / columns / (LETTER * size)), 12)


def name_rows(axis: Axes, names: Sequence[str], methods: Sequence[str]) -> None:
    """Label bars or rows from the top, each in the colour of its method.

    Args:
        axis: of the bars or rows.
        names: of the rows, the uppermost first.
        methods: whose colours the names take, one for each.
    """
    shown = [figure_text(name, LABEL) for name in names]
    axis.set_yticks(range(len(names)), shown, fontsize=7)
    axis.set_ylim(len(names) - 0.5, -0.5)
    for label, method in zip(axis.get_yticklabels(), methods, strict=True):
        label.set_color(look(method)[0])


def legend_text(label: str) -> str:
    """A label in a legend; matplotlib leaves out what begins with an underscore."""
    return figure_text(f" {label}" if label.startswith("_") else label, LABEL)


def legend_below(figure: Figure, methods: Iterable[str], further: Sequence[Artist] = ()) -> None:
    """One legend for all panels: what is not a method first, then methods by name.

    Args:
        figure: to put it below.
        methods: names, each once.
        further: handles that are no methods.
    """
    handles: list[Artist] = [
        *further,
        *(
            Line2D([], [], color=look(method)[0], marker=look(method)[1], label=legend_text(name))
            for method, name in sorted(shown_names(methods).items())
        ),
    ]
    lengths = [len(str(each.get_label())) for each in handles]
    room = figure.get_size_inches()[0]
    size = SMALL_PRINT if _canvas.get().width else 8
    figure.legend(
        handles=handles, loc="outside lower center", ncols=_columns(lengths, room, size),
        frameon=False, fontsize=size, columnspacing=1.2,
    )  # fmt: skip


def _columns(lengths: Sequence[int], room: float, size: float) -> int:
    """Most columns of a legend, filled one after the other, that have room side by side.

    Args:
        lengths: of its labels, characters.
        room: inches.
        size: of its letters, points.
    """
    em = size / 72
    for count in range(min(6, len(lengths)), 1, -1):
        rows, longer = divmod(len(lengths), count)  # the first columns are longer by one
        ends = [place * rows + min(place, longer) for place in range(count + 1)]
        widest = [max(lengths[start:end]) for start, end in itertools.pairwise(ends)]
        if sum(em * (4.2 + 0.62 * letters) for letters in widest) <= room:
            return count
    return 1

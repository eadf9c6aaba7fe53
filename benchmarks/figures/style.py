"""How figures look: one colour and marker for each method in every figure, and panels in rows.

Reads nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.records.cell import PARENT
from benchmarks.records.plain import figure_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = [
    "LABEL",
    "METHODS",
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
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")

METHODS = (
    "knapsack", "bnp", "pse_net", "stagewise", "uniform", "random_search", "l1_norm",
    "bn_scale", "taylor", "fpgm", "autoslim", "bcnet",
)  # fmt: skip
"""Methods in the order in which looks are dealt out; new ones are appended, never inserted."""

# A name is a text, and a dollar in it no formula.
matplotlib.rcParams["text.parse_math"] = False

LABEL = 56
"""Characters of a name beside a panel, which longer ones would leave no room."""


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method; one that is not listed gets its look from its name."""
    if method == PARENT:
        return "#000000", "v"  # black as the parent itself
    if method in METHODS:
        place = METHODS.index(method)
    else:
        place = len(METHODS) + zlib.crc32(method.encode()) % (len(COLOURS) * len(MARKERS))
    # The two lengths share no factor, so colour and marker repeat together only after all pairs.
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def new_panels(
    count: int, height: float = 3.3, *, width: float = 4.4, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows, with room for a legend below.

    Args:
        count: how many panels.
        height: of one panel, inches.
        width: of one panel, inches.
        columns: most panels in a row.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (width * columns + 0.6, height * rows + 0.9)
    figure = Figure(size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def set_title(axis: Axes, title: str, **looks: Any) -> None:  # Any: what matplotlib takes
    """Title a panel with nothing above it.

    Matplotlib would look for tick labels and offsets in the way, which lays all of them out again.
    """
    axis.set_title(title, y=1.0, **looks)


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
    handles = [
        Line2D([], [], color=look(method)[0], marker=look(method)[1], label=legend_text(method))
        for method in sorted(methods)
    ]
    widest = max((len(str(each.get_label())) for each in [*further, *handles]), default=0)
    room = figure.get_size_inches()[0] / (0.45 + 0.065 * max(widest, 8))
    figure.legend(
        handles=[*further, *handles], loc="outside lower center",
        ncols=max(1, min(6, int(room))), frameon=False, fontsize=8,
    )  # fmt: skip

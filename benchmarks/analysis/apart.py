"""What tells networks, data and recipes apart that share a name, in words.

A word stands only where another one of the same name is beside it that differs there: first in what
makes it another network or other data, then in what else a comparison holds equal. Reads cells and
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from benchmarks.analysis.names import told_epochs, told_settings
from benchmarks.records.cell import Cell, Data, Rules, Sample, Schedule
from benchmarks.records.runtime import Latency

__all__ = ["NO_WORDS", "Words", "network_of", "taught", "words_apart"]

Place = Literal["model", "data", "recipe"]


@dataclass(frozen=True)
class Words:
    """What is put behind names, each with the sign before it; empty where there is no twin.

    Attributes:
        model: behind the network.
        data: behind the data set.
        recipe: at the end.
    """

    model: str = ""
    data: str = ""
    recipe: str = ""

    def network(self, cell: Cell) -> str:
        """A network with its data, told from others of these names."""
        return f"{cell.model.title}{self.model} on {cell.data.title}{self.data}"


NO_WORDS = Words()
"""Of what has no twin."""


@dataclass(frozen=True)
class Facet:
    """Something in which cells of one name may differ: where it is told, its value, its word."""

    place: Place
    value: Callable[[Cell], Hashable]
    word: Callable[[Cell], str]


def network_of(cell: Cell) -> tuple[Hashable, ...]:
    """Names a network with its data by content: what counts as one of both."""
    return cell.model.title, cell.data.name, *(facet.value(cell) for facet in NETWORK)


def taught(cell: Cell) -> str:
    """Whether the common loss has a teacher, as titles tell it behind the data."""
    return " with distillation" if cell.distill else ""


def words_apart(
    cells: Sequence[Cell], beside: Callable[[Cell], str] = lambda cell: ""
) -> list[Words]:
    """The words that tell each cell from the others, as few as do.

    Args:
        cells: one of each comparison, ranking or board.
        beside: what is told of a recipe anyway; only those that share it need further words.
    """
    none = [NO_WORDS] * len(cells)
    found = _refined(cells, none, NETWORK, lambda cell, words: words.network(cell))
    return _refined(
        cells,
        found,
        RECIPE,
        lambda cell, words: f"{words.network(cell)}{beside(cell)}{words.recipe}",
    )


def _refined(
    cells: Sequence[Cell],
    found: list[Words],
    facets: Sequence[Facet],
    name: Callable[[Cell, Words], str],
) -> list[Words]:
    """The words, and those of each facet in which cells differ that had one name until then."""
    for facet in facets:
        names = [name(cell, words) for cell, words in zip(cells, found, strict=True)]
        values: dict[str, set[Hashable]] = {}
        for cell, shared in zip(cells, names, strict=True):
            values.setdefault(shared, set()).add(facet.value(cell))
        found = [
            _with(words, facet, cell) if len(values[shared]) > 1 else words
            for cell, words, shared in zip(cells, found, names, strict=True)
        ]
    return found


def _with(words: Words, facet: Facet, cell: Cell) -> Words:
    told = {"model": words.model, "data": words.data, "recipe": words.recipe}
    told[facet.place] += facet.word(cell)
    return Words(**told)


def _args(cell: Cell) -> str:
    return f" ({told_settings(cell.model.args) or 'without arguments'})"


def _weights(cell: Cell) -> str:
    return f" from {f'weights {cell.model.weights}' if cell.model.weights else 'no weights'}"


def _content(cell: Cell) -> str:
    return f" {cell.data.digest or 'of unknown content'}"


def _size(cell: Cell) -> str:
    size = cell.data.image_size
    return f" at {size} px" if size else " at the data's own size"


def _plain(value: object) -> str:
    """A value as JSON, models among them, in one order."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True)


def _of_cell(name: str) -> Facet:
    def value(cell: Cell) -> str:
        return _plain(getattr(cell, name))

    return Facet("recipe", value, lambda cell: f", {name} {value(cell)}")


def _of_part(part: str, name: str) -> Facet:
    def value(cell: Cell) -> str:
        return _plain(getattr(getattr(cell, part), name, None))

    return Facet("recipe", value, lambda cell: f", {part}.{name} {value(cell)}")


NETWORK: tuple[Facet, ...] = (
    Facet("data", lambda cell: cell.data.digest, _content),
    Facet("model", lambda cell: _plain(cell.model.args), _args),
    Facet("model", lambda cell: cell.model.weights, _weights),
    Facet("data", lambda cell: cell.data.image_size, _size),
)
"""What makes another network or other data of the same names."""

PARTS: Mapping[str, Any] = {  # Any: classes of pydantic
    "data": Data,
    "parent": Schedule,
    "finetune": Schedule,
    "rules": Rules,
    "sample": Sample,
    "latency": Latency,
}
"""Fields of a cell that have fields of their own, and are told by these."""

OF_A_NETWORK = {"name", "digest", "image_size"}
"""Fields of data that are told with the network."""

RECIPE: tuple[Facet, ...] = (
    Facet("recipe", lambda cell: cell.protocol, lambda cell: f", protocol {cell.protocol}"),
    Facet(
        "recipe",
        lambda cell: cell.parent.epochs,
        lambda cell: f", {told_epochs(cell.parent)} for the parent",
    ),
    Facet(
        "recipe",
        lambda cell: cell.finetune.epochs,
        lambda cell: f", {told_epochs(cell.finetune)} of fine-tuning",
    ),
    Facet("recipe", lambda cell: cell.distill, lambda cell: f", {cell.distill:g} x distillation"),
    *map(_of_cell, ("start", "finishes", "recalibration_batches")),
    *(
        _of_part(part, name)
        for part, model in PARTS.items()
        for name in model.model_fields
        if (part, name) not in {("data", each) for each in OF_A_NETWORK}
    ),
)
"""What else a comparison or a ranking holds equal, the device apart, which has its own words."""

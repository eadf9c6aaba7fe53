"""Numbers printed in papers and by other projects, each with its source.

They are drawn beside ours only where model and data are the same, and are marked as published.
Reads `baselines/published.toml`; imports neither torch nor zoo.
"""

import functools
import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.records.cell import Cell
from benchmarks.records.strict import Many, Strict, explain

__all__ = ["Point", "load_published", "published_for"]


class Point(Strict):
    """One published result.

    Attributes:
        method: as the source calls it.
        model: timm's name of the unpruned network.
        data: name of the data set as in suites.
        image_size: side in pixels, if the source says it.
        macs: multiply-adds of the pruned network.
        macs_from: how `macs` follows from the source: printed there, or computed from a share.
        params: of the pruned network.
        top1: test accuracy as a fraction.
        parent_top1: that of the unpruned network in the same source.
        source: where the numbers stand.
        note: what to know before comparing.
    """

    method: str
    model: str
    data: str
    image_size: int | None = None
    macs: int = Field(gt=0)
    macs_from: Literal["printed", "computed"]
    params: int | None = Field(default=None, gt=0)
    top1: float = Field(gt=0, lt=1)
    parent_top1: float | None = Field(default=None, gt=0, lt=1)
    source: str = Field(min_length=10)
    note: str = ""


class _File(Strict):
    points: Many[Point]


@functools.cache
def load_published(path: Path | None = None) -> tuple[Point, ...]:
    """All published points.

    Raises:
        ValueError: if the file says something that a point has no place for.
    """
    file = path or resources.files("baselines").joinpath("published.toml")
    try:
        return _File.model_validate(tomllib.loads(file.read_text("utf-8"))).points
    except ValidationError as error:
        raise ValueError(f"published.toml: {explain(error)}") from error


def published_for(cell: Cell, points: tuple[Point, ...] | None = None) -> list[Point]:
    """The points that were published for a cell's network, data and image size.

    A network that is made wider than its name says is another one.
    """
    known = load_published() if points is None else points
    return [
        point
        for point in known
        if (point.model, point.data) == (cell.model.title, cell.data.name)
        and (cell.data.image_size is None or point.image_size in (None, cell.data.image_size))
    ]

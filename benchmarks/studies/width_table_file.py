"""Files of a width table: single trainings, a line for each, below the settings they share.

The first line is a comment, a JSON object of settings. The second names the columns: the channel
groups, whose widths they hold, and the fields of `Trained`. A last line without its end was cut
while the file was copied, and does not count.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.records.whole_file import write_whole

__all__ = [
    "TABLE",
    "Trained",
    "Trainings",
    "append",
    "read_parts",
    "read_trainings",
    "write_trainings",
]

TABLE = Path(__file__).with_name("width_table.csv")
"""The table that is published."""


@dataclass(frozen=True)
class Trained:
    """One training.

    Attributes:
        widths: channels of each group.
        seed: of weights and batches, with the widths.
        right: right answers on the test images.
        images: test images.
        macs: multiply-adds of the network for one image.
        params: its parameters.
        device: kind of the device that trained it.
        torch: version of PyTorch.
    """

    widths: tuple[int, ...]
    seed: int
    right: int
    images: int
    macs: int
    params: int
    device: str
    torch: str


_COLUMNS = tuple(each.name for each in fields(Trained))[1:]
"""Behind the widths."""
_NUMBERS = 5
"""Of the columns behind the widths that are whole numbers."""


@dataclass(frozen=True)
class Trainings:
    """What a file holds.

    Attributes:
        settings: JSON values that all trainings share.
        groups: names of the channel groups.
        rows: the trainings.
    """

    settings: Mapping[str, Any]
    groups: tuple[str, ...]
    rows: tuple[Trained, ...] = field(default=(), repr=False)

    @property
    def head(self) -> str:
        """The first two lines; files with the same are of the same settings and groups."""
        columns = ",".join([*self.groups, *_COLUMNS])
        return f"# {json.dumps(self.settings, sort_keys=True)}\n{columns}\n"

    @property
    def text(self) -> str:
        """The whole file."""
        lines = [
            ",".join(str(cell).replace(",", " ") for cell in (*row.widths, *_cells(row)))
            for row in self.rows
        ]
        return self.head + "".join(f"{line}\n" for line in lines)


def append(path: Path, new: Trainings) -> None:
    """Add trainings to a file, which is begun if it does not exist.

    Raises:
        ValueError: if the file is of other settings or groups.
    """
    before = read_trainings(path, new).rows if path.exists() else ()
    write_trainings(path, replace(new, rows=(*before, *new.rows)))


def read_parts(folder: Path, alike: Trainings) -> list[Trained]:
    """All trainings in the files `part-*.csv` of a folder.

    Args:
        folder: where to look, not below.
        alike: gives the settings and groups that the files have to have.

    Raises:
        ValueError: if a file has others, or is no file of trainings.
    """
    paths = sorted(folder.glob("part-*.csv"))
    return [row for path in paths for row in read_trainings(path, alike).rows]


def write_trainings(path: Path, trainings: Trainings) -> None:
    """Write a file as a whole."""
    write_whole(path, trainings.text)


def read_trainings(path: Path, alike: Trainings | None = None) -> Trainings:
    """Read a file.

    Args:
        path: of the file.
        alike: gives the settings and groups that it has to have; None for any.

    Raises:
        ValueError: if it has others, or is no file of trainings.
    """
    content = path.read_bytes().decode()
    lines = content[: content.rfind("\n") + 1].splitlines()
    found = _head(path, lines)
    if alike is not None and found.head != alike.head:
        raise ValueError(
            f"{path} is of other settings or networks; give another folder, or remove the file"
        )
    rows = enumerate(csv.reader(lines[2:]), start=3)
    return replace(
        found, rows=tuple(_trained(path, number, row, len(found.groups)) for number, row in rows)
    )


def _head(path: Path, lines: Sequence[str]) -> Trainings:
    try:
        settings, columns = json.loads(lines[0].removeprefix("# ")), lines[1].split(",")
    except (IndexError, ValueError):
        columns = []
    groups, rest = columns[: -len(_COLUMNS)], columns[-len(_COLUMNS) :]
    if tuple(rest) != _COLUMNS or not groups:
        raise ValueError(
            f"{path} is no file of trainings: a comment of settings and a line of columns, the "
            f"last of which are {', '.join(_COLUMNS)}, have to come first"
        )
    return Trainings(settings, tuple(groups))


def _trained(path: Path, number: int, row: Sequence[str], groups: int) -> Trained:
    count = groups + len(_COLUMNS)
    try:
        if len(row) != count:
            raise ValueError(f"{len(row)} columns where there should be {count}")
        numbers = [int(each) for each in row[: groups + _NUMBERS]]
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    seed, right, images, macs, params = numbers[groups:]
    device, torch = row[groups + _NUMBERS :]
    return Trained(tuple(numbers[:groups]), seed, right, images, macs, params, device, torch)


def _cells(row: Trained) -> list[object]:
    return [getattr(row, name) for name in _COLUMNS]

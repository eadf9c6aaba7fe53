"""Single trainings of a width table, a line for each, in files of processes that train.

The first line of a file is a comment with the settings, the second names the columns. A last line
without its end was cut while the file was copied, and does not count.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.whole_file import write_whole

__all__ = ["Trained", "append", "read_parts"]

_FIXED = ("seed", "right", "images", "macs", "params", "device", "torch")
"""Columns behind the widths, as the fields of `Trained`."""


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


def append(
    path: Path, trained: Trained, settings: Mapping[str, Any], groups: Sequence[str]
) -> None:
    """Append a training to a file, which is begun if it does not exist.

    Args:
        path: of the file; no other process may write it.
        trained: what to append.
        settings: JSON values, of all trainings of the file.
        groups: names of the channel groups.
    """
    cells = [*trained.widths, *(getattr(trained, name) for name in _FIXED)]
    line = ",".join(_cell(each) for each in cells) + "\n"
    head = _head(settings, groups)
    content = _whole(path.read_bytes()).decode() if path.exists() else ""
    write_whole(path, (content if content.count("\n") > 1 else head) + line)


def read_parts(folder: Path, settings: Mapping[str, Any], groups: Sequence[str]) -> list[Trained]:
    """All trainings in the files `part-*.csv` of a folder.

    Args:
        folder: where to look, not below.
        settings: JSON values that the files have to state.
        groups: names that the columns of widths have to have.

    Raises:
        ValueError: if a file is of other settings, or a line is none of a training.
    """
    found = []
    for path in sorted(folder.glob("part-*.csv")):
        found += _read(path, _head(settings, groups))
    return found


def _read(path: Path, head: str) -> list[Trained]:
    text = _whole(path.read_bytes()).decode()
    if text.count("\n") < 2:  # cut before the first training
        return []
    if not text.startswith(head):
        raise ValueError(
            f"{path} is of other settings or networks; give another folder, or remove the file"
        )
    rows = list(csv.reader(text[len(head) :].splitlines()))
    count = head.splitlines()[1].count(",") + 1
    return [_trained(path, number, row, count) for number, row in enumerate(rows, start=3)]


def _trained(path: Path, number: int, row: Sequence[str], count: int) -> Trained:
    groups = count - len(_FIXED)
    try:
        if len(row) != count:
            raise ValueError(f"{len(row)} columns")
        numbers = [int(each) for each in row[: groups + 5]]
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}; it is no line of a training") from None
    seed, right, images, macs, params = numbers[groups:]
    device, torch = row[groups + 5 :]
    return Trained(tuple(numbers[:groups]), seed, right, images, macs, params, device, torch)


def _head(settings: Mapping[str, Any], groups: Sequence[str]) -> str:
    return f"# {json.dumps(settings, sort_keys=True)}\n{','.join([*groups, *_FIXED])}\n"


def _cell(value: object) -> str:
    return str(value).replace(",", " ")


def _whole(content: bytes) -> bytes:
    """Content up to the end of its last whole line."""
    return content[: content.rfind(b"\n") + 1]

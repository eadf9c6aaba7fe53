"""The network of a cell before its training."""

import contextlib
from collections.abc import Iterator
from typing import cast

import timm
import torch
from torch import nn

from benchmarks.record import Cell
from benchmarks.strict import suggest
from zoo.core import cifar_resnet  # noqa: F401  (registers its networks with timm)
from zoo.core.data import Outline, Splits, check_classes
from zoo.core.space import ChannelSpace
from zoo.core.widen import widen

__all__ = ["seeded", "untrained"]


def untrained(cell: Cell, splits: Splits | Outline) -> nn.Module:
    """The parent of a cell as timm makes it, widened where the cell says so.

    Raises:
        ValueError: if there is no such model, or its head does not fit the data.
        UnsupportedModel: if it cannot be widened.
    """
    name, args = cell.model.name, dict(cell.model.args)
    if not timm.is_model(name):
        raise ValueError(f"unknown model {name!r}; {suggest(name, timm.list_models())}")
    head = args.setdefault("num_classes", splits.num_classes)
    check_classes(cell.data.name, splits.num_classes, cast(int, head))
    args.setdefault("in_chans", splits.input_size[0])
    with seeded(cell):
        model: nn.Module = timm.create_model(name, **args)
    if cell.model.width > 1:
        space = ChannelSpace.trace(model, splits.input_size)
        model = widen(model, space, cell.model.width, seed=cell.seed)
    return model.to(cell.device)


@contextlib.contextmanager
def seeded(cell: Cell) -> Iterator[None]:
    """Weight initialisation and dropout draw from torch's global generator: lent and put back."""
    devices = [torch.device(cell.device)] if cell.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(cell.seed)
        yield

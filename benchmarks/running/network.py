"""The network of a cell before its training."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import timm
import torch
from torch import nn

from benchmarks.records.cell import Cell, Model
from benchmarks.records.strict import suggest
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.datasets import Outline, Splits, check_classes
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers its networks with timm)
from zoo.core.networks.architecture import MOST_NUMBERS, require_makeable
from zoo.core.networks.model_args import check_model_args, check_model_name
from zoo.core.networks.widen import widen

__all__ = ["model_args", "seeded", "unloaded", "untrained"]


def untrained(cell: Cell, splits: Splits | Outline) -> nn.Module:
    """The parent of a cell as timm makes it, widened where the cell says so.

    Weights from a file are no part of it: `benchmarks.running.parent` loads them.

    Raises:
        ValueError: if there is no such model, it does not fit the data, or it would be larger than
            any of timm's.
        UnsupportedModel: if it cannot be widened.
    """
    name, args = cell.model.name, model_args(cell.model)
    head = args.setdefault("num_classes", splits.num_classes)
    check_classes(cell.data.name, splits.num_classes, cast(int, head))
    channels = splits.input_size[0]
    if args.setdefault("in_chans", channels) != channels:
        raise ValueError(
            f"{cell.data.name} has images of {channels} channels and {name} is to read "
            f"{args['in_chans']}; remove in_chans from its args"
        )
    is_pretrained = args.pop("pretrained")
    require_makeable(name, args)
    with seeded(cell):
        model: nn.Module = timm.create_model(name, pretrained=is_pretrained, **args)
    if cell.model.width > 1:
        space = ChannelSpace.trace(model, splits.input_size)
        most = round(cell.model.width**2 * sum(p.numel() for p in model.parameters()))
        if most > MOST_NUMBERS:
            raise ValueError(
                f"{cell.model.title} would have up to {most:,} parameters, more than the "
                f"{MOST_NUMBERS:,} of the largest networks; lower its width"
            )
        model = widen(model, space, cell.model.width, seed=cell.seed)
    return model.to(cell.device)


def model_args(model: Model) -> dict[str, Any]:
    """The arguments that timm makes a model with, checked to load nothing from elsewhere.

    Published weights are asked for by `pretrained = true` alone: timm chooses which.

    Raises:
        ValueError: if there is no such model, or for an argument that could load anything.
    """
    where = f"model {model.name!r}"
    if not timm.is_model(model.name):
        raise ValueError(f"unknown model {model.name!r}; {suggest(model.name, timm.list_models())}")
    check_model_name(model.name, where)
    args = dict(model.args)
    is_pretrained = args.pop("pretrained", False)
    if not isinstance(is_pretrained, bool):
        raise ValueError(f"{where}: 'pretrained' is {is_pretrained!r}; it must be true or false")
    if "features_only" in args:
        raise ValueError(f"{where}: 'features_only' makes no classifier; remove it")
    if args.get("global_pool") == "":
        raise ValueError(f"{where}: global_pool = '' makes no classifier; remove it, or give 'avg'")
    return {**check_model_args(args, where), "pretrained": is_pretrained}


def unloaded(cell: Cell) -> Cell:
    """The cell on the CPU and without weights, so that counting fetches and reads nothing."""
    args = {name: value for name, value in cell.model.args.items() if name != "pretrained"}
    model = cell.model.model_copy(update={"args": args, "weights": None})
    return cell.model_copy(update={"model": model, "device": "cpu"})


@contextlib.contextmanager
def seeded(cell: Cell) -> Iterator[None]:
    """Seed torch's global generator, for initialisation and dropout; restore it afterwards."""
    devices = [torch.device(cell.device)] if cell.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(cell.seed)
        yield

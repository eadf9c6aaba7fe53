"""Run several subnets in one full-width pass: masks along the batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.core.channels.channel_table import Read
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.randomness import fixed_random
from zoo.core.tracing.copies import named_modules, named_tensors

__all__ = ["masked_inputs", "norms_by_part", "unmaskable"]

_CONVOLUTION = nn.modules.conv._ConvNd


@contextmanager
def masked_inputs(
    skeleton: nn.Module, space: ChannelSpace, configs: Sequence[SubnetConfig], images: Tensor
) -> Iterator[None]:
    """Let every layer that reads channels of a group see zeros where its subnet has none.

    Args:
        skeleton: the network on which the hooks are set while the context is open.
        space: its channel groups.
        configs: what each subnet keeps.
        images: the batch that will run, shape (N, C, H, W), an equal part for each subnet.

    Raises:
        UnsupportedModel: if masks cannot stand for slices in this network.
    """
    inexact = [group.name for group in space.groups if not group.exact]
    if inexact:
        raise UnsupportedModel(
            f"group {inexact[0]!r} is inexact: masks cannot stand for slices; run subnets sliced"
        )
    kept = [space.table.kept_positions(config) for config in configs]
    modules = dict(named_modules(skeleton))
    for read in unmaskable(skeleton, space):
        kind = type(modules.get(read.module, skeleton)).__name__
        weight = read.tensor or "a weight that is computed or shared"
        raise UnsupportedModel(
            f"{weight} reads pruned channels in a {kind} ({read.module}), whose input cannot be "
            "masked; run subnets sliced"
        )
    masks: dict[nn.Module, Tensor] = {}
    for read in space.table.reads:
        module = modules[read.module]
        mask = _part_mask(space, read.axis, kept)
        if not mask.all():
            masks[module] = mask.repeat(1, module.groups if isinstance(module, _CONVOLUTION) else 1)
    handles = []
    try:
        for module, rows in zip(masks, _rows(list(masks.values()), images), strict=True):
            handles.append(module.register_forward_pre_hook(partial(_mask_input, rows)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def unmaskable(skeleton: nn.Module, space: ChannelSpace) -> list[Read]:
    """What reads channels of groups in another way than a layer does with its own weight.

    Args:
        skeleton: the network.
        space: its channel groups.
    """
    modules = dict(named_modules(skeleton))
    names = {id(tensor): name for name, tensor in named_tensors(skeleton)}

    def can_mask(read: Read) -> bool:
        module = modules.get(read.module)
        if not isinstance(module, _CONVOLUTION | nn.Linear):
            return False
        return names.get(id(module.weight)) == read.tensor and _keeps_zeros(module)

    return [read for read in space.table.reads if not can_mask(read)]


def _keeps_zeros(layer: nn.Module) -> bool:
    """Whether a layer's weight reads zeros where the layer is given zeros.

    A class of the user's own may shift its input first, as a norm does. If it reads zeros, what
    comes out is the same for any weight.
    """
    if type(layer).forward.__module__.startswith(("torch.", "timm.")):
        return True
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (2, layer.in_features)
    else:
        assert isinstance(layer, _CONVOLUTION)
        reach = map(operator.mul, layer.kernel_size, layer.dilation)
        shape = (2, layer.in_channels, *reach)
    generator = torch.Generator().manual_seed(0)

    def answer() -> Tensor:
        drawn = torch.rand(layer.weight.shape, generator=generator)
        with fixed_random("keeps zeros"), torch.no_grad():
            result: Tensor = functional_call(layer, {**values, "weight": drawn}, torch.zeros(shape))
        return result

    values = {
        name: torch.rand(tensor.shape, generator=generator) + 0.5
        if tensor.is_floating_point()
        else torch.zeros_like(tensor, device="cpu")
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers())
    }
    try:
        return torch.equal(answer(), answer())
    except Exception:  # its own: it takes other arguments, or tells shapes that are none
        return False


def _part_mask(
    space: ChannelSpace, axis: int, kept: Sequence[Sequence[np.ndarray | None]]
) -> Tensor:
    """Which positions of an axis each subnet keeps, bool, shape (subnets, positions)."""
    mask = torch.zeros(len(kept), len(space.table.axes[axis].group), dtype=torch.bool)
    for row, positions in zip(mask, kept, strict=True):
        found = positions[axis]
        if found is None:
            row[:] = True
        else:
            row[torch.from_numpy(found)] = True
    return mask


def _rows(masks: Sequence[Tensor], images: Tensor) -> Sequence[Tensor]:
    """Masks of shape (subnets, channels), for each image and as factors, shape (N, channels).

    They are brought to the device together, since each copy costs the host as much.
    """
    if not masks:
        return []
    both = torch.cat(list(masks), 1).to(images.device, non_blocking=True).to(images.dtype)
    rows = both.repeat_interleave(len(images) // len(both), dim=0)
    return torch.split(rows, [mask.shape[1] for mask in masks], 1)


def _mask_input(rows: Tensor, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Multiply what a layer reads, channels second or, for a linear layer, last."""
    features = inputs[0]
    is_last = isinstance(module, nn.Linear)
    channels = features.shape[-1 if is_last else 1]
    if features.shape[0] != rows.shape[0] or channels != rows.shape[1]:
        raise UnsupportedModel(
            f"a layer reads a tensor of shape {tuple(features.shape)} instead of {rows.shape[0]} "
            f"images with {rows.shape[1]} channels; run subnets sliced"
        )
    ones = (1,) * (features.ndim - 2)
    shape = (len(rows), *ones, channels) if is_last else (len(rows), channels, *ones)
    return (features * rows.view(shape), *inputs[1:])


@contextmanager
def norms_by_part(model: nn.Module, size: int) -> Iterator[None]:
    """Let batch norms take statistics over parts of the batch, of ``size`` images each."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.forward = partial(_forward_by_part, norm.forward, size)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward_by_part(forward: Callable[[Tensor], Tensor], size: int, features: Tensor) -> Tensor:
    return torch.cat([forward(part) for part in torch.split(features, size)])

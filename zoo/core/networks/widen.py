"""widen: a network with more channels, made along its own table of channel groups.

The inverse of surgery. One-shot methods search in a network that is wider than the one to beat:
the wide network is trained like any parent and pruned to an absolute budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.channels.channel_table import Axis, ChannelTable
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Kept, kept_atoms, prove
from zoo.core.channels.resize import copy_resized
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.metadata import Shapes, refresh_metadata
from zoo.core.randomness import stream_generator

__all__ = ["widen"]


@checked()
def widen(
    model: nn.Module, space: ChannelSpace, to: float | Mapping[str, int], *, seed: int = 0
) -> nn.Module:
    """Return a new network with more channels; ``model`` is not touched.

    The given network lies in the leading channels, weights and all: rebuilt to the old widths, the
    wide one is the given one again. Every new entry of a tensor is drawn from the entries that the
    tensor had, so each layer keeps the scale that its architecture gave it. The new channels are
    untrained: train the result before it is pruned.

    Pinned channels keep their number, as do those that lie in no regular order (shuffled ones).

    Args:
        model: the network that ``space`` was traced from.
        space: its channel space.
        to: a multiplier of at least 1 for the size of every group, or the new sizes by group name.
        seed: of the new entries.

    Raises:
        ValueError: if a group would become narrower, or is unknown.
        UnsupportedModel: if nothing can be widened, or the result is not what the space predicts.
    """
    widths = _multiplied(space, to) if isinstance(to, int | float) else _given(space, to)
    sources = [_source(axis, widths) for axis in space.table.axes]
    sizes = [len(source) for source in sources]
    generator = stream_generator("widen", seed)
    wide = copy_resized(
        model,
        space.table,
        sizes,
        lambda name, tensor: _grown(space.table, sources, name, tensor.detach(), generator),
    )
    found, old = _proved_inverse(model, space, wide, widths)
    trace, size = found.trace_record, found.input_size
    refresh_metadata(
        Shapes(model, trace, Kept(kept_atoms(trace, found.table, old))),
        Shapes(wide, trace),
        lambda: prove(trace, found.table, SubnetConfig.full(), wide, size),
        trace.ops,
    )
    return wide


def _multiplied(space: ChannelSpace, multiplier: float) -> np.ndarray:
    """Widths of the groups times a number, rounded; shape (G,)."""
    if not (math.isfinite(multiplier) and multiplier >= 1):
        raise ValueError(
            f"the width multiplier is {multiplier}; it must be at least 1 (rebuild makes narrower)"
        )
    # np.rint would round every other half down.
    widths = np.floor(space.sizes * multiplier + 0.5).astype(np.int64)
    fixed = list(_irregular(space.table))
    widths[fixed] = space.sizes[fixed]
    if multiplier > 1 and (widths == space.sizes).all():
        raise UnsupportedModel(
            f"no channel group can be made {multiplier:g} times as wide; give the network itself "
            "a wider architecture"
        )
    return widths


def _given(space: ChannelSpace, sizes: Mapping[str, int]) -> np.ndarray:
    """Widths of the groups as they are given by name; shape (G,)."""
    wanted = {space.group(name).name: int(size) for name, size in sizes.items()}
    irregular = _irregular(space.table)
    for index, group in enumerate(space.groups):
        size = wanted.get(group.name, group.size)
        if size < group.size:
            raise ValueError(f"group {group.name!r} has {group.size} channels already, not {size}")
        if size > group.size and index in irregular:
            raise UnsupportedModel(f"the channels of group {group.name!r} lie in no regular order")
    return np.array([wanted.get(group.name, group.size) for group in space.groups], dtype=np.int64)


def _irregular(table: ChannelTable) -> set[int]:
    """Groups whose channels lie somewhere in another order than ascending runs."""
    return {
        group
        for axis in table.axes
        for group, start, end in _runs(axis)
        if group >= 0 and _layout(axis.channel[start:end], table.groups[group].size) is None
    }


def _runs(axis: Axis) -> list[tuple[int, int, int]]:
    """Stretches of one group along an axis: (group, start, end)."""
    cuts = np.flatnonzero(np.diff(axis.group)) + 1
    edges = [0, *cuts.tolist(), len(axis.group)]
    return [(int(axis.group[a]), a, b) for a, b in pairwise(edges) if b > a]


def _layout(channels: np.ndarray, size: int) -> tuple[int, int] | None:
    """Layout of a run: repeats of the group, positions of each channel; None if irregular."""
    stay = int(np.argmax(channels != channels[0])) or len(channels)
    repeats = len(channels) // (size * stay)
    regular = np.tile(np.repeat(np.arange(size), stay), repeats)
    return (repeats, stay) if np.array_equal(channels, regular) else None


def _source(axis: Axis, widths: np.ndarray) -> np.ndarray:
    """Old position at every position of a widened axis, -1 for a new channel."""
    parts = []
    for group, start, end in _runs(axis):
        old = np.arange(start, end)
        channels = axis.channel[start:end]
        if group >= 0 and widths[group] > (size := int(channels.max()) + 1):
            found = _layout(channels, size)
            assert found is not None  # irregular groups keep their widths
            repeats, stay = found
            wide = np.full((repeats, int(widths[group]), stay), -1)
            wide[:, :size] = old.reshape(repeats, size, stay)
            old = wide.ravel()
        parts.append(old)
    return np.concatenate(parts)


def _grown(
    table: ChannelTable,
    sources: Sequence[np.ndarray],
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A tensor with its old entries where they belong and the others drawn from these."""
    places = [np.arange(size) for size in tensor.shape]
    for dim in range(min(tensor.ndim, 2)):
        axis = table.tensors.get((name, dim))
        if axis is not None:
            places[dim] = sources[axis]
    shape = [len(place) for place in places]
    if shape == list(tensor.shape):
        return tensor.clone()
    drawn = torch.randint(tensor.numel(), shape, generator=generator).to(tensor.device)
    grown = tensor.flatten()[drawn]
    old = [torch.from_numpy(np.flatnonzero(place >= 0)).to(tensor.device) for place in places]
    grown[torch.meshgrid(*old, indexing="ij")] = tensor
    return grown


def _proved_inverse(
    model: nn.Module, space: ChannelSpace, wide: nn.Module, widths: np.ndarray
) -> tuple[ChannelSpace, SubnetConfig]:
    """Raise unless pruning the wide network to the old widths must give the old network.

    Returns:
        The space of the wide network, and what of it the old one keeps.
    """
    found = ChannelSpace.trace(wide, space.input_size, inexact=space.inexact)
    names = [group.name for group in space.groups]
    if [g.name for g in found.groups] != names or found.sizes.tolist() != widths.tolist():
        raise UnsupportedModel(
            f"{type(model).__name__} has other channel groups when it is wider; it was not widened"
        )
    old = SubnetConfig.from_widths(found, dict(zip(names, space.sizes.tolist(), strict=True)))
    prove(found.trace_record, found.table, old, model, space.input_size)
    return found, old

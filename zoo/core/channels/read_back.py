"""Read back what another program pruned: which channels of the parent are left, by value.

The low bits of every weight of a copy in double precision hold the weight's own place, so a weight
that is left says where it was, however it was moved. Nothing is guessed: a weight that was changed,
a part of a channel that is left, or a channel that is gone here and left there is refused.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.copies import copy_network

__all__ = ["read_config", "tagged_copy"]

MOST_BITS = 29
"""Bits that double precision has beyond single precision, where weights come from."""


def tagged_copy(model: nn.Module) -> nn.Module:
    """A copy in double precision whose weights hold their own places.

    A weight in single precision changes by less than the last of its digits.

    Raises:
        UnsupportedModel: if a weight has more entries than places can be told apart, or is no
            floating-point number.
    """
    twin = copy_network(model).double()
    for name, parameter in twin.named_parameters():
        bits = _bits(parameter.numel())
        if bits > MOST_BITS or parameter.dtype != torch.float64:
            raise UnsupportedModel(
                f"{name} has {parameter.numel():,} entries of {parameter.dtype}; up to "
                f"{2**MOST_BITS:,} floating-point ones can be read back"
            )
        with torch.no_grad():
            words = parameter.view(torch.int64)
            words.bitwise_and_(-(2**bits))
            words.bitwise_or_(torch.arange(words.numel(), device=words.device).view_as(words))
    return twin


def read_config(parent: nn.Module, pruned: nn.Module, space: ChannelSpace) -> SubnetConfig:
    """The configuration that makes a pruned network out of its parent.

    Args:
        parent: as `tagged_copy` made it.
        pruned: a copy of `parent` from which another program took channels.
        space: channel groups of the parent.

    Returns:
        The channels that are left of every group. Where all of a group's layers had them sorted
        anew, alike, it makes the same function with the channels in the order of the parent.

    Raises:
        UnsupportedModel: if the network cannot be read: weights are missing, new or changed, they
            are not those of whole channel groups, or channels lie in unlike orders.
    """
    before, after = dict(parent.named_parameters()), dict(pruned.named_parameters())
    if before.keys() != after.keys():
        names = sorted(before.keys() ^ after.keys())
        raise UnsupportedModel(f"the pruned network has other weights than its parent: {names[:3]}")
    found = _Found(space)
    for name, weight in before.items():
        for dim, places in enumerate(_places(name, weight, after[name])):
            found.note(name, dim, places)
    return found.config()


class _Found:
    """Which channels of every group are left, as far as weights have been read."""

    def __init__(self, space: ChannelSpace) -> None:
        self._space = space
        # Of every channel: left, gone, or not yet seen.
        self._left = [np.full(group.size, -1) for group in space.groups]
        self._order: dict[int, list[int]] = {}

    def note(self, tensor: str, dim: int, places: np.ndarray) -> None:
        """Note which positions, int64, shape (left,), of a dimension are left.

        Raises:
            UnsupportedModel: if that contradicts what was noted before, or the space.
        """
        table = self._space.table
        where = f"{tensor}, dimension {dim}"
        size = table.shapes[tensor][dim]
        is_left = np.zeros(size, dtype=np.int64)
        is_left[places] = 1
        index = table.tensors.get((tensor, dim))
        axis = table.axes[index] if index is not None else None
        owner = np.full(size, -1) if axis is None else axis.group
        if not is_left[owner < 0].all():
            raise UnsupportedModel(f"{where}: channels are gone that are no part of any group here")
        for group in axis.groups if axis is not None else ():
            channels, new = axis.channel[owner == group], is_left[owner == group]  # type: ignore[union-attr]
            known = self._left[group]
            for old in (known[channels], _first_of(channels, new)):
                if ((old >= 0) & (old != new)).any():
                    raise UnsupportedModel(
                        f"{where}: it lacks channels of group {self._space.groups[group].name!r} "
                        "that are left elsewhere, or has some that are gone there"
                    )
            known[channels] = new
        fixed = places[owner[places] < 0]
        is_moved = (owner[places] != owner[np.sort(places)]).any() or (np.diff(fixed) <= 0).any()
        for group in axis.groups if axis is not None else ():
            order = axis.channel[places[owner[places] == group]].tolist()  # type: ignore[union-attr]
            # In each run over the channels they have to come in the same order everywhere.
            order = [*dict.fromkeys(order)]
            is_moved = is_moved or self._order.setdefault(group, order) != order
        if is_moved or len(np.unique(places)) < len(places):
            raise UnsupportedModel(f"{where}: channels are in another order than elsewhere")

    def config(self) -> SubnetConfig:
        """The channels that are left of every group.

        Raises:
            UnsupportedModel: if a group has none, or no weight told.
        """
        keep = {}
        for group, left in zip(self._space.groups, self._left, strict=True):
            if (left < 0).any() or not (left == 1).any():
                raise UnsupportedModel(f"no weight tells which channels of {group.name!r} are left")
            keep[group.name] = tuple(np.flatnonzero(left == 1).tolist())
        return SubnetConfig(keep)


def _first_of(channels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For every position the value at the first position of its channel, shape as `channels`."""
    _, first, inverse = np.unique(channels, return_index=True, return_inverse=True)
    return np.asarray(values[first][inverse])


def _places(name: str, parent: Tensor, left: Tensor) -> list[np.ndarray]:
    """For every dimension of a weight the positions in the parent's that are left, int64.

    Raises:
        UnsupportedModel: if what is left are not whole slices of the parent's weight, unchanged.
    """
    if left.dtype != torch.float64 or left.ndim != parent.ndim or not left.numel():
        raise UnsupportedModel(
            f"{name} became {tuple(left.shape)} of {left.dtype}; it was {tuple(parent.shape)} of "
            f"{parent.dtype}"
        )
    words = left.detach().cpu().contiguous().view(torch.int64)
    own = parent.detach().cpu().contiguous().view(torch.int64)
    flat = (words & (2 ** _bits(own.numel()) - 1)).numpy()
    if flat.max() >= own.numel():
        raise UnsupportedModel(f"{name}: weights are new or were changed, so none can be read")
    # By hand: numpy's `unravel_index` repeats itself in arrays of more than 8192 entries with
    # strides like those of a 1 x 1 convolution.
    places, step = [], own.numel()
    for dim, size in enumerate(own.shape):
        step //= size
        along = flat.swapaxes(0, dim).reshape(flat.shape[dim], -1)[:, 0]
        places.append(along // step % size)
    if not np.array_equal(own.numpy()[np.ix_(*places)], words.numpy()):
        raise UnsupportedModel(f"{name}: weights are new or were changed, so none can be read")
    return places


def _bits(count: int) -> int:
    """Bits that tell apart so many places."""
    return max(1, (count - 1).bit_length())

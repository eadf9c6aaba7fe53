"""The table of channel groups that surgery, supernet and cost all read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zoo.core.channels.channel_group import ChannelGroup, Pinned
from zoo.core.channels.config import SubnetConfig

__all__ = ["Axis", "ChannelTable", "Follower", "Held", "is_in"]


@dataclass(frozen=True)
class Axis:
    """A dimension in terms of groups: which channel lies at each position.

    Attributes:
        group: index of the group at every position, -1 where it is fixed, int64, shape (size,).
        channel: index of the channel within its group, int64, shape (size,).
    """

    group: np.ndarray
    channel: np.ndarray

    def kept(self, masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """Return the kept positions, ascending, or None if all are kept.

        Args:
            masks: for every group its boolean keep mask, shape (size of the group,), or None.
        """
        moving = [index for index in self.groups if masks[index] is not None]
        if not moving:
            return None
        mask = np.ones(len(self.group), dtype=bool)
        for index in moving:
            here = self.group == index
            mask[here] = masks[index][self.channel[here]]  # type: ignore[index]  # not None
        return None if mask.all() else np.flatnonzero(mask)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Indices of the groups whose channels lie along the dimension, ascending."""
        found: list[int] = np.unique(self.group).tolist()
        return tuple(index for index in found if index >= 0)

    def slopes(self, sizes: np.ndarray) -> tuple[np.ndarray, int]:
        """Return how the size of the dimension follows from the widths of the groups.

        Args:
            sizes: number of channels of each group, shape (G,).

        Returns:
            Positions for each channel of a group, int64, shape (G,), and those that are fixed.
        """
        positions = np.bincount(self.group[self.group >= 0], minlength=len(sizes))
        return positions // np.maximum(sizes, 1), int(np.count_nonzero(self.group < 0))


@dataclass(frozen=True)
class Follower:
    """Sizes that a module may hold as an attribute, and the axes that they measure."""

    module: str
    sizes: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """A weight along an axis of which a module sums channels up.

    Attributes:
        module: path of the module that runs; of the whole network the name of its class.
        tensor: state-dict name of the weight; None where the weight is computed from parameters, or
            makes channels along the same dimension elsewhere.
        axis: index of the axis.
    """

    module: str
    tensor: str | None
    axis: int


@dataclass(frozen=True)
class Held:
    """An attribute of a module without which the smaller network does not run."""

    path: str
    name: str
    follower: Follower


@dataclass(frozen=True)
class ChannelTable:
    """Groups, and where each of them lies.

    Attributes:
        groups: the prunable groups in order of execution.
        pinned: what is not prunable.
        axes: the distinct dimensions of the network.
        tensors: (state-dict name, dimension) -> index of its axis.
        shapes: shape of every parameter and buffer.
        parameters: names of the parameters, without the buffers.
        products: MACs of each layer call as (module, factor, indices of axes).
        outputs: width of what each module that returns one tensor puts out: (width, index of its
            axis or None where it is fixed), by path, in order of execution.
        followers: sizes that modules may hold as attributes.
        reads: the weights that read channels of groups.
        depthwise: paths of modules that run a depthwise convolution.
        held: the attributes, beside those of torch's layers, that change with the widths.
    """

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]
    axes: tuple[Axis, ...]
    tensors: dict[tuple[str, int], int]
    shapes: dict[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    products: tuple[tuple[str, int, tuple[int, ...]], ...]
    outputs: dict[str, tuple[int, int | None]]
    followers: tuple[Follower, ...]
    reads: tuple[Read, ...]
    depthwise: frozenset[str]
    held: tuple[Held, ...] = ()

    def kept_positions(self, config: SubnetConfig) -> list[np.ndarray | None]:
        """Return for every axis the kept positions, ascending, shape (kept,); None for all."""
        masks: list[np.ndarray | None] = []
        for group in self.groups:
            kept = config.keep.get(group.name)
            mask = None
            if kept is not None and len(kept) < group.size:
                mask = np.zeros(group.size, dtype=bool)
                mask[list(kept)] = True
            masks.append(mask)
        return [axis.kept(masks) for axis in self.axes]


def is_in(tensor: str, modules: Sequence[str]) -> bool:
    """Whether a tensor, given by its state-dict name, belongs to any of the modules."""
    return any(not path or tensor.startswith(f"{path}.") for path in modules)

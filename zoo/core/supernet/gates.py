"""Multiply what layers read by a number for each channel: masks that gradients can move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.core.channels.channel_group import Member
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel

__all__ = ["gated_weights", "require_gates"]


def require_gates(space: ChannelSpace) -> None:
    """Raise unless gates reach all weights that read channels.

    Raises:
        UnsupportedModel: naming the module whose weight is out of reach, and the way out.
    """
    for read in space.table.reads:
        if read.tensor is None:
            groups = [space.groups[index].name for index in space.table.axes[read.axis].groups]
            raise UnsupportedModel(
                f"module {read.module!r} reads the channels of {groups[0]!r} with a weight that is "
                "computed, or that makes channels elsewhere: no gate of its own can be put there. "
                f"Leave them alone with keep={groups}, or take another method"
            )


def gated_weights(
    space: ChannelSpace, weights: Mapping[str, Tensor], gates: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights whose entries that read a channel are multiplied by its gate.

    That is what multiplying a layer's input would do, also where its input cannot be reached.

    Args:
        space: the groups.
        weights: full-size tensors by state-dict name.
        gates: by group name, shape (size,), on the weights' device.

    Returns:
        By state-dict name; gradients flow to the gates.
    """
    found = dict(weights)
    for group in space.groups:
        for member in group.members:
            if member.role == "in":
                weight = found[member.tensor]
                gate = gates[group.name].to(weight.dtype)
                found[member.tensor] = weight * _spread(gate, member, weight)
    return found


def _spread(gate: Tensor, member: Member, weight: Tensor) -> Tensor:
    """Gates of channels, shape (size,), as factors of a weight: 1 where others are read."""
    positions = torch.from_numpy(member.index.reshape(-1)).to(weight.device)
    factors = torch.ones(weight.shape[member.dim], dtype=weight.dtype, device=weight.device)
    factors = factors.index_copy(0, positions, gate.repeat_interleave(member.index.shape[1]))
    return factors.view([-1 if dim == member.dim else 1 for dim in range(weight.ndim)])

"""Multiply what layers read by a number for each channel: masks that gradients can move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.core.channels.channel_group import Member
from zoo.core.channels.space import ChannelSpace

__all__ = ["gated_weights"]


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

"""Channel groups as plain values: which channels are kept together, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["PRODUCERS", "ChannelGroup", "Member", "Pinned", "Role"]


Role = Literal[
    "out", "in", "depthwise", "bias", "norm_weight", "norm_bias", "norm_mean", "norm_var", "other"
]

PRODUCERS: tuple[Role, ...] = ("out", "depthwise")
"""Roles of the weights that make a channel."""


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter or buffer along which the channels of a group lie.

    Attributes:
        tensor: state-dict name.
        dim: the dimension.
        index: positions of every channel, int64, shape (size, positions per channel).
        role: what the layer uses it for: "out" are the weights that make the channel, "in" those
            that read it, "depthwise" those of a depthwise convolution.
    """

    tensor: str
    dim: int
    index: np.ndarray = field(repr=False, compare=False)
    role: Role
    _there: dict[torch.device, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def index_on(self, device: torch.device) -> Tensor:
        """The positions on a device, copied there once."""
        if device not in self._there:
            self._there[device] = torch.from_numpy(self.index).to(device, non_blocking=True)
        return self._there[device]

    def __getstate__(self) -> dict[str, object]:
        """All but the copies, which may lie where another process has no device."""
        return {**vars(self), "_there": {}}


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are kept or dropped together across the layers that make and read them.

    Attributes:
        name: module path of the first layer that makes these channels.
        size: number of channels that can be dropped one by one. A channel of a grouped
            convolution stands for one channel of each of its groups.
        stage, block: ordinals as timm's ``group_matcher`` counts them (coarse and fine, the stem
            is 0), None where the model has no matcher.
        residual: whether an addition joins the outputs of several layers in this group.
        exact: whether dropping a channel leaves the other channels of the group as they are.
        members: every place where these channels lie, in order of execution.
    """

    name: str
    size: int
    stage: int | None
    block: int | None
    residual: bool
    exact: bool
    members: tuple[Member, ...] = field(repr=False)


@dataclass(frozen=True)
class Pinned:
    """Channels of the layer ``where`` that cannot be dropped, and why."""

    where: str
    channels: int
    reason: str

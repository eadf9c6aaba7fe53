"""From the description of a saved network to the network: parent, widths, surgery, tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.architecture import MOST_NUMBERS, make
from zoo.core.networks.rebuild import rebuild
from zoo.core.networks.structure import Structure
from zoo.core.networks.widen import widen

__all__ = ["assemble"]


def assemble(
    structure: Structure,
    tensors: Mapping[str, Tensor],
    parent: nn.Module | None,
    made: nn.Module | None = None,
) -> nn.Module:
    """Return the network that a structure and tensors describe, on the CPU and in eval mode.

    Args:
        structure: how it is made.
        tensors: its state by name.
        parent: the network that it was pruned from, None for timm's.
        made: timm's network where it is at hand; None to make it.

    Raises:
        ValueError: if something does not fit; the message names the key or the tensor.
    """
    whole = parent if parent is not None else made
    if whole is None:
        assert structure.architecture is not None  # the caller has asked for the parent
        whole = make(structure.architecture, structure.args)
    whole, space = _with_widths(whole, structure, is_given=parent is not None)
    model = rebuild(whole, space, SubnetConfig.from_json(structure.keep)).cpu()
    _take_types(model, tensors)
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        hint = "the given parent is another network" if parent is not None else "give parent=..."
        raise ValueError(f"its tensors do not fit its architecture ({hint}): {error}") from error
    if structure.frozen:
        _freeze(model, structure.frozen)
    if structure.channels_last:
        model.to(memory_format=torch.channels_last)
    return model.eval()


def _with_widths(
    whole: nn.Module, structure: Structure, *, is_given: bool
) -> tuple[nn.Module, ChannelSpace]:
    """Return a network at the widths that the parent had, with its space."""
    size, inexact = structure.input_size, structure.inexact
    before = inexact if structure.parent_inexact is None else structure.parent_inexact
    space = ChannelSpace.trace(whole, size, inexact=before)
    sizes = {group.name: group.size for group in space.groups}
    widths = structure.parent_widths
    unknown = [name for name in widths if name not in sizes]
    if unknown and not is_given:
        raise ValueError(f"parent_widths: the architecture has no group {unknown[0]!r}")
    wider = {name: widths[name] for name in widths if widths[name] > sizes.get(name, math.inf)}
    narrower = {name: widths[name] for name in widths if widths[name] < sizes.get(name, 0)}
    if wider:
        _refuse_huge(space, wider)
        whole = widen(whole, space, wider)
        space = ChannelSpace.trace(whole, size, inexact=before)
    if narrower:
        whole = rebuild(whole, space, SubnetConfig.from_widths(space, narrower))
    if narrower or before != inexact:
        space = ChannelSpace.trace(whole, size, inexact=inexact)
    return whole, space


def _take_types(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network the types of the tensors that it is to hold; loading would convert these."""
    floating = Counter(t.dtype for t in tensors.values() if t.is_floating_point())
    if floating:
        model.to(floating.most_common(1)[0][0])  # with the buffers that are not saved
    for name, own in model.state_dict(keep_vars=True).items():
        given = tensors.get(name)
        if given is None or given.dtype == own.dtype:
            continue
        if not (given.is_floating_point() and own.is_floating_point()):
            raise ValueError(f"{name} is of type {given.dtype}, where the network has {own.dtype}")
        own.data = own.data.to(given.dtype)


def _freeze(model: nn.Module, frozen: Sequence[str]) -> None:
    """Let these parameters require no gradients, and all others that can have some."""
    own = dict(model.named_parameters())
    for name in frozen:
        if name not in own:
            raise ValueError(f"frozen: the network has no parameter {name!r}")
    named = set(frozen)
    for name, parameter in own.items():
        parameter.requires_grad_(name not in named and parameter.is_floating_point())


def _refuse_huge(space: ChannelSpace, wider: Mapping[str, int]) -> None:
    """Refuse to widen a network beyond any that should be loaded."""
    ratios = np.array([wider.get(g.name, g.size) / g.size for g in space.groups] + [1.0])
    growth = [float(ratios[axis.group].max(initial=1.0)) for axis in space.table.axes]
    numbers = sum(
        math.prod(
            size * growth[space.table.tensors[name, dim]]
            if (name, dim) in space.table.tensors
            else size
            for dim, size in enumerate(shape)
        )
        for name, shape in space.table.shapes.items()
    )
    if numbers > MOST_NUMBERS:
        raise ValueError(
            f"parent_widths: the parent would have {numbers:.3g} parameters; at most "
            f"{MOST_NUMBERS:,} are made"
        )

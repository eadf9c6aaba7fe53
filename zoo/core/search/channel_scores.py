"""Raw material of channel scores: the weights that make a channel, alone or with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.channels.channel_group import PRODUCERS, ChannelGroup, Member, Role
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.batches import Batch
from zoo.core.method.problem import Problem
from zoo.core.tracing.copies import named_tensors
from zoo.core.training.gradients import gradients

__all__ = [
    "channel_costs",
    "channel_order",
    "channel_rows",
    "channel_scores",
    "coupled_norms",
    "coupled_squares",
    "magnitude_scores",
    "producers",
    "ranks_in_topology",
    "weight_gradient_products",
    "zero_scores",
]

COUPLED: tuple[Role, ...] = (*PRODUCERS, "in", "norm_weight")
"""Roles of the weights that go with a channel: those that make, scale and read it."""

_CACHED = 2**15  # numbers in double precision, 256 KiB


def producers(group: ChannelGroup) -> tuple[Member, ...]:
    """The tied convolution and linear weights whose outputs are the group's channels."""
    return tuple(member for member in group.members if member.role in PRODUCERS)


def channel_rows(tensor: Tensor, member: Member) -> Tensor:
    """The entries of `tensor` that belong to each channel of the member's group.

    Args:
        tensor: the member's tensor, or one of the same shape such as its gradient.
        member: says which positions along which dimension belong to which channel.

    Returns:
        Shape (size, entries).
    """
    index = member.index_on(tensor.device)
    return tensor.movedim(member.dim, 0)[index.flatten()].reshape(len(index), -1)


def channel_scores(
    space: ChannelSpace, tensors: Mapping[str, Tensor], reduce: Callable[[Tensor], Tensor]
) -> dict[str, np.ndarray]:
    """Reduce each channel's producing weights to a number and sum over the tied layers.

    Args:
        space: the groups.
        tensors: weights, or something of their shapes, by state-dict name.
        reduce: from rows, shape (size, entries), to scores, shape (size,).

    Returns:
        By group name, shape (size,), float64; zeros for a group that no weight makes.
    """
    scores = {}
    for group in space.groups:
        total = np.zeros(group.size)
        for member in producers(group):
            rows = channel_rows(tensors[member.tensor].detach().double(), member)
            total += reduce(rows).cpu().numpy()
        scores[group.name] = total
    return scores


def magnitude_scores(model: nn.Module, space: ChannelSpace) -> dict[str, np.ndarray]:
    """L1 norm of the weights that make each channel, by group name, shape (size,)."""
    tensors = dict(named_tensors(model))
    norms: dict[tuple[str, int], np.ndarray] = {}
    scores = {}
    for group in space.groups:
        total = np.zeros(group.size)
        for member in producers(group):
            place = member.tensor, member.dim
            if place not in norms:
                norms[place] = _position_norms(tensors[member.tensor].detach(), member.dim)
            total += norms[place][member.index].sum(1)
        scores[group.name] = total
    return scores


def _position_norms(tensor: Tensor, dim: int) -> np.ndarray:
    """L1 norm of what lies at each position of a dimension, float64, shape (size,)."""
    rows = tensor.movedim(dim, 0).flatten(1)
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    # Some rows at a time: their copy in double precision then stays in a processor's cache.
    count = max(1, _CACHED // max(1, rows.shape[1]))
    copy = torch.empty_like(rows[:count], dtype=torch.float64)
    for start in range(0, len(rows), count):
        part = rows[start : start + count]
        magnitudes = copy[: len(part)].copy_(part).abs_()
        torch.sum(magnitudes, 1, out=norms[start : start + count])
    return norms.cpu().numpy()


def coupled_squares(space: ChannelSpace, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum of the squares of all weights that go with a channel, by group name, shape (size,).

    Args:
        space: the groups.
        tensors: weights by state-dict name; gradients reach them.
    """
    return {
        group.name: torch.stack(
            [
                channel_rows(tensors[member.tensor], member).square().sum(1)
                for member in group.members
                if member.role in COUPLED
            ]
        ).sum(0)
        for group in space.groups
    }


def coupled_norms(model: nn.Module, space: ChannelSpace) -> dict[str, np.ndarray]:
    """The same over the mean of the group, by group name, shape (size,), float64; no unit."""
    tensors = {name: tensor.detach().double() for name, tensor in named_tensors(model)}
    squares = {name: each.cpu().numpy() for name, each in coupled_squares(space, tensors).items()}
    # A group of zeros stays at zero.
    return {name: each / max(float(each.mean()), 1e-12) for name, each in squares.items()}


def ranks_in_topology(
    space: ChannelSpace, scores: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Ranks among the groups of the same topology, so that every class loses the same share.

    Groups are of one topology if the same kinds of layers make and read them, widths and depth
    apart (Fang et al. 2024, arXiv 2407.04616).

    Args:
        space: the groups.
        scores: by group name, shape (size,).

    Returns:
        The same shapes: share of the class that scores no higher; the first of equals lower.
    """
    classes: dict[object, list[ChannelGroup]] = {}
    for group in space.groups:
        classes.setdefault(_topology(space, group), []).append(group)
    ranked: dict[str, np.ndarray] = {}
    for groups in classes.values():
        together = np.concatenate([scores[group.name] for group in groups])
        order = np.argsort(np.argsort(together, kind="stable"), kind="stable")
        ends = np.cumsum([group.size for group in groups])[:-1]
        for group, share in zip(groups, np.split((order + 1) / len(order), ends), strict=True):
            ranked[group.name] = share
    return ranked


def _topology(space: ChannelSpace, group: ChannelGroup) -> object:
    """The kinds of layers that a group lies in: what they do with it, and their kernels."""
    kinds = {(member.role, space.table.shapes[member.tensor][2:]) for member in group.members}
    return group.residual, frozenset(kinds)


def channel_costs(problem: Problem) -> np.ndarray:
    """Cost of making one channel of each group at unpruned input width, int64, shape (G,).

    MACs of the tied layers divided by their output channels (m_l), their weights, or nanoseconds.
    """
    space, table = problem.space, problem.space.table
    if problem.budget.metric == "latency":
        return problem.cost.latency.making_costs(space.sizes, problem.narrowest)
    costs: dict[str, int] = {}
    if problem.budget.metric == "params":
        costs = {name: math.prod(shape) for name, shape in table.shapes.items()}
    else:
        for module, factor, axes in table.products:
            macs = factor * math.prod(len(table.axes[axis].group) for axis in axes)
            name = f"{module}.weight"
            costs[name] = costs.get(name, 0) + macs
    return np.array(
        [
            sum(
                costs.get(member.tensor, 0)
                * member.index.shape[1]
                // table.shapes[member.tensor][member.dim]
                for member in producers(group)
            )
            for group in space.groups
        ],
        dtype=np.int64,
    )


def channel_order(problem: Problem, *, by_magnitude: bool) -> dict[str, np.ndarray]:
    """Scores that nest narrower configurations in wider ones, by group name, shape (size,).

    Args:
        problem: gives parent and groups.
        by_magnitude: largest L1 norm in the parent first; otherwise leading channels first.
    """
    if by_magnitude:
        return magnitude_scores(problem.model, problem.space)
    return {group.name: -np.arange(group.size, dtype=float) for group in problem.space.groups}


def zero_scores(problem: Problem) -> dict[str, Tensor]:
    """Zeros to add the scores of batches to, read once at the end: each read waits for the device.

    Returns:
        By group name, shape (size,), float64, on the parent's device.
    """
    device = problem.meter.device
    return {
        group.name: torch.zeros(group.size, dtype=torch.float64, device=device)
        for group in problem.space.groups
    }


def weight_gradient_products(
    problem: Problem,
    batches: Iterable[Batch],
    roles: Collection[Role] = PRODUCERS,
) -> Iterator[dict[str, Tensor]]:
    """Parameter times the gradient of the task's loss, batch by batch, the parent in eval mode.

    Args:
        problem: the parent and its groups; each pass is charged.
        batches: images (N, C, H, W) and labels (N,), or other inputs and targets.
        roles: of the parameters that are wanted; by default the weights that make channels.

    Yields:
        For each batch, by state-dict name, a tensor of the parameter's shape.
    """
    members = (member for group in problem.space.groups for member in group.members)
    wanted = {member.tensor for member in members if member.role in roles}
    weights = {
        name: parameter.detach().requires_grad_()
        for name, parameter in problem.model.named_parameters()
        if name in wanted
    }
    for number, (inputs, targets) in enumerate(batches):
        loss = problem.parent_loss(inputs, targets, weights, number)
        # A loss of one's own may leave parts of a network out.
        is_partial = not problem.task.is_classification
        found = gradients(loss, list(weights.values()), zeros=is_partial)
        yield {
            name: weight.detach() * gradient
            for (name, weight), gradient in zip(weights.items(), found, strict=True)
        }

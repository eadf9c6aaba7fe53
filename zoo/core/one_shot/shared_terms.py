"""An update's subnets shared out among the processes that train together.

Each rank runs whole subnets, on all images that these learn from, so batch statistics are those of
one process and need not be synchronised. Losses and charges are summed over the ranks, so every
rank goes on with the same numbers. Gradients are averaged: those of what a rank has run alone are
multiplied by the number of ranks first, and what all have run alike counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.core.training.ranks import sum_over_ranks, world

__all__ = ["Term", "average_gradients", "exchanged"]


@dataclass(frozen=True)
class Term:
    """What a subnet adds to the loss of an update.

    Attributes:
        cost: multiply-adds of its pass for one image.
        losses: runs and charges it; returns its losses, scalars.
        count: how many losses there are.
    """

    cost: int
    losses: Callable[[], Sequence[Tensor]]
    count: int = 1


def exchanged(
    found: Sequence[Sequence[Tensor] | None], counts: Sequence[int], like: Tensor
) -> Tensor:
    """The losses of all ranks, one after the other, shape (n,), the same numbers in each.

    Args:
        found: losses of what this rank has run, scalars; None for what others have.
        counts: how many losses each piece has.
        like: gives type and device of the losses.
    """
    own: list[Tensor | None] = []
    for losses, count in zip(found, counts, strict=True):
        own += [None] * count if losses is None else losses
    nothing = like.new_zeros((), dtype=torch.float64)
    values = [nothing if loss is None else loss.detach().to(nothing) for loss in own]
    told = sum_over_ranks(torch.stack(values)).to(like.dtype)
    return torch.stack(
        [each if loss is None else _weighted(loss) for loss, each in zip(own, told, strict=True)]
    )


def _weighted(loss: Tensor) -> Tensor:
    """The same number, with gradients that count as often as there are ranks."""
    if loss.requires_grad:
        ranks = world()
        loss.register_hook(lambda gradient: gradient * ranks)  # type: ignore[no-untyped-call]
    return loss


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Replace the gradients of weights by their mean over ranks; a rank without one has zeros.

    What no rank has a gradient of keeps none.
    """
    weights = list(weights)
    device = weights[0].device
    has_one = torch.tensor([weight.grad is not None for weight in weights], device=device)
    is_reached = sum_over_ranks(has_one.int()).tolist()
    reached = [weight for weight, count in zip(weights, is_reached, strict=True) if count]
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in reached]
    mean = sum_over_ranks(torch.cat([part.flatten() for part in parts])) / world()
    sizes = [weight.numel() for weight in reached]
    for weight, part in zip(reached, torch.split(mean, sizes), strict=True):
        # In the weight's own memory layout; a buffer that is kept for the old one stays as it is.
        weight.grad = torch.empty_like(weight).copy_(part.view(weight.shape))

"""Count a classifier's right answers: wrong shapes raise, and NaN is no answer."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_answers", "right_answers"]


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images have their highest logit at their label; logits with NaN are no answer.

    Args:
        logits: shape (N, classes).
        labels: class indices, shape (N,).

    Returns:
        bool, shape (N,).

    Raises:
        ValueError: for other shapes, which torch would broadcast without a word.
    """
    check_answers(logits, labels)
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def check_answers(logits: object, labels: Tensor) -> None:
    """Raise unless logits have shape (N, classes) and labels are class indices, shape (N,).

    Raises:
        ValueError: naming what was found and what is expected.
    """
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the network returns a {type(logits).__name__}; top-1 needs a tensor of logits, "
            "shape (N, classes)"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"the network returns shape {tuple(logits.shape)}; top-1 needs logits, shape "
            "(N, classes), of two classes or more"
        )
    is_index = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != logits.shape[:1] or not is_index:
        raise ValueError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} of shape "
            f"{tuple(labels.shape)} for logits of shape {tuple(logits.shape)}; top-1 needs class "
            f"indices, whole numbers of shape ({len(logits)},)"
        )

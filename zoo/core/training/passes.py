"""One pass of a training: the loss of a batch and its gradients, without what is done with them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.data.inputs import Inputs
from zoo.core.training.gradients import backward
from zoo.core.training.ranks import my_part, synchronised

__all__ = ["Pass", "Trained"]


class Trained(nn.Module):
    """Holds student and loss: the parameters of both are trained, and averaged over ranks.

    Args:
        student: the network.
        loss: called with the student, a batch and its targets.
    """

    def __init__(self, student: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.loss = loss

    def forward(self, images: Inputs, labels: Any) -> Tensor:
        """The loss of a batch, a scalar."""
        value: Tensor = self.loss(self.student, images, labels)
        return value

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, for timm."""
        named: set[str] = getattr(self.student, "no_weight_decay", set)()
        return {f"student.{name}" for name in named}


@dataclass(frozen=True, eq=False)
class Pass:
    """Loss and gradients of a batch.

    Attributes:
        trained: gives the loss of a batch; a `Trained`, or what averages its gradients over ranks.
        optimizer: whose gradients are cleared first.
        device: of the network.
        is_bf16: calculate in bfloat16 where torch's autocast does.
    """

    trained: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    is_bf16: bool

    def __call__(self, images: Inputs, labels: Any, whole: int | None = None) -> Tensor:
        """The loss of this rank's part, without a graph; gradients are left in the parameters.

        Args:
            images: of the batch.
            labels: of the same.
            whole: as in `my_part`.
        """
        images, labels, weight = my_part(images, labels, whole)
        is_bf16 = self.is_bf16
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if is_bf16 else nullcontext()
        with synchronised(), bf16:
            value: Tensor = weight * self.trained(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        backward(value)
        return value.detach()

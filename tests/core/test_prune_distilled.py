"""zoo.prune with a common loss: the same fine-tuning, whatever the method would hand on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from tests.core.test_prune import SIZE, Plain
from tests.ready import OURS, ready
from zoo.core.data.loaders import LoaderBatches
from zoo.core.method.discovery import get_pruner
from zoo.core.training.train import TrainingLoss, train

RECIPE = zoo.Recipe(epochs=1, lr=0.01)


class Taught(TrainingLoss):
    """Cross-entropy and so much of the divergence from a teacher's classes at temperature 4."""

    def __init__(self, teacher: nn.Module, weight: float) -> None:
        super().__init__()
        self._teacher = (teacher.eval(),)
        self.weight = weight

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss by its definition."""
        with torch.no_grad():
            wide = F.softmax(self._teacher[0](images) / 4, dim=1)
        narrow = student(images)
        divergence = (wide * (wide.log() - F.log_softmax(narrow / 4, dim=1))).sum(1).mean()
        return F.cross_entropy(narrow, labels) + self.weight * 16 * divergence


def loader(images: int = 32) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(images, *SIZE, generator=generator), torch.arange(images) % 4)
    return DataLoader(data, batch_size=16)


def parent() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain().eval()


@pytest.mark.parametrize("distill", [0.0, 2.0])
@pytest.mark.parametrize("name", ready(OURS))
def test_every_method_is_fine_tuned_from_the_parent_s_weights_with_the_common_loss(
    name: str, distill: float
) -> None:
    model, pruner = parent(), get_pruner(name).tiny()
    result = zoo.prune(
        model, loader(), loader(16), pruner, 0.5, recipe=RECIPE, distill=distill, progress=False
    )
    by_hand = zoo.rebuild(model, result.space, result.config)
    loss = Taught(copy.deepcopy(model), distill) if distill else None
    train(by_hand, LoaderBatches(loader()), RECIPE, loss=loss)
    ours = result.model.state_dict()
    for key, value in by_hand.state_dict().items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)
    spent, images = result.spent["finetune"], 32
    teacher = result.parent_macs if distill else 0
    assert spent.macs_forward == images * (result.macs + teacher)
    assert spent.macs_backward == 2 * images * result.macs

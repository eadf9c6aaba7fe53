"""A classifier of two layers, its data, and what comes of pruning it as it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo

CLASSES = 4
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(32, 3, 8, 8, generator=GENERATOR)
LABELS = torch.arange(32) % CLASSES


class Tiny(nn.Module):
    """A classifier whose logits differ from image to image."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, outputs)

    def features(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.first(images)))
        return torch.relu(self.second(maps)).mean((2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))


def network(kind: type[Tiny] = Tiny, outputs: int = CLASSES) -> Tiny:
    torch.manual_seed(0)
    made = kind(outputs)
    with torch.no_grad():
        made.head.weight.mul_(30)
    return made


def loader(
    images: Tensor = IMAGES, labels: Tensor = LABELS, **arguments: Any
) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(images, labels), **({"batch_size": 8} | arguments))


def pruned(
    model: Any = None, train: Any = None, validation: Any = None, **arguments: Any
) -> zoo.PruneResult:
    defaults: dict[str, Any] = {
        "method": "knapsack",
        "macs": 0.6,
        "recipe": zoo.Recipe(epochs=1, lr=1e-4),
        "progress": False,
    }
    return zoo.prune(
        network() if model is None else model,
        loader() if train is None else train,
        loader() if validation is None else validation,
        **(defaults | arguments),
    )


def refused(message: str, *arguments: Any, error: type[Exception] = ValueError, **more: Any) -> str:
    """The message, which is one line, of a call that is refused before any search."""

    class Never(type(zoo.create_pruner("l1_norm"))):  # type: ignore[misc]
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            raise AssertionError("a search began")

    with pytest.raises(error, match=message) as caught:
        pruned(*arguments, **({"method": Never()} | more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


@cache
def plain(method: str = "knapsack") -> zoo.PruneResult:
    """What comes of plain pairs and the plain network; not to be changed."""
    return pruned(method=method)


class Pooled(Tiny):
    """A batch norm behind the pooling, which takes no single image in training mode."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__(outputs)
        self.last_norm = nn.BatchNorm1d(12)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.last_norm(self.features(images)))


class Dictionary(Tiny):
    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images), "scale": 1.0}


class Maps(Tiny):
    def forward(self, images: Tensor) -> Any:
        return self.first(images)


class Convolutional(Tiny):
    """Logits of shape (N, classes, 1, 1)."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images)[:, :, None, None]

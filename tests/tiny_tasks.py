"""Four tasks on networks so small that every method runs in a moment; images are real digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

import zoo
from zoo.core.data.inputs import call

SIDE = 16


@dataclass(frozen=True)
class TinyTask:
    """A network, its data, and the arguments of ``zoo.prune`` that describe it."""

    model: nn.Module
    train: Any
    val: Any
    arguments: dict[str, Any] = field(default_factory=dict)

    def prune(self, method: Any, **more: Any) -> zoo.PruneResult:
        defaults = {"macs": 0.6, "recipe": zoo.Recipe(epochs=1, lr=1e-4), "progress": False}
        arguments = defaults | self.arguments | more
        return zoo.prune(self.model, self.train, self.val, method, **arguments)


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 16, 16) and classes (N,)."""
    found = load_digits()
    images = torch.from_numpy(found.images[:count] / 16).float()[:, None]
    return F.interpolate(images, (SIDE, SIDE)).repeat(1, 3, 1, 1), torch.from_numpy(
        found.target[:count]
    ).long()


def convolution(read: int, made: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(read, made, 3, stride=stride, padding=1), nn.BatchNorm2d(made), nn.ReLU()
    )


class Pyramid(nn.Module):
    """Maps of two sizes, with a head for each kind of task."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 8)
        self.deep = nn.Sequential(
            convolution(8, 16, 2), convolution(16, 24), convolution(24, 16), convolution(16, 12)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stem(images)
        return {"0": fine, "1": self.deep(fine)}


class Pooled(nn.Module):
    """Numbers for each image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = Pyramid()
        self.head = nn.Linear(12, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)["1"].mean((2, 3)))


class TinyUNet(nn.Module):
    """A number of classes for each pixel, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Pyramid()
        self.up = convolution(20, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(images)
        up = F.interpolate(maps["1"], size=maps["0"].shape[-2:])
        return {"maps": self.head(self.up(torch.cat([up, maps["0"]], 1)))}


class Backbone(nn.Module):
    """A feature pyramid of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.fpn = FeaturePyramidNetwork([8, 12], 8)
        self.out_channels = 8

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(images))


def trained(task: TinyTask, steps: int) -> TinyTask:
    """The task with a network that has learned something: outputs differ from image to image."""
    read = task.arguments.get("batch", lambda pair: pair)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    task.model.train()
    batches = [read(found) for found in task.train]
    with torch.enable_grad():
        for step in range(steps):
            inputs, targets = batches[step % len(batches)]
            optimizer.zero_grad()
            loss = task.arguments["loss"](call(task.model, inputs), targets)
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return replace(task, model=task.model.eval())


def loaders(images: Tensor, targets: Any, batch_size: int = 8) -> tuple[Any, Any]:
    half = len(images) // 2
    data = TensorDataset(images, targets)
    return tuple(
        DataLoader(torch.utils.data.Subset(data, range(*ends)), batch_size=batch_size)
        for ends in ((0, half), (half, 2 * half))
    )


def averaged(values: Callable[[Any, Any], Tensor]) -> Callable[[Any], Tensor]:
    """A metric that is the mean over all images of some values."""
    return lambda pairs: torch.cat([values(*pair) for pair in pairs]).double().mean()


def regression() -> TinyTask:
    images, _ = digits(32)
    targets = images.mean((1, 2, 3))  # how much ink there is
    torch.manual_seed(0)
    return TinyTask(
        Pooled(1),
        *loaders(images, targets),
        {
            "loss": lambda outputs, wanted: F.mse_loss(outputs[:, 0], wanted),
            "metric": zoo.Metric(
                "MAE",
                averaged(lambda outputs, wanted: (outputs[:, 0] - wanted).abs()),
                higher_is_better=False,
            ),
        },
    )


def several_labels() -> TinyTask:
    images, classes = digits(32)
    targets = torch.stack([classes % 2, classes > 4, classes % 3 == 0], 1).float()
    torch.manual_seed(0)

    def f1(pairs: Any) -> float:
        hits = total = 0.0
        for logits, wanted in pairs:
            guessed = (logits > 0).float()
            hits += float((guessed * wanted).sum())
            total += float(guessed.sum() + wanted.sum())
        return 2 * hits / total if total else 0.0

    return TinyTask(
        Pooled(3),
        *loaders(images, targets),
        {"loss": F.binary_cross_entropy_with_logits, "metric": zoo.Metric("F1", f1)},
    )


def segmentation() -> TinyTask:
    images, _ = digits(32)
    masks = (images[:, 0] > 0.5).long()
    torch.manual_seed(0)

    def iou(pairs: Any) -> float:
        both = either = 0
        for outputs, wanted in pairs:
            guessed = outputs["maps"].argmax(1)
            both += int((guessed & wanted).sum())
            either += int((guessed | wanted).sum())
        return both / max(1, either)

    return TinyTask(
        TinyUNet(),
        *loaders(images, masks),
        {
            "loss": lambda outputs, wanted: F.cross_entropy(outputs["maps"], wanted),
            "metric": zoo.Metric("IoU", iou),
        },
    )


def detection() -> TinyTask:
    """A RetinaNet; the box of a digit is where its ink is."""
    images, classes = digits(16)
    samples = []
    for image, label in zip(images, classes, strict=True):
        rows, columns = torch.where(image[0] > 0.3)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        samples.append((image, {"boxes": box[None].float(), "labels": label[None] % 2}))
    torch.manual_seed(0)
    model = RetinaNet(
        Backbone(),
        num_classes=2,
        min_size=SIDE,
        max_size=SIDE,
        anchor_generator=AnchorGenerator(((8,), (12,)), ((1.0,), (1.0,))),
        detections_per_img=5,
        score_thresh=0.0,
    )

    def collate(found: Any) -> tuple[list[Any], list[Any]]:
        return [image for image, _ in found], [target for _, target in found]

    def mean_of_best(pairs: Any) -> float:
        best = [
            float(found["scores"].max()) if len(found["scores"]) else 0.0
            for outputs, _ in pairs
            for found in outputs
        ]
        return sum(best) / len(best)

    train, val = (
        DataLoader(samples[start : start + 8], batch_size=4, collate_fn=collate) for start in (0, 8)
    )
    return TinyTask(
        model,
        train,
        val,
        {
            "part": "backbone",
            "batch": lambda found: (found, found[1]),
            "loss": lambda losses, _: sum(losses.values()),
            "metric": zoo.Metric("score", mean_of_best),
        },
    )


TASKS = {
    "regression": (regression, 60),
    "several labels": (several_labels, 60),
    "segmentation": (segmentation, 20),
    "detection": (detection, 10),
}


@cache
def tiny_task(name: str) -> TinyTask:
    """A task by name; its network is shared, and nobody changes it."""
    make, steps = TASKS[name]
    with torch.random.fork_rng(devices=()):
        return trained(make(), steps)

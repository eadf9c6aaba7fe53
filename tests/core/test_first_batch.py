"""What a first look, or one at the whole held-out set, tells before any search or training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo

Change = Callable[[Tensor], Any]

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 4


def loader(images: Tensor = IMAGES, labels: Tensor = LABELS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=8)


class Small(nn.Module):
    """Two convolutions, after a change of the images."""

    def __init__(self, change: Change = lambda x: x) -> None:
        super().__init__()
        self.change = change
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.a(self.change(images))).relu()
        return self.head(self.b(features).relu().mean((2, 3)))


class Scaled(nn.Module):
    """Cross-entropy of logits that it scales by weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.scale, labels)


def pruned(model: nn.Module, train: Any = None, held_out: Any = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    recipe = zoo.Recipe(epochs=2, lr=0.01)
    common = {"macs": 0.6, "recipe": recipe, "progress": False, **changes}
    return zoo.prune(model, train or loader(), held_out or loader(), **common)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.sub_(0.5),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.unbind(1)[0].zero_()[:, None] + x,
    ],
)
def test_a_network_that_writes_into_its_images_is_refused(change: Change) -> None:
    with pytest.raises(zoo.UnsupportedModel, match=r"Small changes its inputs in place.*x - mean"):
        pruned(Small(change))


def test_one_that_writes_in_training_mode_alone_is_refused() -> None:
    class Erasing(Small):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                images[:, :, :2] = 0
            return super().forward(images)

    with pytest.raises(zoo.UnsupportedModel, match="Erasing changes its inputs in place"):
        pruned(Erasing())


def test_a_copy_of_the_images_may_be_changed() -> None:
    assert pruned(Small(lambda x: x.clone().sub_(0.5))).macs > 0


def test_a_loss_or_a_metric_that_writes_into_its_targets_is_refused() -> None:
    def clamping(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels.clamp_(max=2))

    def counting(pairs: Any) -> float:
        return float(sum(labels.zero_().sum() for _, labels in pairs))

    before = LABELS.clone()
    with pytest.raises(ValueError, match="loss= changes its targets in place"):
        pruned(Small(), loss=clamping)
    with pytest.raises(ValueError, match="metric 'm' changes its targets in place"):
        pruned(Small(), metric=zoo.Metric("m", counting))
    assert torch.equal(LABELS, before)


def test_a_loss_with_weights_that_nobody_would_train_is_refused_and_a_frozen_one_is_not() -> None:
    loss = Scaled()
    with pytest.raises(ValueError, match=r"Scaled with parameters of its own.*requires_grad_"):
        pruned(Small(), loss=loss)
    assert loss.scale.grad is None
    assert pruned(Small(), loss=loss.requires_grad_(False)).macs > 0


def of_many(value: Callable[[], float]) -> zoo.Metric:
    """A metric that is 1 on the first batch alone."""

    def compute(pairs: Any) -> float:
        return 1.0 if len(list(pairs)) == 1 else value()

    return zoo.Metric("m", compute)


def failing() -> float:
    raise LookupError("seven")


def test_what_the_held_out_set_hides_behind_its_first_batch_is_told_before_any_training() -> None:
    epochs: list[object] = []
    watched = {"on_epoch": epochs.append}
    late = loader(labels=torch.cat([LABELS[:-1], torch.tensor([7])]))
    with pytest.raises(ValueError, match="val_loader yields the label 7"):
        pruned(Small(), held_out=late, **watched)
    with pytest.raises(ValueError, match="metric 'm' of the given network on val_loader is nan"):
        pruned(Small(), metric=of_many(lambda: float("nan")), **watched)
    with pytest.raises(LookupError, match="seven") as found:
        pruned(Small(), metric=of_many(failing), **watched)
    assert found.value.__notes__ == ["(in metric 'm' of the given network on all of val_loader)"]
    assert epochs == []
    pruned(Small(), **watched)
    assert len(epochs) == 2


def test_a_batch_without_images_is_refused_with_the_way_out() -> None:
    batches = [*loader(), (IMAGES[:0], LABELS[:0])]
    with pytest.raises(ValueError, match="batch 3 of train_loader in epoch 0 has no images"):
        pruned(Small(), train=batches)


def test_a_loss_that_is_nan_sends_you_to_the_batches_too() -> None:
    images = IMAGES.clone()
    images[8:16] = float("nan")
    with pytest.raises(zoo.Diverged, match=r"step 2 of 6; lower the learning rate.*NaN in the im"):
        pruned(Small(), train=loader(images))


def test_a_network_made_in_inference_mode_is_pruned_like_any_other() -> None:
    torch.manual_seed(1)
    usual = Small()
    with torch.inference_mode():
        torch.manual_seed(1)
        made = Small()
    small, other = (pruned(each).model.state_dict() for each in (usual, made))
    assert all(torch.equal(value, other[name]) for name, value in small.items())

"""Accuracy counts class indices and logits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.tiny_network import IMAGES, LABELS, Convolutional, Dictionary, Maps, loader, network
from zoo.core.channels.config import SubnetConfig
from zoo.core.preflight import preflight
from zoo.core.training.train import evaluate


class Given:
    """Batches as they are."""

    batch_size = num_images = 4

    def __init__(self, labels: Tensor, images: Tensor = IMAGES[:4]) -> None:
        self.pair = images, labels

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.pair


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, 8, 8, dtype=torch.long), r"int64 of shape \(4, 8, 8\) for .* \(4, 4\)"),
        (torch.zeros(4, 1, dtype=torch.long), r"shape \(4, 1\)"),
        (torch.zeros(4, 4), r"float32 of shape \(4, 4\)"),
        (torch.zeros(4), r"float32 of shape \(4,\)"),
        (torch.zeros(1, dtype=torch.long), r"shape \(1,\)"),
        (torch.tensor([0, 1, 2, 4]), "1 of 4 labels are below 0 or have no logit: .* 0 to 3"),
        (torch.tensor([-1, 1, -100, 3]), "2 of 4 labels"),
    ],
)
def test_evaluation_compares_class_indices_only(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(network(), Given(labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(outputs=1), r"returns shape \(4, 1\)"),
        (lambda: network(Maps), r"returns shape \(4, 8, 8, 8\)"),
        (lambda: network(Convolutional), r"returns shape \(4, 4, 1, 1\)"),
        (lambda: network(Dictionary), "returns a dict"),
    ],
)
def test_evaluation_reads_logits_only(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(make(), Given(LABELS[:4]))


def test_logits_that_are_no_numbers_are_no_right_answers() -> None:
    images = IMAGES[:4].clone()
    images[:2] = torch.nan
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        answers = model(IMAGES[:4]).argmax(1)
        labels = torch.where(torch.arange(4) < 2, 0, answers)  # argmax of NaN is 0
        with pytest.warns(RuntimeWarning, match="logits of 2 of 4 images are NaN"):
            assert evaluate(model, Given(labels, images)) == 0.5


def test_no_images_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no image to evaluate"):
        evaluate(network(), Given(LABELS[:0], IMAGES[:0]))


def test_a_search_counts_no_answer_that_is_no_number() -> None:
    model = network().eval()
    look = preflight(model, loader(), loader(labels=torch.zeros(32, dtype=torch.long)), epochs=0)
    space = zoo.ChannelSpace.trace(model, (3, 8, 8))
    cost, meter = zoo.CostModel(space), zoo.core.meter.Meter("cpu")
    data = zoo.core.data.metered.MeteredData(look.train, look.validation, meter)
    problem = zoo.Problem(
        model, space, cost, zoo.Budget.parse(0.5, cost), data, zoo.WidthRules(), 0, meter, ""
    )
    weights = {"head.bias": torch.full((4,), torch.nan)}
    with meter.phase("search"):
        assert problem.accuracy(SubnetConfig.full(), weights) == 0.0

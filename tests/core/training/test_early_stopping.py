"""The best epoch: which it is, and when a training ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.core.training.test_checkpoint import RECIPE, network, source
from zoo.core.training.early_stopping import BestEpoch, Direction, Validation
from zoo.core.training.train import train

NAN = math.nan


@pytest.mark.parametrize(
    ("direction", "scores", "best", "ends"),
    [
        ("max", [0.1, 0.3, 0.3, 0.2], 2, [False, False, False, True]),  # of equal ones the first
        ("min", [0.3, 0.1, 0.1, 0.2], 2, [False, False, False, True]),
        ("max", [0.3, 0.1, 0.4, 0.1], 3, [False, False, False, False]),
        ("max", [NAN, 0.1, NAN, NAN], 2, [False, False, False, True]),
        ("min", [NAN, NAN, 5.0, NAN], 3, [False, False, False, False]),  # a number is better
    ],
)
def test_the_best_epoch_is_kept(
    direction: Direction, scores: list[float], best: int, ends: list[bool]
) -> None:
    layer, left = nn.Linear(1, 1), iter(scores)
    validation = Validation(lambda _: next(left), direction)
    judge, found = BestEpoch(layer, validation, patience=2), []
    for epoch in range(1, 5):
        with torch.no_grad():
            layer.bias.fill_(epoch)
        found.append(judge.judge())
    judge.restore()
    assert (validation.best_epoch, float(layer.bias.detach())) == (best, best)
    assert found == ends


def test_patience_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="patience 2 needs a score on held-out images"):
        train(network(), source(), replace(RECIPE, patience=2))

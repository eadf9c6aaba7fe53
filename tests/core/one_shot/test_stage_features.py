"""Features of stages: streamed or kept, the same decision, in memory that is bounded."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.problems import BATCH, SIDE, parent
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batch, Batches, ImageTensors
from zoo.core.data.inputs import tensors_of
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.one_shot import stage_features
from zoo.core.one_shot.stage_features import KeptFeatures, StreamedFeatures
from zoo.core.one_shot.stage_search import stage_scorers
from zoo.core.supernet.stages import StageRunner, cut_stages, stage_costs
from zoo.core.supernet.supernet import CANDIDATE_BATCHES
from zoo.stagewise import Stagewise

TRAIN = CANDIDATE_BATCHES * BATCH


class Doubled(Batches):
    """Batches in float64, so that equalities are not blurred."""

    def epoch(self, index: int) -> Iterator[Batch]:
        for images, labels in super().epoch(index):
            yield images.double(), labels


def source(count: int, batch_size: int = BATCH, seed: int = 0) -> Batches:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, count))
    return Doubled(ImageTensors(pixels, labels, (0.5,) * 3, (0.29,) * 3), batch_size)


def problem(n_search: int = 20, batch_size: int = BATCH) -> Problem:
    model, space = parent("resnet20_cifar")
    cost, meter = CostModel(space), Meter()
    data = MeteredData(source(TRAIN), source(n_search, batch_size, seed=1), meter)
    return Problem(
        model, space, cost, Budget.parse(0.5, cost), data, WidthRules(), meter=meter, method="m"
    )


def streaming(monkeypatch: pytest.MonkeyPatch, most: int = 0) -> None:
    monkeypatch.setattr(stage_features, "MOST_KEPT", most)


def narrow_configs(task: Problem, count: int = 4) -> list[SubnetConfig]:
    """Full width, and inner groups at several widths."""
    stages = cut_stages(task.model, task.space, 3)
    inner = {name for stage in stages for name in stage.inner}
    sizes = {group.name: group.size for group in task.space.groups if group.name in inner}
    drops = range(count)
    return [
        SubnetConfig({name: tuple(range(size - drop)) for name, size in sizes.items()})
        for drop in drops
    ]


@pytest.mark.parametrize(
    "change",
    [{}, {"stages": 3, "evaluations": 25}, {"junctions": "leading"}, {"evolution": "network"}],
    ids=str,
)
@pytest.mark.parametrize("n_search", [16, 17])  # a last batch of one image is left out
def test_streamed_features_decide_what_kept_ones_do(
    change: dict[str, Any], n_search: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (2**30, 0):
        streaming(monkeypatch, most)
        task = problem(n_search)
        subnet = replace(Stagewise.tiny(), **change).search(task)
        assert subnet.weights is not None
        found.append((task.trace_rows, subnet.config, subnet.weights))
    (kept_rows, kept, kept_weights), (rows, streamed, weights) = found
    assert rows == kept_rows and streamed == kept  # errors of all archived states among them
    assert all(torch.equal(weights[name], kept_weights[name]) for name in kept_weights)


@pytest.mark.parametrize(("n_search", "batch_size"), [(20, 8), (17, 8), (3, 1), (5, 5)])
@pytest.mark.parametrize("together", [1, 2, 32])
def test_errors_are_the_same_to_the_last_bit(
    n_search: int, batch_size: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.core.one_shot.stage_search.MOST_TOGETHER", together)
    found = []
    for most, kind in ((2**30, KeptFeatures), (0, StreamedFeatures)):
        streaming(monkeypatch, most)
        task = problem(n_search, batch_size)
        with task.meter.phase("search"):
            scorers = stage_scorers(task, cut_stages(task.model, task.space, 3), {})
            assert all(type(scorer.features) is kind for scorer in scorers)
            losses = [scorer.losses(narrow_configs(task)) for scorer in scorers]
        found.append((losses, [scorer.features.images for scorer in scorers]))
    assert found[0] == found[1]
    assert [each[0] for each in losses] == [0.0] * 3  # of the full width
    assert all(len(set(each)) == 4 for each in losses)


def test_features_are_kept_up_to_the_bound_and_not_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    task = problem(n_search=20)
    stages = cut_stages(task.model, task.space, 3)
    with torch.no_grad():
        values = task.supernet.sliced(SubnetConfig.full())
        one = next(source(1).epoch(0))[0]
        features = StageRunner(task.supernet, stages).features(one, values, training=False)
    # All of them, of the training and of the search images; by hand, of 8 bytes a number.
    assert [each.numel() for each in features] == [3 * 64, 16 * 64, 32 * 16, 10]
    size = (TRAIN + 20) * 8 * (3 * 64 + 16 * 64 + 32 * 16 + 10)
    for most, kind in ((size, KeptFeatures), (size - 1, StreamedFeatures)):
        streaming(monkeypatch, most)
        with task.meter.phase("search"):
            scorers = stage_scorers(task, stages, {})
        assert all(type(scorer.features) is kind for scorer in scorers)


class Held:
    """Bytes of features that are alive, and the most that there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self._seen: set[int] = set()
        real, epoch = StageRunner._left, Doubled.epoch

        def left(runner: StageRunner, *arguments: Any, **named: Any) -> Any:
            return self._watched(real(runner, *arguments, **named))

        def drawn(batches: Doubled, index: int) -> Iterator[Batch]:
            for images, labels in epoch(batches, index):
                yield self._watched(images), labels

        monkeypatch.setattr(StageRunner, "_left", left)
        monkeypatch.setattr(Doubled, "epoch", drawn)

    def _watched(self, value: Any) -> Any:
        for tensor in tensors_of(value):
            self._add(tensor)
        return value

    def _add(self, tensor: Tensor) -> None:
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._drop, tensor.nbytes)

    def _drop(self, size: int) -> None:
        self.now -= size


def peak(n_search: int, most: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Most bytes of features held at once while all stages are scored."""
    with monkeypatch.context() as patch:
        streaming(patch, most)
        task = problem(n_search)
        configs = narrow_configs(task)
        held = Held(patch)
        with task.meter.phase("search"):
            for scorer in stage_scorers(task, cut_stages(task.model, task.space, 3), {}):
                scorer.losses(configs)
    return held.most


def test_what_is_held_does_not_grow_with_the_search_split(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (peak(count, 0, monkeypatch) for count in (5 * BATCH, 50 * BATCH))
    # Training batches before and behind the second stage, while the fullnet is recalibrated.
    assert few == many == 8 * TRAIN * (16 * 64 + 32 * 16)
    kept = peak(50 * BATCH, 2**30, monkeypatch)
    features = 8 * (TRAIN + 50 * BATCH) * (3 * 64 + 16 * 64 + 32 * 16 + 10)
    assert features <= kept <= features + 8 * 2 * BATCH * 16 * 64


def test_every_pass_over_streamed_features_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    streaming(monkeypatch)
    task, searched = problem(n_search=20), 20
    stages = cut_stages(task.model, task.space, 3)
    macs = [stage_costs(task.space, stage).full_macs for stage in stages]
    assert sum(macs) == task.cost.full_macs
    with task.meter.phase("search") as spent:
        scorers = stage_scorers(task, stages, {})
        assert spent.images == TRAIN + BATCH  # a batch of the search split is looked at
        assert spent.macs_forward == 2 * TRAIN * sum(macs)
        configs = narrow_configs(task)
        scorers[1].losses(configs)
        assert spent.images == TRAIN + BATCH + TRAIN + searched
        made = TRAIN * macs[0] + searched * (macs[0] + macs[1])
        assert spent.macs_forward == 2 * TRAIN * sum(macs) + made
        before = spent.macs_forward
        widths = np.stack([config.widths(task.space) for config in configs])
        scorers[1].charge(task, widths)
        own = int(stage_costs(task.space, stages[1]).macs_of_widths(widths).sum())
        assert spent.macs_forward - before == (TRAIN + searched) * own


def test_a_generation_shares_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    streaming(monkeypatch)
    passes = []
    real = StreamedFeatures.pairs

    def counting(features: StreamedFeatures) -> Iterator[tuple[Any, Any]]:
        passes.append(features.index)
        return real(features)

    monkeypatch.setattr(StreamedFeatures, "pairs", counting)
    settings = replace(Stagewise.tiny(), evaluations=24, population=6, stages=3)
    settings.search(problem())
    for index in range(3):
        assert 4 <= passes.count(index) <= 9  # 24 states in generations of 6 or, seen before, fewer


def test_streamed_stages_are_searched_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    streaming(monkeypatch)
    task, alone = problem(), problem()
    with pytest.warns(UserWarning, match=r"in one process, not in 2"):
        found = replace(Stagewise.tiny(), workers=2).search(task)
    assert found.config == Stagewise.tiny().search(alone).config
    assert task.trace_rows == alone.trace_rows


def test_scores_are_the_same_however_features_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (2**30, 0):
        streaming(monkeypatch, most)
        task = problem()
        found.append(replace(Stagewise.tiny(), stages=3).scores(task, narrow_configs(task)))
    assert found[0] == found[1] and len(set(found[0])) == 4

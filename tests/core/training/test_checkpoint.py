"""A training that is killed goes on from its checkpoint, bit for bit; nothing else is taken."""

from __future__ import annotations

import copy
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.killed import Killing, was_killed
from zoo.core.data.batches import Batches, BatchSource, ImageTensors, crop_and_flip
from zoo.core.meter import Meter
from zoo.core.training import checkpoint
from zoo.core.training.checkpoint import Checkpoint, Checkpoints
from zoo.core.training.early_stopping import Validation
from zoo.core.training.events import StepEvent, Watch
from zoo.core.training.train import Recipe, TrainingLoss, evaluate, train

PER_EPOCH, EPOCHS = 4, 3
RECIPE = Recipe(epochs=EPOCHS, batch_size=8, lr=0.05, ema_decay=0.9, clip_grad=1.0)


def source(seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8 * PER_EPOCH) % 2
    noise = torch.randint(0, 100, (len(labels), 3, 8, 8), generator=generator)
    pixels = (noise + 100 * labels[:, None, None, None]).to(torch.uint8)
    dataset = ImageTensors(pixels, labels, (0.4,) * 3, (0.25,) * 3, crop_and_flip)
    return Batches(dataset, 8, seed=seed, shuffle=True)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        norm, pool = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(first, norm, nn.ReLU(), pool, nn.Flatten(), nn.Dropout(0.3), head)


class Scaled(TrainingLoss):
    """Cross-entropy of logits scaled by a learned number."""

    macs_per_image = 5

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * student(images), labels)


class Run:
    """One training from its start, whatever the process did before."""

    def __init__(self, recipe: Recipe = RECIPE, kept: Checkpoints | None = None) -> None:
        self.recipe, self.kept = recipe, kept
        self.model, self.loss, self.meter = network(), Scaled(), Meter()
        self.validation = Validation(lambda model: evaluate(model, source(2)))
        self.losses: tuple[float, ...] = ()

    def go(self, batches: BatchSource | None = None, watch: Watch | None = None) -> Run:
        with torch.random.fork_rng(), self.meter.phase("finetune"):
            torch.manual_seed(7)
            self.losses = train(
                self.model,
                batches or source(),
                self.recipe,
                loss=self.loss,
                meter=self.meter,
                macs_per_image=10,
                validation=self.validation,
                checkpoints=self.kept,
                watch=watch or Watch(),
            )
            self.drawn = torch.rand(3)  # from the global generator, where the training left it
        return self

    def assert_same(self, other: Run) -> None:
        for mine, its in ((self.model, other.model), (self.loss, other.loss)):
            ours, theirs = mine.state_dict(), its.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert self.losses == other.losses
        assert torch.equal(self.drawn, other.drawn)
        assert counts(self.meter) == counts(other.meter)
        assert self.validation.scores == other.validation.scores
        assert self.validation.best_epoch == other.validation.best_epoch


def counts(meter: Meter) -> dict[str, Any]:
    measured = ("seconds", "peak_bytes")
    return {
        phase: {name: value for name, value in asdict(spent).items() if name not in measured}
        for phase, spent in meter.spent.items()
    }


def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a clock that a checkpoint looks at go on by a second with each look."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: float(next(ticks)))


RECIPES = {
    "sgd": RECIPE,
    "adamw": replace(RECIPE, optimizer="adamw", lr=0.01, ema_decay=None, warmup_epochs=1.0),
    "lookahead": replace(RECIPE, optimizer="lookahead_sgd", schedule="multistep"),
    "patience": replace(RECIPE, patience=2),
    "patience without average": replace(RECIPE, patience=1, ema_decay=None, channels_last=False),
    "bf16": replace(RECIPE, bf16=True),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("at", [0, 1, 6, 8])  # before any; mid-epoch twice; after two epochs
def test_a_killed_training_ends_as_an_undisturbed_one(name: str, at: int, tmp_path: Path) -> None:
    recipe, kept = RECIPES[name], Checkpoints(tmp_path, seconds=0)
    undisturbed = Run(recipe).go()
    assert was_killed(lambda: Run(recipe, kept).go(Killing(source(), at)))
    assert len(list(tmp_path.iterdir())) == (at > 0)
    drawn: list[int] = []
    resumed = Run(recipe, kept.fresh("")).go(watch=Watch(lambda e: drawn.append(e.step)))
    resumed.assert_same(undisturbed)
    assert not drawn or drawn[0] == at + 1


def test_steps_since_the_last_checkpoint_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch)
    kept = Checkpoints(tmp_path, seconds=50)  # the end of an epoch is written after three looks
    undisturbed = Run().go()
    assert was_killed(lambda: Run(kept=kept).go(Killing(source(), 7)))
    drawn: list[int] = []
    resumed = Run(kept=kept.fresh("")).go(watch=Watch(lambda e: drawn.append(e.step)))
    resumed.assert_same(undisturbed)
    assert drawn[0] == PER_EPOCH + 1


def test_a_training_that_is_killed_again_and_again_comes_to_its_end(tmp_path: Path) -> None:
    undisturbed, kept = Run().go(), Checkpoints(tmp_path, seconds=0)
    for _ in range(PER_EPOCH * EPOCHS // 3):
        # Three further batches each; those before are drawn again in the running epoch.
        def further(run: Run) -> None:
            count = 0

            def stop(event: StepEvent) -> None:
                nonlocal count
                count += 1
                if count == 3:
                    raise KeyboardInterrupt

            run.go(watch=Watch(stop))

        with pytest.raises(KeyboardInterrupt):
            further(Run(kept=kept.fresh("")))
    Run(kept=kept.fresh("")).go().assert_same(undisturbed)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, seconds=0)
    first = Run(kept=kept).go()
    drawn: list[int] = []
    second = Run(kept=kept.fresh("")).go(watch=Watch(lambda e: drawn.append(e.step)))
    second.assert_same(first)
    assert not drawn
    kept.remove()
    assert not tmp_path.exists()


def test_seconds_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, hours, moments = Checkpoints(tmp_path, seconds=0), count(0, 3600), count(0, 0.001)
    monkeypatch.setattr(Meter, "_now", lambda self: next(hours))
    Run(kept=kept).go()
    monkeypatch.setattr(Meter, "_now", lambda self: next(moments))
    second = Run(kept=kept.fresh("")).go()
    assert second.meter.spent["finetune"].seconds > 3600  # it took moments itself


def others() -> dict[str, Callable[[Run], object]]:
    def change(**parts: Any) -> Callable[[Run], object]:
        def changed(run: Run) -> None:
            vars(run).update(parts)

        return changed

    def other_kept(run: Run) -> None:
        assert run.kept is not None
        run.kept = run.kept.fresh("another seed")

    louder = Scaled()
    louder.weight = 2.0
    return {
        "recipe": change(recipe=replace(RECIPE, lr=0.04)),
        "network": change(model=network(1)),
        "loss": change(loss=louder),
        "origin": other_kept,
    }


@pytest.mark.parametrize("what", ["recipe", "network", "loss", "origin", "version", "nothing"])
def test_a_checkpoint_of_another_training_is_not_used(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(tmp_path, seconds=0)
    assert was_killed(lambda: Run(kept=kept).go(Killing(source(), 6)))
    if what == "version":
        monkeypatch.setattr(checkpoint, "_VERSION", 2)
    runs = Run(kept=kept.fresh("")), Run()
    for run in runs:
        if what in others() and not (what == "origin" and run.kept is None):
            others()[what](run)
    steps: list[int] = []
    with caplog.at_level(logging.WARNING):
        resumed = runs[0].go(watch=Watch(lambda e: steps.append(e.step)))
    assert (steps[0] == 1) == ("begins anew" in caplog.text) == (what != "nothing")
    resumed.assert_same(runs[1].go())


@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_damaged_checkpoint_is_told_and_not_used(where: float, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, seconds=0)
    assert was_killed(lambda: Run(kept=kept).go(Killing(source(), 6)))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[int(where * len(content)) if where > 0 else int(where)] ^= 1
    path.write_bytes(content)
    steps: list[int] = []
    with pytest.warns(UserWarning, match="its checksum does not hold"):
        resumed = Run(kept=kept.fresh("")).go(watch=Watch(lambda e: steps.append(e.step)))
    resumed.assert_same(Run().go())
    assert steps[0] == 1


def test_a_full_disk_is_told_once_and_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left on device") as told:
        run = Run(kept=Checkpoints(tmp_path, seconds=0)).go()
    assert len(told) == 1 and not list(tmp_path.iterdir())
    run.assert_same(Run().go())


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, seconds=0)

    def killed_in_the_fifth() -> None:
        count, fsync = 0, os.fsync

        def dies(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == 5:
                os.kill(os.getpid(), 9)
            fsync(descriptor)

        os.fsync = dies  # type: ignore[assignment]
        Run(kept=kept).go()

    assert was_killed(killed_in_the_fifth)
    assert len(list(tmp_path.iterdir())) == 2
    steps: list[int] = []
    resumed = Run(kept=kept.fresh("")).go(watch=Watch(lambda e: steps.append(e.step)))
    resumed.assert_same(Run().go())
    assert steps[0] == PER_EPOCH + 1 or steps[0] == PER_EPOCH
    kept.remove()
    assert not tmp_path.exists()


def test_checkpoints_come_at_most_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    save = Checkpoint.save
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, state: (written.append(1.0), save(self, state))
    )
    Run(kept=Checkpoints(tmp_path, seconds=600)).go()
    assert not written  # a training of a moment writes none
    ticking(monkeypatch)
    Run(kept=Checkpoints(tmp_path, seconds=60)).go()  # an epoch's end after three looks
    assert len(written) == EPOCHS
    Run(kept=Checkpoints(tmp_path / "a", seconds=0)).go()
    assert len(written) == EPOCHS + EPOCHS + PER_EPOCH * EPOCHS


def test_two_trainings_of_a_name_have_two_files(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    paths = [kept.of("supernet").path.name for _ in range(2)] + [kept.of("finetune").path.name]
    assert paths == ["supernet.checkpoint", "supernet-2.checkpoint", "finetune.checkpoint"]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {
        "tensors": [shared, shared.view(2, 3), torch.tensor(True), torch.empty(0)],
        "laid out": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "half": torch.randn(3).to(torch.bfloat16),
        "expanded": torch.ones(1).expand(4),
        3: (1, 2.5, None, float("inf"), "text"),
        "arrays": [np.arange(3, dtype=np.uint32), np.zeros((0, 2), np.int64), np.float64(0.1)],
        "big": 2**127 + 1,
        "rng": np.random.default_rng(0).bit_generator.state,
    }
    kept = Checkpoint(tmp_path / "a.checkpoint", "key")
    kept.save(state)
    found = kept.load()
    assert found is not None
    assert_equal(found, state)
    assert found["laid out"].is_contiguous(memory_format=torch.channels_last)
    assert Checkpoint(tmp_path / "a.checkpoint", "other").load() is None


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other) or isinstance(other, np.generic)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_equal(mine, its)
    else:
        assert one == other


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="it would hold a Linear"):
        Checkpoint(tmp_path / "a.checkpoint", "key").save({"layer": nn.Linear(1, 1)})
    assert not list(tmp_path.iterdir())


def test_the_folder_of_somebody_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    kept = Checkpoints(tmp_path, seconds=0)
    Run(kept=copy.copy(kept)).go()
    assert len(list(tmp_path.iterdir())) == 2
    kept.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

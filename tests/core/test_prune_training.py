"""zoo.prune as people train: callbacks, early stopping, checkpoints, a device, effort that fits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import zoo
from tests.core.test_prune import Plain, loader
from tests.killed import was_killed
from tests.problems import problem
from zoo.core.method.discovery import get_pruner
from zoo.core.training.checkpoint import Checkpoint, Checkpoints

SMALL = {"steps": 3, "lr": 1e-3, "ratios": 3, "reevaluate": 1}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain()


def pruned(model: nn.Module | None = None, **arguments: Any) -> zoo.PruneResult:
    defaults: dict[str, Any] = {
        "method": "l1_norm",
        "macs": 0.5,
        "recipe": zoo.Recipe(epochs=3, lr=0.01),
        "progress": False,
    }
    return zoo.prune(model or network(), loader(), loader(16), **(defaults | arguments))


def same(one: zoo.PruneResult, other: zoo.PruneResult) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    spent = [
        {p: (s.images, s.macs_forward, s.macs_backward) for p, s in result.spent.items()}
        for result in (one, other)
    ]
    return (
        all(torch.equal(ours[name], theirs[name]) for name in ours)
        and one.trace == other.trace
        and spent[0] == spent[1]
    )


def test_steps_and_epochs_are_told() -> None:
    steps: list[Any] = []
    epochs: list[Any] = []
    given = {"method": "autoslim", "settings": SMALL}
    result = pruned(on_step=steps.append, on_epoch=epochs.append, **given)
    assert [(e.phase, e.step, e.steps, e.epoch, e.epochs) for e in steps] == [
        ("supernet", 1, 3, 1, 2),
        ("supernet", 2, 3, 1, 2),
        ("supernet", 3, 3, 2, 2),
        *(("finetune", number, 6, (number + 1) // 2, 3) for number in range(1, 7)),
    ]
    assert [(e.phase, e.epoch, e.epochs, e.step) for e in epochs] == [
        ("supernet", 1, 2, 2),
        ("supernet", 2, 2, 3),
        ("finetune", 1, 3, 2),
        ("finetune", 2, 3, 4),
        ("finetune", 3, 3, 6),
    ]
    assert epochs[2].loss == pytest.approx((steps[3].loss + steps[4].loss) / 2)
    assert all(event.score is None for event in epochs)
    assert same(result, pruned(**given))  # that somebody looks on changes nothing


@pytest.mark.parametrize("phase", ["supernet", "finetune"])
def test_a_callback_that_raises_ends_the_call_and_leaves_the_model(phase: str) -> None:
    def stop(event: Any) -> None:
        if event.phase == phase:
            raise LookupError("enough")

    model = network().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LookupError, match="enough"):
        pruned(model, method="autoslim", settings=SMALL, on_step=stop)
    assert model.training and not model._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_patience_keeps_the_epoch_that_scores_best() -> None:
    epochs: list[Any] = []
    recipe = zoo.Recipe(epochs=30, lr=0.02, patience=2)
    result = pruned(recipe=recipe, on_epoch=epochs.append)
    scores = [event.score for event in epochs]
    best = scores.index(max(scores))
    assert len(scores) == best + 3 < 30  # two more, none of them better
    assert result.val_top1 == scores[best] > scores[-1]
    assert [event.best_epoch for event in epochs[-3:]] == [best + 1] * 3
    spent = result.spent["finetune"]
    assert spent.images == len(scores) * (32 + 16)  # the held-out images are charged
    assert spent.macs_forward == spent.images * result.macs
    (row,) = (row for row in result.trace if row["step"] == "finetune")
    assert (row["best_epoch"], row["scores"]) == (best + 1, scores)
    assert len(row["losses"]) == len(scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["l1_norm", "autoslim"])
def test_a_killed_call_goes_on(method: str, tmp_path: Path) -> None:
    settings = SMALL if method == "autoslim" else {}
    given: dict[str, Any] = {"method": method, "settings": settings}
    kept = Checkpoints(tmp_path / "kept", seconds=0)

    def killed(event: Any) -> None:
        if event.step == 3:
            import os

            os.kill(os.getpid(), 9)

    assert was_killed(lambda: pruned(on_step=killed, checkpoint=kept, **given))
    assert list(kept.folder.iterdir())
    first: list[int] = []
    result = pruned(on_step=lambda e: first.append(e.step), checkpoint=kept, **given)
    assert first[0] == 3 and not kept.folder.exists()
    assert same(result, pruned(**given))


def test_other_data_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Checkpoints(tmp_path, seconds=0)

    def stop(event: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        pruned(on_epoch=stop, checkpoint=kept)
    others = DataLoader([(image + 1, label) for image, label in loader().dataset], batch_size=16)
    first: list[int] = []
    recipe = zoo.Recipe(epochs=3, lr=0.01)
    zoo.prune(
        network(),
        others,
        loader(16),
        "l1_norm",
        0.5,
        recipe=recipe,
        progress=False,
        checkpoint=kept,
        on_step=lambda e: first.append(e.step),
    )
    assert first[0] == 1 and "begins anew" in caplog.text


def classifying(error: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda outputs, labels: error(outputs, F.one_hot(labels, outputs.shape[1]).float())


def likelihood(sign: float) -> zoo.Metric:
    def compute(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        return sign * torch.stack([F.cross_entropy(*pair) for pair in pairs]).mean()

    return zoo.Metric("likelihood", compute)


@pytest.mark.parametrize("name", ["loss", "compute", "direction"])
def test_another_loss_or_metric_begins_anew(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metric = likelihood(-1.0)
    given = {"loss": classifying(F.l1_loss), "metric": metric}
    other = {
        "loss": {"loss": classifying(F.mse_loss)},
        "compute": {"metric": likelihood(1.0)},
        "direction": {"metric": replace(metric, higher_is_better=False)},
    }[name]

    def first_step(**arguments: Any) -> int:
        steps: list[int] = []

        def stop(event: Any) -> None:
            steps.append(event.step)
            if event.step == 3:
                raise LookupError

        kept = Checkpoints(tmp_path, seconds=0)
        with suppress(LookupError):
            pruned(on_step=stop, checkpoint=kept, distill=0.0, **(given | arguments))
        return steps[0]

    assert first_step() == 1
    again = {"loss": classifying(F.l1_loss), "metric": likelihood(-1.0)}  # made anew
    assert first_step(**again) == 3 and "begins anew" not in caplog.text
    assert first_step(**other) == 1 and "begins anew" in caplog.text


def test_a_folder_alone_is_enough_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "is_due", lambda *_, **__: True)
    seen: list[int] = []
    folder = tmp_path / "kept"
    pruned(checkpoint=str(folder), on_epoch=lambda e: seen.append(len(list(tmp_path.rglob("*")))))
    assert seen == [2, 2, 2] and not folder.exists()


def test_work_is_done_on_the_device_that_is_named() -> None:
    model = network()
    result = pruned(model, device="cpu")
    assert next(result.model.parameters()).device.type == "cpu"
    assert same(result, pruned(network(), device=torch.device("cpu")))
    for device, reason in (("nowhere", "device 'nowhere'"), ("meta", "device 'meta'")):
        with pytest.raises(ValueError, match=rf"{reason} cannot be worked on.*give 'cpu', 'cuda'"):
            pruned(device=device)


@pytest.mark.gpu
def test_a_copy_moves_to_the_gpu() -> None:
    model = network()
    result = pruned(model, device="cuda")
    assert next(result.model.parameters()).is_cuda
    assert not next(model.parameters()).is_cuda


def test_an_argument_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown argument 'on_epochs'; did you mean 'on_epoch'"):
        pruned(on_epochs=print)


class Wide(nn.Module):
    """A network with several groups, so that slimming has a choice."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, 16, 16, 16):
            layers += [nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(images)).mean((2, 3)))


def test_effort_is_scaled_to_the_data_said_and_traced(capfd: pytest.CaptureFixture[str]) -> None:
    short = {"lr": 1e-3, "ratios": 3}
    none = zoo.Recipe(epochs=0)
    result = pruned(Wide(), method="autoslim", settings=short, recipe=none, progress=True)
    (row,) = (row for row in result.trace if row["step"] == "scaled_to_data")
    assert row["steps"] == 100  # the least, as ten epochs are twenty updates
    assert result.spent["supernet"].images == 100 * 16
    assert "autoslim will search for about 3" in capfd.readouterr().err
    given = {**short, "steps": 2, "reevaluate": 1}
    result = pruned(Wide(), method="autoslim", settings=given, recipe=none)
    assert not [row for row in result.trace if row["step"] == "scaled_to_data"]
    assert result.spent["supernet"].images == 2 * 16
    pruner = zoo.create_pruner("autoslim", **short, steps=3)  # made, so all of it is chosen
    result = pruned(Wide(), method=pruner, recipe=none)
    assert not [row for row in result.trace if row["step"] == "scaled_to_data"]


@pytest.mark.parametrize(
    "name", ["autoslim", "bcnet", "metapruning", "pse_net", "stagewise", "bn_scale"]
)
def test_the_effort_that_is_told_is_about_what_is_spent(name: str) -> None:
    asked = problem()
    pruner = get_pruner(name).tiny()
    told = pruner.effort(asked)
    pruner.search(asked)
    for phase, effort in told.items():
        spent = asked.meter.spent[phase].macs
        assert spent / 2 <= effort <= 2 * spent, phase


@pytest.mark.parametrize("name", ["autoslim", "bcnet", "metapruning", "pse_net", "stagewise"])
def test_scaled_settings_are_never_more_than_the_defaults(name: str) -> None:
    asked, default = problem(), zoo.create_pruner(name)
    scaled = default.scaled(asked, ())
    was, now = asdict(default), asdict(scaled)  # type: ignore[call-overload]
    changed = {setting for setting in now if now[setting] != was[setting]}
    assert changed and changed <= {"steps", "evaluations", "reevaluate"}
    assert all(was[setting] is None or now[setting] < was[setting] for setting in changed)
    assert default.scaled(asked, ("steps", "evaluations", "reevaluate")) == default
    told = scaled.effort(asked)
    whole = default.effort(asked)
    assert sum(told.values()) < sum(whole.values()) / 2


def test_a_recorded_fine_tuning_is_refused_before_the_search_where_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zoo.core.prune._prunable_space", None)  # of the first step after the checks
        with pytest.raises(ValueError, match="cuda_graph needs a CUDA device and the network is"):
            pruned(recipe=zoo.Recipe(epochs=1, cuda_graph=True))
    assert pruned(recipe=zoo.Recipe(epochs=0, cuda_graph=True)).model  # nothing is trained


@pytest.mark.parametrize(
    ("method", "settings"),
    [("knapsack", {"normalisation": "none"}), ("bnp", {"steps": 0, "beta": 0.0})],
)
def test_label_smoothing_reaches_the_loss_of_a_method(
    method: str, settings: dict[str, Any]
) -> None:
    def weights(smoothing: float) -> Tensor:
        recipe = zoo.Recipe(epochs=1, lr=0.01, label_smoothing=smoothing)
        result = pruned(method=method, settings=settings, recipe=recipe)
        return torch.cat([p.flatten() for p in result.model.parameters()])

    plain = weights(0.0)
    assert torch.equal(plain, weights(0.0))
    assert not torch.equal(plain, weights(0.3))


def test_a_loss_that_takes_no_task_is_told_to_miss_label_smoothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Classifiers(get_pruner("knapsack")):  # type: ignore[misc]
        def loss(self, teacher, student, space, config):  # type: ignore[no-untyped-def]
            return super().loss(teacher, student, space, config)

    recipe = zoo.Recipe(epochs=1, lr=0.01, label_smoothing=0.3)
    pruned(method=Classifiers(normalisation="none"), recipe=recipe)
    assert "label_smoothing 0.3 is not used: the loss of Classifiers takes no task" in caplog.text


class Dropped(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.dropout(images, 0.5, self.training))


def dropped() -> nn.Module:
    model = Dropped()
    model.load_state_dict(network().state_dict())
    return model


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("uniform", {}),
        ("bn_scale", {"epochs": 1}),
        ("autoslim", SMALL),
        ("bnp", {"steps": 2, "lr": 1e-4, "chain_steps": 50, "beta": 0.0}),
    ],
)
def test_what_a_network_drops_follows_from_the_seed_alone(
    method: str, settings: dict[str, Any]
) -> None:
    model = dropped()

    def result(global_seed: int, seed: int = 0) -> zoo.PruneResult:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            found = pruned(model, method=method, settings=settings, seed=seed)
            assert torch.equal(torch.get_rng_state(), before)
        return found

    first = result(0)
    assert same(first, result(1))
    assert not same(first, result(0, seed=1))


@pytest.mark.parametrize("phase", ["supernet", "finetune"])
def test_a_cut_call_with_dropout_goes_on(phase: str, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", seconds=0)
    given: dict[str, Any] = {"method": "autoslim", "settings": SMALL}

    def stop(event: Any) -> None:
        if (event.phase, event.step) == (phase, 3):
            raise LookupError

    with pytest.raises(LookupError):
        pruned(dropped(), on_step=stop, checkpoint=kept, **given)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        assert same(pruned(dropped(), checkpoint=kept, **given), pruned(dropped(), **given))

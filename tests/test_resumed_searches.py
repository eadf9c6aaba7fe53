"""A search that is killed while it trains goes on, and decides what an undisturbed one decides."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.killed import Killing, was_killed
from tests.problems import problem
from tests.ready import OURS
from zoo.core.method.discovery import get_pruner
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.supernet.trained_store import SupernetStore
from zoo.core.training.checkpoint import Checkpoints

STEPS = 6  # the training set makes four batches
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "autoslim": [{}],
    "bcnet": [{}],
    "metapruning": [{}, {"start": "scratch"}],
    "bnp": [{}],
    "pse_net": [{}, {"norm": "joint"}, {"execution": "sliced"}],
    "stagewise": [{}, {"supervision": "labels"}],
    "bn_scale": [{}],
    "depgraph": [{}],
    "dmcp": [{}],
}
CASES = [(name, given) for name, all_given in SETTINGS.items() for given in all_given]


def pruner_of(name: str, given: dict[str, Any]) -> Pruner:
    tiny = get_pruner(name).tiny()
    length = {"epochs": 2} if name in ("bn_scale", "depgraph") else {"steps": STEPS}
    return replace(tiny, **length, **given)


def task(folder: Path | None, at: int | None = None) -> Problem:
    asked = problem()
    asked.method = "any"
    if folder is not None:
        asked.checkpoints = Checkpoints(folder, "origin", seconds=0)
    if at is not None:
        asked.data.training._source = Killing(asked.data.training._source, at)
    return asked


def assert_same(found: tuple[Subnet, Problem], expected: tuple[Subnet, Problem]) -> None:
    assert found[0].config == expected[0].config
    ours, theirs = found[0].weights or {}, expected[0].weights or {}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found[1].trace_rows == expected[1].trace_rows
    spent = [
        {
            phase: (each.images, each.macs_forward, each.macs_backward)
            for phase, each in asked.meter.spent.items()
        }
        for _, asked in (found, expected)
    ]
    assert spent[0] == spent[1]


def test_every_pruner_that_trains_is_here() -> None:
    training = set()
    for name in OURS:
        asked = problem()
        get_pruner(name).tiny().search(asked)
        if any(spent.macs_backward for p, spent in asked.meter.spent.items() if p == "supernet"):
            training.add(name)
    assert training == set(SETTINGS)


@pytest.mark.parametrize("at", [2, 4, 5])
@pytest.mark.parametrize(("name", "given"), CASES)
def test_a_killed_search_decides_as_an_undisturbed_one(
    name: str, given: dict[str, Any], at: int, tmp_path: Path
) -> None:
    pruner, asked = pruner_of(name, given), task(None)
    undisturbed = pruner.search(asked)
    assert was_killed(lambda: pruner.search(task(tmp_path, at)))
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    again = task(tmp_path)
    epochs: list[int] = []
    again.watch = replace(again.watch, on_step=lambda event: epochs.append(event.step))
    assert_same((pruner.search(again), again), (undisturbed, asked))
    assert epochs[0] == at + 1 and path.stat().st_mtime_ns > before


@pytest.mark.parametrize("name", ["autoslim", "metapruning", "stagewise"])
def test_a_supernet_of_a_store_goes_on_for_any_budget(name: str, tmp_path: Path) -> None:
    def stored(folder: Path, own: str, at: int | None = None) -> Problem:
        asked = task(tmp_path / own, at)
        asked.store = SupernetStore(folder, "origin")
        return asked

    pruner = pruner_of(name, {})
    asked = stored(tmp_path / "undisturbed", "a")
    undisturbed = pruner.search(asked)
    store = tmp_path / "store"
    assert was_killed(lambda: pruner.search(stored(store, "b", 5)))
    (kept,) = store.glob("*.checkpoints")
    again = stored(store, "another cell")  # its supernet is the same
    steps: list[int] = []
    again.watch = replace(again.watch, on_step=lambda event: steps.append(event.step))
    assert_same((pruner.search(again), again), (undisturbed, asked))
    assert steps[0] == 6 and not kept.exists()


def test_other_settings_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pruner = pruner_of("autoslim", {})
    assert was_killed(lambda: pruner.search(task(tmp_path, 3)))
    other = replace(pruner, random_subnets=1)
    asked, again = task(None), task(tmp_path)
    assert_same((other.search(again), again), (other.search(asked), asked))
    assert "begins anew" in caplog.text


def test_steps_and_epochs_of_a_search_are_told() -> None:
    asked = task(None)
    steps: list[Any] = []
    epochs: list[Any] = []
    asked.watch = replace(asked.watch, on_step=steps.append, on_epoch=epochs.append)
    pruner_of("autoslim", {}).search(asked)
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
    assert [event.epoch for event in steps] == [1, 1, 1, 1, 2, 2]
    assert all((e.phase, e.steps, e.epochs) == ("supernet", 6, 2) for e in steps)
    assert [(e.epoch, e.epochs, e.step) for e in epochs] == [(1, 2, 4), (2, 2, 6)]
    row = next(row for row in asked.trace_rows if row["step"] == "train_sandwich")
    assert len(row["losses"]) == 6  # type: ignore[arg-type]
    mean = sum(event.loss for event in steps[4:]) / 2
    assert epochs[1].loss == pytest.approx(mean) and asdict(epochs[1])["score"] is None


def test_a_callback_that_raises_ends_the_search() -> None:
    def stop(event: object) -> None:
        raise LookupError("enough")

    asked = task(None)
    before = {name: tensor.clone() for name, tensor in asked.model.state_dict().items()}
    asked.watch = replace(asked.watch, on_epoch=stop)
    with pytest.raises(LookupError, match="enough"):
        pruner_of("autoslim", {}).search(asked)
    assert asked.meter.open_phase is None and not asked.model.training
    state = asked.model.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in state)

"""A training over several processes: equal to that of one, up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.core.training import in_ranks
from zoo.core.training.ranks import decided, largest, my_part, rank, world

ROOT = Path(__file__).parents[3]
RANKS = 2


@cache
def alone(name: str) -> dict[str, Any]:
    """The same in this process."""
    if name in in_ranks.SUPERNETS:
        return in_ranks.supernet(name)
    return in_ranks.pruned() if name == "pruned" else in_ranks.trained(name)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has come to."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(RANKS),
        str(Path(in_ranks.__file__)), str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{n}.pt", weights_only=True) for n in range(RANKS)]


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], within: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=within, atol=within, msg=name)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_two_processes_train_what_one_does(together: list[dict[str, Any]], name: str) -> None:
    wanted = alone(name)
    for each in together:
        assert_close(each[name]["weights"], wanted["weights"], 1e-9)
        assert each[name]["losses"] == pytest.approx(wanted["losses"], rel=1e-9)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_every_process_charges_the_whole_batch(together: list[dict[str, Any]], name: str) -> None:
    assert [each[name]["charged"] for each in together] == [alone(name)["charged"]] * RANKS


def test_each_process_reads_its_part_of_every_batch(together: list[dict[str, Any]]) -> None:
    wanted = in_ranks.read()
    assert wanted["read"] == 2 * 20
    # By hand: 3 and 4 of 7, twice, and 3 of the last 6, in two epochs.
    assert [each["read"]["read"] for each in together] == [2 * (3 + 3 + 3), 2 * (4 + 4 + 3)]
    for found in (each["read"] for each in together):
        assert (found["charged"], found["whole"]) == (wanted["charged"], wanted["whole"])
        assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-9)
        assert_close(found["weights"], wanted["weights"], 1e-9)


def test_a_supernets_batches_are_read_in_parts_and_put_together(
    together: list[dict[str, Any]],
) -> None:
    wanted, found = in_ranks.read_whole(), [each["read whole"] for each in together]
    assert wanted["read"] == 7 + 7 + 6 + 7
    assert [each["read"] for each in found] == [3 + 3 + 3 + 3, 4 + 4 + 3 + 4]
    for each in found:
        for key in ("images", "labels"):
            for mine, theirs in zip(each[key], wanted[key], strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", in_ranks.SUPERNETS)
def test_two_processes_train_the_supernet_of_one(together: list[dict[str, Any]], name: str) -> None:
    wanted = alone(name)
    for found in (each[name] for each in together):
        assert_close(found["weights"], wanted["weights"], 1e-9)
        assert_close(found["records"], wanted["records"], 1e-9)
        assert found["spent"] == found["own"] == wanted["spent"]
        for mine, theirs in zip(found["trace"], wanted["trace"], strict=True):
            np.testing.assert_allclose(mine.pop("losses", []), theirs.get("losses", []), rtol=1e-9)
            assert mine == {key: value for key, value in theirs.items() if key != "losses"}


@pytest.mark.parametrize("name", in_ranks.SEARCHES)
def test_two_processes_score_what_one_does(together: list[dict[str, Any]], name: str) -> None:
    wanted = in_ranks.search(name)
    found = [each[f"search of {name}"] for each in together]
    for each in found:
        for key in ("config", "trace", "spent"):
            assert each[key] == wanted[key]
    # Every subnet and every stage once, and neither process idle.
    shares = np.array([each["scored"] for each in found])
    assert shares.sum(0).tolist() == wanted["scored"]
    assert (3 * shares >= shares.sum(0)).all()


def test_what_breaks_in_a_rank_s_scoring_is_raised_in_all_and_they_stay_in_step(
    together: list[dict[str, Any]],
) -> None:
    wanted = {
        "[0]": ("broken in rank 0", "fresh"),
        "[1]": ("broken in rank 1", "fresh"),
        "[0, 1]": ("broken in rank 0", "fresh"),
    }
    assert [each["failed"] for each in together] == [wanted] * RANKS


def test_a_method_that_calls_another_decides_what_that_one_does(
    together: list[dict[str, Any]],
) -> None:
    wanted = together[0]["search of single"]["config"]
    assert [each["delegated"] for each in together] == [wanted] * RANKS


def test_what_is_read_within_an_update_is_whole(together: list[dict[str, Any]]) -> None:
    assert [each["between"] for each in together] == [[7, 7]] * RANKS


def test_a_search_s_peak_is_that_of_the_rank_that_held_most(
    together: list[dict[str, Any]],
) -> None:
    assert [each["peaks"] for each in together] == [[10, 11], [11, 11]]


def test_processes_with_other_networks_or_batches_are_refused(
    together: list[dict[str, Any]],
) -> None:
    for networks, batches in (each["unlike"] for each in together):
        assert networks.startswith("the processes were given different networks: give each the")
        assert batches.startswith("the processes were given different batches: give each the")


def test_ranks_wait_for_a_decision_however_long_it_takes(together: list[dict[str, Any]]) -> None:
    assert [each["late"] for each in together] == ["late"] * RANKS


def test_pruning_decides_once_and_fine_tunes_together(together: list[dict[str, Any]]) -> None:
    wanted = alone("pruned")
    for each in together:
        found = each["pruned"]
        for key in ("config", "spent", "trace"):
            assert found[key] == wanted[key]
        assert_close(found["weights"], wanted["weights"], 1e-3)  # single precision


def test_rank_0_decides_for_all_and_raises_in_all(together: list[dict[str, Any]]) -> None:
    for each in together:
        assert each["told"] == {
            "decided": (1, 0),  # inside, it is alone
            "raised": "raised in rank 0",
            "largest": RANKS - 1,
            # Weights that are known are not sent again; together, they are two again.
            "summons": [
                ("a", 1, 3.0, 2), ("b", 2, 3.0, 2), ("c", 3, 6.0, 2), ("d", 4, 2), ("e", 5, 6.0, 2)
            ],
        }  # fmt: skip


def test_without_a_process_group_nothing_is_shared() -> None:
    assert (world(), rank(), largest(3), decided(lambda: 5)) == (1, 0, 3, 5)
    batch = torch.arange(7)
    mine, wanted, weight = my_part(batch, "labels")
    assert mine is batch and wanted == "labels" and weight == 1.0


def test_parts_of_a_batch_are_whole_and_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.core.training.ranks as ranks

    batch, total, parts = torch.arange(7.0), 0.0, []
    monkeypatch.setattr(ranks, "world", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        mine, wanted, weight = my_part(batch, {"a": batch, "b": (batch,)})
        assert mine.equal(wanted["a"]) and mine.equal(wanted["b"][0])
        parts.append(mine)
        total += weight * float(mine.mean()) / 3
    assert torch.cat(parts).tolist() == batch.tolist()
    assert total == pytest.approx(float(batch.mean()))
    with pytest.raises(ValueError, match="a batch of 2 images cannot be shared by 3 processes"):
        my_part(torch.arange(2), None)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
@pytest.mark.parametrize("affine", [True, False])
def test_synchronised_batch_norm_of_one_process_is_torchs(
    momentum: float, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoo.core.training.ranks as ranks

    monkeypatch.setattr(ranks, "_summed", lambda tensor: tensor)
    draw = torch.Generator().manual_seed(0)
    outer = torch.randn(5, 3, 4, 4, generator=draw, dtype=torch.float64)
    found = []
    for norm in (F.batch_norm, ranks._batch_norm):
        draw.manual_seed(1)
        x = torch.randn(5, 3, 4, 4, generator=draw, dtype=torch.float64).requires_grad_()
        w, b = (torch.randn(3, generator=draw, dtype=torch.float64).requires_grad_() for _ in "wb")
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        out = norm(x, mean, var, *((w, b) if affine else (None, None)), True, momentum, 1e-5)
        leaves = [x, w, b] if affine else [x]
        found.append([out, mean, var, *torch.autograd.grad((out * outer).sum(), leaves)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)

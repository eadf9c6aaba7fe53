"""The command under torchrun: what one process would do, and an end in all ranks or none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.records.files import load_record, load_records
from benchmarks.records.record import Record
from benchmarks.running.torchrun import is_launched, local_ranks, together
from tests.benchmarks.in_this_process import run_cells_here
from tests.benchmarks.running import in_ranks

ROOT = Path(__file__).parents[3]
SCRIPT = str(Path(__file__).with_name("in_ranks.py"))

SUITE = """
title = "t"
methods = ["uniform", "pse_net"]
budgets = [0.5]
controls = false
models = [{name = "test_resnet"}]
datasets = [{name = "digits", image_size = 16, train_size = 64, search_size = 32, test_size = 32}]
parent = {epochs = 1, batch_size = 32}
finetune = {epochs = %(epochs)s, batch_size = 32, lr = %(lr)s}
settings = {pse_net = {steps = 2, evaluations = 4, population = 2, parents = 1}}
"""

PRUNE = (
    "prune test_resnet --dataset digits --image-size 16 --train-size 64 --epochs 1 "
    "--parent-epochs 1 --method taylor --out {0}/pruned --results {0}/prune"
)


def start(*arguments: str, ranks: int = 2) -> list[subprocess.Popen[str]]:
    """The ranks of a command, as torchrun starts them; so the status of each can be seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
              "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str]]:
    """Status and output of each; what is left of them is killed."""
    try:
        found = []
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            found.append((process.returncode, out + err))
        return found
    finally:
        for process in processes:
            process.kill()


def records(folder: Path) -> dict[str, Record]:
    return {record.cell.method: record for record in load_records(folder / "records")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the same command lines in one process and in two."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "good.toml").write_text(SUITE % {"epochs": 1, "lr": 0.02})
    (folder / "bad.toml").write_text(SUITE % {"epochs": 1, "lr": 1e6})
    lines = [
        "run {1}/good.toml --results {0}/good --no-time --workers 1",
        "run {1}/bad.toml --results {0}/bad --no-time --workers 1",
        PRUNE,
        "run {1}/good.toml --results {0}/good --workers 2",
        "run {1}/good.toml --results {0}/good --engine ray",
    ]
    for name, count in (("one", 3), ("two", 5)):
        (folder / name).mkdir()
        text = "\n".join(line.format(folder / name, folder) for line in lines[:count])
        (folder / name / "lines").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        run_cells_here(patch)
        in_ranks.commands(str(folder / "one"))
    (status, out), (other, quiet) = ended(start(SCRIPT, "commands", str(folder / "two")))
    assert (status, other) == (0, 0), out + quiet
    assert not quiet  # rank 0 alone prints
    return folder


def status(folder: Path, number: int) -> list[str]:
    return [(folder / name / f"status{number}").read_text() for name in ("one", "two")]


def test_a_suite_comes_to_what_one_process_comes_to(folder: Path) -> None:
    assert status(folder, 0) == ["0", "0"]
    one, two = (records(folder / name / "good") for name in ("one", "two"))
    assert one.keys() == two.keys() == {"uniform", "pse_net"}
    for method, record in two.items():
        wanted = one[method]
        assert record.cell == wanted.cell and record.config == wanted.config
        assert record.top1 == wanted.top1
        for phase, cost in record.spent.items():
            assert (cost.images, cost.macs) == (
                wanted.spent[phase].images,
                wanted.spent[phase].macs,
            )
        assert (wanted.environment.ranks, record.environment.ranks) == (1, 2)


def test_a_cell_that_fails_in_all_ranks_is_recorded_and_the_next_one_runs(folder: Path) -> None:
    assert status(folder, 1) == ["1", "1"]
    for record in records(folder / "two" / "bad").values():
        assert record.status == "failed"
        assert str(record.reason).startswith("Diverged")


def test_a_network_is_pruned_as_by_one_process(folder: Path) -> None:
    assert status(folder, 2) == ["0", "0"]
    one, two = (
        load_file(folder / name / "pruned" / "network.safetensors") for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)  # single precision
    (made,) = (folder / "two" / "pruned").glob("*taylor*.json")
    assert load_record(made).environment.ranks == 2


@pytest.mark.parametrize(("number", "option"), [(3, "--workers"), (4, "--engine ray")])
def test_options_that_place_cells_are_refused(folder: Path, number: int, option: str) -> None:
    text = (folder / "two" / f"status{number}").read_text()
    assert f"leave out {option}" in text


def test_ranks_run_functions_together_may_fail_alike_and_end_as_rank_0_does() -> None:
    found = ended(start(SCRIPT, "told"))
    assert [code for code, _ in found] == [3, 3], found


@pytest.mark.parametrize("mine", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_fails_alone_ends_the_others_within_seconds(mine: int) -> None:
    (code, text), (other, _) = ended(start(SCRIPT, "fails", str(mine)), seconds=90)
    assert (code, other) == (1, 1)
    assert "the disk is full" in text
    seconds = float(text.split("ended after")[1].split()[0])
    assert seconds < 3 * in_ranks.GRACE_SECONDS


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others() -> None:
    (code, text), (other, _) = ended(start(SCRIPT, "dies"), seconds=90)
    assert (code, other) == (1, 9), text


def test_an_interrupted_cell_is_recorded_and_all_ranks_end(tmp_path: Path) -> None:
    suite = tmp_path / "long.toml"
    suite.write_text(SUITE % {"epochs": 100_000, "lr": 1e-3})
    results = tmp_path / "results"
    ranks = start("-m", "benchmarks", "run", str(suite), "--results", str(results), "--no-time")
    limit = time.monotonic() + 120
    while not list(results.glob(".cache/claims/cell-*")) and time.monotonic() < limit:
        time.sleep(0.1)
    time.sleep(2)
    for process in ranks:  # as a terminal does
        process.send_signal(signal.SIGINT)
    found = ended(ranks, seconds=60)
    assert [code for code, _ in found] == [130, 130], found
    assert [record.status for record in records(results).values()] == ["cancelled"]
    assert not list(results.glob(".cache/claims/cell-*"))


def test_without_torchrun_a_function_is_simply_called() -> None:
    assert not is_launched() and local_ranks() == 1
    assert together(max, 2, 5) == 5

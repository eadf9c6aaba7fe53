"""The folder of zoo prune: one run's alone, used again after a stopped one, never overwritten."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from benchmarks.running.out_folder import claimed
from tests.faults import disk

PARTS = ("network.json", "network.safetensors")


@pytest.mark.parametrize("left", [(), *[(part,) for part in PARTS]], ids=str)
def test_what_a_stopped_run_has_left_is_removed(tmp_path, left):
    out = tmp_path / "pruned"
    out.mkdir()
    for name in (*left, ".network.json.1234.tmp", ".20260101-x.json.99.tmp", ".zoo-prune.lock"):
        (out / name).write_text("half")
    with claimed(out):
        assert [path.name for path in out.iterdir()] == [".zoo-prune.lock"]
        (out / "network.json").write_text("new")
    assert [path.name for path in out.iterdir()] == ["network.json"]


def test_a_finished_network_is_refused_with_the_way_out(tmp_path):
    for name in (*PARTS, "20260101-l1_norm-abc.json"):
        (tmp_path / name).write_text("whole")
    message = "holds a finished network; give another --out, or remove the folder"
    with pytest.raises(FileExistsError, match=message), claimed(tmp_path):
        raise AssertionError
    (tmp_path / "20260101-l1_norm-abc.json").unlink()
    with pytest.raises(FileExistsError, match=r"network \(without a record"), claimed(tmp_path):
        raise AssertionError
    assert {path.name for path in tmp_path.iterdir()} == set(PARTS)


def test_somebody_s_files_are_left_alone(tmp_path):
    (tmp_path / "network.json").write_text("half")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.tex.*another --out"), claimed(tmp_path):
        raise AssertionError
    assert {path.name for path in tmp_path.iterdir()} == {"network.json", "thesis.tex"}
    with pytest.raises(FileExistsError, match="no folder"), claimed(tmp_path / "thesis.tex"):
        raise AssertionError


def test_a_failed_run_leaves_no_new_folder_and_keeps_what_it_has_written(tmp_path):
    with pytest.raises(ValueError, match="failed"), claimed(tmp_path / "new"):
        raise ValueError("failed")
    assert not (tmp_path / "new").exists()
    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), claimed(tmp_path):  # it was there before
            raise ValueError("failed")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="failed"), claimed(tmp_path / "new"):
        (tmp_path / "new" / "network.json").write_text("whole")
        raise ValueError("failed")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["network.json"]


def test_a_folder_without_room_is_refused_before_the_work_and_not_kept(tmp_path, monkeypatch):
    message = r"written to .*out \(No space left.*\); give another --out"
    with (
        disk(monkeypatch, 1, errno.ENOSPC, ("write",)),
        pytest.raises(OSError, match=message),
        claimed(tmp_path / "out"),
    ):
        raise AssertionError
    assert not (tmp_path / "out").exists()


def hold(out: Path, ready, go_on) -> None:
    with claimed(out):
        ready.set()
        go_on.wait(60)


def test_a_folder_serves_one_run_at_a_time_and_none_that_was_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "out", ready, go_on))
    other.start()
    try:
        assert ready.wait(120)
        with (
            pytest.raises(FileExistsError, match="another zoo prune is at work"),
            claimed(tmp_path / "out"),
        ):
            raise AssertionError
    finally:
        other.kill()
        other.join()
    with claimed(tmp_path / "out"):
        pass

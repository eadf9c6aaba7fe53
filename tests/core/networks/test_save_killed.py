"""A save that is killed at any moment leaves no network or a whole one, and a folder to use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.core.networks.saving import assert_same, half
from zoo.core.networks import save

KILLED = 77
STEPS = ("fsync", "replace", "unlink")


@pytest.fixture(scope="module")
def result() -> Any:
    return half()


@pytest.fixture
def known(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is verified is known; a child process must not start threads of torch's."""
    found: dict[str, Any] = {}
    verify = save._verified

    def once(*arguments: Any) -> Any:
        if arguments[2] not in found:
            found[arguments[2]] = verify(*arguments)
        return found[arguments[2]]

    monkeypatch.setattr(save, "_verified", once)


def at_call(number: int, act: Callable[[], Any]) -> dict[str, Callable[..., Any]]:
    """The steps of a writer, of which the n-th does something else, before or after it."""
    count = 0

    def wrapped(step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                act()
            done = step(*arguments, **keywords)
            count += 1
            if count == number:
                act()
            return done

        return counted

    return {name: wrapped(getattr(os, name)) for name in STEPS}


def killed_save(result: Any, folder: Path, number: int) -> bool:
    """Save in a process that ends at the n-th moment; tell whether it came to that."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the threads that earlier tests have started are not here
        for name, step in at_call(number, lambda: os._exit(KILLED)).items():
            setattr(os, name, step)
        zoo.save_pruned(result, folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("before", ["nothing", "tensors", "structure"])
def test_killed_at_any_moment_there_is_no_network_or_a_whole_one(
    before: str, result: Any, tmp_path: Path
) -> None:
    zoo.save_pruned(result, tmp_path / "whole")  # what is verified is known from here on
    number, whole = 0, 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        if before != "nothing":
            folder.mkdir()
            name = "network.safetensors" if before == "tensors" else "network.json"
            (folder / name).write_bytes(b"of a run that was killed")
        if not killed_save(result, folder, number):
            break
        if save.holds_network(folder):
            whole += 1
            with pytest.raises(FileExistsError):
                zoo.save_pruned(result, folder)
        else:
            zoo.save_pruned(result, folder)
        for written in ("network.safetensors", "network.json"):
            assert (folder / written).read_bytes() == (tmp_path / "whole" / written).read_bytes()
    assert number >= 9 and 1 <= whole < number - 5
    assert_same(result.model, zoo.load_pruned(tmp_path / "1"))


@pytest.mark.usefixtures("known")
def test_a_full_disk_leaves_no_network_and_a_folder_to_use(
    result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    zoo.save_pruned(result, tmp_path / "whole")
    for number in (1, 3, 5, 7):  # each time before a file gets to the disk or gets its name
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            steps = at_call(number, full)
            for name in ("fsync", "replace"):
                patch.setattr(os, name, steps[name])
            zoo.save_pruned(result, folder)
        assert list(folder.iterdir()) == []
        zoo.save_pruned(result, folder)


def test_a_part_of_a_network_is_none(result: Any, tmp_path: Path) -> None:
    (tmp_path / "network.safetensors").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match=r"network\.json does not exist"):
        zoo.load_pruned(tmp_path)
    zoo.save_pruned(result, tmp_path)
    (tmp_path / "network.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no whole network"):
        zoo.load_pruned(tmp_path)
    zoo.save_pruned(result, tmp_path)
    with torch.no_grad():
        assert_same(result.model, zoo.load_pruned(tmp_path))


def test_a_link_left_in_the_folder_is_not_written_through(result: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "network.safetensors").symlink_to(tmp_path / "mine")
    zoo.save_pruned(result, folder)
    assert (tmp_path / "mine").read_text() == "mine"
    assert_same(result.model, zoo.load_pruned(folder))

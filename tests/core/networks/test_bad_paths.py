"""Where nothing can be written is told before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import zoo
from tests.core.test_prune import SIZE, Plain, pruned
from zoo.core.networks import export, export_int8, export_timm, save
from zoo.core.whole_file import require_place


def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing that takes time may begin."""

    def work(*_: object, **__: object) -> None:
        pytest.fail("work began")

    for module in (export, export_int8, export_timm):
        monkeypatch.setattr(module, "copy_network", work)
    monkeypatch.setattr(save, "_state", work)
    monkeypatch.setattr("zoo.core.prune.preflight", work)


def denied(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder that cannot be written into, for the superuser, too."""
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder and access(path, mode)
    )


def test_a_path_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pruned(Plain(), recipe=zoo.Recipe(epochs=0))
    idle(monkeypatch)
    model, images = timm.create_model("test_resnet"), [torch.rand(4, *SIZE)]
    occupied, closed = tmp_path / "file", tmp_path / "closed"
    occupied.write_text("")
    closed.mkdir()
    denied(monkeypatch, closed)
    calls: list[Callable[[Path], object]] = [
        lambda path: zoo.export_network(model, SIZE, path),
        lambda path: zoo.export_network(model, SIZE, path, form="torch-export"),
        lambda path: zoo.export_int8(model, images, path),
        lambda path: zoo.export_int8(model, images, tmp_path / "a", float_path=path),
        lambda path: zoo.export_timm(model, SIZE, path),
        lambda path: zoo.save_pruned(result, path),
        lambda path: pruned(Plain(), checkpoint=path),
        lambda path: pruned(Plain(), checkpoint=zoo.Checkpoints(path)),
        lambda path: pruned(Plain(), macs=None, latency=0.5, cache=path),
    ]
    for call in calls:
        with pytest.raises(NotADirectoryError, match=r"a file is in the way.*file"):
            call(occupied / "deep" / "new")
        with pytest.raises(PermissionError, match=r"cannot be written into.*closed"):
            call(closed / "deep" / "new")
    for call in calls[:4]:
        with pytest.raises(ValueError, match=r"new.tflite would hold .*; end it with \.(onnx|pt2)"):
            call(tmp_path / "new.tflite")
    with pytest.raises(ValueError, match="path and float_path are both"):
        zoo.export_int8(model, images, tmp_path / "a", float_path=tmp_path / "a")
    (tmp_path / "network.py").write_text("")
    with pytest.raises(FileExistsError, match=r"network\.py exists"):
        zoo.export_timm(model, SIZE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "closed", "network.py"}


def test_folders_that_are_not_there_are_made(tmp_path: Path) -> None:
    require_place(tmp_path / "some" / "new" / "file")
    assert not list(tmp_path.iterdir())

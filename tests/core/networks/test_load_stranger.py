"""A saved network from a stranger does nothing but load, or say why it does not."""

from __future__ import annotations

import copy
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo
from tests.core.networks.saving import half
from zoo.core.networks.architecture import make


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    zoo.save_pruned(half(), folder)
    return folder


@pytest.fixture
def guarded(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of a saved network, where any connection and any new file is a failure."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(home))
    folder = tmp_path / "network"
    folder.mkdir()
    for path in stranger.iterdir():
        os.link(path, folder / path.name)
    text = (folder / "network.json").read_text()
    (folder / "network.json").unlink()
    before = set(Path().iterdir())
    yield folder, json.loads(text)
    assert set(Path().iterdir()) == before and not list(home.rglob("*"))
    assert {path.name for path in folder.iterdir()} <= {"network.json", "network.safetensors"}


@pytest.mark.parametrize(
    "args",
    [
        {"pretrained": True, "pretrained_cfg_overlay": {"url": "http://x/y"}, "cache_dir": "c"},
        {"pretrained": False},
        {"pretrained_cfg": "x"},
        {"checkpoint_path": "/etc/passwd"},
        {"cache_dir": "/tmp/x"},
        {"file": "/etc/passwd"},
        {"model_name": "hf-hub:a/b"},
        {"scriptable": True},
        {"kwargs_filter": ["num_classes"]},
        {"num_classes": 4.0},
        {"num_classes": True},
        {"num_classes": "4"},
        {"num_classes": -1},
        {"num_classes": 10**12},
        {"act_layer": ["relu"]},
        {"block_args": {"pretrained": True}},
    ],
    ids=str,
)
def test_arguments_outside_the_list_are_refused_by_name(
    args: dict[str, Any], guarded: tuple[Path, dict[str, Any]]
) -> None:
    folder, whole = guarded
    (folder / "network.json").write_text(json.dumps(whole | {"args": whole["args"] | args}))
    with pytest.raises(ValueError, match="args: .*(" + "|".join(args) + ")"):
        zoo.load_pruned(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", "hf-hub:timm/resnet18"),
        ("architecture", "local-dir:/tmp"),
        ("architecture", "../resnet18"),
        ("architecture", "no_such_model"),
        ("architecture", ""),
        ("input_size", [3, 10**6, 10**6]),
        ("input_size", [3, 60_000, 60_000]),
        ("input_size", [3, 32]),
        ("input_size", [3, 32, -32]),
        ("input_size", [3, 32, 32.5]),
        ("parent_widths", {"conv1.0": 10**9}),
        ("parent_widths", {"conv1.0": 0}),
        ("parent_widths", {"no such group": 4}),
        ("keep", {"conv1.0": list(range(70_000))}),
        ("keep", {"conv1.0": [-1]}),
        ("keep", {"conv1.0": []}),
        ("keep", {"x" * 2000: [0]}),
        ("inexact", 1),
        ("dtypes", None),
        ("dtypes", {"conv1.0.weight": "float8"}),
        ("sha256", "x" * 64),
        ("check", {"dtype": "float64", "coarsest": "int8", "shapes": [], "values": []}),
        ("surplus", 1),
        ("pretrained", True),
    ],
)
def test_what_is_no_such_value_is_refused_by_its_key(
    key: str, value: Any, guarded: tuple[Path, dict[str, Any]]
) -> None:
    folder, whole = guarded
    (folder / "network.json").write_text(json.dumps(whole | {key: value}))
    with pytest.raises(ValueError, match=key):
        zoo.load_pruned(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "too deep"),
        ('{"args":' * 50_000, "too deep"),
        ("[]", "no object"),
        ("null", "no object"),
        ('{"format": 2, "format": 1}', "'format' twice"),
        ('{"input_size": [NaN, 1, 1]}', "NaN"),
        ('{"input_size": [1e999, 1, 1]}', "input_size"),
        ("9" * 5000, "damaged"),
        ('{"format": ' + "9" * 4000 + "}", "format 999"),
        ("", "damaged"),
        ('{"a\\u001b[31m": 1}', r"a\\x1b\[31m: Extra"),
    ],
)
def test_texts_that_are_no_structure_are_refused(
    text: str, message: str, guarded: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = guarded
    (folder / "network.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        zoo.load_pruned(folder)
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_huge_files_are_refused_unread(guarded: tuple[Path, dict[str, Any]]) -> None:
    folder, whole = guarded
    with (folder / "network.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"network\.json has 1,099,511,627,776 bytes"):
        zoo.load_pruned(folder)
    (folder / "network.json").write_text(json.dumps(whole))
    (folder / "network.safetensors").unlink()
    with (folder / "network.safetensors").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"network\.safetensors has 1,099,511,627,776 bytes"):
        zoo.load_pruned(folder)


@pytest.mark.parametrize("name", ["network.json", "network.safetensors"])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_what_is_no_plain_file_is_refused_at_once(
    name: str, kind: str, guarded: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, whole = guarded
    (folder / "network.json").write_text(json.dumps(whole))
    moved = (folder / name).rename(tmp_path / name)
    if kind in ("link", "dangling"):
        (folder / name).symlink_to(moved if kind == "link" else tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    with pytest.raises(ValueError, match="no plain file"):
        zoo.load_pruned(folder)


def test_a_parent_of_terabytes_is_refused_before_it_is_made(
    guarded: tuple[Path, dict[str, Any]],
) -> None:
    folder, whole = guarded
    widths = dict.fromkeys(whole["parent_widths"], 60_000)
    (folder / "network.json").write_text(json.dumps(whole | {"parent_widths": widths}))
    with pytest.raises(ValueError, match="parent_widths: the parent would have"):
        zoo.load_pruned(folder)
    args = whole["args"] | {"in_chans": 1_000_000, "stem_width": 1_000_000}
    (folder / "network.json").write_text(json.dumps(whole | {"args": args}))
    with pytest.raises(ValueError, match="more than 1,073,741,824 parameters"):
        zoo.load_pruned(folder)


def test_what_is_too_large_is_refused_before_it_takes_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices, real = [], timm.create_model

    def watched(*args: Any, **kwargs: Any) -> nn.Module:
        devices.append(torch.get_default_device().type)
        return real(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", watched)
    with pytest.raises(ValueError, match="more than 1,073,741,824 parameters"):
        make("test_resnet", {"channels": [20_000, 20_000]})
    with pytest.raises(ValueError, match=r"assert output_stride in \(8, 16, 32\)"):
        make("test_resnet", {"output_stride": 3})
    assert devices == ["meta"] * 2


ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, "", "x", "../../etc/passwd",
    "hf-hub:a/b", "\x1b[31m", [], [[]], [0], {}, {"x": 1}, {"pretrained": True}, "float16",
]  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, the first few of each list."""
    yield path
    inner: Any = ()
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, item in inner:
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], odd)
    return changed


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_odd_values_anywhere_raise_nothing_but_value_errors(
    every: int, guarded: tuple[Path, dict[str, Any]]
) -> None:
    """Each place in turn gets odd values; a few of the many groups and tensors stand for all.

    Args:
        every: a place gets one in so many odd values, its neighbours the others.
    """
    folder, whole = guarded
    places = [p for p in leaves(whole) if len(p) < 2 or p[0] in ("args", "input_size")]
    places += [("check", key) for key in whole["check"]] + [("check", "values", 3, 1)]
    for key in ("keep", "parent_widths", "dtypes"):
        for name in list(whole[key])[1:2]:
            places += [(key, name, *rest) for rest in leaves(whole[key][name])]
    loaded = 0
    for at, place in enumerate(places):
        for odd in ODD[at % every :: every]:
            (folder / "network.json").write_text(json.dumps(replaced(whole, place, odd)))
            try:
                with warnings.catch_warnings(action="ignore"):
                    zoo.load_pruned(folder)
                loaded += 1
            except ValueError as error:
                assert str(folder) in str(error) and "\x1b" not in str(error)
    assert loaded < 0.1 * len(places) * len(ODD) / every

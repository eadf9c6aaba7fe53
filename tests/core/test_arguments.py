"""What is given is held against annotations, and told by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from torch import nn

import zoo
from tests.core.test_prune import SIZE, Plain, pruned
from zoo.core.arguments import check_argument, checked, fields_checked


@pytest.mark.parametrize(
    ("hint", "fits", "others"),
    [
        (float, (1, 0.5, np.float32(1), torch.tensor(0.5)), ("0.5", True, [0.5], None)),
        (int, (1, np.int64(3)), (1.0, "1", True, None)),
        (bool, (True,), ("no", 1, None)),
        (str, ("a",), (1, b"a", None)),
        (float | None, (None, 1.0), ("1",)),
        (str | Path, ("a", Path("a")), (3,)),
        (Literal["a", "b"], ("a",), (3, None)),
        (tuple[int, int], ((1, 2), [1, 2], torch.Size([1, 2])), ((1,), (1, "2"), 1, "ab")),
        (list[str], (["a"],), ("a", ("a",))),
        (type, (int,), (3,)),
        (nn.Module, (nn.ReLU(),), (nn.ReLU, "relu")),
        (Callable[[int], int], (len,), (3, "len")),
        (Any, (3, None), ()),
    ],
)
def test_a_value_fits_its_annotation_or_is_refused_by_name(
    hint: Any, fits: tuple[object, ...], others: tuple[object, ...]
) -> None:
    for value in fits:
        check_argument("size", value, hint)
    for value in others:
        with pytest.raises(TypeError, match=r"^size is .*; it must be "):
            check_argument("size", value, hint)


def test_names_are_held_against_those_that_there_are() -> None:
    @checked("loose")
    def function(size: int, loose: int = 0, *, kind: Literal["one", "two"] = "one") -> int:
        return size

    assert function(3) == function(size=3, loose="any", kind="two") == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unknown argument of .*function 'siez'.*'size'"):
        function(siez=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="function needs size; it takes size, loose, kind"):
        function()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="unknown kind 'tow'; did you mean 'two'"):
        function(3, kind="tow")  # type: ignore[arg-type]
    assert fields_checked(type("Bare", (), {"__init__": lambda self, a=1: None}))(a=2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"macs": "0.5"}, TypeError, "macs is '0.5'; it must be a number or none"),
        ({"macs": True}, TypeError, "macs is True; it must be a number"),
        ({"recipe": {"epochs": 1}}, TypeError, "recipe is {'epochs': 1}; it must be a Recipe"),
        ({"settings": [1]}, TypeError, r"settings is \[1\]; it must be a dict or none"),
        ({"seed": "0"}, TypeError, "seed is '0'; it must be a whole number"),
        ({"progress": "no"}, TypeError, "progress is 'no'; it must be true or false"),
        ({"keep": 3}, TypeError, "keep is 3; it must be text or a sequence, each text"),
        ({"distill": "1"}, TypeError, "distill is '1'; it must be a number"),
        ({"cache": 3}, TypeError, "cache is 3; it must be text or a Path"),
        ({"device": [1]}, TypeError, r"device is \[1\]; it must be text or a device"),
        ({"on_step": 3}, TypeError, "on_step is 3; it must be a function"),
        ({"checkpoint": 3}, TypeError, "checkpoint is 3; it must be text or a Path or"),
        ({"part": 3}, TypeError, "part is 3; it must be text"),
        ({"method": zoo.Pruner}, TypeError, "method is the class Pruner; it must be text"),
        ({"latenc": 0.5}, ValueError, "unknown argument 'latenc'; did you mean 'latency'"),
        (
            {"method": zoo.create_pruner("uniform"), "settings": {"a": 1}},
            ValueError,
            "settings belong to a pruner that is named; Uniform has its own",
        ),
    ],
)
def test_prune_names_the_argument_that_is_wrong(
    given: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pruned(Plain(), **given)


def test_public_calls_name_the_argument_that_is_wrong(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=4)
    space = zoo.ChannelSpace.trace(model, SIZE)
    result = pruned(Plain(), recipe=zoo.Recipe(epochs=0))
    cost, where, image = zoo.CostModel(space), tmp_path / "new", torch.rand(4, *SIZE)
    group = space.groups[0].name
    wrong: list[tuple[Callable[..., object], tuple[object, ...], dict[str, object], str]] = [
        (zoo.Recipe, (), {"epoch": 3}, "unknown argument of Recipe 'epoch'; .*'epochs'"),
        (zoo.Recipe, (), {}, "Recipe needs epochs; it takes epochs, batch_size, lr"),
        (zoo.Timing, (), {"batchs": 3}, "unknown argument of Timing 'batchs'; .*'batch'"),
        (zoo.WidthRules, (), {"min_kep": 1}, "WidthRules 'min_kep'; did you mean 'min_keep'"),
        (zoo.Metric, (max, "max"), {}, "name is a builtin.*; it must be text"),
        (zoo.Metric, ("max",), {}, "Metric needs compute; it takes name, compute"),
        (zoo.Checkpoints, (3,), {}, "folder is 3; it must be text or a path"),
        (zoo.Budget.parse, ("0.5", cost), {}, "value is '0.5'; it must be a number"),
        (zoo.Budget.parse, (0.5, model), {}, "cost is a ResNet; it must be a CostModel"),
        (zoo.Budget.parse, (0.5, cost, "params_"), {}, "unknown metric .*'params'"),
        (zoo.save_pruned, (result, 3), {}, "directory is 3; it must be text or a path"),
        (zoo.save_pruned, ("a", where), {}, "result is a str; give what zoo.prune returned"),
        (zoo.load_pruned, (3,), {}, "directory is 3; it must be text or a path"),
        (zoo.load_pruned, (where, "resnet"), {}, "parent is 'resnet'; it must be a Module"),
        (zoo.rebuild, (model, space, {}), {}, "config is {}; it must be a SubnetConfig"),
        (zoo.create_pruner, (3,), {}, "name is 3; it must be text"),
        (zoo.list_pruners, ("peers",), {}, "unknown kind 'peers'; did you mean 'peer'"),
        (zoo.export_network, (result, SIZE, where), {}, "a PruneResult; .*; give its .model"),
        (zoo.export_network, (model, 32, where), {}, "input_size is 32; it must be a sequence"),
        (zoo.export_network, (model, (32, 32), where), {}, r"\(32, 32\); it must be \(C, H, W\)"),
        (zoo.export_int8, (model, 3, where), {}, "images is 3; it must be something to go"),
        (zoo.export_int8, (model, [image], 3), {}, "path is 3; it must be text or a path"),
        (zoo.export_timm, (model, 32, where), {}, "input_size is 32; it must be"),
        (zoo.fold_batch_norm, (model, (32, 32)), {}, r"\(32, 32\); it must be \(C, H, W\)"),
        (zoo.widen, (model, 2), {}, "widen needs to; it takes model, space, to"),
        (zoo.recalibrate, (model, 3), {}, "batches is 3; it must be something to go"),
        (zoo.measure_latency, (model, result.config), {}, "space is a SubnetConfig; it must"),
        (zoo.check_pruner, ("uniform",), {}, "cls is 'uniform'; it must be a class"),
        (zoo.CostModel, (model,), {}, "space is a ResNet; it must be a ChannelSpace"),
        (zoo.ChannelSpace.trace, (model, 32), {}, "input_size is 32; it must be"),
        (zoo.SubnetConfig.from_widths, (space, {group: "4"}), {}, f"width of '{group}' is '4'"),
        (zoo.SubnetConfig.from_json, ("a",), {}, "value is 'a'; it must be a dict"),
    ]
    for call, args, named, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            call(*args, **named)
    assert not list(tmp_path.iterdir())


def test_a_number_of_torch_is_a_budget() -> None:
    model = Plain()
    assert pruned(model, macs=torch.tensor(0.5)).macs == pruned(model).macs

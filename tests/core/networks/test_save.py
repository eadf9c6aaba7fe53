"""What is saved is what is loaded, or the reason why not."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import zoo
from tests.core.networks.saving import (
    SHORT,
    SIZE,
    Backbone,
    assert_same,
    edit,
    fresh,
    half,
    pruned,
    saved,
)
from zoo.core.networks.architecture import Architecture


@pytest.fixture(scope="module")
def folder_of_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `half()` is saved; to be read or copied."""
    folder = tmp_path_factory.mktemp("half")
    saved(half(), folder)
    return folder


@pytest.fixture(scope="module")
def folder_of_short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a short resnet18 is saved; to be read."""
    folder = tmp_path_factory.mktemp("short")
    saved(pruned(fresh("resnet18", **SHORT), 0.25), folder)
    return folder


# --- the parent is not what timm's name says -------------------------------------------------


def no_pool(model: nn.Module) -> None:
    model.maxpool = nn.Identity()


def no_stride(model: nn.Module) -> None:
    model.layer4[0].conv1.stride = (1, 1)
    model.layer4[0].downsample[0].stride = (1, 1)


def other_activation(model: nn.Module) -> None:
    model.layer2[0].act1 = nn.ReLU6()


def slope(model: nn.Module) -> None:
    model.layer2[0].act1 = nn.LeakyReLU(1e-4)


def epsilon(model: nn.Module) -> None:
    model.layer2[0].bn1.eps = 1e-4


def dropout(model: nn.Module) -> None:
    model.global_pool = nn.Sequential(model.global_pool, nn.Dropout(0.3))


def other_stem(model: nn.Module) -> None:
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1)


def two_layer_head(model: nn.Module) -> None:
    model.fc = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))


def permuted_buffer(model: nn.Module) -> None:
    model.register_buffer("gain", torch.full((1,), 2.0), persistent=False)
    model.fc.register_forward_pre_hook(lambda _, inputs: inputs[0] * model.gain)


CHANGES = [
    no_pool, no_stride, other_activation, slope, epsilon, dropout, other_stem, two_layer_head,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parent_is_told_when_saved_and_asked_for_when_loaded(
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    parent = fresh("resnet18", **SHORT)
    change(parent)
    result = pruned(parent, 0.25)
    with pytest.warns(UserWarning, match=r"is not the parent of this network: .*parent=\.\.\."):
        zoo.save_pruned(result, tmp_path)
    with pytest.raises(ValueError, match=r"load_pruned\(directory, parent=\.\.\.\)"):
        zoo.load_pruned(tmp_path)
    again = fresh("resnet18", **SHORT)
    change(again)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.mul_(0.5)  # its weights do not matter
    assert_same(result.model, zoo.load_pruned(tmp_path, parent=again))


@pytest.mark.parametrize("change", [no_pool, no_stride, other_activation, slope, epsilon])
def test_a_parent_that_computes_something_else_is_refused(
    change: Callable[[nn.Module], None], folder_of_short: Path
) -> None:
    wrong = fresh("resnet18", **SHORT)
    change(wrong)
    with pytest.raises(ValueError, match="with the given parent the network has other outputs"):
        zoo.load_pruned(folder_of_short, parent=wrong)


def test_an_architecture_that_timm_now_makes_otherwise_is_refused(
    folder_of_short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = timm.create_model

    def newer(*args: Any, **kwargs: Any) -> nn.Module:
        model = make(*args, **kwargs)
        other_activation(model)
        return model

    monkeypatch.setattr(timm, "create_model", newer)
    with pytest.raises(ValueError, match=r"makes of 'resnet18' a network with other outputs"):
        zoo.load_pruned(folder_of_short)


@pytest.mark.parametrize(
    "args",
    [
        {"act_layer": "silu"},
        {"output_stride": 8},
        {"drop_rate": 0.2},
        {"global_pool": "max"},
        {"in_chans": 3, "num_classes": 7, "zero_init_last": False},
    ],
)
def test_arguments_that_timm_keeps_need_not_be_given_again(
    args: dict[str, Any], tmp_path: Path
) -> None:
    result = pruned(fresh("resnet18", **SHORT, **args), 0.25)
    saved(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    assert_same(result.model, loaded)
    assert loaded.drop_rate == args.get("drop_rate", 0.0)


def test_where_timm_keeps_none_the_parent_is_asked_for(tmp_path: Path) -> None:
    parent = fresh("resnet18", **SHORT, output_stride=8, drop_path_rate=0.2)
    del parent._model_args
    result = pruned(parent, 0.25)
    with pytest.warns(UserWarning, match="is not the parent"):
        zoo.save_pruned(result, tmp_path / "without")
    assert_same(result.model, zoo.load_pruned(tmp_path / "without", parent=parent))
    given = pruned(parent, 0.25, **SHORT, output_stride=8, drop_path_rate=0.2)
    saved(given, tmp_path / "with")
    assert_same(given.model, zoo.load_pruned(tmp_path / "with"))


def test_a_class_as_argument_is_seen_in_what_the_network_computes(tmp_path: Path) -> None:
    result = pruned(fresh("resnet18", **SHORT, act_layer=nn.Hardswish), 0.25)
    with pytest.warns(UserWarning, match=r"another operator in eval mode: .*hardswish|relu"):
        zoo.save_pruned(result, tmp_path)


def test_a_single_layer_as_new_head_needs_no_parent(tmp_path: Path) -> None:
    parent = fresh("resnet18", **SHORT)
    parent.fc = nn.Linear(48, 9)
    result = pruned(parent, 0.25)
    saved(result, tmp_path)
    assert_same(result.model, zoo.load_pruned(tmp_path))


def test_a_head_of_other_size_in_the_parent_is_refused(folder_of_half: Path) -> None:
    with pytest.raises(ValueError, match="the given parent is another network"):
        zoo.load_pruned(folder_of_half, parent=fresh(num_classes=5))


# --- pruned or widened before ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["test_resnet", pytest.param("test_byobnet", marks=pytest.mark.slow)]
)
def test_a_network_pruned_twice_is_loaded_by_timm_alone(name: str, tmp_path: Path) -> None:
    parent = fresh(name)
    once = pruned(parent, 0.7)
    saved(once, tmp_path / "once")
    twice = pruned(zoo.load_pruned(tmp_path / "once"), 0.6)
    saved(twice, tmp_path / "twice")
    assert_same(twice.model, zoo.load_pruned(tmp_path / "twice"))
    for given in (parent, once.model):  # the parent, as it was made or as it was before the cut
        assert_same(twice.model, zoo.load_pruned(tmp_path / "twice", parent=given))


def test_groups_that_a_second_pruning_leaves_are_cut_as_the_first_one_did(tmp_path: Path) -> None:
    twice = pruned(pruned(fresh(), 0.5).model)
    only = dict(list(twice.config.keep.items())[:1])
    once = pruned(fresh(), 0.5).model
    twice.config = zoo.SubnetConfig(only)
    twice.model = zoo.rebuild(once, twice.space, twice.config).eval()
    saved(twice, tmp_path)
    for given in (None, fresh(), once):
        assert_same(twice.model, zoo.load_pruned(tmp_path, parent=given))


@pytest.mark.slow
def test_a_network_pruned_thrice_is_loaded_by_timm_alone(tmp_path: Path) -> None:
    result = pruned(pruned(pruned(fresh(), 0.8).model, 0.8).model, 0.8)
    saved(result, tmp_path)
    assert_same(result.model, zoo.load_pruned(tmp_path))


def test_pruned_to_one_channel_and_again(tmp_path: Path) -> None:
    once = pruned(fresh(), 0.01)
    space = zoo.ChannelSpace.trace(fresh(), SIZE)
    half = zoo.SubnetConfig(
        {g.name: (0,) if i % 2 else tuple(range(g.size)) for i, g in enumerate(space.groups)}
    )
    once = SimpleNamespace(
        model=zoo.rebuild(fresh(), space, half), config=half, space=space,
        architecture=Architecture.of(fresh()),
    )  # fmt: skip
    twice = pruned(once.model)
    saved(twice, tmp_path)
    assert_same(twice.model, zoo.load_pruned(tmp_path))


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param(True, True, marks=pytest.mark.slow), (True, False), (False, True)],
)
def test_inexact_groups_pruned_twice(first: bool, second: bool, tmp_path: Path) -> None:
    once = pruned(fresh("ecaresnet26t", **SHORT), 0.5, inexact=first)
    twice = pruned(once.model, 0.5, inexact=second)
    saved(twice, tmp_path)
    assert_same(twice.model, zoo.load_pruned(tmp_path))


def test_widened_then_pruned_twice(tmp_path: Path) -> None:
    parent = fresh()
    wide = zoo.widen(parent, zoo.ChannelSpace.trace(parent, SIZE), 1.5)
    once = pruned(wide, 0.9)
    twice = pruned(once.model, 0.9)
    saved(twice, tmp_path)
    assert_same(twice.model, zoo.load_pruned(tmp_path))


# --- what else a network may be --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_keeps_its_type(dtype: torch.dtype, tmp_path: Path) -> None:
    result = half()
    result.model.to(dtype)
    saved(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert_same(result.model, loaded)


def test_types_may_be_mixed(tmp_path: Path) -> None:
    result = half()
    result.model.to(torch.bfloat16)
    for module in result.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    saved(result, tmp_path)
    mine, its = result.model.state_dict(), zoo.load_pruned(tmp_path).state_dict()
    assert all(mine[n].dtype == its[n].dtype and torch.equal(mine[n], its[n]) for n in mine)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
@pytest.mark.parametrize("version", [1, 2])
def test_other_types_are_not_taken_in_silence(
    dtype: torch.dtype, version: int, folder_of_half: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder_of_half, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "network.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    safetensors.torch.save_file(tensors, path)
    edit(tmp_path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    if version == 1:
        as_format_1(tmp_path)
    if version == 1 and dtype is torch.float16:  # what it is, not what it is not
        with pytest.warns(UserWarning, match="no outputs to compare"):
            loaded = zoo.load_pruned(tmp_path)
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        return
    with pytest.raises(ValueError, match=str(dtype).removeprefix("torch.")):
        zoo.load_pruned(tmp_path)


def test_the_caller_s_network_and_random_numbers_stay(tmp_path: Path) -> None:
    result = half()
    result.model.train()
    before, state = copy.deepcopy(result.model.state_dict()), torch.get_rng_state()
    saved(result, tmp_path)
    zoo.load_pruned(tmp_path)
    assert torch.equal(state, torch.get_rng_state()) and result.model.training
    after = result.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    result = half()
    for parameter in result.model.conv1.parameters():
        parameter.requires_grad_(False)
    frozen = [n for n, p in result.model.named_parameters() if not p.requires_grad]
    saved(result, tmp_path)
    for loaded in (zoo.load_pruned(tmp_path), zoo.load_pruned(tmp_path, parent=fresh())):
        assert [n for n, p in loaded.named_parameters() if not p.requires_grad] == frozen
    edit(tmp_path, frozen=["conv0"])
    with pytest.raises(ValueError, match="frozen: the network has no parameter 'conv0'"):
        zoo.load_pruned(tmp_path)


def test_a_network_without_frozen_parameters_is_saved_as_older_versions_read_it(
    folder_of_half: Path,
) -> None:
    assert "frozen" not in json.loads((folder_of_half / "network.json").read_text())
    assert all(p.requires_grad for p in zoo.load_pruned(folder_of_half).parameters())


def test_channels_last_stays(tmp_path: Path) -> None:
    result = half()
    result.model.to(memory_format=torch.channels_last)
    saved(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    assert_same(result.model, loaded)
    assert loaded.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_but_nan_is_not_saved(tmp_path: Path) -> None:
    result = half()
    with torch.no_grad():
        result.model.conv1[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="nothing but NaN or infinity"):
        zoo.save_pruned(result, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_class_of_nan_is_saved_and_told_from_another(tmp_path: Path) -> None:
    result = half()
    with torch.no_grad():
        result.model.fc.bias[2] = -torch.inf
    saved(result, tmp_path)
    assert_same(result.model, zoo.load_pruned(tmp_path))
    check = json.loads((tmp_path / "network.json").read_text())["check"]
    assert [row[2] for row in check["values"]] == [None] * 4
    check["values"][0][1:3] = reversed(check["values"][0][1:3])
    edit(tmp_path, check=check)
    with pytest.raises(ValueError, match="other outputs that are NaN or infinite"):
        zoo.load_pruned(tmp_path)


def test_noise_in_eval_mode_is_saved_without_outputs_and_said_when_loaded(tmp_path: Path) -> None:
    class Noisy(Backbone):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x + 0.1 * torch.randn_like(x))

    result = pruned(Noisy(nn.Identity()))
    with pytest.warns(UserWarning, match="twice gives other outputs.*saved without outputs"):
        zoo.save_pruned(result, tmp_path)
    with pytest.warns(UserWarning, match="no outputs to compare with"):
        zoo.load_pruned(tmp_path, Noisy(nn.Identity()))


def test_a_network_that_runs_elsewhere_only_is_saved_and_said(tmp_path: Path) -> None:
    class Elsewhere(Backbone):
        def forward(self, x: Tensor) -> Any:
            if x.device.type == "cpu":
                raise RuntimeError("no CPU, please")
            return super().forward(x)

    with pytest.warns(UserWarning, match="no CPU, please. The network is saved without"):
        zoo.save_pruned(pruned(Elsewhere(nn.Identity())), tmp_path)
    with pytest.warns(UserWarning, match="no outputs to compare with"):
        zoo.load_pruned(tmp_path, parent=Elsewhere(nn.Identity()))


def test_a_head_put_on_after_pruning_is_refused(tmp_path: Path) -> None:
    for head in (nn.Linear(32, 9), nn.Identity()):
        result = half()
        result.model.fc = head
        with pytest.raises(ValueError, match=r"fc\.weight is .*changed after it was pruned"):
            zoo.save_pruned(result, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(Backbone):
        def get_extra_state(self) -> Any:
            return {"anything": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    with pytest.raises(ValueError, match="_extra_state of the network's state is a dict"):
        zoo.save_pruned(pruned(Extra(nn.Identity())), tmp_path / "new")


def test_arguments_that_load_something_are_refused_before_the_work() -> None:
    for args in ({"pretrained": True}, {"checkpoint_path": "x"}, {"act_layer": nn.ReLU}):
        with pytest.raises(ValueError, match=next(iter(args))):
            Architecture.of(fresh(), **args)
        with pytest.raises(ValueError, match=next(iter(args))):
            Architecture("resnet18", dict(args))


# --- older folders ---------------------------------------------------------------------------


def as_format_1(folder: Path) -> None:
    path = folder / "network.json"
    kept = json.loads(path.read_text()) | {"format": 1}
    for name in ("needs_parent", "parent_inexact", "dtypes", "check"):
        del kept[name]
    path.write_text(json.dumps(kept))


def test_a_folder_of_format_1_loads_with_a_warning(folder_of_half: Path, tmp_path: Path) -> None:
    result = half()
    shutil.copytree(folder_of_half, tmp_path, dirs_exist_ok=True)
    as_format_1(tmp_path)
    with pytest.warns(UserWarning, match="no outputs to compare with"):
        assert_same(result.model, zoo.load_pruned(tmp_path))
    edit(tmp_path, architecture="a_model_of_another_timm")
    with pytest.warns(UserWarning, match="no outputs to compare with"):
        assert_same(result.model, zoo.load_pruned(tmp_path, parent=fresh()))
    edit(tmp_path, architecture="test_resnet")
    text = json.loads((tmp_path / "network.json").read_text())
    edit(tmp_path, args=text["args"] | {"pretrained": True})
    with pytest.raises(ValueError, match="pretrained"):
        zoo.load_pruned(tmp_path)

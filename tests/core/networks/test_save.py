"""What is saved is what is loaded, or the reason why not; a folder from a stranger does nothing."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import zoo
from zoo.core.networks.architecture import Architecture, make
from zoo.core.networks.check_output import check_output, different_output
from zoo.core.networks.save import Saveable

SIZE = (3, 32, 32)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(0))


def fresh(name: str = "test_resnet", **args: Any) -> nn.Module:
    """A network whose branches, statistics and head are as of a trained one: nothing is zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(name, **({"num_classes": 4} | args)).eval()
        randomise(model)
    return model


# What timm names resnet18, with a block in each stage: most of the time goes with their number.
SHORT = {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 48]}


def randomise(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            wide = torch.rand(tensor.shape, dtype=torch.float32) + 0.5
            tensor.copy_(wide if "bias" not in name and "mean" not in name else wide - 1)


def pruned(parent: nn.Module, share: float = 0.5, inexact: bool = False, **args: Any) -> Any:
    """Half of every group, and of these not the first channels."""
    space = zoo.ChannelSpace.trace(parent, SIZE, inexact=inexact)
    keep = {g.name: tuple(range(g.size))[-max(1, int(share * g.size)) :] for g in space.groups}
    config = zoo.SubnetConfig(keep)
    return SimpleNamespace(
        model=zoo.rebuild(parent, space, config).eval(),
        config=config,
        space=space,
        architecture=Architecture.of(parent, **args),
    )


def saved(result: Saveable, folder: Path) -> None:
    """Save where no warning is expected."""
    zoo.save_pruned(result, folder)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    mine, its = first.state_dict(), second.state_dict()
    assert mine.keys() == its.keys()
    for name in mine:
        assert mine[name].dtype == its[name].dtype and torch.equal(mine[name], its[name])
    own = next(first.parameters()).dtype
    with torch.no_grad():
        assert torch.equal(first(images().to(own)), second(images().to(own)))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    saved(pruned(fresh("resnet18", **SHORT), 0.25), tmp_path)
    wrong = fresh("resnet18", **SHORT)
    change(wrong)
    with pytest.raises(ValueError, match="with the given parent the network has other outputs"):
        zoo.load_pruned(tmp_path, parent=wrong)


def test_an_architecture_that_timm_now_makes_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(pruned(fresh("resnet18", **SHORT), 0.25), tmp_path)
    make = timm.create_model

    def newer(*args: Any, **kwargs: Any) -> nn.Module:
        model = make(*args, **kwargs)
        other_activation(model)
        return model

    monkeypatch.setattr(timm, "create_model", newer)
    with pytest.raises(ValueError, match=r"makes of 'resnet18' a network with other outputs"):
        zoo.load_pruned(tmp_path)


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


def test_a_head_of_other_size_in_the_parent_is_refused(tmp_path: Path) -> None:
    saved(pruned(fresh(num_classes=4)), tmp_path)
    with pytest.raises(ValueError, match="the given parent is another network"):
        zoo.load_pruned(tmp_path, parent=fresh(num_classes=5))


# --- pruned or widened before ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet"])
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


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
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
    result = pruned(fresh())
    result.model.to(dtype)
    saved(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert_same(result.model, loaded)


def test_types_may_be_mixed(tmp_path: Path) -> None:
    result = pruned(fresh())
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
    dtype: torch.dtype, version: int, tmp_path: Path
) -> None:
    saved(pruned(fresh()), tmp_path)
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
    result = pruned(fresh())
    result.model.train()
    before, state = copy.deepcopy(result.model.state_dict()), torch.get_rng_state()
    saved(result, tmp_path)
    zoo.load_pruned(tmp_path)
    assert torch.equal(state, torch.get_rng_state()) and result.model.training
    after = result.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_channels_last_stays(tmp_path: Path) -> None:
    result = pruned(fresh())
    result.model.to(memory_format=torch.channels_last)
    saved(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    assert_same(result.model, loaded)
    assert loaded.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_but_nan_is_not_saved(tmp_path: Path) -> None:
    result = pruned(fresh())
    with torch.no_grad():
        result.model.conv1[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="nothing but NaN or infinity"):
        zoo.save_pruned(result, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_class_of_nan_is_saved_and_told_from_another(tmp_path: Path) -> None:
    result = pruned(fresh())
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


class Wrapped:
    """What some libraries return: no tensor, tuple or dict."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.note = logits, "text"


class Backbone(nn.Module):
    """Puts its logits out in a form of choice."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 4)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        features = torch.relu(self.second(torch.relu(self.first(x))))
        return self.form(self.head(features.mean((2, 3))))


@pytest.mark.parametrize(
    "form",
    [lambda x: (x, x[:, :2]), lambda x: {"a": x, "b": [x]}, Wrapped],
    ids=["tuple", "dict", "object"],
)
def test_outputs_of_any_form_are_compared(form: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Backbone(form)
    found = check_output(model, SIZE)
    assert different_output(found, check_output(model, SIZE)) is None
    model.second.stride = (1, 1)
    assert different_output(found, check_output(model, SIZE)) is not None


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
        result = pruned(fresh())
        result.model.fc = head
        with pytest.raises(ValueError, match=r"fc\.weight is .*changed after it was pruned"):
            zoo.save_pruned(result, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_forward_pass_in_float32_inside_gets_the_tolerance_of_float32() -> None:
    class Single(Backbone):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x).float()

    assert check_output(Single(nn.Identity()), SIZE).coarsest == "float32"
    assert check_output(Backbone(nn.Identity()), SIZE).coarsest == "float64"

    class Stubborn(Backbone):  # runs in nothing but float32
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) @ torch.ones(4, 4)

    assert check_output(Stubborn(nn.Identity()), SIZE).dtype == "float32"


def test_the_output_is_the_same_for_another_order_of_sums() -> None:
    model = fresh("resnet18")
    single = check_output(model, SIZE, "float32")
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for dtype in ("float64", "float32"):
        found = check_output(model, SIZE, dtype)  # type: ignore[arg-type]
        assert different_output(found, check_output(last, SIZE, dtype)) is None  # type: ignore[arg-type]
    assert different_output(single, check_output(model, SIZE)) is None  # by float32's tolerance


def test_the_check_images_are_those_of_every_machine() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.one * torch.stack([x.abs().sum(), x[0, 0, 0, 0], x[0, 2, -1, -1]])

    found = check_output(Sums(), (3, 17, 18)).values
    # The first byte of shake_256(b"image N") for each image, by hand, and the sum by one line of
    # Python over the digests; hashlib is a standard, so this holds on any machine.
    first = [hashlib.shake_256(b"image %d" % n).digest(1)[0] for n in range(4)]
    contrasts = (0.5, 2.0, 16.0, 128.0)
    expected = [c * (f - 127.5) / 74.0 for c, f in zip(contrasts, first, strict=True)]
    assert [row[1] for row in found] == pytest.approx(expected, rel=1e-15)
    digest = hashlib.shake_256(b"image 0").digest(3 * 17 * 18)
    assert found[0][0] == pytest.approx(sum(0.5 * abs(b - 127.5) / 74.0 for b in digest), rel=1e-12)
    assert found[0][2] == pytest.approx(0.5 * (digest[-1] - 127.5) / 74.0, rel=1e-15)


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


def test_a_folder_of_format_1_loads_with_a_warning(tmp_path: Path) -> None:
    result = pruned(fresh())
    saved(result, tmp_path)
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


# --- a folder from a stranger ----------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    zoo.save_pruned(pruned(fresh()), folder)
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


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
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

"""The plain file makes the pruned network where this library is not installed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.models import FeatureListNet
from torch import nn

import zoo
from tests.core.networks.saving import Backbone, fresh, randomise
from zoo.core.networks import export_timm as module

SIZE = (3, 64, 64)
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnetblur50": {"layers": [1] * 4, "channels": [16, 24, 32, 48]},
    "seresnet50": {"layers": [1] * 4},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "regnety_002": {},
    "densenet121": {"block_config": [2, 2, 2, 2]},
    "vgg11_bn": {"mlp_ratio": 1 / 16},
    "convnext_atto": {"depths": [1] * 4},
    "ghostnet_050": {},
    "dla46_c": {},
    "hardcorenas_a": {},
    "cspresnet50": {},
    "repvit_m0_9": {"depth": [1] * 4},
    "mnasnet_small": {},
    "resnet20_cifar": {},
    "test_byobnet": {},
}
"""One network of each family, shortened where it takes long."""

FEW = [
    "resnet18", "resnetblur50", "mobilenetv3_small_050", "regnety_002", "densenet121",
    "resnet20_cifar", "test_byobnet",
]  # fmt: skip
MORE = sorted({*FAMILIES} - {*FEW})

ALONE = """
import importlib.abc, importlib.util, json, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("zoo", "benchmarks", "baselines"):
            raise ImportError(name + " is not to be had here")

sys.meta_path.insert(0, Refused())
before = set(sys.modules)
for folder in sys.argv[1:]:
    for name in ("network", "cifar_resnet"):
        sys.modules.pop(name, None)
    sys.path.insert(0, folder)
    import network
    import torch
    from safetensors.torch import load_file, save_file
    model = network.load_network()
    images = load_file(folder + "/images.safetensors")["images"]
    with torch.no_grad():
        save_file({"logits": model(images).contiguous()}, folder + "/found.safetensors")
    sys.path.remove(folder)
assert not [name for name in sys.modules if name.partition(".")[0] in ("zoo", "benchmarks")]
try:
    import zoo
except ImportError as error:
    sys.stdout.write(str(error))
"""


def pruned(name: str, **args: Any) -> nn.Module:
    """A network in float64 that kept the last half of every group."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        parent = timm.create_model(name, **({"num_classes": 4} | args)).eval()
        randomise(parent)
    space = zoo.ChannelSpace.trace(parent, SIZE)
    keep = {g.name: tuple(range(g.size))[-max(1, g.size // 2) :] for g in space.groups}
    return zoo.rebuild(parent, space, zoo.SubnetConfig(keep)).eval().double()


def run_alone(*folders: Path) -> str:
    """What a Python without this library says after it has run the files of some folders."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-c", ALONE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=bare, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("names", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=len)
def test_files_make_the_networks_of_every_family_where_there_is_no_zoo(
    names: list[str], tmp_path: Path
) -> None:
    images = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    expected = {}
    for name in names:
        model = pruned(name, **FAMILIES[name])
        told = zoo.export_timm(model, SIZE, tmp_path / name)
        assert told.path == tmp_path / name / "network.py" and told.difference == 0.0
        files = list((tmp_path / name).iterdir())
        assert told.size_bytes == sum(path.stat().st_size for path in files)
        safetensors.torch.save_file({"images": images}, tmp_path / name / "images.safetensors")
        with torch.no_grad():
            expected[name] = model(images)
    assert run_alone(*(tmp_path / name for name in names)) == "zoo is not to be had here"
    for name, logits in expected.items():
        found = safetensors.torch.load_file(tmp_path / name / "found.safetensors")["logits"]
        # Tensors in a file's memory lie at other addresses, which moves the last bits of sums.
        assert torch.allclose(found, logits, rtol=1e-12, atol=1e-12), name


def test_the_file_is_short_and_imports_torch_timm_and_safetensors_only(tmp_path: Path) -> None:
    zoo.export_timm(pruned("test_resnet"), SIZE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "network.py", "widths.json", "weights.safetensors",
    }  # fmt: skip
    text = (tmp_path / "network.py").read_text()
    assert len(text.splitlines()) < 70 and max(map(len, text.splitlines())) <= 100
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    assert found == {"json", "pathlib", "safetensors.torch", "timm", "torch"}


def test_what_timm_tells_of_widths_and_of_images_is_that_of_the_pruned_network(
    tmp_path: Path,
) -> None:
    model = pruned("resnet18.tv_in1k")
    zoo.export_timm(model, SIZE, tmp_path)
    again = module._run((tmp_path / "network.py").read_text(), tmp_path)
    assert [i["num_chs"] for i in again.feature_info] == [i["num_chs"] for i in model.feature_info]
    assert again.num_features == model.num_features and not again.training
    for path, part in model.named_modules():  # as out_channels, which no pass reads
        sizes = {name: held for name, held in vars(part).items() if type(held) is int}
        its = vars(again.get_submodule(path))
        assert sizes == {name: its[name] for name in sizes}, path
    asked, usual = again.pretrained_cfg, timm.create_model("resnet18").pretrained_cfg
    assert asked["crop_pct"] == model.pretrained_cfg["crop_pct"] != usual["crop_pct"]
    maps = FeatureListNet(again, out_indices=(1, 3))(torch.zeros(1, *SIZE).double())
    assert [m.shape[1] for m in maps] == [model.feature_info[i]["num_chs"] for i in (1, 3)]
    again.reset_classifier(7)
    assert again.double()(torch.zeros(1, *SIZE).double()).shape == (1, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = pruned("test_resnet").to(dtype)
    zoo.export_timm(model, SIZE, tmp_path)
    again = module._run((tmp_path / "network.py").read_text(), tmp_path)
    mine, its = model.state_dict(), again.state_dict()
    assert mine.keys() == its.keys()
    assert all(mine[n].dtype == its[n].dtype and torch.equal(mine[n], its[n]) for n in mine)


def test_a_network_that_timm_does_not_make_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    replaced = fresh()
    replaced.layer2[0].act1 = nn.LeakyReLU()
    for model, told in (
        (Backbone(nn.Identity()), "saving.Backbone was not made by timm"),
        (replaced, r"layer2\.0\.act1 is LeakyReLU, where timm makes ReLU"),
    ):
        with pytest.raises(zoo.UnsupportedModel, match=told):
            zoo.export_timm(model, SIZE, tmp_path / "new")
    hooked = fresh()
    hooked.fc.register_forward_pre_hook(lambda _, inputs: 2 * inputs[0])
    with pytest.raises(zoo.UnsupportedModel, match="another operator in eval mode"):
        zoo.export_timm(hooked, SIZE, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "widths.json").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        zoo.export_timm(fresh(), SIZE, tmp_path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_the_table_holds_only_what_differs_from_timm_s(tmp_path: Path) -> None:
    whole = fresh()
    zoo.export_timm(whole, SIZE, tmp_path / "whole")
    held = json.loads((tmp_path / "whole" / "widths.json").read_text())
    assert held == {"modules": {}, "features": {}}

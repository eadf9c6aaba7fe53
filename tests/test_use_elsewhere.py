"""Every command and every piece of code of the page on use elsewhere runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from benchmarks import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "use_elsewhere.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)(?: file=(\S+))?\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for kind, _, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PRUNES = [line for line in COMMANDS if line.startswith("zoo prune ")]
SMALL = "--dataset digits --image-size 16 --train-size 64 --epochs 1 --parent-epochs 1"
NEEDS_ONNX = ("onnx", "int8")
SIZE = (3, 64, 64)

TRAIN_PY = """
import argparse, sys
import timm, timm.data, timm.optim, timm.scheduler, torch
parser = argparse.ArgumentParser()
parser.add_argument("--model")
model = timm.create_model(parser.parse_args().model, pretrained=False, in_chans=3, num_classes=None,
                          drop_rate=0.0, bn_eps=None, scriptable=False, checkpoint_path="")
assert timm.data.resolve_data_config({}, model=model)["crop_pct"]
optimizer = timm.optim.create_optimizer_v2(model, opt="sgd", lr=0.1)
schedule, _ = timm.scheduler.create_scheduler_v2(optimizer, num_epochs=2)
before = [p.detach().clone() for p in model.parameters()]
model.train()(torch.randn(4, 3, 64, 64)).square().sum().backward()
optimizer.step()
schedule.step(1)
assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
sys.stdout.write(f"trained {sum(p.numel() for p in model.parameters())}")
"""


def pruned() -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        parent = timm.create_model("resnet18", num_classes=4, layers=[1] * 4, channels=[16] * 4)
        zoo.recalibrate(parent, [torch.randn(16, *SIZE)])
    space = zoo.ChannelSpace.trace(parent, SIZE)
    config = zoo.SubnetConfig({g.name: tuple(range(g.size // 2)) for g in space.groups})
    return zoo.rebuild(parent, space, config).eval()


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page takes for given, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        colours = torch.randn(32, 3, 1, 1) + 0.3 * torch.randn(32, *SIZE)
    loader = DataLoader(TensorDataset(colours, torch.arange(32) % 4), batch_size=16)
    return {
        "zoo": zoo, "torch": torch, "timm": timm, "torchvision": torchvision, "model": pruned(),
        "images": colours[:4], "train_loader": loader, "val_loader": loader,
    }  # fmt: skip


def test_the_code_of_the_page_runs_in_order(names: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an optional extra")
    pytest.importorskip("onnxscript", reason="an optional extra")
    given = names["model"]
    ran = 0
    for kind, file, text in BLOCKS:
        if file:
            (tmp_path / file).write_text(text)
        elif kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's, of TorchScript
                exec(compile(text, "use_elsewhere.md", "exec"), names)
            ran += 1
    assert ran == PAGE.count("```python\n") > 9
    sys.modules.pop("network", None)
    with torch.no_grad():
        wanted = given(names["images"])
        names["model"].eval()
        for found in (
            names["model"](names["images"]),
            names["traced"](names["images"]),
            torch.jit.load(tmp_path / "network.ts")(names["images"]),
            torch.from_numpy(names["session"].run(None, {"images": names["images"].numpy()})[0]),
            names["logits"],
        ):
            assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert names["exported"].check.same_answer > 0.8
    assert names["small"].state_dict().keys() == names["fresh"].state_dict().keys()


def test_timm_s_training_script_takes_the_plain_file_by_name(
    names: dict[str, Any], tmp_path: Path
) -> None:
    zoo.export_timm(names["model"], SIZE, tmp_path / "plain")
    ((file, text),) = [(file, text) for _, file, text in BLOCKS if file]
    (tmp_path / file).write_text(text)
    (tmp_path / "train.py").write_text(TRAIN_PY)
    (command,) = [line for line in COMMANDS if "train.py" in line]
    count = sum(p.numel() for p in names["model"].parameters())
    assert ran(command, tmp_path) == f"trained {count}"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=pytest.mark.slow) if any(n in line for n in NEEDS_ONNX) else line
        for line in PRUNES
    ],
)
def test_commands_of_the_page_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = command.rpartition("--export ")[2].split()[0]
    if form.startswith("onnx"):
        pytest.importorskip("onnxscript", reason="an optional extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(f"{command} {SMALL}"))
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code
    out = tmp_path / shlex.split(command)[shlex.split(command).index("--out") + 1]
    wanted = {
        "timm": ["timm/network.py"],
        "onnx": ["network.onnx"],
        "onnx-int8": ["network.onnx", "network.int8.onnx"],
        "torch-export": ["network.pt2"],
    }[form]
    assert all((out / name).is_file() for name in wanted)
    if form == "timm":
        (python,) = [line for line in COMMANDS if line.startswith("python ")]
        count = sum(p.numel() for p in zoo.load_pruned(out).parameters())
        assert ran(python, tmp_path) == f"{count} parameters\ntorch.Size([1, 10])\n"


def test_every_command_of_the_page_is_one_that_is_run() -> None:
    others = [line for line in COMMANDS if line not in PRUNES]
    assert len(PRUNES) == 4 and len(others) == 2
    assert others[0] == "python small/timm/network.py" and "train.py" in others[1]


def ran(command: str, folder: Path) -> str:
    """What a command of the page says, in a Python that does not find this library."""
    guard = folder / "guard"
    guard.mkdir()
    (guard / "zoo.py").write_text("raise ImportError('zoo is not to be had here')")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    bare |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{bare['PATH']}"}
    line = command.replace("PYTHONPATH=plain", f"PYTHONPATH=plain{os.pathsep}{guard}")
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, cwd=folder, check=False,
        env=bare | {"PYTHONPATH": str(guard)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout

"""An INT8 file computes what its network computes, as far as eight bits allow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.core.networks import export_int8 as module

SIZE = (3, 16, 16)

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="an optional extra",
)


def images(count: int, seed: int) -> Tensor:
    """Images of colours far apart, which a network tells from each other, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randn(count, 3, 1, 1, generator=generator)
    return colours + 0.3 * torch.randn(count, *SIZE, generator=generator)


class Depthwise(nn.Module):
    """A depthwise convolution with one channel of large weights, which counts for little."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.point = nn.Conv2d(16, 16, 1)
            self.head = nn.Linear(16, 5)
        with torch.no_grad():
            self.norm.running_var.fill_(0.7)
            self.norm.weight[0] = self.norm.bias[0] = 0.01
            self.depthwise.weight[0] *= 100
            self.point.weight[:, 0] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.point(self.depthwise(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Depthwise().eval()


def run_file(path: Path, batch: Tensor) -> Tensor:
    """The file in its own runtime, apart from the code that wrote it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


def test_the_file_holds_int8_weights_and_what_is_told_of_it_is_so(
    net: nn.Module, tmp_path: Path
) -> None:
    import onnx

    path, plain = tmp_path / "network.int8.onnx", tmp_path / "network.onnx"
    told = zoo.export_int8(
        net, [images(40, 1), images(24, 2)], path, check=[images(30, 3)], float_path=plain
    )
    assert {each.name for each in tmp_path.iterdir()} == {path.name, plain.name}
    assert told.path == path and told.size_bytes == path.stat().st_size
    assert told.float_bytes == plain.stat().st_size
    graph = onnx.load(path).graph
    weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = sorted(tuple(t.dims) for t in weights if len(t.dims) == 4)
    assert kernels == [(16, 1, 3, 3), (16, 3, 3, 3), (16, 16, 1, 1)]
    assert not [n for n in graph.node if n.op_type == "BatchNormalization"]
    for agreement, batch in (
        (told.calibration, torch.cat([images(40, 1), images(24, 2)])),
        (told.check, images(30, 3)),
    ):
        with torch.no_grad():
            wanted, found = net(batch), run_file(path, batch)
        spread = (wanted - wanted.mean(0)).norm()
        assert agreement is not None and agreement.images == len(batch)
        same = float((wanted.argmax(1) == found.argmax(1)).float().mean())
        assert agreement.same_answer == pytest.approx(same)
        assert agreement.deviation == pytest.approx(float((found - wanted).norm() / spread), 1e-3)
        assert 0 < agreement.deviation < 0.1 and agreement.same_answer > 0.9
        assert torch.allclose(run_file(plain, batch), wanted, atol=1e-5)


def test_channels_of_a_depthwise_layer_have_scales_of_their_own(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = zoo.export_int8(net, [images(64, 1)], tmp_path / "own").calibration
    monkeypatch.setattr(module, "_PER_CHANNEL", False)
    shared = zoo.export_int8(net, [images(64, 1)], tmp_path / "shared").calibration
    assert own.deviation < shared.deviation / 4, (own, shared)


def test_a_file_that_is_no_better_than_a_constant_is_not_kept(
    net: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Give more images, prepared as for training"):
        # Ranges of images a thousand times as dark cut off whatever usual ones compute.
        zoo.export_int8(net, [1e-3 * images(8, 1)], tmp_path / "n", check=[images(8, 2)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "yields no image; give some hundred"),
        ([images(1, 1)], "fewer than two images"),
        ([(images(2, 1), torch.zeros(2))], "yields tuple, no batch of images"),
        ([images(2, 1)[0]], r"yields \(3, 16, 16\), no batch"),
        ([images(2, 1), images(2, 1)[:, :, 1:]], r"\(3, 15, 16\) and of \(3, 16, 16\)"),
        ([images(2, 1) / 0], "NaN or infinity"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_before_the_work(
    net: nn.Module, batches: list[Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.export_int8(net, batches, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_files_that_are_there_and_packages_that_are_not_are_told(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network.onnx").write_text("mine")
    for path, plain in (("network.onnx", "other"), ("other", "network.onnx")):
        with pytest.raises(FileExistsError, match="choose another name"):
            zoo.export_int8(net, [images(2, 1)], tmp_path / path, float_path=tmp_path / plain)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["mine"]
    found: Callable[[str], object] = lambda name: None if name == "onnxruntime" else 1  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    with pytest.raises(ValueError, match=r"onnx-int8 needs onnxruntime.*pip install onnxruntime"):
        zoo.export_int8(net, [images(2, 1)], tmp_path / "new.onnx")


class InADict(Depthwise):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"out": super().forward(x)}


def test_a_network_that_returns_a_dict_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"puts out a dict; one tensor.*return that alone"):
        zoo.export_int8(InADict(), [images(4, 0)], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())

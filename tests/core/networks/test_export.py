import importlib.util

import pytest
import timm
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from zoo.core.networks import export
from zoo.core.networks.export import export_network, require

SIZE = (3, 32, 32)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="an optional extra",
)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_resnet", num_classes=5).to(memory_format=torch.channels_last)


def run_file(path, images):
    """The file in its own runtime, apart from the code that wrote it."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    return torch.export.load(path).module()(images)


@pytest.mark.parametrize(
    ("form", "fold"),
    [("torch-export", False), ("torch-export", True), pytest.param("onnx", True, marks=needs_onnx)],
)
def test_the_file_computes_the_logits_at_any_batch_and_is_folded_where_asked(
    tmp_path, net, form, fold
):
    path = tmp_path / f"network{export.SUFFIXES[form]}"
    told = export_network(net, SIZE, path, form=form, fold=fold)
    assert told.path == path and told.size_bytes == path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if path.suffix == ".pt2":
        assert ("batch_norm" in torch.export.load(path).module().code) != fold
    for count in (1, 4):
        images = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected, found = net.eval()(images), run_file(path, images)
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


class Several(nn.Module):
    """Logits, a map of class indices and one number, in a dict, a tuple or a tuple of both."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.form = form

    def forward(self, images):
        maps = self.norm(self.conv(images)).relu()
        logits, index = self.fc(maps.mean((2, 3))), maps.argmax(1)
        if self.form is dict:
            return {"out": logits, "index": index, "aux": maps.mean()}
        return (logits, index) if self.form is tuple else (logits, {"deep": [index, maps.mean()]})


def leaves_of_file(path, images):
    if path.suffix == ".pt2":
        return tree_leaves(torch.export.load(path).module()(images))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {"images": images.numpy()})]


@pytest.mark.parametrize("written", ["torch-export", pytest.param("onnx", marks=needs_onnx)])
@pytest.mark.parametrize("form", [dict, tuple, list])
def test_all_outputs_are_written_in_their_order_and_compared(tmp_path, form, written):
    torch.manual_seed(0)
    net = Several(form).eval()
    path = tmp_path / f"network{export.SUFFIXES[written]}"
    told = export_network(net, SIZE, path, form=written, fold=True)
    assert 0 <= told.difference < 1e-5
    images = torch.randn(4, *SIZE)
    with torch.no_grad():
        expected, found = tree_leaves(net(images)), leaves_of_file(path, images)
    assert len(expected) == len(found) > 1
    for first, second in zip(expected, found, strict=True):
        assert first.dtype == second.dtype and torch.allclose(first, second, atol=1e-5)


@needs_onnx
def test_outputs_of_a_dict_bear_its_keys_in_an_onnx_file(tmp_path):
    import onnx

    export_network(Several(dict), SIZE, tmp_path / "network.onnx")
    graph = onnx.load(tmp_path / "network.onnx").graph
    assert [each.name for each in graph.output] == ["out", "index", "aux"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda found: found | {"aux": found["aux"] + 1},
            "values of output 3 differ .* by 1, more than",
        ),
        (
            lambda found: found | {"index": found["index"] + 1},
            "values of output 2 differ .* by 1, more than",
        ),
        (
            lambda found: found | {"out": found["out"][:1]},
            r"values of output 1 of shape \(1, 5\), .*\(3, 5\)",
        ),
        (lambda found: {"out": found["out"]}, "gives 1 tensors, the network 3"),
    ],
)
def test_a_file_with_one_wrong_output_of_several_is_not_kept(tmp_path, monkeypatch, change, told):
    class Wrong(Several):
        def forward(self, images):
            return change(super().forward(images))

    def wrong(model, size):
        other = Wrong(dict).eval()
        other.load_state_dict(model.state_dict())
        return other

    monkeypatch.setattr(export, "fold_batch_norm", wrong)
    with pytest.raises(ValueError, match=told):
        export_network(
            Several(dict), SIZE, tmp_path / "network.pt2", form="torch-export", fold=True
        )
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, net, monkeypatch):
    def wrong(model, size):
        return timm.create_model("test_resnet", num_classes=5).eval()

    monkeypatch.setattr(export, "fold_batch_norm", wrong)
    with pytest.raises(ValueError, match="logits differ from the network's by"):
        export_network(net, SIZE, tmp_path / "network.pt2", form="torch-export", fold=True)
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_exported_leaves_nothing_behind(tmp_path):
    class Dependent(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(Exception):  # torch's own
        export_network(Dependent(), SIZE, tmp_path / "network.pt2", form="torch-export")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_overwritten(tmp_path, net):
    path = tmp_path / "network.pt2"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="choose another name"):
        export_network(net, SIZE, path, form="torch-export")
    assert path.read_text() == "mine"


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "x" in name else 1)
    with pytest.raises(ValueError, match=r"onnxscript, onnxruntime.*pip install onnx onnxscript"):
        require("onnx")
    assert require("torch-export") == "torch-export"
    with pytest.raises(
        ValueError,
        match="'tflite'; use onnx, onnx-int8, torch-export or timm",
    ):
        require("tflite")


@pytest.mark.parametrize(("form", "other"), [("timm", "timm"), ("onnx-int8", "int8")])
def test_forms_that_another_function_writes_are_told(tmp_path, net, form, other):
    if form == "onnx-int8":
        pytest.importorskip("onnxruntime", reason="an optional extra")
    with pytest.raises(ValueError, match=f"is written by zoo.export_{other}; here, form is onnx"):
        export_network(net, SIZE, tmp_path / "network", form=form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "name"), [("onnx", "net.pt2"), ("torch-export", "net.onnx")])
def test_a_file_is_not_named_as_the_other_form(form, name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} would hold {form}; give form="):
        export_network(torch.nn.Flatten(), (3, 8, 8), tmp_path / name, form=form)
    assert not (tmp_path / name).exists()

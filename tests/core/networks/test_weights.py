"""A file of weights is loaded as a whole, or refused in a line that says what would fit."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.core.networks import weights as module
from zoo.core.networks.weights import load_weights, read_weights, weights_digest


def network(name: str = "test_resnet", classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, num_classes=classes)
    return model


def state(**changes: int) -> dict[str, Tensor]:
    return {
        name: tensor.clone() for name, tensor in network(seed=1, **changes).state_dict().items()
    }


def written(folder: Path, content: object, name: str = "file.pth") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def loaded(path: Path, *, is_new_head_allowed: bool = False) -> tuple[nn.Module, tuple[str, ...]]:
    model = network()
    told = load_weights(model, read_weights(path), is_new_head_allowed=is_new_head_allowed)
    return model, told


def refused(path: Path, model: nn.Module | None = None) -> str:
    """The one line of the refusal, after which the network is as it was."""
    model = model or network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(model, read_weights(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def holds(model: nn.Module, given: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == given.keys() and all(torch.equal(own[n], given[n]) for n in own)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.BIN"])
def test_every_tensor_comes_from_the_file(tmp_path: Path, name: str) -> None:
    model, told = loaded(written(tmp_path, state(), name))
    assert holds(model, state()) and told == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "backbone.", "module._orig_mod."])
@pytest.mark.parametrize("entry", ["state_dict", "model", "model_ema"])
def test_what_training_scripts_wrap_around_is_taken_off_and_told(
    tmp_path: Path, prefix: str, entry: str
) -> None:
    content = {"epoch": 3, entry: {prefix + name: tensor for name, tensor in state().items()}}
    model, told = loaded(written(tmp_path, content))
    assert holds(model, state())
    assert repr(entry) in told[0] and repr(prefix) in told[1]


def test_of_two_entries_the_plain_one_is_taken_and_both_are_told(tmp_path: Path) -> None:
    averaged = {name: tensor + 1 for name, tensor in state().items()}
    model, told = loaded(written(tmp_path, {"model_ema": averaged, "state_dict": state()}))
    assert holds(model, state()) and "not those of model_ema" in told[0]


def test_a_file_in_half_precision_keeps_the_networks_types(tmp_path: Path) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in state().items()}
    model, _ = loaded(written(tmp_path, half))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("conv1.0.weight").half(), half["conv1.0.weight"])


def test_counters_of_batches_may_be_absent(tmp_path: Path) -> None:
    older = {n: t for n, t in state().items() if not n.endswith("num_batches_tracked")}
    model, told = loaded(written(tmp_path, older))
    assert told == () and torch.equal(
        model.get_parameter("conv1.0.weight"), older["conv1.0.weight"]
    )


@pytest.mark.parametrize("has_head", [True, False])
def test_another_head_is_refused_unless_a_new_one_will_be_trained(
    tmp_path: Path, has_head: bool
) -> None:
    given = state(classes=7)
    if not has_head:
        given = {name: tensor for name, tensor in given.items() if not name.startswith("fc.")}
    path = written(tmp_path, given)
    its = "a head of 7 classes" if has_head else "no head"
    assert f"has {its} and the network's has 10" in refused(path)
    model, told = loaded(path, is_new_head_allowed=True)
    assert told == (f"it has {its}, so the one of 10 classes is newly drawn",)
    own, new = model.state_dict(), network().state_dict()
    assert all(torch.equal(own[n], (new if n.startswith("fc.") else given)[n]) for n in own)


def test_a_difference_beside_the_head_is_no_matter_of_the_head(tmp_path: Path) -> None:
    given = state(classes=7)
    del given["conv1.0.weight"]
    with pytest.raises(ValueError, match=r"1 missing \(conv1\.0\.weight\), 2 different \(fc\.wei"):
        loaded(written(tmp_path, given), is_new_head_allowed=True)


def test_half_a_head_is_refused(tmp_path: Path) -> None:
    given = state()
    del given["fc.bias"]
    with pytest.raises(ValueError, match=r"1 missing \(fc\.bias\)"):
        loaded(written(tmp_path, given), is_new_head_allowed=True)


def test_a_refusal_names_the_first_differences_with_both_shapes(tmp_path: Path) -> None:
    given = state()
    first = given["conv1.0.weight"]
    given["conv1.0.weight"] = first[:-1].clone()
    given["conv1.1.running_mean"] = given["conv1.1.running_mean"].long()
    given |= {f"further{number}": torch.ones(1) for number in range(5)}
    message = refused(written(tmp_path, given))
    shapes = f"{(len(first) - 1, *first.shape[1:])}, not {tuple(first.shape)}"
    assert f"conv1.0.weight {shapes}" in message and "of torch.int64, not torch.float32" in message
    assert "5 unexpected (further0, further1, further2, ...)" in message


def test_a_prefix_that_some_names_have_is_named(tmp_path: Path) -> None:
    mixed = {f"backbone.{n}": t for n, t in state().items()} | {"neck.weight": torch.ones(2)}
    message = refused(written(tmp_path, mixed))
    assert (
        f"{len(mixed) - 1} of its {len(mixed)} names fit without the prefix 'backbone.'" in message
    )


def test_the_network_that_the_file_fits_is_named(tmp_path: Path) -> None:
    deeper = network("resnet34", classes=5).state_dict()
    message = refused(written(tmp_path, deeper, "mine.pth"), network("resnet18"))
    assert message.endswith("it fits resnet34: ask for that network")
    tiny = network("test_efficientnet").state_dict()
    path = written(tmp_path, tiny, "test_efficientnet.r160_in1k.pth")
    assert refused(path).endswith("it fits test_efficientnet: ask for that network")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    for name, content in (
        ("whole.pth", network()),
        ("args.pth", {"state_dict": state(), "args": argparse.Namespace(lr=1)}),
        ("hostile.pth", {"state_dict": state(), "x": Hostile(tmp_path / "made")}),
    ):
        message = refused(written(tmp_path, content, name))
        assert "would run code: save the network's state_dict() alone" in message
    plain = tmp_path / "plain.bin"
    plain.write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    refused(plain)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "a list, no tensors by name"),
        ({}, "nothing, no tensors by name"),
        ({1: torch.ones(1)}, "1 is no name of a tensor"),
        ({"a": 1}, "a is a int, no tensor"),
        ({"a" * 2000: torch.ones(1)}, "is no name of a tensor"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a holds NaN or infinity"),
        ({"a": torch.eye(3).to_sparse()}, "a is no ordinary tensor"),
        ({"state_dict": {"a\x1b[31m": 1}}, r"a\x1b[31m is a int, no tensor"),
    ],
)
def test_what_is_no_state_of_a_network_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    assert message in refused(written(tmp_path, content))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_damaged_files_are_refused_in_a_line(tmp_path: Path, name: str) -> None:
    whole = written(tmp_path, state(), name).read_bytes()
    for number, content in enumerate((b"", b"no weights", whole[:1000], whole[: len(whole) // 2])):
        path = tmp_path / f"{number}{name}"
        path.write_bytes(content)
        assert "cannot be read" in refused(path)


def test_too_large_files_and_archives_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, state())
    monkeypatch.setattr(module, "_LARGEST_FILE", 50_000)
    assert "at most 50,000 are read" in refused(path)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100_000))
    path.write_bytes(packed.getvalue())
    assert "unpacks to 100,000 bytes; at most 50,000" in refused(path)


def test_only_files_of_weights_that_are_there_are_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.pth does not exist"):
        read_weights(tmp_path / "a.pth")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no file of weights; known are \.safetensors, \.pth"):
        weights_digest(tmp_path / "a.onnx")
    os.mkfifo(tmp_path / "pipe.pth")  # would be waited for without end
    with pytest.raises(ValueError, match="no plain file"):
        read_weights(tmp_path / "pipe.pth")


def test_the_digest_is_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, state(), "a.safetensors")
    found = weights_digest(path)
    assert read_weights(path).digest == found and len(found) == 16
    (tmp_path / "link.safetensors").symlink_to(path)
    assert weights_digest(tmp_path / "link.safetensors") == found
    assert weights_digest(written(tmp_path, state(classes=9), "b.safetensors")) != found

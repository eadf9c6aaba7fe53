"""The look before the work: what is made to work is exact, what is not is one clear line."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import zoo
from zoo.core.channels.config import SubnetConfig
from zoo.core.data import loaders
from zoo.core.data.loaders import LoaderBatches
from zoo.core.data.pairs import Targets, read_pair
from zoo.core.errors import Diverged, UnsupportedModel
from zoo.core.one_shot.stage_search import stage_scorers
from zoo.core.preflight import check_batch, preflight
from zoo.core.supernet.stages import cut_stages
from zoo.core.training.distill import check_errors, explain_flat_features, relative_feature_error
from zoo.core.training.logits import LogitsReader, reading
from zoo.core.training.train import evaluate

CLASSES = 4
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(32, 3, 8, 8, generator=GENERATOR)
LABELS = torch.arange(32) % CLASSES


class Tiny(nn.Module):
    """A classifier whose logits differ from image to image."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, outputs)

    def features(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.first(images)))
        return torch.relu(self.second(maps)).mean((2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))


def network(kind: type[Tiny] = Tiny, outputs: int = CLASSES) -> Tiny:
    torch.manual_seed(0)
    made = kind(outputs)
    with torch.no_grad():
        made.head.weight.mul_(30)
    return made


def loader(
    images: Tensor = IMAGES, labels: Tensor = LABELS, **arguments: Any
) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(images, labels), **({"batch_size": 8} | arguments))


def pruned(
    model: Any = None, train: Any = None, validation: Any = None, **arguments: Any
) -> zoo.PruneResult:
    defaults: dict[str, Any] = {
        "method": "knapsack",
        "macs": 0.6,
        "recipe": zoo.Recipe(epochs=1, lr=1e-4),
        "progress": False,
    }
    return zoo.prune(
        network() if model is None else model,
        loader() if train is None else train,
        loader() if validation is None else validation,
        **(defaults | arguments),
    )


def refused(message: str, *arguments: Any, error: type[Exception] = ValueError, **more: Any) -> str:
    """The message, which is one line, of a call that is refused before any search."""

    class Never(type(zoo.create_pruner("l1_norm"))):  # type: ignore[misc]
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            raise AssertionError("a search began")

    with pytest.raises(error, match=message) as caught:
        pruned(*arguments, **({"method": Never()} | more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


# --- batches: each form leads to the very network that plain pairs lead to


@pytest.fixture(scope="module")
def plain() -> zoo.PruneResult:
    return pruned()


def as_batches(form: Callable[[Tensor, Tensor], Any]) -> list[Any]:
    """A list of batches; not a DataLoader."""
    pairs = zip(IMAGES.split(8), LABELS.split(8), strict=True)
    return [form(images, labels) for images, labels in pairs]


Named = collections.namedtuple("Named", "image label path")

FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pair": lambda images, labels: (images, labels),
    "list": lambda images, labels: [images, labels],
    "with paths": lambda images, labels: (images, labels, ["a.png"] * len(labels)),
    "named tuple": lambda images, labels: Named(images, labels, ["a.png"] * len(labels)),
    "dict": lambda images, labels: {"image": images, "label": labels, "path": ["a.png"]},
    "hugging face": lambda images, labels: {"pixel_values": images, "labels": labels},
    "mapping": lambda images, labels: collections.UserDict(input=images, target=labels),
    "numpy": lambda images, labels: (images.numpy(), labels.numpy()),
    "double": lambda images, labels: (images.double(), labels),
    "integers": lambda images, labels: (images, labels.to(torch.uint8)),
    "list of labels": lambda images, labels: (images, labels.tolist()),
    "column": lambda images, labels: (images, labels[:, None].int()),
    "one-hot integers": lambda images, labels: (images, F.one_hot(labels, CLASSES)),
    "one-hot": lambda images, labels: (images, F.one_hot(labels, CLASSES).float()),
    "with gradients": lambda images, labels: (images.clone().requires_grad_(), labels),
    "channels last": lambda images, labels: (
        images.contiguous(memory_format=torch.channels_last),
        labels,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_batch_is_read_as_the_pair_that_it_is(form: str) -> None:
    source = LoaderBatches(as_batches(FORMS[form]), dtype=torch.float32)
    source.expect(CLASSES, is_binary=False)
    for epoch in (0, 1):
        images, labels = map(torch.cat, zip(*source.epoch(epoch), strict=True))
        assert torch.equal(images, IMAGES) and images.dtype == torch.float32
        assert not images.requires_grad
        if form == "one-hot":
            labels = labels.argmax(1)
        assert torch.equal(labels, LABELS) and labels.dtype == torch.int64


@pytest.mark.parametrize("form", ["dict", "numpy", "with paths", "one-hot"])
def test_every_form_of_batch_prunes_to_the_same_network(form: str, plain: zoo.PruneResult) -> None:
    data = as_batches(FORMS[form])
    result = pruned(train=data, validation=data)
    assert result.config == plain.config
    assert (result.val_top1, result.parent_val_top1) == (plain.val_top1, plain.parent_val_top1)
    other = plain.model.state_dict()
    for name, value in result.model.state_dict().items():
        # The loss of one-hot targets is the same sum in another order.
        assert torch.allclose(value, other[name], atol=1e-6)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images one by one, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(IMAGES, LABELS, strict=True))


class Measured(Stream):
    def __len__(self) -> int:
        return len(IMAGES)


class Whole(Dataset[tuple[Tensor, Tensor]]):
    """A set whose items are batches."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return IMAGES[8 * index : 8 * index + 8], LABELS[8 * index : 8 * index + 8]

    def __len__(self) -> int:
        return 4


class WholeStream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (Whole()[index] for index in range(4))


class Again:
    """Anything that can be iterated anew."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(as_batches(FORMS["pair"]))


LOADERS: dict[str, Callable[[], Any]] = {
    "stream": lambda: DataLoader(Stream(), batch_size=8),
    "stream with a length": lambda: DataLoader(Measured(), batch_size=8),
    "set of batches": lambda: DataLoader(Whole(), batch_size=None),
    "stream of batches": lambda: DataLoader(WholeStream(), batch_size=None),
    "batch sampler": lambda: DataLoader(
        TensorDataset(IMAGES, LABELS), batch_sampler=torch.arange(32).view(4, 8).tolist()
    ),
    "tuple of batches": lambda: tuple(as_batches(FORMS["pair"])),
    "iterable": Again,
}


@pytest.mark.parametrize("kind", ["iterable", "set of batches", "stream"])
def test_every_kind_of_loader_prunes_to_the_same_network(kind: str, plain: zoo.PruneResult) -> None:
    result = pruned(train=LOADERS[kind](), validation=LOADERS[kind]())
    assert result.config == plain.config and same_weights(result.model, plain.model)
    images = {phase: spent.images for phase, spent in plain.spent.items()}
    assert {phase: spent.images for phase, spent in result.spent.items()} == images


@pytest.mark.parametrize("kind", LOADERS)
def test_every_kind_of_loader_knows_its_length(kind: str) -> None:
    source = LoaderBatches(LOADERS[kind]())
    assert (len(source), source.num_images, source.batch_size) == (4, 32, 8)
    for epoch in (0, 1):
        drawn = [labels for _, labels in source.epoch(epoch)]
        assert torch.equal(torch.cat(drawn), LABELS)


def test_a_loader_that_drops_its_last_batch_has_no_images_of_it() -> None:
    source = LoaderBatches(loader(IMAGES[:30], LABELS[:30], drop_last=True))
    assert (len(source), source.num_images) == (3, 24)


class Once(IterableDataset[tuple[Tensor, Tensor]]):
    """A set that hands out one generator."""

    def __init__(self) -> None:
        self.items = iter(list(zip(IMAGES, LABELS, strict=True)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.items


class Boastful(Stream):
    def __len__(self) -> int:
        return 80


class Pictures(Dataset[tuple[Image.Image, int]]):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8)), 0

    def __len__(self) -> int:
        return 16


class Broken(Dataset[tuple[Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise ValueError("no such file")

    def __len__(self) -> int:
        return 16


class Uneven(Dataset[tuple[Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 8 + index, 8), 0

    def __len__(self) -> int:
        return 16


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter(as_batches(FORMS["pair"])), "train_loader can be iterated once only"),
        ((pair for pair in as_batches(FORMS["pair"])), "not an iterator or generator"),
        (DataLoader(Once(), batch_size=8), "train_loader can be iterated once only"),
        ([], "train_loader yields no batch; its set is empty"),
        (loader(IMAGES[:0], LABELS[:0]), "train_loader yields no batch; its set is empty"),
        (loader(IMAGES[:3], LABELS[:3], drop_last=True), "yields no batch.*has 3 images.*size 8"),
        (loader(IMAGES[:1], LABELS[:1]), "train_loader yields one image"),
        (DataLoader(Stream(), batch_size=64, drop_last=True), "train_loader yields no batch"),
        (IMAGES, "train_loader is a Tensor, no loader"),
        (TensorDataset(IMAGES, LABELS), r"shape \(3, 8, 8\)|no loader; pass DataLoader"),
        (3, "train_loader is a int, no loader"),
        (DataLoader(Stream(), batch_size=None), r"shape \(3, 8, 8\); expected \(N, C, H, W\)"),
        (DataLoader(TensorDataset(IMAGES), batch_size=8), "a list of 1 with a Tensor first"),
        (DataLoader(IMAGES, batch_size=8), r"yields one Tensor of torch.float32, shape \(8, 3"),  # type: ignore[arg-type]
        (DataLoader(Pictures(), batch_size=8), "cannot be read: TypeError: .*must be a tensor"),
        (DataLoader(Uneven(), batch_size=8), "cannot be read: RuntimeError: .*the same shape"),
        (DataLoader(Broken(), batch_size=8), "first batch of train_loader .* no such file. Each"),
        ([([Image.new("RGB", (8, 8))], LABELS[:1])], "images of train_loader are a list of 1 with"),
        ([{"picture": IMAGES, "label": LABELS}], "keys picture, label; none of them is known"),
        ([{"image": IMAGES, "img": IMAGES, "label": LABELS}], "image and img may all hold"),
        ([{"image": IMAGES}], "none of them is known to hold the labels"),
        ([(LABELS, IMAGES)], r"images of train_loader have shape \(32,\)"),
        ([(IMAGES, LABELS[:5])], r"images \(32, 3, 8, 8\) with labels \(5,\)"),
        ([(IMAGES, torch.tensor(3))], r"with labels \(\)"),
        ([(IMAGES, ["cat"] * 32)], "labels of train_loader are a list of 32 with a str first"),
        ([((IMAGES * 50).to(torch.uint8), LABELS)], "images of train_loader are uint8"),
        ([(IMAGES * torch.nan, LABELS)], "images of train_loader hold NaN"),
        (
            [(IMAGES[:, :1], LABELS)],
            r"\(N, 1, 8, 8\); its first convolution, first, reads images of 3",
        ),
        ([(IMAGES.permute(0, 2, 3, 1), LABELS)], "put channels first"),
        ([(IMAGES, LABELS.float())], "labels of train_loader are float32, 0, 1, 2, ...;.*long"),
        ([(IMAGES, LABELS - 1)], "the label -1, and the network has 4 outputs: .* 0 to 3"),
        ([(IMAGES, LABELS + 4)], "the label 7, and the network has 4 outputs"),
        ([(IMAGES, torch.full((32,), -100))], "the label -100"),
        ([(IMAGES, torch.zeros(32, 8, 8, dtype=torch.long))], r"\(32, 8, 8\): a label for each"),
        ([(IMAGES, torch.ones(32, 4))], "no class probabilities: a row adds up to 4.*epochs=0"),
        ([(IMAGES, torch.ones(32, 4).long())], "no class probabilities: a row adds up to 4"),
        ([(IMAGES, torch.full((32, 4), torch.nan))], "no class probabilities"),
        ([(IMAGES, torch.ones(32, 3) / 3)], r"\(32, 3\), and the network has 4 outputs"),
    ],
)
def test_a_training_loader_that_cannot_work_is_told_in_one_line(train: Any, message: str) -> None:
    refused(message, train=train)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_error_of_a_worker_process_is_told() -> None:
    refused("no such file. Each image", train=DataLoader(Broken(), batch_size=8, num_workers=1))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([], "val_loader yields no batch"),
        (iter([(IMAGES, LABELS)]), "val_loader can be iterated once only"),
        ([(IMAGES[:, :1], LABELS)], "first batch of val_loader does not go through Tiny in eval"),
        ([(IMAGES, LABELS.view(-1, 1, 1).expand(-1, 8, 8))], "labels of val_loader have shape"),
        ([(IMAGES, LABELS + 1)], "val_loader yields the label 4"),
        ([(IMAGES, LABELS.double())], "labels of val_loader are float64"),
        ([(IMAGES, torch.ones(32, 4) / 4)], "two classes of the same, highest probability"),
    ],
)
def test_a_validation_loader_that_cannot_work_is_told_in_one_line(
    validation: Any, message: str
) -> None:
    refused(message, validation=validation)


def test_a_label_out_of_range_is_told_in_any_batch() -> None:
    late = LABELS.clone()
    late[20] = 9
    with pytest.raises(ValueError, match="train_loader yields the label 9"):
        pruned(train=loader(labels=late), recipe=zoo.Recipe(epochs=1), method="l1_norm")
    with pytest.raises(ValueError, match="val_loader yields the label 9"):
        pruned(validation=loader(labels=late), method="l1_norm")


def test_a_length_that_is_not_true_is_told() -> None:
    with pytest.raises(ValueError, match="ended after 4 of 10 batches in epoch 0"):
        pruned(train=DataLoader(Boastful(), batch_size=8))


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield IMAGES[0], LABELS[0]

    monkeypatch.setattr(loaders, "MOST_BATCHES", 20)
    refused("no length and yields more than 20 batches; .*__len__", train=DataLoader(Endless()))


# --- one image


class Pooled(Tiny):
    """A batch norm behind the pooling, which takes no single image in training mode."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__(outputs)
        self.last_norm = nn.BatchNorm1d(12)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.last_norm(self.features(images)))


@pytest.mark.parametrize("method", ["l1_norm", "knapsack"])
@pytest.mark.parametrize("kind", [Tiny, Pooled])
def test_a_last_batch_of_one_image_is_left_out_of_training(kind: type[Tiny], method: str) -> None:
    data = loader(IMAGES[:25], LABELS[:25])
    left_out = pruned(network(kind), data, method=method)
    by_hand = pruned(network(kind), loader(IMAGES[:24], LABELS[:24]), method=method)
    assert same_weights(left_out.model, by_hand.model)
    assert left_out.spent["finetune"].images == 24


def test_a_last_batch_of_one_image_counts_in_validation() -> None:
    result = pruned(validation=loader(IMAGES[:25], LABELS[:25]))
    with torch.no_grad():
        hits = result.model(IMAGES[:25]).argmax(1) == LABELS[:25]
    assert result.val_top1 == int(hits.sum()) / 25


def test_batches_of_one_image_are_refused_where_the_network_takes_none() -> None:
    ones = loader(batch_size=1)
    refused("batches of one image, which Pooled .*raise batch_size", network(Pooled), ones)
    assert len(LoaderBatches(ones, skips_single=True)) == 32


def test_the_variance_of_one_value_is_not_divided_by() -> None:
    with pytest.raises(ValueError, match="of one image have no variance"):
        relative_feature_error(torch.ones(1, 4), torch.zeros(1, 4))


# --- networks


class Dictionary(Tiny):
    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images), "scale": 1.0}


class WithFeatures(Tiny):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return {"features": features, "logits": self.head(features)}


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: None = None


class Returning(Tiny):
    def forward(self, images: Tensor) -> Any:
        return Output(super().forward(images))


class Plain:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.hidden = logits, None


class ReturningPlain(Tiny):
    def forward(self, images: Tensor) -> Any:
        return Plain(super().forward(images))


class Listed(Tiny):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), "no tensor"


class Auxiliary(Tiny):
    """A second head in training mode only."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__(outputs)
        self.second_head = nn.Linear(3, outputs)

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return (logits, self.second_head(images.mean((2, 3)))) if self.training else logits


class AuxiliaryFirst(Auxiliary):
    """As older deep supervision returns them: the logits of the last layer come last."""

    def forward(self, images: Tensor) -> Any:
        output = super().forward(images)
        return list(reversed(output)) if self.training else output


class AuxiliaryNamed(Auxiliary):
    """Names that say nothing to us."""

    def forward(self, images: Tensor) -> Any:
        output = super().forward(images)
        return {"side": output[1], "out": output[0]} if self.training else {"out": output}


class Drawing(Auxiliary):
    """Drops at random where no module tells of it, so that nothing equals eval mode."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images * torch.rand_like(images) if self.training else images)


class Keeping(Tiny):
    """Keeps its features for a loss."""

    def features(self, images: Tensor) -> Tensor:
        self.kept = super().features(images)
        return self.kept


class Convolutional(Tiny):
    """Logits of shape (N, classes, 1, 1)."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images)[:, :, None, None]


def logits_of(output: Any) -> Tensor:
    if isinstance(output, dict):
        output = output.get("logits", output.get("out"))
    elif isinstance(output, Output):
        output = output.logits
    elif isinstance(output, tuple):
        output = output[0]
    return output.flatten(1)


@pytest.mark.parametrize(
    "kind",
    [Dictionary, Listed, Auxiliary, AuxiliaryFirst, AuxiliaryNamed, Convolutional],
)
@pytest.mark.parametrize("method", ["knapsack", "taylor"])
def test_logits_are_found_in_what_a_network_returns(
    kind: type[Tiny], method: str, plain: zoo.PruneResult
) -> None:
    result = pruned(network(kind), method=method)
    by_hand = plain if method == "knapsack" else pruned(method=method)
    assert result.config == by_hand.config
    assert same_weights(by_hand.model, result.model)
    assert result.val_top1 == by_hand.val_top1
    returned = result.model(IMAGES)
    assert type(returned) is type(network(kind).eval()(IMAGES))  # and not the logits alone
    assert torch.equal(logits_of(returned), by_hand.model(IMAGES))
    assert not result.model._forward_hooks


def test_a_network_that_keeps_what_it_computed_is_pruned_and_saved(
    tmp_path: Path,
) -> None:
    model = network(Keeping)
    model(IMAGES)  # leaves a tensor of its graph in the network
    result = pruned(model)
    result.model.train()(IMAGES)
    zoo.save_pruned(result, tmp_path / "saved")
    loaded = zoo.load_pruned(tmp_path / "saved", parent=network(Keeping))
    assert same_weights(loaded, result.model)


class NoiseOfItsWidth(Tiny):
    """Noise in training mode, which a pass without data cannot follow: it is made on the CPU."""

    def features(self, images: Tensor) -> Tensor:
        maps = self.norm(self.first(images))
        maps = maps + torch.randn(1, 8, 1, 1) if self.training else maps
        return torch.relu(self.second(torch.relu(maps))).mean((2, 3))


@pytest.mark.filterwarnings("ignore:only eval mode was traced")
def test_a_width_in_code_that_only_training_reaches_is_told_before_any_search() -> None:
    refused(
        "with fewer channels .* training mode", network(NoiseOfItsWidth), error=UnsupportedModel
    )


def test_weights_that_are_computed_are_told_with_the_way_out() -> None:
    model = network()
    model.second = nn.utils.parametrizations.weight_norm(model.second)
    refused("second computes .*remove_parametrizations", model, error=UnsupportedModel)


@pytest.mark.parametrize("method", zoo.list_pruners())
def test_every_method_reads_one_logit_of_a_dict_and_takes_soft_targets(method: str) -> None:
    soft = torch.stack([0.7 - 0.4 * (LABELS % 2), 0.3 + 0.4 * (LABELS % 2)], 1)
    data = loader(labels=soft)
    tiny = type(zoo.create_pruner(method)).tiny()
    result = pruned(network(WithFeatures, 1), data, data, method=tiny)
    returned = result.model(IMAGES)
    assert returned["features"].shape == (32, 12)  # what is returned is not narrowed
    hits = (returned["logits"][:, 0] > 0) == (LABELS % 2).bool()
    assert result.val_top1 == int(hits.sum()) / 32
    assert result.macs < result.parent_macs


def test_of_outputs_that_are_all_unlike_eval_mode_the_first_is_trained_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert preflight(network(Drawing), loader(), loader(), epochs=1).reader.in_training == 0
    assert "Drawing returns several tensors in training mode, and none equals" in caplog.text
    caplog.clear()
    assert preflight(network(AuxiliaryFirst), loader(), loader(), epochs=1).reader.in_training == 1
    assert not caplog.text


def test_logits_of_an_object_are_found() -> None:
    result, plain = pruned(network(ReturningPlain)), pruned()
    assert result.config == plain.config and result.val_top1 == plain.val_top1
    assert torch.equal(result.model(IMAGES).logits, plain.model(IMAGES))


def test_logits_of_a_dataclass_are_found() -> None:
    model = network(Returning).eval()
    output = model(IMAGES)
    reader = LogitsReader.of(output, output, "Returning")
    with reading(model, reader):
        assert torch.equal(model(IMAGES), output.logits)
    assert isinstance(model(IMAGES), Output)


@pytest.mark.parametrize("shape", [(32,), (32, 1)])
def test_one_logit_stands_for_two_classes(shape: tuple[int, ...]) -> None:
    labels = (LABELS % 2).float()
    data = loader(labels=labels.view(shape))
    result = pruned(network(outputs=1), data, data)
    with torch.no_grad():
        hits = (result.model(IMAGES)[:, 0] > 0) == labels.bool()
    assert result.model(IMAGES).shape == (32, 1)
    assert result.val_top1 == int(hits.sum()) / 32


def test_cross_entropy_of_one_logit_is_binary_cross_entropy() -> None:
    logit = torch.randn(16, 1, dtype=torch.float64)
    labels = torch.arange(16) % 2
    reader = LogitsReader.of(logit, logit, "Tiny")
    both = reader.read(logit, training=True)
    expected = F.binary_cross_entropy_with_logits(logit[:, 0], labels.double())
    assert F.cross_entropy(both, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_one_logit_takes_two_classes_only() -> None:
    message = "the label 3, and the network has one logit: labels go from 0 to 1"
    refused(message, network(outputs=1))


def test_soft_targets_train_on_their_cross_entropy() -> None:
    soft = (0.7 * F.one_hot(LABELS, CLASSES) + 0.3 * F.one_hot((LABELS + 1) % 4, CLASSES)).float()
    results = [
        pruned(train=loader(labels=labels), validation=loader(labels=soft), method="l1_norm")
        for labels in (soft, LABELS)
    ]
    assert results[0].config == results[1].config
    assert not same_weights(results[0].model, results[1].model)
    by_hand = network()
    for result in results:
        with torch.no_grad():
            hits = result.model(IMAGES).argmax(1) == LABELS
        assert result.val_top1 == int(hits.sum()) / 32
    with torch.no_grad():
        hits = by_hand.eval()(IMAGES).argmax(1) == LABELS
    assert results[0].parent_val_top1 == int(hits.sum()) / 32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_fine_tuned_in_single_and_handed_back_in_half(
    dtype: torch.dtype,
) -> None:
    model = network().to(dtype)
    result = pruned(model)
    single = pruned(copy.deepcopy(model).float())
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.config == single.config
    assert same_weights(copy.deepcopy(single.model).to(dtype), result.model)
    with torch.no_grad():
        hits = result.model(IMAGES.to(dtype)).argmax(1) == LABELS
    assert result.val_top1 == int(hits.sum()) / 32


def test_parts_in_half_precision_keep_it() -> None:
    class Mixed(Tiny):
        def forward(self, images: Tensor) -> Any:
            return self.head(self.features(images).to(self.head.weight.dtype)).float()

    model = network(Mixed)
    model.head.bfloat16()
    result = pruned(model)
    assert result.model.head.weight.dtype == torch.bfloat16
    assert result.model.first.weight.dtype == torch.float32


def test_a_network_in_double_precision_gets_images_in_double() -> None:
    assert next(pruned(network().double()).model.parameters()).dtype == torch.float64


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any], plain: zoo.PruneResult) -> None:
    result = pruned(wrap(network()))
    assert type(result.model) is Tiny and same_weights(result.model, plain.model)


def test_a_frozen_network_is_pruned_without_fine_tuning_and_not_fine_tuned_in_silence() -> None:
    frozen = network().requires_grad_(False)
    unfrozen = pruned(recipe=zoo.Recipe(epochs=0))
    result = pruned(frozen, recipe=zoo.Recipe(epochs=0))
    assert same_weights(result.model, unfrozen.model)
    assert not any(p.requires_grad for p in result.model.parameters())
    refused(r"all parameters of Tiny are frozen .*Recipe\(epochs=0\)", frozen)


class Features(Tiny):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return features, self.head(features)


class Maps(Tiny):
    def forward(self, images: Tensor) -> Any:
        return self.first(images)


class Detached(Tiny):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).detach()


class Squeezing(Tiny):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).squeeze()


class Training(Tiny):
    def forward(self, images: Tensor) -> Any:
        if self.training:
            raise RuntimeError("training needs targets\nand more")
        return super().forward(images)


class Fixed(Tiny):
    def forward(self, images: Tensor) -> Any:
        assert images.shape[-1] == 224, f"Input width ({images.shape[-1]}) doesn't match (224)"
        return super().forward(images)


class Even(nn.Module):
    def forward(self, images: Tensor) -> Any:
        torch._assert(images.shape[-1] % 7 == 0, "")
        return images


class Within(Tiny):
    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__(outputs)
        self.inner = nn.Sequential(Even())

    def forward(self, images: Tensor) -> Any:
        return super().forward(self.inner(images))


class Nothing(Tiny):
    def forward(self, images: Tensor) -> Any:
        super().forward(images)


def holding_nan() -> nn.Module:
    model = network()
    model.norm.running_var[3] = torch.nan
    return model


def overflowing() -> nn.Module:
    model = network()
    with torch.no_grad():
        model.head.weight.fill_(1e38)
        model.first.weight.mul_(1e6)
        model.norm.eval().weight.mul_(1e6)
    return model


def scattered() -> nn.Module:
    model = network()
    model.head.to("meta")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(Features), r"returns a tuple \(0: \(4, 12\), 1: \(4, 4\)\), .* several"),
        (lambda: network(Maps), r"returns a tensor of shape \(4, 8, 8, 8\); expected logits"),
        (lambda: network(Nothing), r"returns a NoneType \(without tensors\)"),
        (lambda: network(Detached), "logits of Detached in training mode do not depend on"),
        (
            lambda: network(Squeezing),
            r"returned shape \(4,\) where logits.* squeezes, give the dimension",
        ),
        (lambda: network(Training), "Training in training mode: training needs targets. Its im"),
        (lambda: network(Fixed), r"Fixed in eval mode: Input width \(8\) doesn't match \(224\)"),
        (
            lambda: network(Within),
            r"eval mode: inner.0 \(Even\): AssertionError: torch._assert.* % 7 == 0, \"\"\)\. Its",
        ),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))), "is a ScriptModule"),
        (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3))), "0 is a ScriptModule"),
        (lambda: nn.Sequential(nn.Flatten()), "Sequential has no parameters"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), "0.weight has no shape yet"),
        (lambda: {"state": 1}, "model is a dict; pass a torch.nn.Module"),
        (holding_nan, "norm.running_var of Tiny holds NaN"),
        (overflowing, "returns NaN or infinite logits for the first batch of train_loader"),
        (scattered, "Tiny is not on one device that holds data .*head.* on meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_network_that_cannot_work_is_told_in_one_line(
    make: Callable[[], Any], message: str
) -> None:
    refused(message, make())


def test_gradients_that_the_caller_switched_off_are_on(plain: zoo.PruneResult) -> None:
    with torch.no_grad():
        assert same_weights(pruned().model, plain.model)
        assert not torch.is_grad_enabled()
    with torch.inference_mode(), pytest.raises(ValueError, match="inference mode is on"):
        pruned()


def test_the_cause_of_a_refusal_is_kept() -> None:
    with pytest.raises(ValueError, match="training needs targets") as caught:
        pruned(network(Training))
    assert isinstance(caught.value.__cause__, RuntimeError)


class Random(Tiny):
    def forward(self, images: Tensor) -> Any:
        return F.dropout(super().forward(images), 0.5, self.training)


def test_the_look_leaves_network_mode_statistics_and_generators_alone() -> None:
    model = network(Random).train()
    model.norm.eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    preflight(model, loader(), loader(), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and not model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model._forward_hooks


# --- evaluate, for every caller


class Given:
    """Batches as they are."""

    batch_size = num_images = 4

    def __init__(self, labels: Tensor, images: Tensor = IMAGES[:4]) -> None:
        self.pair = images, labels

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.pair


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, 8, 8, dtype=torch.long), r"int64 of shape \(4, 8, 8\) for .* \(4, 4\)"),
        (torch.zeros(4, 1, dtype=torch.long), r"shape \(4, 1\)"),
        (torch.zeros(4, 4), r"float32 of shape \(4, 4\)"),
        (torch.zeros(4), r"float32 of shape \(4,\)"),
        (torch.zeros(1, dtype=torch.long), r"shape \(1,\)"),
        (torch.tensor([0, 1, 2, 4]), "1 of 4 labels are below 0 or have no logit: .* 0 to 3"),
        (torch.tensor([-1, 1, -100, 3]), "2 of 4 labels"),
    ],
)
def test_evaluation_compares_class_indices_only(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(network(), Given(labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(outputs=1), r"returns shape \(4, 1\)"),
        (lambda: network(Maps), r"returns shape \(4, 8, 8, 8\)"),
        (lambda: network(Convolutional), r"returns shape \(4, 4, 1, 1\)"),
        (lambda: network(Dictionary), "returns a dict"),
    ],
)
def test_evaluation_reads_logits_only(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(make(), Given(LABELS[:4]))


def test_logits_that_are_no_numbers_are_no_right_answers() -> None:
    images = IMAGES[:4].clone()
    images[:2] = torch.nan
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        answers = model(IMAGES[:4]).argmax(1)
        labels = torch.where(torch.arange(4) < 2, 0, answers)  # argmax of NaN is 0
        with pytest.warns(RuntimeWarning, match="logits of 2 of 4 images are NaN"):
            assert evaluate(model, Given(labels, images)) == 0.5


def test_no_images_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no image to evaluate"):
        evaluate(network(), Given(LABELS[:0], IMAGES[:0]))


def test_a_search_counts_no_answer_that_is_no_number() -> None:
    model = network().eval()
    look = preflight(model, loader(), loader(labels=torch.zeros(32, dtype=torch.long)), epochs=0)
    space = zoo.ChannelSpace.trace(model, (3, 8, 8))
    cost, meter = zoo.CostModel(space), zoo.core.meter.Meter("cpu")
    data = zoo.core.data.metered.MeteredData(look.train, look.validation, meter)
    problem = zoo.Problem(
        model, space, cost, zoo.Budget.parse(0.5, cost), data, zoo.WidthRules(), 0, meter, ""
    )
    weights = {"head.bias": torch.full((4,), torch.nan)}
    with meter.phase("search"):
        assert problem.accuracy(SubnetConfig.full(), weights) == 0.0


# --- labels and pairs, by themselves


def test_labels_of_every_integer_type_become_indices() -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool):
        read = Targets(classes=2).read(torch.tensor([0, 1, 1]).to(dtype))
        assert read.dtype == torch.int64 and read.tolist() == [0, 1, 1]


def test_numpy_arrays_are_read_whatever_their_strides() -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)[:, ::-1]
    read, labels = read_pair((images, np.array([1, 0])), "it")
    assert torch.equal(read, torch.tensor(images.copy())) and labels.tolist() == [1, 0]


# --- teachers


def test_a_teacher_that_was_not_trained_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
    told = "the teacher's logits hardly vary from image to image .*not trained.* gamma"
    with pytest.raises(Diverged, match=f"training loss .*; {told}"):
        pruned(model, recipe=zoo.Recipe(epochs=3, lr=0.1))
    assert "fine-tuning may diverge: the teacher's logits hardly vary" in caplog.text


def test_a_teacher_that_was_trained_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Diverged, match="lower the learning rate"):
        pruned(recipe=zoo.Recipe(epochs=3, lr=1e9))
    assert not caplog.text


def test_features_are_still_by_their_variance_over_images() -> None:
    still, moving = torch.ones(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    assert explain_flat_features({"layer1": moving, "logits": moving[..., 0, 0]}, "stop") == ""
    assert explain_flat_features({"layer1": still, "logits": moving[..., 0, 0]}, "stop").startswith(
        "the teacher's features at layer1 hardly vary from image to image (variance 0)"
    )
    assert explain_flat_features({"logits": 0.01 * moving[..., 0, 0]}, "stop").endswith(
        "first, or stop"
    )
    assert (
        explain_flat_features({"layer1": moving * torch.nan}, "stop") == ""
    )  # that is another fault


@pytest.mark.parametrize(
    ("scale", "message"), [(0.0, "features at layer1 hardly vary"), (1.0, "lower lr")]
)
def test_a_block_whose_error_is_no_number_stops_the_search(scale: float, message: str) -> None:
    target = scale * torch.randn(4, 3, 2, 2)
    with pytest.raises(Diverged, match=f"block that ends at layer1 is nan; .*{message}"):
        check_errors([torch.tensor(torch.nan)], ["layer1"], [target])
    check_errors([torch.tensor(1.0)], ["layer1"], [target])


def test_stages_are_not_scored_on_a_batch_of_one_image() -> None:
    model = network().eval()
    space = zoo.ChannelSpace.trace(model, (3, 8, 8))
    cost, meter = zoo.CostModel(space), zoo.core.meter.Meter("cpu")
    source = LoaderBatches(loader(IMAGES[:25], LABELS[:25]))
    data = zoo.core.data.metered.MeteredData(source, source, meter)
    problem = zoo.Problem(
        model, space, cost, zoo.Budget.parse(0.5, cost), data, zoo.WidthRules(), 0, meter, ""
    )
    with meter.phase("search"):
        (scorer,) = stage_scorers(problem, cut_stages(model, space, 1), {})
    assert [len(entering) for entering, _ in scorer.pairs] == [8, 8, 8]


# --- the command's road


def test_a_batch_of_the_command_is_held_against_its_network() -> None:
    check_batch(network(), (IMAGES, LABELS), "digits")
    with pytest.raises(ValueError, match="digits yields the label 7"):
        check_batch(network(), (IMAGES, LABELS + 4), "digits")
    with pytest.raises(ValueError, match="first batch of digits does not go through Tiny in eval"):
        check_batch(network(), (IMAGES[:, :1], LABELS), "digits")
    with pytest.raises(UnsupportedModel, match="does not return logits"):
        check_batch(network(Dictionary), (IMAGES, LABELS), "digits")
    with pytest.raises(ValueError, match="batches of one image"):
        check_batch(network(Pooled), (IMAGES[:1], LABELS[:1]), "digits")

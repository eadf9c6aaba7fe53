"""The look before the work: what is made to work is exact, what is not is one clear line."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from tests.ready import OURS
from tests.tiny_network import (
    CLASSES,
    IMAGES,
    LABELS,
    Convolutional,
    Dictionary,
    Maps,
    Pooled,
    Tiny,
    loader,
    network,
    plain,
    pruned,
    refused,
    same_weights,
)
from zoo.core.data.loaders import LoaderBatches
from zoo.core.errors import UnsupportedModel
from zoo.core.preflight import check_batch, preflight
from zoo.core.training.logits import LogitsReader, reading


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
    kind: type[Tiny],
    method: str,
) -> None:
    result = pruned(network(kind), method=method)
    by_hand = plain(method)
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


@pytest.mark.parametrize("method", OURS)
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


@pytest.mark.parametrize("ema_decay", [None, 0.5])
@pytest.mark.parametrize("kind", [Tiny, WithFeatures])
def test_epochs_are_judged_by_logits_that_are_read_once(
    kind: type[Tiny], ema_decay: float | None
) -> None:
    data = loader(labels=LABELS % 2)
    recipe = zoo.Recipe(epochs=4, lr=0.01, patience=4, ema_decay=ema_decay)
    result = pruned(network(kind, 1), data, data, recipe=recipe, method="l1_norm")
    (row,) = (row for row in result.trace if row["step"] == "finetune")
    scores: Any = row["scores"]
    assert max(scores) == result.val_top1 and len(set(scores)) > 1


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
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any]) -> None:
    result = pruned(wrap(network()))
    assert type(result.model) is Tiny and same_weights(result.model, plain().model)


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


def test_gradients_that_the_caller_switched_off_are_on() -> None:
    expected = plain().model
    with torch.no_grad():
        assert same_weights(pruned().model, expected)
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


# --- one image


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

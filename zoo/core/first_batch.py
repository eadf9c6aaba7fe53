"""Run a first batch through a network, its loss and its metric; what fails is told in a line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.data.batches import Batch, BatchSource
from zoo.core.data.inputs import Inputs, call, count_images, divided, tensors_of
from zoo.core.data.loaders import LoaderBatches
from zoo.core.errors import UnsupportedModel, said
from zoo.core.randomness import fixed_random
from zoo.core.tracing.copies import copy_network
from zoo.core.training.broadcast_watch import BroadcastWatch
from zoo.core.training.gradients import backward
from zoo.core.training.logits import LogitsReader
from zoo.core.training.task import (
    Answer,
    Metric,
    Task,
    answer,
    as_trained,
    compared_tensors,
    read_top1,
)
from zoo.core.training.train import eval_mode

__all__ = ["answered", "check_gradients", "check_metric", "metric_of", "probed_task"]


def answered(model: nn.Module, inputs: Inputs, name: str, part: str = "") -> Answer:
    """Answer of a network in its current mode; the global random generators stay as they are.

    Args:
        model: the network.
        inputs: of a batch.
        name: of the loader that it comes from, for messages.
        part: path of the part to listen to.

    Raises:
        ValueError: if it fails.
        UnsupportedModel: if it writes into its inputs.
    """
    watch = _WriteWatch(inputs)
    devices = [tensor.device for tensor in tensors_of(inputs) if tensor.device.type == "cuda"]
    try:
        with fixed_random("preflight"), torch.random.fork_rng(devices[:1]):
            found = answer(model, inputs, part)
    except Exception as error:  # whatever a foreign forward pass may raise
        mode = "training" if model.training else "eval"
        raise ValueError(
            f"the first batch of {name} does not go through {type(model).__name__} in {mode} mode: "
            f"{_where(model, error)}{said(error)}. {_told(model, inputs)}"
        ) from error
    if watch.has_seen_writes:
        raise UnsupportedModel(
            f"{type(model).__name__} changes its inputs in place, and others read the same batch "
            "after it, such as a teacher; let it make new tensors, x - mean instead of "
            "x.sub_(mean), and have no inplace=True in what reads the images"
        )
    return found


def check_gradients(model: nn.Module, loss: Tensor, name: str, scale: str = "images'") -> None:
    """Pass a loss back through a network, and refuse gradients that are no finite numbers.

    Args:
        model: gets no gradients in the end.
        loss: a scalar.
        name: of the loader that the batch comes from, for messages.
        scale: whose scale to check.

    Raises:
        UnsupportedModel: if there is no gradient.
        ValueError: if one is not finite.
    """
    try:
        backward(loss)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"{type(model).__name__} has no gradient in training mode: {said(error)}"
        ) from error
    found = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    wrong = [n for n, gradient in found if not bool(gradient.isfinite().all())]
    model.zero_grad(set_to_none=True)
    if wrong:
        raise ValueError(
            f"the gradient of {wrong[0]} is no finite number on the first batch of {name}; "
            f"check the {scale} scale and the network's weights"
        )


def metric_of(model: nn.Module, metric: Metric, batches: BatchSource) -> float:
    """The metric of a network in eval mode on all batches; the network's mode is restored."""
    with eval_mode(model), torch.no_grad():
        return float(metric.compute(_pairs(model, batches.epoch(0))))


def check_metric(model: nn.Module, metric: Metric, batches: LoaderBatches) -> None:
    """Refuse a metric that fails, that is no number, or that broadcasts images.

    A metric may need more than one batch, such as an area under a curve, so it need not be finite.

    Args:
        model: with the outputs that the metric reads.
        metric: what candidates and results are compared by.
        batches: held out.

    Raises:
        ValueError: naming the metric, with the way out.
    """
    watch = BroadcastWatch()
    batch = batches.first_batch()
    writes = _WriteWatch(batch[1])

    def pairs() -> Iterator[tuple[Any, Any]]:
        for outputs, targets in _pairs(model, iter([batch])):
            watch.add(outputs, targets)
            yield outputs, targets

    try:
        with eval_mode(model), torch.no_grad(), watch.refusing():
            value: Any = metric.compute(pairs())
    except Exception as error:  # whatever a foreign metric may raise
        raise ValueError(
            f"metric {metric.name!r} fails on the first batch of {batches.name}: "
            f"{type(error).__name__}: {said(error)}; its compute gets pairs (outputs, targets), "
            "one for each batch"
        ) from error
    if watch.found:
        raise ValueError(f"metric {metric.name!r} {watch.told}")
    if writes.has_seen_writes:
        raise ValueError(f"metric {metric.name!r} {_WRITES_TARGETS}")
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"metric {metric.name!r} returns {_described(value)}; let it return one number"
        ) from error


def probed_task(
    parent: nn.Module,
    train: LoaderBatches,
    validation: LoaderBatches,
    task: Task,
    part: str,
    *,
    has_metric: bool,
) -> Task:
    """Try a loss of one's own on the first batches; what it can be used for is noted in the task.

    Args:
        parent: the network; not touched.
        train: training batches.
        validation: held-out batches.
        task: with a loss of its own.
        part: path of the part that is pruned.
        has_metric: whether somebody gave the metric; it is top-1 otherwise, if there are logits.

    Raises:
        ValueError: if a batch does not go through the network, or loss, gradient or metric are
            none; with the way out.
        UnsupportedModel: if the loss does not depend on the network.
    """
    # Dense weights: backward passes in another memory format are the training loop's care.
    trial = copy_network(parent).to(memory_format=torch.contiguous_format)
    inputs, targets = train.first_batch()
    trial.train()
    trained = answered(trial, inputs, train.name).outputs
    _check_loss(trial, task, trained, targets, train.name)
    trial.eval()
    with as_trained(trial):
        scored = answered(trial, inputs, train.name, part)
        _check_loss(trial, task, scored.outputs, targets, train.name)
    with torch.no_grad():
        seen = answered(trial.eval(), validation.first_images(), validation.name, part)
    if has_metric:
        check_metric(trial, task.metric, validation)
    else:
        task = replace(task, metric=_top1(trial, validation, seen, trained, scored))
    compared = [scored.compared, seen.compared]
    counts = [count_images(inputs), count_images(validation.first_images())]
    return replace(
        task,
        incomparable=_incomparable(type(parent).__name__, compared, counts, part),
        indivisible=_indivisible(train),
    )


def _pairs(model: nn.Module, batches: Iterator[Batch]) -> Iterator[tuple[Any, Any]]:
    for inputs, targets in batches:
        yield call(model, inputs), targets


def _check_loss(model: nn.Module, task: Task, outputs: Any, targets: Any, name: str) -> None:
    """Refuse a loss that fails, broadcasts, is no finite scalar, or has no gradient."""
    if isinstance(task.loss, nn.Module) and any(p.requires_grad for p in task.loss.parameters()):
        raise ValueError(
            f"loss= is a {type(task.loss).__name__} with parameters of its own, which would not be "
            "trained; make them part of the network, or freeze them with loss.requires_grad_(False)"
        )
    watch, writes = BroadcastWatch(outputs, targets), _WriteWatch(targets)
    try:
        with watch.refusing():
            loss: Any = task.loss_of(outputs, targets)
    except Exception as error:  # whatever a foreign loss may raise
        raise ValueError(
            f"loss= fails on the first batch of {name}: {type(error).__name__}: {said(error)}; it "
            f"gets {_described(outputs)}, what {type(model).__name__} returns in training mode, "
            f"and {_described(targets)}, the targets"
        ) from error
    if watch.found:
        raise ValueError(f"loss= {watch.told}")
    if writes.has_seen_writes:
        raise ValueError(f"loss= {_WRITES_TARGETS}")
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.ndim:
        raise ValueError(
            f"loss= returns {_described(loss)}; let it return a scalar tensor, such as the mean "
            "over the batch"
        )
    if not bool(loss.isfinite()):
        raise ValueError(
            f"the loss of the first batch of {name} is {float(loss.detach())}; check outputs and "
            "targets"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    if not loss.requires_grad:
        raise UnsupportedModel(
            f"loss= has no gradient to the parameters of {type(model).__name__}: compute it from "
            "the outputs with torch, without detach, argmax or torch.no_grad"
        )
    check_gradients(model, loss, name, "inputs' and targets'")


def _top1(
    model: nn.Module, validation: LoaderBatches, seen: Answer, trained: Any, scored: Answer
) -> Metric:
    """Top-1, where a network with a loss of its own is a classifier all the same."""
    name = type(model).__name__
    try:
        metric = read_top1(LogitsReader.of(seen.outputs, trained, name, scored.outputs))
        check_metric(model, metric, validation)
    except ValueError as error:  # no logits, or no class indices
        raise ValueError(
            f"loss= is your own, and {name} returns {_described(seen.outputs)}, from which no "
            "top-1 follows; give metric=zoo.Metric(name, compute, higher_is_better=...) as well"
        ) from error
    return metric


def _incomparable(name: str, compared: list[Any], counts: list[int], part: str) -> str:
    """Why outputs cannot be compared with a teacher's; "" if they can."""
    for outputs, count in zip(compared, counts, strict=True):
        tensors = compared_tensors(outputs)
        if not tensors or any(len(tensor) != count for tensor in tensors):
            where = f"the part {part!r}" if part else name
            return (
                f"{where} returns {_described(outputs)}, not a row of numbers for each image, which"
            )
    return ""


def _indivisible(train: LoaderBatches) -> str:
    """Why a batch cannot be divided among subnets; "" if it can."""
    inputs, targets = train.first
    count = count_images(inputs)
    try:
        for value in (inputs, targets):
            divided(value, count, min(2, count))
    except ValueError as error:
        return f"{error}, which is so for"
    return ""


_WRITES_TARGETS = (
    "changes its targets in place, and others read the same batch after it; let it make new "
    "tensors, such as targets.clamp(0) instead of targets.clamp_(0)"
)


class _WriteWatch:
    """Sees whether tensors are written into, by the versions that torch keeps of them.

    Args:
        value: tensors, or what holds them; those of inference mode have no versions.
    """

    def __init__(self, value: Any) -> None:
        self._tensors = [each for each in tensors_of(value) if not each.is_inference()]
        self._versions = [tensor._version for tensor in self._tensors]

    @property
    def has_seen_writes(self) -> bool:
        """Whether one was written into since."""
        return self._versions != [tensor._version for tensor in self._tensors]


def _where(model: nn.Module, error: Exception) -> str:
    """The innermost module whose code raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    raising = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    inner = [paths[id(each)] for each in raising if paths.get(id(each))]
    return f"{inner[-1]} ({type(model.get_submodule(inner[-1])).__name__}): " if inner else ""


def _told(model: nn.Module, inputs: Inputs) -> str:
    """What the inputs are, and what they should be like, as far as the modules tell."""
    if not isinstance(inputs, Tensor):
        return (
            f"Its inputs are {_described(inputs)}: a tuple is given by position, a dict by "
            "keyword, a list is one argument"
        )
    size = ", ".join(map(str, inputs.shape[1:]))
    kind = str(inputs.dtype).removeprefix("torch.")
    return f"Its images are {kind} of shape (N, {size}); {_expected(model, inputs)}"


def _expected(model: nn.Module, images: Tensor) -> str:
    """What the images should be like, as far as the modules tell, for a message."""
    convolutions = (
        (path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    path, first = next(convolutions, ("", None))
    if images.ndim != 4 or first is None or first.in_channels == images.shape[1]:
        return "expected (N, C, H, W) of the size and scale that the network was trained on"
    told = f"its first convolution, {path}, reads images of {first.in_channels} channels"
    if first.in_channels == images.shape[3]:
        return f"{told}: put channels first, images.permute(0, 3, 1, 2)"
    return f"{told}: convert the images in the dataset's transform"


def _described(value: Any, depth: int = 1) -> str:
    """Type and size of a value, in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict) and depth:
        inner = ", ".join(f"{key}: {_described(part, 0)}" for key, part in list(value.items())[:4])
        return f"a dict ({inner})"
    if isinstance(value, tuple | list) and value and depth:
        return f"a {type(value).__name__} of {len(value)} with {_described(value[0], 0)} first"
    return "nothing" if value is None else f"a {type(value).__name__}"

"""Check before the work: run a first batch through the network in both modes, loss included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.batches import Batch, BatchSource
from zoo.core.data.inputs import Inputs, moved, tensors_of
from zoo.core.data.loaders import LoaderBatches
from zoo.core.data.metered import MeteredData
from zoo.core.data.pairs import ReadBatch, Targets
from zoo.core.errors import UnsupportedModel, said, unknown_name
from zoo.core.first_batch import (
    answered,
    check_gradients,
    check_metric,
    metric_of,
    probed_task,
)
from zoo.core.meter import Meter
from zoo.core.tracing.copies import copy_network, float_dtype, require_plain_weights
from zoo.core.tracing.entry import Entry, InputSize, image_size
from zoo.core.tracing.trace import training_mode
from zoo.core.training.checkpoint import digest
from zoo.core.training.logits import LogitsReader, reading, unwrapped
from zoo.core.training.task import TOP1, Loss, Metric, Task
from zoo.core.training.train import evaluate

__all__ = ["Preflight", "check_batch", "check_network", "preflight"]

# Images of a batch that are tried: enough for batch norms, few enough to cost next to nothing.
PROBED = 4

_HALF = (torch.float16, torch.bfloat16)


def check_network(model: object) -> nn.Module:
    """Unwrap a network, and check that it can be read; nothing is changed.

    Raises:
        UnsupportedModel: if it is no module, a script, or without data of its own on one device.
        ValueError: if a weight is no finite number.
    """
    network = unwrapped(model)
    name = type(network).__name__
    if not any(True for _ in network.parameters()):
        raise UnsupportedModel(f"{name} has no parameters; there is nothing to prune")
    require_plain_weights(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    devices = {str(tensor.device): path for path, tensor in tensors.items()}
    if len(devices) > 1 or "meta" in devices:
        told = ", ".join(f"{path} on {device}" for device, path in devices.items())
        raise UnsupportedModel(
            f"{name} is not on one device that holds data ({told}); move it with model.to(device)"
        )
    for path, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            raise ValueError(
                f"{path} of {name} holds NaN or infinite numbers: no accuracy of this network "
                "means anything; load other weights or train it anew with a lower learning rate"
            )
    return network


@dataclass(frozen=True)
class Preflight:
    """A network and two loaders that were tried together.

    Attributes:
        given: a copy of the network as it was given, in eval mode.
        parent: the same, in single precision if it was in half: gradients and updates of
            half-precision weights are lost in rounding.
        reader: of the logits in what the network returns; None where a loss of one's own reads
            that.
        train: training batches, without a last one of one image.
        validation: held-out batches; soft targets are their most likely class.
        task: the loss and the metric.
        entry: what enters the network, or the part of it that is pruned; None for images alone.
    """

    given: nn.Module
    parent: nn.Module
    reader: LogitsReader | None
    train: LoaderBatches
    validation: LoaderBatches
    task: Task
    entry: Entry | None

    @property
    def size(self) -> InputSize:
        """(C, H, W) of one training image, or what else enters."""
        return self.entry or image_size(Entry.of(self.train.first[0]))

    def read(self, network: nn.Module) -> AbstractContextManager[object]:
        """Let a network return logits while the context is open, unless it has its own loss."""
        return nullcontext() if self.reader is None else reading(network, self.reader)

    def first_batches(self) -> dict[str, Tensor]:
        """Inputs and targets of the first batches as the loaders yield them, by name."""
        first = {"train": self.train.first, "validation": self.validation.first}
        return {
            f"{name} {number}": tensor
            for name, batch in first.items()
            for number, tensor in enumerate(tensors_of(batch))
        }

    def labels_digest(self) -> str:
        """Tells the targets of the first batches; images may be augmented by a loader's workers."""
        first = {"train": self.train.first[1], "validation": self.validation.first[1]}
        return digest(
            {
                f"{name} {number}": tensor
                for name, targets in first.items()
                for number, tensor in enumerate(tensors_of(targets))
            }
        )

    def metered(self, meter: Meter) -> MeteredData:
        """What a method may see, charged."""
        return MeteredData(self.train, self.validation, meter)

    def to_given_types(self, small: nn.Module) -> nn.Module:
        """Convert a network cut from the parent to the types of the given one, in place."""
        if self.parent is not self.given:
            given = (*self.given.named_parameters(), *self.given.named_buffers())
            types = {name: tensor.dtype for name, tensor in given}
            for name, tensor in (*small.named_parameters(), *small.named_buffers()):
                tensor.data = tensor.data.to(types[name])
        return small

    def check_smaller(self, space: ChannelSpace) -> None:
        """Refuse a network that cannot be used with fewer channels, though tracing saw no reason.

        Training mode may not run without data, and a network is then traced in eval mode alone.

        Args:
            space: of the parent.

        Raises:
            UnsupportedModel: if a smaller network does not take the first images in either mode.
        """
        smaller = resized_copy(self.parent, space.table, space.tried)
        few = _few(self.train.first_images())
        for is_training in (False, True):
            try:
                with torch.no_grad():
                    answered(smaller.train(is_training), few, self.train.name)
            except ValueError as error:
                reason = said(error.__cause__) if error.__cause__ else ""
                mode = "training" if is_training else "eval"
                raise UnsupportedModel(
                    f"with fewer channels {type(smaller).__name__} does not run in {mode} mode: "
                    f"{reason}. Its code holds a number of channels, and could not be traced there "
                    "without data; let it read that from its tensors, and make new ones on their "
                    "device"
                ) from error

    def given_value(self) -> float:
        """The metric of the given network on all held-out batches.

        Raises:
            ValueError: if it is no finite number.
            Exception: what reading a batch, the network or the metric raises, with a note.
        """
        metric, name = self.task.metric.name, self.validation.name
        try:
            value = self.value(self.given)
        except Exception as error:  # whatever foreign code may raise
            error.add_note(f"(in metric {metric!r} of the given network on all of {name})")
            raise
        if not math.isfinite(value):
            raise ValueError(
                f"metric {metric!r} of the given network on {name} is {value}, by which nothing "
                "can be compared; let it return a finite number"
            )
        return value

    def value(self, network: nn.Module, batches: BatchSource | None = None) -> float:
        """The metric of a network on held-out batches.

        Args:
            network: in the types of the given one.
            batches: the validation batches if None.
        """
        batches = batches or self.validation.as_type(float_dtype(self.given))
        with self.read(network):
            if self.task.metric is TOP1:
                return evaluate(network, batches)
            return metric_of(network, self.task.metric, batches)


def preflight(
    model: object,
    train_loader: Iterable[Any],  # a batch may be anything, until it is read
    val_loader: Iterable[Any],
    *,
    epochs: int,
    seed: int = 0,
    device: str | torch.device | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    batch: ReadBatch | None = None,
    part: str = "",
) -> Preflight:
    """Copy a network, and wrap its loaders, once both first batches have run through it.

    Args:
        model: the network, on the device to work on; it is not changed.
        train_loader: see `LoaderBatches`.
        val_loader: held out, the same.
        epochs: of fine-tuning, which needs a parameter with gradients.
        seed: of the random numbers that the loaders draw.
        device: that the copy is moved to; the network's own if None.
        loss: of outputs and targets; None for the cross-entropy of logits.
        metric: None for top-1.
        batch: turns what the loaders yield into (inputs, targets).
        part: path of the part that is pruned; "" for all.

    Raises:
        ValueError: if a loader cannot be read, a batch does not go through the network in either
            mode, labels do not fit its outputs, or logits, loss or gradients are no numbers.
        UnsupportedModel: if the network, or what it returns, cannot be read.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("inference mode is on, and pruning needs gradients; call prune outside it")
    given = copy_network(check_network(model)).eval()
    if device is not None:
        given = given.to(_usable(device))
    if part and part not in (named := dict(given.named_modules())):
        raise unknown_name("part", part, filter(None, named))
    is_half = any(p.dtype in _HALF for p in given.parameters())
    parent = copy_network(given).float() if is_half else given
    if epochs and not any(p.requires_grad for p in parent.parameters()):
        raise ValueError(
            f"all parameters of {type(parent).__name__} are frozen (requires_grad=False), so there "
            "is nothing to fine-tune; unfreeze them with model.requires_grad_(True), or prune "
            "without fine-tuning: recipe=Recipe(epochs=0)"
        )
    device, dtype = next(parent.parameters()).device, float_dtype(parent)
    batches = partial(
        LoaderBatches, seed=seed, device=device, dtype=dtype, batch=batch,
        has_own_targets=loss is not None,
    )  # fmt: skip
    train = batches(train_loader, name="train_loader", skips_single=True)
    held_out = partial(batches, val_loader, name="val_loader", is_hard=True)
    task, reader = Task(loss, metric or TOP1), None
    if loss is None:
        reader, validation = _probed_classifier(parent, train, held_out)
        if metric is not None:
            with reading(copy_network(parent), reader) as trial:
                check_metric(trial, metric, validation)
    else:
        validation = held_out()
        has_metric = metric is not None
        task = probed_task(parent, train, validation, task, part, has_metric=has_metric)
    if is_half:
        with torch.no_grad():
            few = moved(_few(train.first_images()), device, float_dtype(given))
            answered(given, few, train.name)
    return Preflight(given, parent, reader, train, validation, task, _entry(parent, train, part))


def _probed_classifier(
    parent: nn.Module, train: LoaderBatches, held_out: Callable[[], LoaderBatches]
) -> tuple[LogitsReader, LoaderBatches]:
    """The reader of a classifier's logits, and the held-out batches, once all were tried."""
    probe = _Probe.of(parent, train.first_images(), train.name)
    probe.check_batch_size(train.batch_size, train.name)
    train.expect(probe.classes, is_binary=probe.reader.is_binary)
    probe.check_training(*train.first_batch(), train.name)
    validation = held_out()
    probe.check_eval(validation.first_images(), validation.name)
    validation.expect(probe.classes, is_binary=probe.reader.is_binary)
    return probe.reader, validation


def _entry(parent: nn.Module, train: LoaderBatches, part: str) -> Entry | None:
    """What enters the network, or a part of it; None for images alone."""
    inputs = train.first_images()
    if part:
        return Entry.of_part(parent, part, inputs)
    is_plain = isinstance(inputs, Tensor) and inputs.ndim == 4
    return None if is_plain else Entry.of(inputs)


def _usable(device: str | torch.device) -> torch.device:
    """A device that holds data and is there.

    Raises:
        ValueError: if it does not or is not.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be worked on ({said(error)}); give 'cpu', 'cuda' or "
            "'cuda:1', or leave device out to stay where the model is"
        ) from error
    return found


def check_batch(model: nn.Module, batch: Batch, name: str) -> None:
    """Refuse a batch that does not run through a plain classifier in both modes, with the loss.

    Args:
        model: in any mode; it is not changed.
        batch: images, shape (N, C, H, W), and class indices, shape (N,).
        name: of where the batch comes from, for messages.

    Raises:
        ValueError: as `preflight`.
        UnsupportedModel: if the network returns anything but logits, shape (N, classes).
    """
    images, labels = batch
    network = check_network(model)
    probe = _Probe.of(network, images, name)
    if not probe.reader.is_plain:
        raise UnsupportedModel(
            f"{type(network).__name__} does not return logits, shape (N, classes), of two classes "
            "or more; choose a classifier"
        )
    probe.check_batch_size(len(images), name)
    probe.check_training(images, Targets(name, probe.classes).read(labels), name)


@dataclass(frozen=True)
class _Probe:
    """A copy of a network, and what a first batch showed of it.

    Attributes:
        model: the copy; only its mode and its batch-norm statistics change.
        reader: reads its logits.
        classes: number of logits.
        takes_one: whether it takes a single image in training mode.
    """

    model: nn.Module
    reader: LogitsReader
    classes: int
    takes_one: bool

    @classmethod
    def of(cls, model: nn.Module, images: Inputs, name: str) -> _Probe:
        """Try images, shape (N, C, H, W), or other inputs, in both modes."""
        if any(_is_wrong(tensor) for tensor in tensors_of(images)):
            raise ValueError(f"images of {name} hold NaN or infinite numbers; mend the dataset")
        # Dense weights: backward passes in another memory format are the training loop's care.
        trial = copy_network(model).to(memory_format=torch.contiguous_format)
        few = _few(images)
        with torch.no_grad():
            seen = _output(trial.eval(), few, name)
            alone = _output(trial, few[:1], name) if isinstance(few, Tensor) else None
            with training_mode(trial):
                still = _output(trial, few, name)
            trained = _output(trial.train(), few, name)
            one = not isinstance(few, Tensor) or _can_run(trial, few[:1])
        reader = LogitsReader.of(seen, trained, type(model).__name__, still)
        logits = reader.read(seen, training=False)
        if alone is not None and reader.read(alone, training=False).shape != (1, logits.shape[1]):
            raise UnsupportedModel(
                f"{type(model).__name__} does not return one row of logits for one image; give the "
                "dimension where its forward pass squeezes"
            )
        _check_numbers(trial.eval(), logits, name)
        return cls(trial, reader, logits.shape[1], one)

    def check_batch_size(self, size: int, name: str) -> None:
        """Refuse batches of one image where the network takes none in training mode."""
        if size == 1 and not self.takes_one:
            raise ValueError(
                f"{name} yields batches of one image, which {type(self.model).__name__} does not "
                "take in training mode: its batch norms need two values for each channel; raise "
                "batch_size"
            )

    def check_eval(self, images: Inputs, name: str) -> None:
        """Try inputs in eval mode."""
        with torch.no_grad():
            output = _output(self.model.eval(), _few(images), name)
        _check_numbers(self.model, self.reader.read(output, training=False), name)

    def check_training(self, images: Inputs, labels: Tensor, name: str) -> None:
        """Try the loss and its gradient in training mode."""
        model = self.model.train()
        is_frozen = not any(p.requires_grad for p in model.parameters())
        with torch.enable_grad():
            output = _output(model, _few(images), name)
            logits = self.reader.read(output, training=True)
            few = _few(labels) if isinstance(images, Tensor) else labels
            loss = F.cross_entropy(logits, few)
        _check_numbers(model, logits, name)
        if not bool(loss.isfinite()):
            raise ValueError(f"the loss of the first batch of {name} is {float(loss.detach())}")
        if is_frozen:
            return
        if not loss.requires_grad:
            raise UnsupportedModel(
                f"the logits of {type(model).__name__} in training mode do not depend on its "
                "parameters: its forward pass detaches them, or runs under torch.no_grad"
            )
        check_gradients(model, loss, name)


def _output(model: nn.Module, inputs: Inputs, name: str) -> object:
    """Output of a network in its current mode, see `answered`."""
    dense = inputs.contiguous() if isinstance(inputs, Tensor) else inputs
    return answered(model, dense, name).outputs


def _can_run(model: nn.Module, images: Tensor) -> bool:
    try:
        _output(model, images, "")
    except ValueError:  # batch norms have no statistics of a single value
        return False
    return True


def _few(batch: Any) -> Any:
    """The first images or labels of a batch, a single one twice; other inputs are not divided."""
    if not isinstance(batch, Tensor):
        return batch
    return batch[:PROBED] if len(batch) > 1 else batch.repeat(2, *[1] * (batch.ndim - 1))


def _check_numbers(model: nn.Module, logits: Tensor, name: str) -> None:
    """Refuse logits that are no numbers."""
    if not _is_wrong(logits):
        return
    raise ValueError(
        f"{type(model).__name__} returns NaN or infinite logits for the first batch of {name} in "
        f"{'training' if model.training else 'eval'} mode, though weights and images are finite; "
        "check the images' scale and the batch norms' statistics"
    )


def _is_wrong(tensor: Tensor) -> bool:
    return not bool(tensor.isfinite().all())

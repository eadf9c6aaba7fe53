"""One training loop for everyone, on timm's optimizers, schedules and weight averaging."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from zoo.core.arguments import fields_checked
from zoo.core.data.batches import BatchSource, PartOfBatch
from zoo.core.data.inputs import Inputs, call, count_images, moved
from zoo.core.data.metered import MeteredBatches
from zoo.core.errors import unknown_name
from zoo.core.meter import Meter
from zoo.core.settings import check_settings
from zoo.core.training.captured import CapturedPass, check_capture
from zoo.core.training.checkpoint import Checkpoint, Checkpoints, State, digest
from zoo.core.training.course import Course, ModuleState, Parts
from zoo.core.training.early_stopping import BestEpoch, Validation
from zoo.core.training.events import LossReader, Watch
from zoo.core.training.gradients import guard_against
from zoo.core.training.passes import Pass, Trained
from zoo.core.training.ranks import mean_over_ranks, replica
from zoo.core.training.task import CLASSIFICATION, Task
from zoo.core.training.top1 import right_answers

__all__ = [
    "FINETUNE",
    "Recipe",
    "TaskLoss",
    "TrainingLoss",
    "eval_mode",
    "evaluate",
    "train",
]

Schedule = Literal["cosine", "multistep", "constant"]

_NOBODY = Watch()


@fields_checked
@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images; 0 leaves the weights as they are.
        batch_size: images per step; read by the caller, who makes the batches.
        lr: learning rate after the warm-up.
        optimizer: timm's name; the momentum is ignored by those that have none.
        momentum: of the optimizer.
        weight_decay: not applied to biases and normalisation.
        schedule: `"cosine"` to zero, `"multistep"` (a tenth at each milestone) or `"constant"`.
        milestones: shares of the epochs, for `"multistep"`.
        warmup_epochs: linear rise of the learning rate, part of `epochs`.
        label_smoothing: share of the target spread over all classes, for cross-entropy.
        channels_last: memory format of the network and the images.
        ema_decay: decay of the weights' moving average, which is returned; None for last weights.
        clip_grad: largest norm of the gradient; None for no limit.
        patience: epochs without a better score on held-out images after which training ends, with
            the weights of the best epoch; None trains all epochs and keeps the last.
        bf16: calculate passes in bfloat16 where torch's autocast does; weights stay as they are.
        cuda_graph: record the passes of a step as a CUDA graph, which saves the host's launches.
    """

    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    optimizer: str = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    channels_last: bool = True
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    bf16: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        _check_optimizer(self.optimizer)
        if any(not 0 < share < 1 for share in self.milestones):
            raise ValueError(
                f"milestones are {self.milestones}; each must be a share of the epochs, above 0 "
                "and below 1"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"{self.warmup_epochs} warm-up epochs do not fit in {self.epochs}; lower "
                "warmup_epochs or raise epochs"
            )


def _check_optimizer(name: str) -> None:
    """Refuse a name that timm does not know, with or without the prefix "lookahead_"."""
    known = list_optimizers()
    if name.lower().removeprefix("lookahead_") not in known:
        raise unknown_name("optimizer", name, known)


FINETUNE = Recipe(epochs=5, lr=0.02)
"""Default recipe of a pruned network; nearly all suites use this learning rate."""


class TrainingLoss(nn.Module):
    """A loss that does the student's forward itself, so that it can tap features.

    Parameters of the loss are trained with the student's. A teacher inside is frozen with
    `requires_grad_(False)` and kept in eval mode by the loss.

    Attributes:
        macs_per_image: multiply-adds of forward passes other than the student's, a teacher's.
        trained_macs_per_image: the same of layers of the loss that are trained with the student.
        is_capturable: whether its Python does the same in every step, so that its kernels may be
            recorded once (`cuda_graph`): it reads no value of a tensor, draws nothing on the CPU
            and counts nothing.
    """

    macs_per_image: int = 0
    trained_macs_per_image: int = 0
    is_capturable: bool = False

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """Mean loss of a batch.

        Args:
            student: the network being trained.
            images: shape (N, C, H, W), or other inputs.
            labels: int64, shape (N,), or the task's targets.

        Returns:
            A scalar, in nats for cross-entropy, with gradients to the student.

        Raises:
            NotImplementedError: here; subclasses compute the loss.
        """
        raise NotImplementedError

    def divergence_hint(self, images: Inputs) -> str:
        """What, beside the learning rate, may make this loss diverge, and the remedy.

        Args:
            images: shape (N, C, H, W), or other inputs; of a training batch.

        Returns:
            Half a sentence for the error; "" if nothing is known.
        """
        return ""


class TaskLoss(TrainingLoss):
    """The task's loss alone: cross-entropy of the student's logits, unless it has its own.

    Args:
        label_smoothing: share of the target spread over all classes, for cross-entropy.
        task: gives the loss.
    """

    def __init__(self, label_smoothing: float = 0.0, task: Task = CLASSIFICATION) -> None:
        super().__init__()
        self.task = task.smoothed(label_smoothing)
        self.is_capturable = task.is_classification

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """Mean loss of the batch, a scalar; in nats for cross-entropy."""
        return self.task.loss_of(call(student, images), labels)


def train(
    model: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    *,
    loss: TrainingLoss | None = None,
    meter: Meter | None = None,
    macs_per_image: int = 0,
    validation: Validation | None = None,
    watch: Watch = _NOBODY,
    checkpoints: Checkpoints | None = None,
) -> tuple[float, ...]:
    """Train a network in place; the last or best epoch's weights, or their average, stay in it.

    Nothing is drawn from a global generator but by the network's own dropout.

    Args:
        model: trained in place; in eval mode and without gradients on return.
        batches: training batches, those of epoch 0, 1, ...
        recipe: how to train.
        loss: cross-entropy with the recipe's smoothing if None.
        meter: charged for passes, and for images unless the batches are metered already.
        macs_per_image: multiply-adds of the network's forward pass for one image.
        validation: judges the epochs of a recipe with `patience`.
        watch: who is told of steps and epochs.
        checkpoints: where the training goes on from if it was cut, and is kept until then.

    Returns:
        The mean loss of each epoch, in nats.

    Raises:
        Diverged: when a loss is NaN, infinite or a thousand times the first.
        ValueError: if the recipe has `patience` and there is no validation, or `cuda_graph` and a
            pass that cannot be recorded.
    """
    loss = loss or TaskLoss(recipe.label_smoothing)
    guard_against(type(loss))
    if meter is not None and not isinstance(batches, MeteredBatches):
        batches = MeteredBatches(batches, meter)
    device = next(model.parameters()).device
    memory_format = torch.channels_last if recipe.channels_last else torch.preserve_format
    if recipe.epochs == 0:
        model.eval()
        return ()
    model.to(memory_format=memory_format)
    loss.to(device)
    checkpoint = _checkpoint(checkpoints, model, batches, recipe, loss, meter, macs_per_image)
    step = _Step(model, loss, recipe, watch, updates_per_epoch=len(batches))
    best = _best_epoch(step.returned, recipe, validation)
    read = LossReader(_phase(meter), recipe.epochs * len(batches), len(batches), watch)
    parts: Parts = {"step": step, "losses": read, "best": best, "meter": meter}
    model.train()
    loss.train()
    try:
        course = Course(checkpoint, parts, device)
        for _ in course.epochs(recipe.epochs):
            for batch in course.batches(batches):
                whole = batch.whole if isinstance(batch, PartOfBatch) else None
                images = moved(batch[0], device, memory_format=memory_format)
                value = step.take(images, moved(batch[1], device), whole)
                read.add(value, partial(loss.divergence_hint, images))
                _charge(meter, whole or count_images(images), macs_per_image, loss)
            course.is_over = _end_epoch(read, best)
        if best is not None:
            best.restore()
        step.finish()
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
    return tuple(read.means)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A network in eval mode while the context is open; then each module is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def evaluate(model: nn.Module, batches: BatchSource) -> float:
    """Top-1 accuracy of a network in eval mode, as a fraction.

    Args:
        model: not changed; its mode is restored. It returns logits, shape (N, classes); where they
            are NaN the answer is wrong, and a warning says how often.
        batches: those of epoch 0 are used.

    Raises:
        ValueError: if there is no image, or labels are no class indices of shape (N,) that the
            network has a logit for.
    """
    device = next(model.parameters()).device
    # Counted on the device and read once at the end: each read waits for the device.
    counts = torch.zeros(3, dtype=torch.long, device=device)
    n_images = 0
    with eval_mode(model), torch.no_grad():
        for images, labels in batches.epoch(0):
            logits, labels = model(images.to(device)), labels.to(device)
            is_right = right_answers(logits, labels)
            is_foreign = (labels < 0) | (labels >= logits.shape[1])
            counts += torch.stack([is_right, logits.isnan().any(1), is_foreign]).sum(1)
            n_images += len(labels)
    if not n_images:
        raise ValueError("there is no image to evaluate the network on")
    n_right, n_nan, n_foreign = counts.tolist()
    if n_foreign:
        raise ValueError(
            f"{n_foreign} of {n_images} labels are below 0 or have no logit: the network has "
            f"{logits.shape[1]} outputs, so labels go from 0 to {logits.shape[1] - 1}"
        )
    if n_nan:
        told = f"logits of {n_nan} of {n_images} images are NaN and count as wrong answers"
        warnings.warn(told, RuntimeWarning, stacklevel=2)
    return float(n_right / n_images)


def _charge(meter: Meter | None, n_images: int, macs: int, loss: TrainingLoss) -> None:
    """Charge an update: the network's passes, and what the loss runs beside it."""
    if meter is not None:
        meter.passes(n_images, macs + loss.trained_macs_per_image, backward=True)
        meter.passes(n_images, loss.macs_per_image, backward=False)


def _phase(meter: Meter | None) -> str:
    """What is trained, in the meter's words."""
    return (meter and meter.open_phase) or "training"


def _best_epoch(
    returned: nn.Module, recipe: Recipe, validation: Validation | None
) -> BestEpoch | None:
    """What judges the epochs of a recipe with `patience`."""
    if recipe.patience is None:
        return None
    if validation is None:
        raise ValueError(
            f"patience {recipe.patience} needs a score on held-out images; give validation, or set "
            "patience to None"
        )
    return BestEpoch(returned, validation, recipe.patience)


def _end_epoch(read: LossReader, best: BestEpoch | None) -> bool:
    """Judge and tell an epoch that has ended; returns whether the training is to end with it."""
    read.end_epoch()
    if best is None:
        read.tell_epoch()
        return False
    is_over, validation = best.judge(), best.validation
    read.tell_epoch(validation.scores[-1], validation.best_epoch)
    return is_over


def _checkpoint(
    checkpoints: Checkpoints | None,
    model: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    loss: TrainingLoss,
    meter: Meter | None,
    macs_per_image: int,
) -> Checkpoint | None:
    """The checkpoint of this training, under all that decides it; None to keep none."""
    if checkpoints is None:
        return None
    return checkpoints.of(
        _phase(meter),
        recipe=asdict(recipe),
        network=[type(model).__qualname__, digest(ModuleState(model).state_dict())],
        loss=[type(loss).__qualname__, digest(ModuleState(loss).state_dict()), _plain(loss)],
        batches=[batches.batch_size, batches.num_images, len(batches)],
        macs=[macs_per_image, loss.macs_per_image],
        device=next(model.parameters()).device.type,
    )


def _plain(loss: TrainingLoss) -> dict[str, str]:
    """The settings of a loss: its attributes that are the same in another process."""
    kinds = (bool, int, float, str, tuple, type(None))
    found = {n: v for n, v in vars(loss).items() if n[0] != "_" and isinstance(v, kinds)}
    return {name: repr(value) for name, value in found.items() if " at 0x" not in repr(value)}


class _Step:
    """Optimizer, schedule and average of one training."""

    def __init__(
        self,
        model: nn.Module,
        loss: TrainingLoss,
        recipe: Recipe,
        watch: Watch,
        *,
        updates_per_epoch: int,
    ) -> None:
        self.model = model
        self.loss = loss
        self.recipe = recipe
        device = next(model.parameters()).device
        if recipe.cuda_graph:
            check_capture(device, loss.is_capturable, type(loss).__name__)
        self.done = 0
        self.per_epoch = updates_per_epoch
        self.is_watched = watch.on_step is not None
        trained = Trained(model, loss)
        self.optimizer = create_optimizer_v2(
            trained,
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
        )
        run = Pass(replica(trained), self.optimizer, device, recipe.bf16)
        self.captured = CapturedPass(run, trained, device) if recipe.cuda_graph else None
        self.run = self.captured or run
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            # A constant rate is a multistep one without milestones.
            sched="cosine" if recipe.schedule == "cosine" else "multistep",
            num_epochs=recipe.epochs,
            decay_milestones=_milestones(recipe, updates_per_epoch),
            warmup_epochs=recipe.warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
        )
        self.average = (
            None
            if recipe.ema_decay is None
            else ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
        )

    def take(self, images: Inputs, labels: Any, whole: int | None = None) -> Tensor:
        """One update; returns the loss, detached. `whole` as in `my_part`."""
        self.schedule.step_update(self.done)
        if self.captured is not None and (self.is_watched or self.done % self.per_epoch == 0):
            self.captured.look_again()  # callbacks may have changed the network
        value = self.run(images, labels, whole)
        if self.recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.done += 1
        if self.average is not None:
            self.average.update(self.model, step=self.done)
        return mean_over_ranks(value)

    @property
    def returned(self) -> nn.Module:
        """The network whose weights are returned: the average, if one is kept."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> State:
        """Network, loss, optimizer and average; the schedule follows from the number of steps."""
        state = {
            "done": self.done,
            "optimizer": self.optimizer.state_dict(),
            "network": ModuleState(self.model).state_dict(),
            "loss": ModuleState(self.loss).state_dict(),
        }
        if self.average is not None:
            state["average"] = ModuleState(self.average.module).state_dict()
        return state

    def load_state_dict(self, state_dict: State) -> None:
        """Put them back."""
        self.done = state_dict["done"]
        self.optimizer.load_state_dict(state_dict["optimizer"])
        ModuleState(self.model).load_state_dict(state_dict["network"])
        ModuleState(self.loss).load_state_dict(state_dict["loss"])
        if self.average is not None:
            ModuleState(self.average.module).load_state_dict(state_dict["average"])

    def finish(self) -> None:
        """Put the average, if one was kept, into the network."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())

    def _parameters(self) -> list[Any]:  # torch types groups as dicts of anything
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]


def _milestones(recipe: Recipe, updates_per_epoch: int) -> list[float]:
    """Epochs at which the rate falls, on whole updates."""
    if recipe.schedule != "multistep":
        return []
    updates = recipe.epochs * updates_per_epoch
    # timm looks one update ahead, which suits its count of epochs from one.
    return [(round(share * updates) + 1) / updates_per_epoch for share in recipe.milestones]

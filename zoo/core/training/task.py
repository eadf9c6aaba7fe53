"""What a network is trained for, and what it is judged by: any loss, any metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.arguments import check_argument, fields_checked
from zoo.core.data.inputs import Inputs, call
from zoo.core.tracing.entry import heard
from zoo.core.tracing.outputs import returned_tensors
from zoo.core.training.logits import LogitsReader
from zoo.core.training.top1 import right_answers

__all__ = [
    "CLASSIFICATION",
    "TOP1",
    "WORST",
    "Answer",
    "Loss",
    "Metric",
    "Pairs",
    "Task",
    "answer",
    "as_trained",
    "compared_in",
    "compared_tensors",
    "outputs_in",
    "read_top1",
    "top1_of",
]

Loss = Callable[[Any, Any], Tensor]
"""A scalar from what the network returns in training mode and the targets of a batch."""

Pairs = Iterable[tuple[Any, Any]]
"""What the network returns in eval mode and the targets, batch by batch; can be read once."""

WORST = -1e300
"""Score of a network whose metric is no finite number; finite, so that differences are numbers."""


@fields_checked
@dataclass(frozen=True)
class Metric:
    """What a network is judged by, on all batches of a set.

    ```python
    def mean_absolute_error(pairs):
        errors = [(outputs - targets).abs() for outputs, targets in pairs]
        return torch.cat(errors).mean()

    metric = zoo.Metric("MAE", mean_absolute_error, higher_is_better=False)
    ```

    Attributes:
        name: for messages and results.
        compute: reads pairs (outputs, targets), one for each batch, and returns one number: so a
            metric that is no mean over batches (F1, mIoU, mAP) adds up what it needs. Outputs are
            what the network returns in eval mode, or logits where it learns from cross-entropy.
        higher_is_better: whether searches maximise it; they minimise it otherwise.
    """

    name: str
    compute: Callable[[Pairs], Any]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        for name, hint in (("name", str), ("compute", Callable), ("higher_is_better", bool)):
            check_argument(name, getattr(self, name), hint)

    def score(self, value: float) -> float:
        """A value as something to maximise; `WORST` if it is no finite number."""
        if not math.isfinite(value):
            return WORST
        return value if self.higher_is_better else -value


def top1_of(pairs: Pairs) -> float:
    """Share of right answers: logits, shape (N, classes), and class indices, shape (N,)."""
    # Counted on the device and read once at the end: each read waits for the device.
    correct: Tensor | int = 0
    total = 0
    for logits, labels in pairs:
        correct = correct + right_answers(logits, labels).sum()
        total += len(labels)
    return int(correct) / total


TOP1 = Metric("top-1", top1_of)


class Answer(NamedTuple):
    """What a network returned, and what of it is compared with a teacher's.

    Attributes:
        outputs: what it returned.
        compared: the same; or what its part returned, where a part of it alone is pruned.
    """

    outputs: Any
    compared: Any


def answer(network: nn.Module, inputs: Inputs, part: str = "") -> Answer:
    """Run a network, and listen to what a part of it returns."""
    if not part:
        outputs = call(network, inputs)
        return Answer(outputs, outputs)
    with heard(network, part) as kept:
        outputs = call(network, inputs)
    return Answer(outputs, kept[0])


def outputs_in(value: Any) -> Any:
    """What a network returned, also out of an `Answer`."""
    return value.outputs if isinstance(value, Answer) else value


def compared_in(value: Any) -> Any:
    """What of an output is compared with a teacher's, also out of an `Answer`."""
    return value.compared if isinstance(value, Answer) else value


@contextmanager
def as_trained(model: nn.Module) -> Iterator[nn.Module]:
    """A network that returns what it does in training mode, while it computes as in eval mode.

    Modules that hold others are in training mode; those that hold none, such as norms and
    dropouts, are in eval mode. Afterwards each is in its own mode again.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if next(module.children(), None) is None:
            module.training = module is model
    try:
        yield model
    finally:
        for module, is_training in modes:
            module.training = is_training


@dataclass(frozen=True)
class Task:
    """A loss and a metric.

    Attributes:
        loss: of what the network returns in training mode, and the targets; None for the
            cross-entropy of its logits.
        metric: what candidates and results are compared by.
        incomparable: why what the network returns cannot be compared with a teacher's, as the start
            of a sentence; "" if it can.
        indivisible: why a batch cannot be divided image by image; "" if it can.
        label_smoothing: share of the cross-entropy's target spread over all classes.
    """

    loss: Loss | None = None
    metric: Metric = TOP1
    incomparable: str = ""
    indivisible: str = ""
    label_smoothing: float = 0.0

    def smoothed(self, label_smoothing: float) -> Self:
        """The same task, its cross-entropy with so much smoothing; a loss of its own stays."""
        return replace(self, label_smoothing=label_smoothing)

    @property
    def is_comparable(self) -> bool:
        """Whether outputs can be compared with a teacher's."""
        return not self.incomparable

    @property
    def is_divisible(self) -> bool:
        """Whether a batch can be divided among subnets."""
        return not self.indivisible

    @property
    def is_classification(self) -> bool:
        """Whether the network learns from the cross-entropy of its logits."""
        return self.loss is None

    @property
    def score_name(self) -> str:
        """Key of the score in trace rows."""
        return "top1" if self.metric.name == TOP1.name else "score"

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            outputs: logits, shape (N, classes), or what the network returns in training mode.
            targets: class indices or probabilities, or the task's own.
        """
        if self.loss is None:
            return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return self.loss(outputs, targets)

    def score_of(self, pairs: Pairs) -> float:
        """The metric of (outputs, targets), batch by batch; higher is better."""
        return self.metric.score(float(self.metric.compute(pairs)))

    @contextmanager
    def teaching(self, teacher: nn.Module) -> Iterator[nn.Module]:
        """A teacher in the mode in which its outputs are compared with a student's in training."""
        if self.loss is None:
            yield teacher
            return
        with as_trained(teacher):
            yield teacher


CLASSIFICATION = Task()


def compared_tensors(outputs: object) -> list[Tensor]:
    """Tensors of floating-point numbers that a network returned and that have a row each image."""
    return [t for t in returned_tensors(outputs) if t.is_floating_point() and t.ndim]


def read_top1(reader: LogitsReader) -> Metric:
    """Top-1 of whatever a classifier returns in eval mode."""

    def compute(pairs: Pairs) -> float:
        return top1_of((reader.read(outputs, training=False), labels) for outputs, labels in pairs)

    return Metric(TOP1.name, compute)

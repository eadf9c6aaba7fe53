"""Features by module name, and losses that compare a student's with a teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from zoo.core.data.inputs import Inputs, call
from zoo.core.errors import Diverged, unknown_name
from zoo.core.training.task import CLASSIFICATION, Answer, Task, answer, compared_tensors
from zoo.core.training.train import TrainingLoss

__all__ = [
    "BlockDistillation",
    "Taps",
    "answer_error",
    "check_errors",
    "explain_flat_features",
    "feature_error",
    "output_error",
    "relative_feature_error",
    "soft_cross_entropy",
]

TEMPERATURE = 4.0
"""Of softened logits where nobody gives another, as is common for distillation."""

# Keeps a constant feature from dividing by zero.
EPSILON = 1e-6

# Below these variances a teacher hardly tells images apart, and division by them makes ten thousand
# of an error of one. Logits are in nats; those of a trained classifier vary by about 1.
FLAT_FEATURES, FLAT_LOGITS = 1e-4, 1e-2

# The same of outputs in any unit, as a share of their mean square.
FLAT_SHARE = 1e-4


class Taps:
    """Keeps the outputs of some modules while the context is open.

    ```python
    with Taps(model, ["layer1", "layer2"]) as taps:
        logits = model(images)
        first = taps.features["layer1"]
    ```

    Args:
        model: the network; its hooks are gone when the context ends.
        names: module names, as in `model.named_modules()`.

    Raises:
        ValueError: for a name that the network does not have.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules:
                raise unknown_name("module", name, filter(None, modules))
        self._modules = {name: modules[name] for name in names}
        self._handles: list[RemovableHandle] = []
        self._kept: dict[str, tuple[Any, int]] = {}

    @property
    def features(self) -> dict[str, Any]:
        """Output of each module at its last call, with gradients; shape (N, C, H, W) or (N, C).

        A module that returns several tensors has them here as it returns them.

        Raises:
            RuntimeError: if an output was changed in place after its module returned it.
        """
        for name, (feature, version) in self._kept.items():
            if _version(feature) != version:
                raise RuntimeError(
                    f"the output of {name} was changed in place by a later module; tap that module"
                )
        return {name: feature for name, (feature, _) in self._kept.items()}

    def __enter__(self) -> Taps:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._keep, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._kept.clear()

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        self._kept[name] = output, _version(output)


def _version(output: object) -> int:
    """Counts the changes in place of what a module returned."""
    return sum(tensor._version for tensor in compared_tensors(output))


def feature_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference, over all elements; it grows with the scale of the features.

    Args:
        student: features, shape (N, C, H, W) or (N, C).
        teacher: features to imitate, same shape; receives no gradient.

    Returns:
        A scalar, in squared units of the features.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_shapes(student, teacher)
    return F.mse_loss(student, teacher.detach())


def relative_feature_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference divided by the teacher's variance: 1 for predicting its mean.

    Mean and variance are taken over N, H and W for each channel, then both are averaged over C, so
    that layers of any scale add up and a channel counts by what it varies.

    Args:
        student: features, shape (N, C, H, W) or (N, C).
        teacher: features to imitate, same shape; receives no gradient.

    Returns:
        A scalar without unit.

    Raises:
        ValueError: if the shapes differ, or there is one value for each channel.
    """
    _check_shapes(student, teacher)
    if teacher.numel() == teacher.shape[1]:
        raise ValueError(
            f"features {tuple(teacher.shape)} of one image have no variance to divide by; raise "
            "the batch size, or leave a last batch of one image out (drop_last=True)"
        )
    target = teacher.detach()
    other_dims = [dim for dim in range(target.ndim) if dim != 1]
    variance = target.var(dim=other_dims, correction=0).mean()
    return F.mse_loss(student, target) / (variance + EPSILON)


def output_error(
    student: Any,
    teacher: Any,
    error: Callable[[Tensor, Tensor], Tensor] = relative_feature_error,
) -> Tensor:
    """Mean error over the tensors of two outputs, whatever they are wrapped in.

    Args:
        student: what a network, or a part of it, returned: a tensor with a row for each image, or
            several in tuples, dicts or objects.
        teacher: the same to imitate; receives no gradient.
        error: of two tensors, shape (N, C, ...).

    Returns:
        A scalar.

    Raises:
        ValueError: if the two differ in number or shape of their tensors, or hold none.
    """
    first, second = compared_tensors(student), compared_tensors(teacher)
    shapes = [[tuple(tensor.shape) for tensor in each] for each in (first, second)]
    if not first or shapes[0] != shapes[1]:
        raise ValueError(
            f"outputs of shapes {shapes[0]} cannot be compared with a teacher's, {shapes[1]}"
        )
    errors = [error(_rows(s), _rows(t)) for s, t in zip(first, second, strict=True)]
    return errors[0] if len(errors) == 1 else torch.stack(errors).mean()


def _rows(tensor: Tensor) -> Tensor:
    return tensor[:, None] if tensor.ndim == 1 else tensor


def answer_error(task: Task, student: Answer, teacher: Answer, temperature: float = 1.0) -> Tensor:
    """How far a student's answer is from a teacher's, whatever the task.

    Args:
        task: with cross-entropy the divergence from the teacher's softened classes in nats, see
            `soft_cross_entropy`; with a loss of its own the relative squared error of the outputs,
            see `output_error`.
        student: its answer.
        teacher: the answer to imitate; receives no gradient.
        temperature: of the softened classes.

    Returns:
        A scalar.
    """
    if task.is_classification:
        return soft_cross_entropy(student.outputs, teacher.outputs, temperature)
    return output_error(student.compared, teacher.compared)


def explain_flat_features(features: Mapping[str, Any], way_out: str) -> str:
    """Words for an error, if a teacher's features hardly vary over a batch; else "".

    Args:
        features: by module path, "logits" for the network's output, "outputs" for that of a task
            with a loss of its own; shape (N, C, H, W) or (N, C), or several of such tensors.
        way_out: the remedy beside training the teacher.
    """
    named = ((path, t) for path, value in features.items() for t in compared_tensors(value))
    for path, feature in ((path, _rows(tensor)) for path, tensor in named):
        other_dims = [dim for dim in range(feature.ndim) if dim != 1]
        variance = float(feature.double().var(dim=other_dims, correction=0).mean())
        limit = {"logits": FLAT_LOGITS}.get(path, FLAT_FEATURES)
        if path == "outputs":  # in any unit
            limit = FLAT_SHARE * float(feature.double().square().mean())
        if variance < limit:
            is_answer = path in ("logits", "outputs")
            return (
                f"the teacher's {path if is_answer else f'features at {path}'} hardly vary "
                f"from image to image (variance {variance:.1g}), as in a network that was not "
                f"trained, and what imitates them is divided by that: train it first, or {way_out}"
            )
    return ""


def check_errors(errors: Sequence[Tensor], paths: Sequence[str], teachers: Sequence[Any]) -> Tensor:
    """Read the errors of parts of a network, in one wait for the device, and check them.

    Args:
        errors: scalars, one for each part of the network.
        paths: of the modules whose outputs were compared.
        teachers: features that they were compared with, shape (N, C, H, W) or (N, C).

    Returns:
        The errors on the CPU, without a graph, shape (parts,).

    Raises:
        Diverged: if one is not finite; names the part, and the teacher if its features hardly vary.
    """
    values = torch.stack(list(errors)).detach().cpu()
    for error, path, teacher in zip(values, paths, teachers, strict=True):
        if not bool(error.isfinite()):
            still = explain_flat_features({path: teacher}, "set steps to 0 and error to 'raw'")
            raise Diverged(
                f"the error of the block that ends at {path or 'the output'} is "
                f"{float(error)}; {still or 'lower lr'}"
            )
    return values


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened classes to the student's.

    Args:
        student: logits, shape (N, classes).
        teacher: logits, same shape; receives no gradient.
        temperature: divides both logits; the result is multiplied by its square, which keeps the
            size of the gradient (Hinton et al. 2015, section 2.1).

    Returns:
        A scalar in nats, averaged over N; zero for equal logits.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_shapes(student, teacher)
    divergence = F.kl_div(
        torch.log_softmax(student / temperature, 1),
        torch.log_softmax(teacher.detach() / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape; "
            "map the student's channels to the teacher's first"
        )


class BlockDistillation(TrainingLoss):
    """The task's loss + beta * mean over blocks of D_b + kd * distillation of the answer.

    The answer is compared as `answer_error` says.

    Interfaces have the same widths in both networks, so features are compared as they are. Without
    blocks it is the recipe of Hinton et al. 2015, which any network can be finished with.

    Args:
        teacher: the unpruned parent; it sees the same images, in eval mode, without gradients.
        outputs: paths of the modules that return the blocks' outputs.
        macs: multiply-adds of a teacher's pass for one image.
        beta: weight of the block terms.
        kd: weight of the divergence from the teacher's softened classes.
        temperature: of that softening.
        task: gives the loss, and its label smoothing.
        part: path of the part whose outputs are compared; "" for the network's own.
    """

    def __init__(
        self,
        teacher: nn.Module,
        outputs: Sequence[str],
        *,
        macs: int,
        beta: float,
        kd: float,
        temperature: float = TEMPERATURE,
        task: Task = CLASSIFICATION,
        part: str = "",
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # a tuple, so that the teacher is no submodule of the loss
        self.outputs = tuple(outputs) if beta else ()
        self.beta = beta
        self.kd = kd
        self.temperature = temperature
        self.macs_per_image = macs
        self.task = task
        self.part = part
        self.is_capturable = task.is_classification

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """The loss of a batch of inputs and targets, a scalar."""
        wide_answer, wide = self._taught(images)
        with Taps(student, self.outputs) as taps:
            narrow_answer = answer(student, images, self.part)
            narrow = taps.features
        loss = self.task.loss_of(narrow_answer.outputs, labels)
        if self.outputs:
            errors = [output_error(narrow[path], wide[path]) for path in self.outputs]
            loss = loss + self.beta * torch.stack(errors).mean()
        if self.kd:
            error = answer_error(self.task, narrow_answer, wide_answer, self.temperature)
            loss = loss + self.kd * error
        return loss

    def _taught(self, images: Inputs) -> tuple[Answer, dict[str, Any]]:
        """The teacher's answer, and the outputs of its blocks."""
        teacher = self._teacher[0]
        with torch.no_grad(), self.task.teaching(teacher), Taps(teacher, self.outputs) as taps:
            return answer(teacher, images, self.part), taps.features

    def divergence_hint(self, images: Inputs) -> str:
        """A hint if the teacher's compared outputs hardly vary over the images of a batch."""
        with torch.no_grad(), Taps(self._teacher[0], self.outputs) as taps:
            call(self._teacher[0], images)
            return explain_flat_features(taps.features, "set beta to 0")

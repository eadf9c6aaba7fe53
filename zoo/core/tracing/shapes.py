"""Shapes of the results of frequent operators, without torch's kernels for the meta device.

Those decompose many operators in Python, a millisecond each. A rule here answers only for plain
cases (floating-point tensors of one type, contiguous, without data) and hands everything else,
errors included, on to torch; a test holds each of them against torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["shape_rule"]

# Returns what the operator returns, None where torch is to be asked.
ShapeRule = Callable[[tuple[Any, ...], dict[str, Any]], Any]
_RULES: dict[str, ShapeRule] = {}
_META = torch.device("meta")
_OF_EMPTY = {"dtype", "layout", "device", "pin_memory"}


def shape_rule(name: str) -> ShapeRule | None:
    """Return the rule of an operator, None if it has none.

    Args:
        name: of the operator, as "aten.add.Tensor".
    """
    return _RULES.get(name)


def _rule(names: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a rule for some operators, whose names are separated by spaces."""

    def register(rule: ShapeRule) -> ShapeRule:
        _RULES.update({f"aten.{name}": rule for name in names.split()})
        return rule

    return register


def _is_plain(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.is_meta
        and tensor.is_floating_point()
        and _is_row_major(tensor)
    )


def _is_row_major(tensor: Tensor) -> bool:
    """Whether all strides are the usual ones; `is_contiguous` lets those of single rows be any."""
    expected = 1
    for size, stride in zip(tensor.shape[::-1], tensor.stride()[::-1], strict=True):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def _made(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=_META)


def _alike(tensor: Tensor) -> Tensor | None:
    """A tensor of the same shape and layout; None where single rows leave the layout open."""
    if _is_row_major(tensor):
        return _made(tensor.shape, tensor)
    return None if tensor.is_contiguous() else torch.empty_like(tensor)


@_rule(
    """
    relu.default gelu.default hardtanh.default hardswish.default hardsigmoid.default
    leaky_relu.default elu.default sigmoid.default silu.default tanh.default
    """
)
def _activation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    images = args[0]
    return _alike(images) if images.is_meta and images.is_floating_point() else None


@_rule(
    """
    relu_.default gelu_.default hardtanh_.default hardswish_.default hardsigmoid_.default
    leaky_relu_.default elu_.default sigmoid_.default silu_.default tanh_.default
    """
)
def _activation_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args[0].is_meta and args[0].is_floating_point() else None


@_rule("native_batch_norm.default")
def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    images = args[0]
    made = _alike(images)
    # Statistics are wanted by nobody, so none are made.
    alike, none = torch.empty_like(images) if made is None else made, _made((0,), images)
    return alike, none, none


@_rule("empty.memory_format")
def _empty(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    is_usual = len(args) == 1 and kwargs.keys() <= _OF_EMPTY and kwargs.get("device") == _META
    has_plain_layout = kwargs.get("layout") in (None, torch.strided) and not kwargs.get(
        "pin_memory"
    )
    if not (is_usual and has_plain_layout):
        return None
    return torch.empty(args[0], dtype=kwargs.get("dtype"), device=_META)


@_rule("convolution.default")
def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if kwargs or len(args) != 9:
        return None
    images, weight, bias, stride, padding, dilation, transposed, _, groups = args
    size = images.ndim - 2
    fits = (
        not transposed
        and _is_plain(images)
        and _is_plain(weight)
        and images.dtype == weight.dtype
        and weight.ndim == images.ndim
        and len(stride) == len(padding) == len(dilation) == size
        and images.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        return None
    shape = [images.shape[0], weight.shape[0]]
    for dim in range(size):
        covered = dilation[dim] * (weight.shape[dim + 2] - 1) + 1
        shape.append((images.shape[dim + 2] + 2 * padding[dim] - covered) // stride[dim] + 1)
    return _made(shape, images) if min(shape) > 0 else None


@_rule("add.Tensor sub.Tensor mul.Tensor div.Tensor")
def _binary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    left, right = args[:2]
    if not (_is_plain(left) and _is_plain(right) and left.dtype == right.dtype):
        return None
    if left.shape == right.shape:
        return _made(left.shape, left)
    # One that repeats whole maps has the strides of the other.
    for whole, part in ((left, right), (right, left)):
        if _repeats(part.shape, whole.shape):
            return _made(whole.shape, whole)
    return None


@_rule("add_.Tensor sub_.Tensor mul_.Tensor div_.Tensor")
def _binary_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    left, right = args[:2]
    if not (_is_plain(left) and _is_plain(right) and left.dtype == right.dtype):
        return None
    return left if left.shape == right.shape or _repeats(right.shape, left.shape) else None


def _repeats(part: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether a shape is another one with ones behind the first two dimensions."""
    return len(part) == len(whole) > 2 and part[:2] == whole[:2] and set(part[2:]) == {1}


@_rule("mean.dim")
def _mean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    images, dims = args[0], args[1]
    keeps = args[2] if len(args) > 2 else False
    if kwargs or not dims or len(args) > 3 or not _is_plain(images) or not images.numel():
        return None
    gone = {dim + images.ndim if dim < 0 else dim for dim in dims}
    if len(gone) != len(dims) or gone != set(range(images.ndim - len(gone), images.ndim)):
        return None  # only the last dimensions, all in range
    kept = images.shape[: images.ndim - len(gone)]
    return _made((*kept, *[1] * len(gone)) if keeps else kept, images)


@_rule("addmm.default")
def _linear(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bias, rows, weight = args[:3]
    fits = (
        not kwargs
        and _is_plain(rows)
        and bias.is_meta
        and weight.is_meta
        and bias.dtype == rows.dtype == weight.dtype
        and rows.ndim == weight.ndim == 2
        and rows.shape[1] == weight.shape[0]
        and bias.shape == weight.shape[1:]
    )
    return _made((rows.shape[0], weight.shape[1]), rows) if fits else None


@_rule("cat.default")
def _join(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors, dim = args[0], args[1] if len(args) > 1 else 0
    first = tensors[0]
    if kwargs or not all(_is_plain(t) and t.dtype == first.dtype for t in tensors):
        return None
    if not first.ndim or not -first.ndim <= dim < first.ndim:
        return None
    dim %= first.ndim
    rest = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors if t.ndim == first.ndim}
    if len(rest) != 1 or any(t.ndim != first.ndim for t in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return _made(shape, first)

"""The arguments of an operator that are no tensors, and whether two calls agree in them.

A smaller network must be called with the same numbers as its parent: a temperature, a stride or an
epsilon that changed with the widths makes another function. Only sizes follow the widths, and those
are told by the shapes of what a call reads and makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.tracing.atoms import Labels, Op

__all__ = ["Scalars", "arguments_agree", "is_same_value", "plain_arguments"]

Scalars = tuple[tuple[str, object], ...]  # the arguments of a call by name

_PLAIN = (
    int, float, complex, bool, str, type(None),
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
_PLAIN_TYPES = frozenset(_PLAIN)
# Arguments that the shapes of what the call reads and makes determine: those are compared.
_TOLD_BY_SHAPES = {
    "split": {"split_size"},
    "unsafe_split": {"split_size"},
    "split_with_sizes": {"split_sizes"},
    "unsafe_split_with_sizes": {"split_sizes"},
    "convolution": {"groups"},
    "native_group_norm": {"N", "C", "HxW", "group"},
    "native_layer_norm": {"normalized_shape"},
    "as_strided_": {"stride"},
    "empty_strided": {"stride"},
    "new_empty_strided": {"stride"},
    "slice": {"start", "end", "step"},
    "roll": {"shifts", "dims"},
}
_ALWAYS_TOLD = {"size"}


def plain_arguments(bound: Mapping[str, Any]) -> Scalars:
    """Return the arguments of a call by name, a tensor as ``Tensor``."""
    return tuple([(n, v if type(v) in _PLAIN_TYPES else _plain(v)) for n, v in bound.items()])


def _plain(value: Any) -> object:
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, list | tuple):
        return tuple([_plain(part) for part in value])
    return value if isinstance(value, _PLAIN) else type(value).__name__


def is_same_value(left: object, right: object) -> bool:
    """Whether two arguments, or tuples of them, are equal in type, too: True is not 1."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(is_same_value, left, right))
    # As written: -0.0 is not 0.0, and one that is no number equals itself.
    return repr(left) == repr(right) if isinstance(left, float | complex) else left == right


def arguments_agree(op: Op, other: Op, kept: np.ndarray) -> bool:
    """Whether a call of a smaller network has the numbers that follow from its parent's call.

    Args:
        op: the call of the parent.
        other: the call of the smaller network, of the same operator.
        kept: for every atom whether it stays, with a True appended, shape (atoms + 1,).
    """
    kind = _kind(op)
    if kind not in _TOLD_BY_SHAPES and is_same_value(op.scalars, other.scalars):
        return True
    ours, theirs = dict(op.scalars), dict(other.scalars)
    told = _ALWAYS_TOLD | _TOLD_BY_SHAPES.get(kind, set())
    if ours.keys() != theirs.keys():
        return False
    if any(not is_same_value(ours[n], theirs[n]) for n in ours if n not in told):
        return False
    if kind == "roll" and not ours["dims"]:  # all elements as one row
        return ours == theirs and op.inputs[0][0] == other.inputs[0][0]
    if kind in ("slice", "roll"):
        return _same_positions(op, other, kept)
    if kind == "native_group_norm":
        return _same_norm_groups(op, other)
    if kind == "native_layer_norm":
        return len(_as_tuple(ours["normalized_shape"])) == len(
            _as_tuple(theirs["normalized_shape"])
        )
    return True


def _kind(op: Op) -> str:
    """The operator without namespace and overload."""
    return op.name.split(".")[1]


def _same_positions(op: Op, other: Op, kept: np.ndarray) -> bool:
    """Whether both calls take the kept ones among the same positions, in the same order."""
    shape, labels = op.inputs[0]
    smaller, _ = other.inputs[0]
    dims = _dims(op, len(shape))
    if dims != _dims(other, len(smaller)):
        return False
    for place, dim in enumerate(dims):
        stays = _stays(labels, dim, shape[dim], kept)
        rank = np.cumsum(stays) - 1
        taken = _taken(op, place, shape[dim])
        expected = rank[taken[stays[taken]]]
        if not np.array_equal(expected, _taken(other, place, smaller[dim])):
            return False
    return True


def _dims(op: Op, ndim: int) -> tuple[int, ...]:
    given = dict(op.scalars)["dim" if _kind(op) == "slice" else "dims"]
    return tuple(int(dim) % ndim for dim in _as_tuple(given))


def _taken(op: Op, place: int, size: int) -> np.ndarray:
    """The positions that a slice or a roll takes along a dimension, in order."""
    given: dict[str, Any] = dict(op.scalars)
    if _kind(op) == "roll":
        return np.roll(np.arange(size), _as_tuple(given["shifts"])[place])
    return np.arange(size)[given["start"] : given["end"] : given["step"]]


def _stays(labels: Labels, dim: int, size: int, kept: np.ndarray) -> np.ndarray:
    label = labels.get(dim)
    return np.ones(size, dtype=bool) if label is None else kept[label]


def _same_norm_groups(op: Op, other: Op) -> bool:
    """Whether a group norm has as many groups as before, or one for each channel as before."""
    ours, theirs = dict(op.scalars), dict(other.scalars)
    if ours["group"] == ours["C"]:
        return theirs["group"] == theirs["C"]
    return ours["group"] == theirs["group"]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)

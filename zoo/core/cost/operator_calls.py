"""Every operator call of a network at any widths, as something that can be run and timed alone.

The network runs on the meta device at several common keep ratios, and every call is kept with the
shapes and layouts of what it reads. The calls are those of the channel space's own trace, so it is
known which sizes of each call follow which groups. A call whose input and output follow different
groups, such as a convolution, is put together for every pair of an input and an output size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from zoo.core.channels.channel_table import Axis
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.latency_table import Coordinate
from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.atoms import Labels, Op
from zoo.core.tracing.entry import blank_inputs, enter, laid_out
from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta
from zoo.core.tracing.trace import on_meta

__all__ = ["MEMORY_FORMATS", "Case", "CaseGrid", "MemoryFormat", "grid_widths", "list_cases"]

MemoryFormat = Literal["contiguous", "channels_last"]
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class _Spec:
    """A tensor without its data; `order` lists its dimensions from the largest stride down."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Spec:
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
        return cls(tuple(tensor.shape), tuple(order), tensor.dtype)

    def make(self, device: torch.device) -> Tensor:
        # Ones: zeros and denormals may be faster or slower than ordinary numbers.
        dense = torch.ones([self.shape[d] for d in self.order], dtype=self.dtype, device=device)
        return dense.permute([self.order.index(d) for d in range(len(self.order))])

    def __str__(self) -> str:
        order = "".join(map(str, self.order))
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}@{order}"


@dataclass(frozen=True, eq=False)
class Case:
    """One operator call at one size: its arguments, tensors given by shape and layout."""

    func: Any  # torch._ops.OpOverload, which has no public type
    leaves: tuple[Any, ...]  # whatever operators take
    tree: TreeSpec

    @property
    def key(self) -> str:
        """Equal for calls that take equally long."""
        return f"{self.func}({', '.join(map(str, self.leaves))})"

    def prepared(self, device: torch.device) -> Callable[[], object]:
        """The call on tensors of ones, which stay alive with it."""
        leaves = []
        for leaf in self.leaves:
            if isinstance(leaf, _Spec):
                leaf = leaf.make(device)
            leaves.append(device if isinstance(leaf, torch.device) else leaf)
        args, kwargs = tree_unflatten(leaves, self.tree)
        return lambda: self.func(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class CaseGrid:
    """An operator of the network at a grid of sizes.

    Attributes:
        read, made: the sizes of what it reads and what it makes; `read` has no slopes if both
            follow the same groups.
        cases: the calls, rows by `read`, columns by `made`.
    """

    read: Coordinate
    made: Coordinate
    cases: tuple[tuple[Case, ...], ...]


def grid_widths(space: ChannelSpace, ratios: Sequence[float], divisor: int = 1) -> np.ndarray:
    """Widths of all groups near common keep ratios, int64, shape (K, G).

    Multiples of the divisor; without one, odd numbers: kernels favour round widths, and among all
    widths these are rare. A ratio of 1 is the whole group, and the least width is that of 0.

    Args:
        space: the groups.
        ratios: keep ratios, ascending.
        divisor: of the widths that a search will use.
    """
    sizes = space.sizes
    wanted = np.array(ratios)[:, None] * sizes
    if divisor > 1:
        widths = np.maximum(np.rint(wanted / divisor), 1) * divisor
    else:
        widths = np.floor(wanted / 2) * 2 + 1
    whole = np.array(ratios)[:, None] >= 1
    return np.asarray(np.where(whole, sizes, np.minimum(widths, sizes)), dtype=np.int64)


def list_cases(
    model: nn.Module,
    space: ChannelSpace,
    *,
    batch: int,
    memory_format: MemoryFormat,
    widths: np.ndarray,
) -> list[CaseGrid]:
    """Every operator of one pass over the network, in order, without those that move no data.

    Args:
        model: the network that `space` was traced from; not touched.
        space: its channel groups.
        batch: images of a pass.
        memory_format: of images and weights.
        widths: of all groups, ascending together up to the full network, shape (K, G), as
            `grid_widths` returns them.

    Raises:
        UnsupportedModel: if a pass differs from the trace that the space was made from.
    """
    passes = [_recorded(model, space, row, batch, memory_format) for row in widths]
    ops = space.trace_record.ops[: space.trace_record.eval_ops]
    for calls in passes:
        if [str(call.func) for call in calls] != [op.name for op in ops]:
            raise UnsupportedModel(
                f"{type(model).__name__} calls other operators for a batch of {batch} images than "
                "for one; its latency cannot be put together from them"
            )
    groups = _group_of_atoms(space)
    return [
        _grid(space, groups, widths, op, calls)
        for op, calls in zip(ops, zip(*passes, strict=True), strict=True)
        if not calls[0].func.is_view
    ]


def _recorded(
    model: nn.Module,
    space: ChannelSpace,
    widths: np.ndarray,
    batch: int,
    memory_format: MemoryFormat,
) -> list[Case]:
    """The calls of one pass over a subnet, on the meta device."""
    names = [group.name for group in space.groups]
    config = SubnetConfig.from_widths(space, dict(zip(names, widths.tolist(), strict=True)))
    small = resized_copy(on_meta(model), space.table, config)
    layout: Any = MEMORY_FORMATS[memory_format]
    small = small.to(memory_format=layout)
    inputs = blank_inputs(small, space.size, batch)
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        enter(small, space.size, laid_out(inputs, layout))
    starts_at = len(recorder.calls) - space.trace_record.eval_ops
    return recorder.calls[max(0, starts_at) :]  # without the layout of the images


class _Recorder(OperatorMode):
    """Keeps every operator call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Case] = []

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, tree = tree_flatten(tree_map_only(Tensor, _Spec.of, (args, kwargs)))
        self.calls.append(Case(func, tuple(leaves), tree))
        return run_on_meta(func, args, kwargs)


def _group_of_atoms(space: ChannelSpace) -> np.ndarray:
    """Group of every atom of the trace, -1 where it is fixed; the last entry serves FIXED."""
    trace, table = space.trace_record, space.table
    component = trace.atoms.components()
    groups = np.full(component.max(initial=-1) + 1, -1)
    for (name, dim), axis in table.tensors.items():
        groups[component[trace.tensors[name][dim]]] = table.axes[axis].group
    return np.append(groups[component], -1)


@dataclass(frozen=True, eq=False)
class _Moving:
    """A dimension of an argument (its ordinal among the tensors) or, with -1, of the result."""

    tensor: int
    dim: int
    axis: Axis

    @property
    def groups(self) -> frozenset[int]:
        return frozenset(self.axis.group[self.axis.group >= 0].tolist())


def _grid(
    space: ChannelSpace, groups: np.ndarray, widths: np.ndarray, op: Op, calls: Sequence[Case]
) -> CaseGrid:
    """One operator at all sizes, from its calls at the common keep ratios."""
    moving = list(_moving(groups, op))
    parts = _connected(moving)
    made = [part for part in parts if any(m.tensor < 0 for m in part)]
    if len(parts) == 2 and len(made) == 1 and _has_equal_numbers(calls):
        read = next(part for part in parts if part is not made[0])
        cases = tuple(tuple(_mixed(row, column, read) for column in calls) for row in calls)
        return CaseGrid(_coordinate(space, widths, [read]), _coordinate(space, widths, made), cases)
    still = Coordinate(np.zeros(len(space.groups), dtype=np.int64), 0, np.zeros(1, dtype=np.int64))
    return CaseGrid(still, _coordinate(space, widths, parts), (tuple(calls),))


def _moving(groups: np.ndarray, op: Op) -> Iterable[_Moving]:
    """The dimensions of a call that change with the widths of groups."""

    def found(tensor: int, labels: Labels) -> Iterable[_Moving]:
        for dim, label in labels.items():
            axis = Axis(groups[label], label)
            if (axis.group >= 0).any():
                yield _Moving(tensor, dim, axis)

    for tensor, (_, labels) in enumerate(op.inputs):
        yield from found(tensor, labels)
    for _, labels in op.outputs:
        yield from found(-1, labels)


def _connected(moving: Sequence[_Moving]) -> list[list[_Moving]]:
    """Dimensions that follow common groups, together."""
    parts: list[list[_Moving]] = []
    for one in moving:
        touching = [p for p in parts if any(m.groups & one.groups for m in p)]
        apart = [p for p in parts if not any(m.groups & one.groups for m in p)]
        parts = [*apart, [*chain.from_iterable(touching), one]]
    return parts


def _coordinate(
    space: ChannelSpace, widths: np.ndarray, parts: Sequence[Sequence[_Moving]]
) -> Coordinate:
    """The size of the longest dimension; of unconnected ones, their sum."""
    slopes, fixed = np.zeros(len(space.groups), dtype=np.int64), 0
    for part in parts:
        longest = max(part, key=lambda moving: len(moving.axis.group))
        more, always = longest.axis.slopes(space.sizes)
        slopes, fixed = slopes + more, fixed + always
    return Coordinate(slopes, fixed, widths @ slopes + fixed)


def _has_equal_numbers(calls: Sequence[Case]) -> bool:
    """Whether a call differs from width to width in the shapes of its tensors only."""
    rest = {str([leaf for leaf in c.leaves if not isinstance(leaf, _Spec)]) for c in calls}
    return len(rest) == 1


def _mixed(row: Case, column: Case, read: Sequence[_Moving]) -> Case:
    """The call that reads what `row` reads and makes what `column` makes."""
    places = {(moving.tensor, moving.dim) for moving in read}
    leaves, tensor = [], -1
    for ours, theirs in zip(row.leaves, column.leaves, strict=True):
        if isinstance(theirs, _Spec):
            tensor += 1
            shape = tuple(
                (ours if (tensor, dim) in places else theirs).shape[dim]
                for dim in range(len(theirs.shape))
            )
            theirs = _Spec(shape, theirs.order, theirs.dtype)
        leaves.append(theirs)
    return Case(column.func, tuple(leaves), column.tree)

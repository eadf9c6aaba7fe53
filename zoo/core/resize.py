"""Make a network smaller along a table of channel groups, and prove that the table was right.

The proof is cheap: the smaller network is traced on the meta device again. Operator by operator its
shapes must be those that the table predicts, its numbers (temperatures, strides, epsilons) those of
the parent, and what it reads made by the same earlier calls; channel by channel its layers must be
connected as the kept channels of the parent were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.arguments import arguments_agree
from zoo.core.atoms import Trace
from zoo.core.config import SubnetConfig
from zoo.core.copies import copy_with
from zoo.core.errors import UnsupportedModel
from zoo.core.groups import ChannelTable
from zoo.core.trace import TraceFailed, on_meta, trace_model

__all__ = [
    "Mismatch",
    "Place",
    "SizedAttributes",
    "axis_sizes",
    "compare_traces",
    "copy_resized",
    "is_sized_layer",
    "prove",
    "resize_tensor",
    "resized_copy",
]

Attribute = tuple[str, str, Any]  # module path, attribute name, new value of the attribute's type


class Mismatch(UnsupportedModel):
    """The smaller network is not what the table predicts.

    Attributes:
        step: index of the first operator that differs, None if only the connections differ.
        tensors: names of parameters whose connections differ.
    """

    def __init__(self, message: str, step: int | None, tensors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.step = step
        self.tensors = tensors


def resize_tensor(
    table: ChannelTable, kept: Sequence[np.ndarray | None], name: str, tensor: Tensor
) -> Tensor:
    """Return the part of a parameter or buffer that is kept; gradients flow back to ``tensor``.

    Args:
        table: the table of the network that ``tensor`` belongs to.
        kept: kept positions of every axis, as ``table.kept_positions`` returns them.
        name: state-dict name of ``tensor``.
        tensor: its full-size value.
    """
    place = Place.of(table, kept, name, tensor)
    tensor = place.view
    for dim, positions in place.gathered.items():
        tensor = tensor.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    return tensor


@dataclass(frozen=True)
class Place:
    """Where a part stands in a full-size tensor.

    Attributes:
        view: the tensor, narrowed along those dimensions whose kept positions are one run.
        gathered: kept positions of the other dimensions; without any the part is the view.
    """

    view: Tensor
    gathered: Mapping[int, np.ndarray]

    @classmethod
    def of(
        cls, table: ChannelTable, kept: Sequence[np.ndarray | None], name: str, full: Tensor
    ) -> Place:
        """The place of what `resize_tensor` returns for the same arguments."""
        gathered = {}
        for dim in range(min(full.ndim, 2)):
            axis = table.tensors.get((name, dim))
            positions = None if axis is None else kept[axis]
            if positions is None:
                continue
            first = int(positions[0])
            if positions[-1] - first == len(positions) - 1:
                full = full.narrow(dim, first, len(positions))
            else:
                gathered[dim] = positions
        return cls(full, gathered)

    def add(self, part: Tensor) -> None:
        """Add a part to the tensor, in place."""
        if self.gathered:
            self.view.index_put_(self._index(), part, accumulate=True)
        else:
            self.view.add_(part)

    def clear(self) -> None:
        """Put zeros there, in place."""
        if self.gathered:
            self.view.index_put_(self._index(), self.view.new_zeros(()))
        else:
            self.view.zero_()

    def _index(self) -> tuple[Tensor, ...]:
        shape = self.view.shape[:2]
        kept = [self.gathered.get(dim, np.arange(size)) for dim, size in enumerate(shape)]
        return torch.meshgrid(
            *(torch.from_numpy(k).to(self.view.device) for k in kept), indexing="ij"
        )


def axis_sizes(table: ChannelTable, kept: Sequence[np.ndarray | None]) -> list[int]:
    """Return how many positions of every axis are kept."""
    return [len(a.group) if k is None else len(k) for a, k in zip(table.axes, kept, strict=True)]


class SizedAttributes:
    """The attributes of a network that must change with the widths, found once.

    The sizes that torch's own layers state always do. Any other attribute that holds the same
    number may mean something else (a temperature, a kernel size), so only those that
    ``table.held`` names change.

    Args:
        model: a network of the size that ``table`` describes.
        table: its table.
    """

    def __init__(self, model: nn.Module, table: ChannelTable) -> None:
        self._table = table
        full = axis_sizes(table, [None] * len(table.axes))
        self._layers = [
            (path, module)
            for path, module in model.named_modules()
            if _layer_sizes(path, module, table, full)
        ]
        self._held = [
            (held.path, held.name, vars(model.get_submodule(held.path))[held.name], held.follower)
            for held in table.held
        ]

    def at(self, sizes: Sequence[int]) -> list[Attribute]:
        """Return what changes where the axes have some sizes, in order of their index."""
        changes: list[Attribute] = []
        for path, module in self._layers:
            changes += [
                (path, name, new)
                for name, new in _layer_sizes(path, module, self._table, sizes).items()
                if getattr(module, name, new) != new
            ]
        for path, name, value, follower in self._held:
            new = tuple(sizes[axis] for axis in follower.axes)
            if new != follower.sizes:
                held = type(value)(new) if isinstance(value, list | tuple) else new[0]
                changes.append((path, name, held))
        return changes


def resized_copy(
    model: nn.Module,
    table: ChannelTable,
    config: SubnetConfig,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a smaller copy of ``model``; nothing is proved yet.

    Args:
        model: the full network; not touched.
        table: its table.
        config: what to keep.
        weights: full-size values by state-dict name, to be used instead of the model's own.
    """
    kept = table.kept_positions(config)

    def smaller(name: str, tensor: Tensor) -> Tensor:
        source = (weights or {}).get(name, tensor).detach().to(tensor)
        part = resize_tensor(table, kept, name, source)
        return part.clone(memory_format=_memory_format(tensor))

    return copy_resized(model, table, axis_sizes(table, kept), smaller)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """The layout that a part of a tensor keeps."""
    is_channels_last = tensor.ndim == 4 and not tensor.is_contiguous()
    if is_channels_last and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def copy_resized(
    model: nn.Module,
    table: ChannelTable,
    sizes: Sequence[int],
    resize: Callable[[str, Tensor], Tensor],
) -> nn.Module:
    """Return a copy of ``model`` with other tensors and the attributes that belong to them.

    Args:
        model: not touched.
        table: its table.
        sizes: new size of every axis.
        resize: gives the new value of a parameter or buffer, from its state-dict name and value.
    """
    memo: dict[int, Any] = {}  # deepcopy's own form: id of the original -> its copy
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        new = resize(name, tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
    changes = SizedAttributes(model, table).at(sizes)
    resized = copy_with(model, memo, lambda held: held.detach().clone())
    for path, name, value in changes:
        setattr(resized.get_submodule(path), name, value)
    return resized


def prove(
    trace: Trace, table: ChannelTable, config: SubnetConfig, smaller: nn.Module, size: Sequence[int]
) -> None:
    """Raise ``Mismatch`` unless ``smaller`` is what ``table`` predicts for ``config``.

    Args:
        trace: the trace of the parent.
        table: the table made from it.
        config: what was kept.
        smaller: the smaller network.
        size: (C, H, W) of one image.
    """
    kept = _kept_atoms(trace, table, config)
    try:
        found = trace_model(on_meta(smaller), size, table.depthwise, trace.is_trained)
    except TraceFailed as error:
        step = _first_difference(trace, kept, error.ops)
        raise Mismatch(str(error), len(error.ops) if step is None else step) from error
    compare_traces(trace, kept, found)


def compare_traces(trace: Trace, kept: np.ndarray, found: Trace) -> None:
    """Raise ``Mismatch`` unless ``found`` is ``trace`` with only the kept atoms.

    Args:
        trace: the trace of the parent.
        kept: for every atom whether it stays, with a True appended, shape (atoms + 1,).
        found: the trace of the smaller network.
    """
    step = _first_difference(trace, kept, found.ops)
    if step is None and len(found.ops) != len(trace.ops):
        step = min(len(found.ops), len(trace.ops)) - 1
    if step is not None:
        op = trace.ops[step]
        raise Mismatch(
            f"module {op.module!r}: {op.name} does not follow the smaller widths; the network was "
            "not pruned. Its code holds a number of channels that is unknown from outside, or "
            "computes with one.",
            step,
        )
    wrong = _wrong_connections(trace, kept, found)
    if wrong:
        raise Mismatch(
            f"the channels of {', '.join(wrong[:3])} are connected in another way in the smaller "
            "network; it was not pruned",
            None,
            wrong,
        )


def _kept_atoms(trace: Trace, table: ChannelTable, config: SubnetConfig) -> np.ndarray:
    """Return for every atom whether it stays, with a True appended for fixed positions."""
    alive = np.ones(trace.atoms.count + 1, dtype=bool)
    positions = table.kept_positions(config)
    for (name, dim), axis in table.tensors.items():
        kept = positions[axis]
        if kept is not None:
            atoms = trace.tensors[name][dim].numpy()
            alive[atoms] = False
            alive[atoms[kept]] = True
    component = trace.atoms.components()
    dropped = np.zeros(component.max(initial=0) + 1, dtype=bool)
    dropped[component[~alive[:-1]]] = True  # atoms outside of tensors follow their component
    alive[:-1] = ~dropped[component]
    return alive


def _first_difference(trace: Trace, kept: np.ndarray, found: Sequence[Any]) -> int | None:
    """Return the first call whose operator, shapes, numbers or sources are not as predicted."""
    for step, (op, other) in enumerate(zip(trace.ops, found, strict=False)):
        expected = [
            tuple(
                int(kept[labels[dim].numpy()].sum()) if dim in labels else size
                for dim, size in enumerate(shape)
            )
            for shape, labels in op.outputs
        ]
        is_same = op.name == other.name and op.sources == other.sources
        if not is_same or expected != [shape for shape, _ in other.outputs]:
            return step
        if not arguments_agree(op, other, kept):
            return step
    return None


def _wrong_connections(trace: Trace, kept: np.ndarray, found: Trace) -> tuple[str, ...]:
    """Return the parameters whose channels are not tied to the same others as before.

    Components of the two traces must correspond one to one. Dimensions that were left with one
    channel carry no label, so the ties that ran through them cannot be seen any more.
    """
    before, after = trace.atoms.components(), found.atoms.components()
    pairs = [np.empty((2, 0), dtype=np.int64)]
    names, lengths = [""], [0]
    for name, labels in trace.tensors.items():
        for dim, label in labels.items():
            atoms = label.numpy()
            atoms = atoms[kept[atoms]]
            if len(atoms) > 1:
                pairs.append(np.stack([before[atoms], after[found.tensors[name][dim].numpy()]]))
                names.append(name)
                lengths.append(len(atoms))
    parents, children = np.concatenate(pairs, axis=1)
    base = int(children.max(initial=0)) + 1
    distinct = np.unique(parents * base + children)
    is_split = np.bincount(distinct // base, minlength=len(before)) > 1
    is_split[_lonely(trace, kept, before)] = False
    is_joined = np.bincount(distinct % base) > 1
    wrong = is_split[parents] | is_joined[children]
    owners = np.repeat(np.arange(len(names)), lengths)
    return tuple(dict.fromkeys(names[i] for i in owners[wrong]))


def _lonely(trace: Trace, kept: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Return the components that are the only one left along some dimension."""
    lonely = [np.empty(0, dtype=np.int64)]
    in_flight = [labels for op in trace.ops for _, labels in (*op.inputs, *op.outputs)]
    for labels in (*trace.tensors.values(), *in_flight):
        for label in labels.values():
            atoms = label.numpy()
            atoms = atoms[kept[atoms]]
            if len(atoms) == 1 and atoms[0] >= 0:
                lonely.append(component[atoms])
    return np.concatenate(lonely)


_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)


def is_sized_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers that state their sizes."""
    return isinstance(module, _LAYERS)


def _layer_sizes(
    path: str, module: nn.Module, table: ChannelTable, sizes: Sequence[int]
) -> dict[str, Any]:
    """Return the size attributes of a layer at the new widths."""

    def size(tensor: str, dim: int) -> int:
        name = f"{path}.{tensor}" if path else tensor
        axis = table.tensors.get((name, dim))
        return table.shapes[name][dim] if axis is None else sizes[axis]

    if not isinstance(module, _LAYERS) or getattr(module, "weight", None) is None:
        return {}
    if f"{path}.weight".lstrip(".") not in table.shapes:  # shared with a layer seen before
        return {}
    if isinstance(module, nn.Linear):
        return {"in_features": size("weight", 1), "out_features": size("weight", 0)}
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return {"num_features": size("weight", 0)}
    if isinstance(module, nn.LayerNorm):
        is_vector = len(module.normalized_shape) == 1
        return {"normalized_shape": (size("weight", 0),)} if is_vector else {}
    if isinstance(module, nn.GroupNorm):
        per_channel = module.num_groups == module.num_channels
        new = size("weight", 0)
        return {"num_channels": new} | ({"num_groups": new} if per_channel else {})
    make, read = (1, 0) if module.transposed else (0, 1)
    if path in table.depthwise:
        multiplier = module.out_channels // module.in_channels
        made = size("weight", 0)
        entering = made // multiplier
        return {"in_channels": entering, "out_channels": made, "groups": entering}
    return {
        "in_channels": size("weight", read) * (1 if module.transposed else module.groups),
        "out_channels": size("weight", make),
    }

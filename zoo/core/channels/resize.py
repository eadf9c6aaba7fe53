"""Make a network smaller along a table of channel groups; `proof` shows that it was right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.channels.channel_table import ChannelTable
from zoo.core.channels.config import SubnetConfig
from zoo.core.tracing.copies import copy_with, memory_format_of, named_modules, named_tensors
from zoo.core.tracing.layers import SIZED_LAYERS

__all__ = [
    "KeptPositions",
    "Place",
    "SizedAttributes",
    "axis_sizes",
    "copy_resized",
    "is_sized_layer",
    "resize_tensor",
    "resized_copy",
    "resized_on_meta",
]

Attribute = tuple[str, str, Any]  # module path, attribute name, new value of the attribute's type


class KeptPositions(Sequence[np.ndarray | None]):
    """Kept positions of every axis, copied to a device at once and once.

    Each copy of its own would be one for each dimension of each tensor.

    Args:
        positions: of every axis, ascending, int64, shape (kept,); None for all, as
            ``table.kept_positions`` returns them.
    """

    def __init__(self, positions: Sequence[np.ndarray | None]) -> None:
        self._positions = tuple(positions)
        self._there: dict[torch.device, dict[int, Tensor]] = {}

    @overload
    def __getitem__(self, axis: int) -> np.ndarray | None: ...
    @overload
    def __getitem__(self, axis: slice) -> Sequence[np.ndarray | None]: ...
    def __getitem__(self, axis: int | slice) -> np.ndarray | Sequence[np.ndarray | None] | None:
        return self._positions[axis]

    def __len__(self) -> int:
        return len(self._positions)

    def gathered(self, device: torch.device) -> Mapping[int, Tensor]:
        """Positions on a device by axis, int64, shape (kept,), of axes that keep no single run."""
        if device not in self._there:
            found = {a: p for a, p in enumerate(self) if p is not None and not _is_run(p)}
            whole = np.concatenate([np.empty(0, dtype=np.int64), *found.values()])
            there = torch.from_numpy(whole).to(device, non_blocking=True)
            parts = torch.split(there, [len(p) for p in found.values()])
            self._there[device] = dict(zip(found, parts, strict=True))
        return self._there[device]

    def select(self, tensor: Tensor, dim: int, axis: int) -> Tensor:
        """A copy of what a tensor keeps along a dimension, which an axis describes.

        The tensor itself if that is all.
        """
        positions = self[axis]
        if positions is None:
            return tensor
        if _is_run(positions):
            return tensor.narrow(dim, int(positions[0]), len(positions)).contiguous()
        return tensor.index_select(dim, self.gathered(tensor.device)[axis])


def _is_run(positions: np.ndarray) -> bool:
    return bool(positions[-1] - positions[0] == len(positions) - 1)


def resize_tensor(table: ChannelTable, kept: KeptPositions, name: str, tensor: Tensor) -> Tensor:
    """Return the part of a parameter or buffer that is kept; gradients flow back to ``tensor``.

    Args:
        table: the table of the network that ``tensor`` belongs to.
        kept: kept positions of every axis.
        name: state-dict name of ``tensor``.
        tensor: its full-size value.
    """
    return Place.of(table, kept, name, tensor).part()


@dataclass(frozen=True)
class Place:
    """The position of a kept part in a full-size tensor.

    Attributes:
        view: the tensor, narrowed along those dimensions whose kept positions are one run.
        gathered: kept positions of the other dimensions, int64, shape (kept,), on the tensor's
            device; without any the part is the view.
    """

    view: Tensor
    gathered: Mapping[int, Tensor]

    @classmethod
    def of(cls, table: ChannelTable, kept: KeptPositions, name: str, full: Tensor) -> Place:
        """The place of what `resize_tensor` returns for the same arguments.

        Args:
            table: the table of the network.
            kept: kept positions of every axis.
            name: state-dict name of the tensor.
            full: the tensor at full size, of which the place is a view.
        """
        gathered = {}
        for dim in range(min(full.ndim, 2)):
            axis = table.tensors.get((name, dim))
            positions = None if axis is None else kept[axis]
            if axis is None or positions is None:
                continue
            if _is_run(positions):
                full = full.narrow(dim, int(positions[0]), len(positions))
            else:
                gathered[dim] = kept.gathered(full.device)[axis]
        return cls(full, gathered)

    def part(self) -> Tensor:
        """The kept part: a view of the tensor where nothing is gathered, else a copy."""
        part = self.view
        for dim, positions in self.gathered.items():
            part = part.index_select(dim, positions)
        return part

    def add(self, part: Tensor) -> None:
        """Add a part, of the shape of the kept positions, to the tensor, in place."""
        if not self.gathered:
            self.view.add_(part)
        elif len(self.gathered) == 1:
            ((dim, positions),) = self.gathered.items()
            self.view.index_add_(dim, positions, part)
        else:
            self.view[self._index] += part

    def clear(self) -> None:
        """Put zeros there, in place."""
        if not self.gathered:
            self.view.zero_()
        elif len(self.gathered) == 1:
            ((dim, positions),) = self.gathered.items()
            self.view.index_fill_(dim, positions, 0)
        else:
            self.view[self._index] = self.view.new_zeros(())

    @property
    def _index(self) -> tuple[Tensor, Tensor]:
        return self.gathered[0][:, None], self.gathered[1]


def axis_sizes(table: ChannelTable, kept: Sequence[np.ndarray | None]) -> list[int]:
    """Return how many positions of every axis are kept; None stands for all, else shape (kept,)."""
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
        self._names = {id(tensor): name for name, tensor in named_tensors(model)}
        self._layers = [
            (path, module)
            for path, module in named_modules(model)
            if _layer_sizes(path, module, self._names, table, full)
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
                for name, new in _layer_sizes(path, module, self._names, self._table, sizes).items()
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
    kept, given = KeptPositions(table.kept_positions(config)), weights or {}

    def smaller(name: str, tensor: Tensor) -> Tensor:
        source = given[name].detach().to(tensor) if name in given else tensor.detach()
        place = Place.of(table, kept, name, source)
        part, layout = place.part(), memory_format_of(tensor)
        if place.gathered and memory_format_of(part) == layout:
            return part
        return part.clone(memory_format=layout)

    return copy_resized(model, table, axis_sizes(table, kept), smaller)


def resized_on_meta(model: nn.Module, table: ChannelTable, config: SubnetConfig) -> nn.Module:
    """Return a smaller copy of ``model`` in eval mode whose tensors hold no data.

    Args:
        model: the full network; not touched.
        table: its table.
        config: what to keep.
    """
    sizes = axis_sizes(table, table.kept_positions(config))

    def smaller(name: str, tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        for dim in range(min(tensor.ndim, 2)):
            axis = table.tensors.get((name, dim))
            shape[dim] = shape[dim] if axis is None else sizes[axis]
        if memory_format_of(tensor) == torch.contiguous_format:
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        return torch.empty(
            shape, dtype=tensor.dtype, device="meta", memory_format=torch.channels_last
        )

    meta = copy_resized(
        model, table, sizes, smaller, lambda held: torch.empty_like(held, device="meta")
    )
    # As `on_meta` does it: what a product of matrices calls depends on its gradients, too.
    return meta.eval().requires_grad_(False)


def _without_graph(held: Tensor) -> Tensor:
    return held.detach().clone()


def copy_resized(
    model: nn.Module,
    table: ChannelTable,
    sizes: Sequence[int],
    resize: Callable[[str, Tensor], Tensor],
    replace: Callable[[Tensor], Tensor] = _without_graph,
) -> nn.Module:
    """Return a copy of ``model`` with other tensors and the attributes that belong to them.

    Args:
        model: not touched.
        table: its table.
        sizes: new size of every axis.
        resize: gives the new value of a parameter or buffer, from its state-dict name and value.
        replace: gives a new tensor, same shape, for one that a pass computed and a module keeps.
    """

    def renewed(name: str, tensor: Tensor) -> Tensor:
        new = resize(name, tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(new, tensor.requires_grad) if is_parameter else new

    resized = copy_with(model, renewed, replace)
    for path, name, value in SizedAttributes(model, table).at(sizes):
        setattr(resized.get_submodule(path), name, value)
    return resized


def is_sized_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers that state their sizes."""
    return isinstance(module, SIZED_LAYERS)


def _layer_sizes(
    path: str,
    module: nn.Module,
    names: Mapping[int, str],
    table: ChannelTable,
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Return the size attributes of a layer at the new widths; ``names`` are those of tensors.

    Layers that share a weight, which has one name, have the same sizes.
    """
    weight = names.get(id(module.weight)) if isinstance(module, SIZED_LAYERS) else None
    if not isinstance(module, SIZED_LAYERS) or weight is None:
        return {}

    def size(dim: int) -> int:
        axis = table.tensors.get((weight, dim))
        return table.shapes[weight][dim] if axis is None else sizes[axis]

    if isinstance(module, nn.Linear):
        return {"in_features": size(1), "out_features": size(0)}
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return {"num_features": size(0)}
    if isinstance(module, nn.LayerNorm):
        is_vector = len(module.normalized_shape) == 1
        return {"normalized_shape": (size(0),)} if is_vector else {}
    if isinstance(module, nn.GroupNorm):
        per_channel = module.num_groups == module.num_channels
        new = size(0)
        return {"num_channels": new} | ({"num_groups": new} if per_channel else {})
    make, read = (1, 0) if module.transposed else (0, 1)
    if path in table.depthwise:
        multiplier = module.out_channels // module.in_channels
        made = size(0)
        entering = made // multiplier
        return {"in_channels": entering, "out_channels": made, "groups": entering}
    return {
        "in_channels": size(read) * (1 if module.transposed else module.groups),
        "out_channels": size(make),
    }

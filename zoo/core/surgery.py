"""rebuild: from a subnet's configuration to a new network that is really smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.core.config import SubnetConfig
from zoo.core.groups import ChannelTable
from zoo.core.resize import axis_sizes, prove, resized_copy
from zoo.core.space import ChannelSpace

__all__ = ["rebuild", "refresh_metadata"]


def rebuild(
    model: nn.Module,
    space: ChannelSpace,
    config: SubnetConfig,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a new network that has only the kept channels; ``model`` is not touched.

    The result has the class, mode and device of ``model``, fresh parameters without gradients,
    and timm's metadata (``num_features``, ``feature_info``, ...) at the new widths. Optimizers must
    be built after this, from the new parameters.

    Args:
        model: the network that ``space`` was traced from, or one of the same architecture.
        space: its channel space.
        config: what to keep.
        weights: full-size values by state-dict name, used instead of those of ``model``.

    Raises:
        ValueError: if ``config`` does not fit ``space``.
        UnsupportedModel: if the smaller network is not the one that the space predicts.
    """
    config.check(space)
    _check_shapes(model, space)
    smaller = resized_copy(model, space.table, config, weights)
    prove(space.trace_record, space.table, config, smaller, space.input_size)
    sizes = axis_sizes(space.table, space.table.kept_positions(config))
    refresh_metadata(model, smaller, space.table, sizes)
    return smaller


def _check_shapes(model: nn.Module, space: ChannelSpace) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        expected = space.table.shapes.get(name, ())
        if tensor.ndim and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the space was traced from a network "
                f"where it is {expected or 'absent'}; trace the network that is to be rebuilt"
            )


def refresh_metadata(
    parent: nn.Module, resized: nn.Module, table: ChannelTable, sizes: Sequence[int]
) -> None:
    """Bring the widths that timm keeps beside the layers up to date.

    Args:
        parent: the network that was resized.
        resized: the result; changed.
        table: the table of ``parent``.
        sizes: new size of every axis.
    """
    widths = {
        path: (old, old if axis is None else sizes[axis])
        for path, (old, axis) in table.outputs.items()
    }
    for name in ("num_features", "head_hidden_size"):
        stated = getattr(parent, name, None)
        last = [new for old, new in widths.values() if type(stated) is int and old == stated]
        if last:
            setattr(resized, name, last[-1])
    for path, module in parent.named_modules():
        for name in ("in_features", "num_features", "hidden_size"):
            old = vars(module).get(name)
            if type(old) is int and not hasattr(module, "weight") and path:
                _refresh_head(module, resized.get_submodule(path), name, old)
    _refresh_feature_info(resized, widths)


def _refresh_head(parent: nn.Module, smaller: nn.Module, name: str, old: int) -> None:
    """Let a module that states the width of one of its layers state the new one."""
    for layer, small in zip(parent.modules(), smaller.modules(), strict=True):
        for size in ("in_features", "num_features", "in_channels"):
            if getattr(layer, size, None) == old and layer is not parent:
                setattr(smaller, name, getattr(small, size))
                return


def _refresh_feature_info(smaller: nn.Module, widths: dict[str, tuple[int, int]]) -> None:
    """Set ``num_chs`` of every stage to its new width, None where it cannot be told."""
    infos: Any = getattr(smaller, "feature_info", None)
    infos = getattr(infos, "info", infos)
    for info in infos if isinstance(infos, list) else ():
        old, new = widths.get(info.get("module"), (None, None))
        info["num_chs"] = new if old == info["num_chs"] else None

"""rebuild: from a subnet's configuration to a new network that is really smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.config import SubnetConfig
from zoo.core.resize import prove, resized_copy
from zoo.core.space import ChannelSpace
from zoo.core.trace import on_meta

__all__ = ["rebuild"]


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
    _refresh_metadata(model, smaller, space)
    return smaller


def _check_shapes(model: nn.Module, space: ChannelSpace) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        expected = space.table.shapes.get(name, ())
        if tensor.ndim and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the space was traced from a network "
                f"where it is {expected or 'absent'}; trace the network that is to be rebuilt"
            )


def _refresh_metadata(parent: nn.Module, smaller: nn.Module, space: ChannelSpace) -> None:
    """Bring the widths that timm keeps beside the layers up to date."""
    _refresh_feature_info(smaller, space)
    sizes = _feature_sizes(parent, space), _feature_sizes(smaller, space)
    for name in ("num_features", "head_hidden_size"):
        old = getattr(parent, name, None)
        if type(old) is int and old in sizes[0]:
            setattr(smaller, name, sizes[1][sizes[0].index(old)])
    for path, module in parent.named_modules():
        for name in ("in_features", "num_features", "hidden_size"):
            old = vars(module).get(name)
            if type(old) is int and not hasattr(module, "weight") and path:
                _refresh_head(smaller.get_submodule(path), module, name, old)


def _refresh_head(smaller: nn.Module, parent: nn.Module, name: str, old: int) -> None:
    """Let a head module that states the width of its layers state the new one."""
    pairs = zip(parent.modules(), smaller.modules(), strict=True)
    for layer, small in pairs:
        for size in ("in_features", "num_features", "in_channels"):
            if getattr(layer, size, None) == old and layer is not parent:
                setattr(smaller, name, getattr(small, size))
                return


def _feature_sizes(model: nn.Module, space: ChannelSpace) -> list[int]:
    """Return the widths of a timm model's features and of what its classifier reads."""
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return []
    meta = on_meta(model)
    forward: Any = meta
    dtype = next(p.dtype for p in meta.parameters())
    images = torch.empty(1, *space.input_size, device="meta", dtype=dtype)
    with torch.no_grad():
        features = forward.forward_features(images)
        hidden = forward.forward_head(features, pre_logits=True)
    dim = 1 if getattr(model, "output_fmt", "NCHW") == "NCHW" else -1
    return [int(features.shape[dim]), int(hidden.shape[-1])]


def _refresh_feature_info(smaller: nn.Module, space: ChannelSpace) -> None:
    infos: Any = getattr(smaller, "feature_info", None)
    infos = getattr(infos, "info", infos)
    if not isinstance(infos, list):
        return
    meta = on_meta(smaller)
    dtype = next(p.dtype for p in meta.parameters())
    widths: dict[str, int] = {}

    def note(name: str) -> Any:  # a forward hook
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            widths[name] = int(output.shape[1])

        return hook

    for info in infos:
        if info.get("module") in space.stages:
            meta.get_submodule(info["module"]).register_forward_hook(note(info["module"]))
    with torch.no_grad():
        meta(torch.empty(1, *space.input_size, device="meta", dtype=dtype))
    for info in infos:
        if info.get("module") in widths:
            info["num_chs"] = widths[info["module"]]

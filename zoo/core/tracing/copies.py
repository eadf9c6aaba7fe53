"""Copies of networks, also of those that hold tensors which a plain deep copy refuses.

A network may keep what its last pass computed (features for a loss, attention maps): such a tensor
belongs to the graph of that pass and is copied without it. A weight that a hook computes before
every pass hides the parameters that are to be pruned: it is refused, with the way to make it plain.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from zoo.core.errors import UnsupportedModel, said

__all__ = [
    "copy_network",
    "copy_with",
    "float_dtype",
    "memory_format_of",
    "require_plain_weights",
]

_TORCH = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, str, type(None))


def copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network; what its last pass left in it is copied without its graph.

    Raises:
        UnsupportedModel: if the network cannot be copied; the message names the module.
    """
    return copy_with(model, {}, lambda tensor: tensor.detach().clone())


def copy_with(
    model: nn.Module, memo: dict[int, Any], replace: Callable[[Tensor], Tensor]
) -> nn.Module:
    """Return a deep copy of a network with other tensors.

    Args:
        model: the network; not touched.
        memo: deepcopy's own form: id of an original -> what stands for it in the copy.
        replace: gives a new tensor, same shape, for one that a pass computed and a module keeps.

    Raises:
        UnsupportedModel: if the network cannot be copied; the message names the module.
    """
    require_plain_weights(model)
    for tensor in _computed(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = replace(tensor)
    try:
        return copy.deepcopy(model, dict(memo))
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be copied: {_culprit(model, memo)}: {said(error)}. "
            "Remove what that attribute holds, or keep it outside of the network"
        ) from error


def require_plain_weights(model: nn.Module) -> None:
    """Raise unless every weight is a parameter that can be made smaller.

    Raises:
        UnsupportedModel: if a hook computes a weight, or a lazy module has no weights yet; the
            message names the module and the remedy.
    """
    for path, module in model.named_modules():
        for name, parameter in (*module._parameters.items(), *module._buffers.items()):
            if parameter is not None and is_lazy(parameter):
                raise UnsupportedModel(
                    f"{path or type(model).__name__}.{name} has no shape yet (a lazy module); run "
                    "one batch through the network before pruning"
                )
        for hook in module._forward_pre_hooks.values():
            remedy = _remedy(hook)
            if remedy:
                where = f"model.get_submodule({path!r})" if path else "model"
                raise UnsupportedModel(
                    f"module {path or type(model).__name__!r}: a hook computes its weight before "
                    f"every pass ({type(hook).__name__}), so the weight itself cannot be pruned; "
                    f"call {remedy.format(module=where)} first"
                )


def float_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of a network's first weight; single precision if it has none."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.float32)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """The layout that parts and copies of a tensor, of any shape, are to keep."""
    # One channel, or one pixel, satisfies both layouts; torch calls it contiguous.
    is_permuted = tensor.ndim == 4 and not tensor.is_contiguous()
    if is_permuted and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _remedy(hook: object) -> str:
    """The call that makes a computed weight a plain parameter; empty for any other hook."""
    if isinstance(hook, WeightNorm):
        return f"torch.nn.utils.remove_weight_norm({{module}}, {hook.name!r})"
    if isinstance(hook, SpectralNorm):
        return f"torch.nn.utils.remove_spectral_norm({{module}}, {hook.name!r})"
    if isinstance(hook, BasePruningMethod):
        return f"torch.nn.utils.prune.remove({{module}}, {hook._tensor_name!r})"
    return ""


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and value of all attributes other than parameters, buffers and modules."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _TORCH:
                yield f"{path or type(model).__name__}.{name}", value


def _computed(model: nn.Module) -> list[Tensor]:
    """Tensors that a pass computed and a module keeps, alone or in lists and dictionaries."""
    values = [value for _, value in _attributes(model) if not _holds_nothing(value)]
    held = [leaf for value in values for leaf in tree_leaves(value)]
    return [t for t in (*held, *model.buffers()) if isinstance(t, Tensor) and not t.is_leaf]


def _holds_nothing(value: object) -> bool:
    """Whether an attribute plainly holds no tensor, as most do: a number, a name, no hooks."""
    return isinstance(value, _PLAIN) or (isinstance(value, dict) and not value)


def _culprit(model: nn.Module, memo: dict[int, Any]) -> str:
    """The first attribute that cannot be copied."""
    for path, value in _attributes(model):
        try:
            copy.deepcopy(value, dict(memo))
        except (RuntimeError, TypeError):
            return path
    return type(model).__name__

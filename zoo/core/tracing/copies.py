"""Copies of networks, also of those that hold tensors which a plain deep copy refuses.

A network may keep what its last pass computed (features for a loss, attention maps): such a tensor
belongs to the graph of that pass and is copied without it. A weight that a hook computes before
every pass hides the parameters that are to be pruned: it is refused, with the way to make it plain.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from zoo.core.errors import UnsupportedModel, said
from zoo.core.tracing.bound_functions import BoundFunctions

__all__ = [
    "copy_network",
    "copy_with",
    "float_dtype",
    "memory_format_of",
    "named_modules",
    "named_tensors",
    "require_plain_weights",
    "without_data",
]

_TORCH = ("_parameters", "_buffers", "_modules")
_PLAIN = frozenset((bool, int, float, str, type(None)))
_CONTAINERS = frozenset((dict, OrderedDict, set, list))
_NEVER_LAZY: frozenset[Any] = frozenset((nn.Parameter, Tensor))


def copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network; what its last pass left in it is copied without its graph.

    Raises:
        UnsupportedModel: if the network cannot be copied; the message names the module.
    """
    require_plain_weights(model)
    return _copy(model, {}, lambda tensor: tensor.detach().clone())


def copy_with(
    model: nn.Module,
    renew: Callable[[str, Tensor], Tensor],
    replace: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Return a deep copy of a network with other tensors.

    Args:
        model: the network; not touched.
        renew: gives what stands for a parameter or buffer, from its state-dict name and value.
        replace: gives a new tensor, same shape, for one that a pass computed and a module keeps.

    Raises:
        UnsupportedModel: if the network cannot be copied; the message names the module.
    """
    modules = named_modules(model)
    _require_plain_weights(modules, type(model).__name__)
    named = named_tensors(model, modules)
    memo: dict[int, Any] = {id(own): renew(name, own) for name, own in named}
    return _copy(model, memo, replace)


def _copy(model: nn.Module, memo: dict[int, Any], replace: Callable[[Tensor], Tensor]) -> nn.Module:
    """The deep copy; ``memo`` is deepcopy's own form: id of an original -> what stands for it."""
    copier = _Copier(model, dict(memo), replace)
    try:
        return copier.module(model)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be copied: {_culprit(model, memo)}: {said(error)}. "
            "Remove what that attribute holds, or keep it outside of the network"
        ) from error
    finally:
        del copier._functions  # they refer to each other, and would wait for the collector


class _Copier:
    """Copies modules as `copy.deepcopy` does, without a walk through what needs no copy."""

    def __init__(
        self, root: nn.Module, memo: dict[int, Any], replace: Callable[[Tensor], Tensor]
    ) -> None:
        self._memo = memo
        self._replace = replace
        self._functions = BoundFunctions(root, self._value, memo)

    def module(self, module: nn.Module) -> nn.Module:
        known: nn.Module | None = self._memo.get(id(module))
        if known is not None:
            return known
        kind: Any = type(module)  # mypy doubts that classes of modules can be hashed
        state = kind.__getstate__(module) if _is_copied_by_state(kind) else None
        if not isinstance(state, dict):
            self._functions.refuse(module)
            self._note_computed(_computed(module))
            return copy.deepcopy(module, self._memo)
        twin: nn.Module = kind.__new__(kind)
        self._memo[id(module)] = twin
        copied = dict(state)
        for name, value in state.items():
            of = type(value)
            if of in _PLAIN:
                continue
            if of not in _CONTAINERS or value:
                copied[name] = self._attribute(module, name, value)
            else:  # hooks, mostly, which their handles share
                copied[name] = self._memo.setdefault(id(value), of())
        kind.__setstate__(twin, copied)
        return twin

    def _attribute(self, module: nn.Module, name: str, value: Any) -> Any:
        kind = type(value)
        if name == "_modules" and kind is dict:
            parts = value.items()
            return {key: None if part is None else self.module(part) for key, part in parts}
        if name in _TORCH and kind is dict:
            return {key: self._tensor(tensor) for key, tensor in value.items()}
        if _is_plain(value):
            return value
        if self._functions.lead_back(value):
            return self._functions.attribute(module, name, value)
        return self._value(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.module(value)
        self._note_computed(_computed_in([value]))
        return copy.deepcopy(value, self._memo)

    def _tensor(self, tensor: Tensor | None) -> Any:
        if tensor is None or id(tensor) in self._memo:
            return tensor if tensor is None else self._memo[id(tensor)]
        self._note_computed(_computed_in([tensor]))
        return copy.deepcopy(tensor, self._memo)

    def _note_computed(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self._memo:
                self._memo[id(tensor)] = self._replace(tensor)


@cache
def _is_copied_by_state(kind: type) -> bool:
    """Whether a deep copy of a module is a new one with copies of its attributes, and no more."""
    special = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__")
    is_usual = all(getattr(kind, name, None) is getattr(object, name, None) for name in special)
    has_slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return is_usual and not has_slots and kind not in copyreg.dispatch_table


def _is_plain(value: object) -> bool:
    """Whether a deep copy of a value is the value itself, and holds no tensor."""
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


def require_plain_weights(model: nn.Module) -> None:
    """Raise unless every weight is a parameter that can be made smaller.

    Raises:
        UnsupportedModel: if a hook computes a weight, or a lazy module has no weights yet; the
            message names the module and the remedy.
    """
    _require_plain_weights(named_modules(model), type(model).__name__)


def _require_plain_weights(modules: Iterable[tuple[str, nn.Module]], root: str) -> None:
    """The same for the parts of a network, with their paths, and what to call the network."""
    for path, module in modules:
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and type(tensor) not in _NEVER_LAZY and is_lazy(tensor):
                    raise UnsupportedModel(
                        f"{path or root}.{name} has no shape yet (a lazy module); run one batch "
                        "through the network before pruning"
                    )
        for hook in module._forward_pre_hooks.values():
            remedy = _remedy(hook)
            if remedy:
                where = f"model.get_submodule({path!r})" if path else "model"
                raise UnsupportedModel(
                    f"module {path or root!r}: a hook computes its weight before "
                    f"every pass ({type(hook).__name__}), so the weight itself cannot be pruned; "
                    f"call {remedy.format(module=where)} first"
                )


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of all parts of a network, as its own `named_modules` yields them.

    That one climbs through as many generators as the module lies deep, for each module.
    """
    found: dict[int, tuple[str, nn.Module]] = {}
    usual: set[Any] = set()  # classes that list their parts as torch does
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in found:
            continue
        kind = type(module)
        if kind not in usual:
            if kind.named_modules is not nn.Module.named_modules:
                return list(model.named_modules())
            usual.add(kind)
        found[id(module)] = path, module
        if module._modules:
            prefix = f"{path}." if path else ""
            parts = reversed(module._modules.items())
            waiting += [(f"{prefix}{name}", part) for name, part in parts if part is not None]
    return list(found.values())


def named_tensors(
    model: nn.Module, modules: Iterable[tuple[str, nn.Module]] | None = None
) -> list[tuple[str, Tensor]]:
    """Name and tensor, any shape, of all parameters, then of all buffers of a network.

    Args:
        model: the network.
        modules: what `named_modules` returns of it, where that is known.
    """
    kind = type(model)
    own = kind.named_parameters, kind.named_buffers
    if own != (nn.Module.named_parameters, nn.Module.named_buffers):
        return [*model.named_parameters(), *model.named_buffers()]
    parameters: dict[int, tuple[str, Tensor]] = {}
    buffers: dict[int, tuple[str, Tensor]] = {}
    for path, module in named_modules(model) if modules is None else modules:
        if not (module._parameters or module._buffers):
            continue
        prefix = f"{path}." if path else ""
        for found, held in ((parameters, module._parameters), (buffers, module._buffers)):
            for name, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), (f"{prefix}{name}", tensor))
    return [*parameters.values(), *buffers.values()]


def float_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of a network's first weight; single precision if it has none."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.float32)


def without_data(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, type and layout on the meta device."""
    if tensor.layout == torch.strided and _is_dense(tensor):  # `empty_like` decomposes in Python
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta")


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or memory_format_of(tensor) == torch.channels_last


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
    for path, module in named_modules(model):
        for name, value in vars(module).items():
            if name not in _TORCH:
                yield f"{path or type(model).__name__}.{name}", value


def _computed(model: nn.Module) -> list[Tensor]:
    """Tensors that a pass computed and a module keeps, alone or in lists and dictionaries."""
    values = [value for _, value in _attributes(model) if not _holds_nothing(value)]
    return _computed_in([*values, *model.buffers()])


def _computed_in(values: Sequence[Any]) -> list[Tensor]:
    leaves = [leaf for value in values for leaf in tree_leaves(value)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_leaf]


def _holds_nothing(value: object) -> bool:
    """Whether an attribute plainly holds no tensor, as most do: a number, a name, no hooks."""
    return _is_plain(value) or (type(value) in _CONTAINERS and not value)


def _culprit(model: nn.Module, memo: dict[int, Any]) -> str:
    """The first attribute that cannot be copied."""
    for path, value in _attributes(model):
        try:
            copy.deepcopy(value, dict(memo))
        except (RuntimeError, TypeError):
            return path
    return type(model).__name__

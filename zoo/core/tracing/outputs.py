"""Channels that leave the network keep their number, however they are handed out.

What a forward pass returns is looked through as far as Python goes: containers, dataclasses, any
object with attributes. What is hidden better (in a closure, a global, an attribute of a module) is
found by the fact that it outlives the pass.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.atoms import Labels
from zoo.core.tracing.flow import Flow
from zoo.core.tracing.sources import Sources, outliving

__all__ = ["pin_outputs", "returned_tensors"]

_LATER = (
    Iterator, Awaitable, AsyncGenerator, FunctionType, MethodType, functools.partial,
)  # fmt: skip
_NO_TENSORS = (
    type(None), str, bytes, bytearray, int, float, complex, Enum, type, ModuleType, nn.Module,
    BuiltinFunctionType, np.ndarray, np.generic,
    torch.dtype, torch.device, torch.layout, torch.Size,
)  # fmt: skip


def pin_outputs(
    flow: Flow, sources: Sources, own: Iterable[Tensor], outputs: object
) -> set[object]:
    """Pin the channels of all tensors that outlive a pass, then release what it made.

    Those are the tensors that it returned and those that it left in some other place. Returns where
    they came from, as ``Sources.of`` tells it.

    Args:
        flow: of the pass.
        sources: of the pass.
        own: parameters and buffers of the network.
        outputs: what the network returned; the caller holds it.

    Raises:
        UnsupportedModel: if something is returned that does its work later, such as a generator.
    """
    returned = list(returned_tensors(outputs))
    for tensor in returned:
        _pin(flow, flow.get(tensor), "output of the network")
    labels, made = flow.release()
    origins = [sources.of(tensor) for tensor in made]
    handed_out = {sources.of(tensor) for tensor in returned}
    sources.forget()
    for place in outliving(made, own, returned):
        _pin(flow, labels[place], "kept after the pass: returned in disguise, or stored somewhere")
        handed_out.add(origins[place])
    return handed_out


def _pin(flow: Flow, labels: Labels, reason: str) -> None:
    for label in labels.values():
        flow.trace.atoms.pin(label, reason)


def returned_tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors, of any shape, that a value consists of, however they are wrapped.

    Raises:
        UnsupportedModel: if a part of it does its work later; the message names its type.
    """
    seen: set[int] = set()
    waiting = [("", value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        if isinstance(part, _NO_TENSORS) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, _LATER):
            where = f" as {path.removeprefix('.')}" if path else ""
            raise UnsupportedModel(
                f"the network returns a {type(part).__name__}{where}, which does its work when it "
                "is used, out of sight; return tensors, or containers and objects that hold them"
            )
        waiting += reversed(list(_parts(path, part)))


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield what a container or an object holds, each part with its path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{path}[{key!r}]", part
    elif isinstance(value, Collection) and not isinstance(value, Tensor):
        for index, part in enumerate(value):
            yield f"{path}[{index}]", part
    for name in _attributes(value):
        if name not in ("__dict__", "__weakref__") and hasattr(value, name):
            yield f"{path}.{name}", getattr(value, name)


def _attributes(value: object) -> list[str]:
    """Names of the attributes of an object itself, without those of its class."""
    found = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    slots = [(names,) if isinstance(names, str) else tuple(names) for names in found]
    own = list(vars(value)) if hasattr(value, "__dict__") else []
    return [*own, *(name for names in slots for name in names)]

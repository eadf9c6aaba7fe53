"""What somebody gave, functions among it, as a text that is the same in another process."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.training.checkpoint import digest
from zoo.core.training.course import ModuleState

__all__ = ["shown", "told"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_SHOWN = (Enum, PurePath, torch.dtype, torch.device, np.ndarray, np.generic, type)


def shown(value: object) -> str:
    """As Python shows it, without places in memory, which are others in each process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def told(value: object) -> str:
    """Sixteen hexadecimal digits of a value; two of equal digits do the same, as far as is seen.

    Looked at are plain values, tensors, containers and dataclasses of them, and functions: their
    code, defaults and closures, and what they read of their module, if that is a plain value or
    something to call. Of other objects that can be called it is what they show of themselves,
    their attributes, and the code of their calls; of the rest the class alone.
    """
    text = json.dumps(_Telling().of(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Telling:
    """Tells values as JSON; what was told before, or is being told, is named alone."""

    def __init__(self) -> None:
        # The values are kept, since an address may be used again.
        self._known: dict[int, tuple[int, object]] = {}

    def of(self, value: Any) -> Any:  # Any: values of any kind as JSON
        """A value as JSON."""
        if isinstance(value, Enum):
            return shown(value)
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, tuple):
            return ["tuple", *map(self.of, value)]
        if isinstance(value, frozenset):  # in an order that is another in each process
            return ["frozenset", *sorted(json.dumps(self.of(each)) for each in value)]
        if isinstance(value, CodeType):
            return self._code(value)
        value = getattr(value, "_torchdynamo_orig_callable", value)  # of `torch.compile`
        if id(value) in self._known:
            return ["again", self._known[id(value)][0]]
        self._known[id(value)] = len(self._known), value
        return [_name(type(value)), *self._parts(value)]

    def _parts(self, value: Any) -> Iterator[Any]:
        """What there is to tell of a value that is no constant."""
        if isinstance(value, Tensor):
            yield digest({"": value})
        elif isinstance(value, _SHOWN):
            yield shown(value)
        elif isinstance(value, set):
            yield self.of(frozenset(value))
        elif isinstance(value, list):
            yield from map(self.of, value)
        elif isinstance(value, Mapping):
            yield from ([self.of(key), self.of(each)] for key, each in value.items())
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, MethodType):
            yield from (self.of(value.__func__), self.of(value.__self__))
        elif isinstance(value, partial):
            yield from map(self.of, (value.func, value.args, value.keywords))
        elif is_dataclass(value):
            yield from ([each.name, self.of(getattr(value, each.name))] for each in fields(value))
            yield from self._calls(value)
        elif callable(value):
            yield from self._object(value)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        yield function.__qualname__
        yield self._code(function.__code__)
        yield self.of(function.__defaults__)
        yield self.of(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                yield self.of(cell.cell_contents)
            except ValueError:  # it is filled later
                yield "empty"
        for name in sorted(_names(function.__code__)):
            read = function.__globals__.get(name)
            is_foreign = getattr(read, "__module__", None) != function.__module__
            if isinstance(read, FunctionType | type) and is_foreign:
                yield [name, _name(read)]  # of a package, whose version is told
            elif isinstance(read, (*_PLAIN, tuple, Tensor)) or callable(read):
                yield [name, self.of(read)]

    def _code(self, code: CodeType) -> list[Any]:
        """What a function does, without the lines that it stands in."""
        return [code.co_code.hex(), [self.of(each) for each in code.co_consts], *code.co_names]

    def _object(self, value: Any) -> Iterator[Any]:
        """An object that can be called."""
        yield shown(value)
        if isinstance(value, nn.Module):
            yield digest(ModuleState(value).state_dict())
            for path, each in value.named_modules():
                own = {n: v for n, v in vars(each).items() if isinstance(v, _PLAIN)}
                yield [path, self.of(own), *self._calls(each)]
            return
        for name, each in getattr(value, "__dict__", {}).items():
            yield [name, self.of(each)]
        yield from self._calls(value)

    def _calls(self, value: Any) -> Iterator[Any]:
        """The code of an object's calls, if it is Python's and not torch's."""
        for name in ("__call__", "forward"):
            call = getattr(type(value), name, None)
            if isinstance(call, FunctionType) and not call.__module__.startswith("torch."):
                yield self.of(call)


def _names(code: CodeType) -> set[str]:
    """Names that code, and what is defined in it, reads: of its module, or attributes."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    own = {name for name in code.co_names if not name.startswith("__")}
    return own.union(*map(_names, inner))


def _name(value: Any) -> str:  # Any: a class or a function
    return f"{value.__module__}.{value.__qualname__}"

"""Functions that a network holds, bound to its copy.

A deep copy of a function is that function: what closes over a network, or has a part of it as a
default, goes on to use the original, whose mode and statistics are not those of the copy. So such
a function is made anew around what stands for these parts in the copy. One that leads to no part
stays as it is, and what it counts or prints reaches whoever registered it.
"""

from __future__ import annotations

import dis
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial, update_wrapper
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.core.errors import UnsupportedModel

__all__ = ["BoundFunctions"]

_SEQUENCES = frozenset((list, tuple, set, frozenset))
_MAPPINGS = frozenset((dict, OrderedDict))
_CLOSED = (str, bytes, int, float, complex, type, ModuleType, nn.Module, Tensor)


class BoundFunctions:
    """Binds the functions of one network to one copy of it.

    Args:
        root: the network.
        copied: returns what stands in the copy for a module, a tensor or any other value.
        memo: as `copy.deepcopy` has it: what stands for an original, by its id; it is added to.
    """

    def __init__(self, root: nn.Module, copied: Callable[[Any], Any], memo: dict[int, Any]) -> None:
        self._root = root
        self._copied = copied
        self._memo = memo
        self._cells: dict[int, CellType] = {}  # by id of the original cell, which functions share

    def lead_back(self, value: object) -> bool:
        """Whether a function in an attribute leads to the network or to a part of it."""
        return any(map(self._reaches, _functions_in(value)))

    def attribute(self, module: nn.Module, name: str, value: object) -> Any:
        """The copy of an attribute whose functions lead back to the network.

        Raises:
            UnsupportedModel: if they cannot be bound to a copy; it names attribute and way out.
        """
        try:
            return self._twin(value)
        except _Stuck as error:
            raise self._refusal(module, name, str(error)) from None

    def _twin(self, value: object) -> Any:
        return self._rebuilt(value, self._twin) if self.lead_back(value) else self._copied(value)

    def refuse(self, module: nn.Module) -> None:
        """Raise if a module that copies itself holds a function that leads back to the network.

        Raises:
            UnsupportedModel: naming the attribute and the way out.
        """
        for part in module.modules():
            for name, value in vars(part).items():
                if self.lead_back(value):
                    raise self._refusal(part, name, f"{type(part).__name__} copies itself")

    def _refusal(self, module: nn.Module, name: str, reason: str) -> UnsupportedModel:
        path = next((path for path, part in self._root.named_modules() if part is module), "")
        kind = "a hook" if name.endswith("_hooks") else f"attribute {name!r}"
        return UnsupportedModel(
            f"module {path or type(module).__name__!r}: a function in {kind} leads back to the "
            f"network, so that a copy would run modules of the original ({reason}); make it a "
            "method, or let it reach modules through self (a hook: through its first argument)"
        )

    @cached_property
    def _parts(self) -> set[int]:
        """Identities of the network's modules, parameters and buffers."""
        parts = (*self._root.modules(), *self._root.parameters(), *self._root.buffers())
        return set(map(id, parts))

    def _is_part(self, value: object) -> bool:
        """Whether a value is a part, or a module made of parts that the network is no part of."""
        if id(value) in self._parts:
            return True
        if not isinstance(value, nn.Module):
            return False
        inner = set(map(id, value.modules()))
        return id(self._root) not in inner and not self._parts.isdisjoint(inner)

    def _reaches(self, value: object) -> bool:
        """Whether a value is a part, or leads to one through containers and functions."""
        seen: set[int] = set()
        waiting = [value]
        while waiting:
            found = waiting.pop()
            if id(found) in seen:
                continue
            seen.add(id(found))
            if self._is_part(found):
                return True
            waiting += _held(found)
            if type(found) is FunctionType:
                waiting += (read for _, read in _globals_of(found))
        return False

    def _bound(self, value: object) -> Any:
        """What a function of the copy holds in place of a value."""
        if not self._reaches(value):
            return value
        return self._copied(value) if self._is_part(value) else self._rebuilt(value, self._bound)

    def _rebuilt(self, value: Any, each: Callable[[Any], Any]) -> Any:
        """A function, or what holds some, with other parts."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        kind = type(value)
        twin: Any
        if kind is FunctionType:
            return self._function(value)
        if kind is list:
            twin = self._memo[id(value)] = []  # before what it holds, which may hold it
            twin.extend(map(each, value))
        elif kind in _MAPPINGS:
            twin = self._memo[id(value)] = kind()
            twin.update((each(key), each(part)) for key, part in value.items())
        elif kind in _SEQUENCES:
            twin = kind(map(each, value))
        elif kind is MethodType:
            twin = MethodType(each(value.__func__), each(value.__self__))
        elif kind is partial:
            named = {name: each(part) for name, part in value.keywords.items()}
            twin = partial(each(value.func), *map(each, value.args), **named)
            twin.__dict__.update(value.__dict__)
        else:
            raise _Stuck(f"it lies in a {kind.__name__}")
        return self._memo.setdefault(id(value), twin)

    def _function(self, function: FunctionType) -> FunctionType:
        """A function with the same code that holds parts of the copy."""
        for name, read in _globals_of(function):
            if self._reaches(read):
                raise _Stuck(f"{function.__qualname__} reads the global {name!r}")
        cells = tuple(map(self._cell, function.__closure__ or ()))
        twin = FunctionType(function.__code__, function.__globals__, closure=cells)
        self._memo[id(function)] = twin
        update_wrapper(twin, function)
        vars(twin).clear()  # of `__wrapped__`
        vars(twin).update({name: self._bound(held) for name, held in vars(function).items()})
        twin.__defaults__ = self._bound(function.__defaults__)
        twin.__kwdefaults__ = self._bound(function.__kwdefaults__)
        for cell, made in zip(function.__closure__ or (), cells, strict=True):
            if made is not cell and not _is_filled(made):
                made.cell_contents = self._bound(cell.cell_contents)
        return twin

    def _cell(self, cell: CellType) -> CellType:
        """The cell itself, or an empty one if what it holds leads to the network."""
        if not _is_filled(cell) or not self._reaches(cell.cell_contents):
            return cell
        return self._cells.setdefault(id(cell), CellType())


class _Stuck(Exception):
    """A function cannot be bound to a copy; says why."""


def _held(value: Any) -> list[Any]:
    """What a container or a function holds; nothing for other values."""
    kind = type(value)
    if kind in _SEQUENCES:
        return list(value)
    if kind in _MAPPINGS:
        return [*value, *value.values()]
    if kind is partial:
        return [value.func, *value.args, *value.keywords.values()]
    if kind is MethodType:
        return [value.__func__, value.__self__]
    if kind is FunctionType:
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*cells, value.__defaults__, value.__kwdefaults__, *vars(value).values()]
    return []


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _functions_in(value: object, depth: int = 1) -> Iterator[FunctionType]:
    """Functions in a value, in its containers, and in the attributes of objects among them."""
    seen: set[int] = set()
    waiting = [(value, depth)]
    while waiting:
        found, left = waiting.pop()
        if isinstance(found, _CLOSED) or found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, FunctionType):
            yield found
            continue
        if held := _held(found):
            waiting += ((part, left) for part in held)
        elif left and hasattr(found, "__dict__"):  # one deep: objects may lead anywhere
            waiting += ((part, left - 1) for part in vars(found).values())


def _globals_of(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Names and values of the globals that a function reads, without functions of other files."""
    own = function.__globals__
    for name in _global_names(function.__code__):
        read = own.get(name)
        if not isinstance(read, FunctionType) or read.__globals__ is own:
            yield name, read


@cache
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Names of the globals that code, and what is defined in it, reads."""
    own = [str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return tuple(dict.fromkeys([*own, *(name for each in inner for name in _global_names(each))]))

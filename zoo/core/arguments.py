"""One check of arguments: each against its own annotation, before anything is done with it.

For the functions and classes that people call: a text where a number is meant, or a name that is
nearly right, is told by its name, with what was given and what is taken.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from zoo.core.errors import unknown_name

__all__ = ["check_argument", "checked", "fields_checked"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_WORDS: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "none",
    os.PathLike: "a path",
    type: "a class",
    Mapping: "a dict",
    Iterable: "something to go through",
    Callable: "a function",
}
_PLAIN = (str, bytes, int, float, complex, NoneType, list, tuple, dict, set)


def checked(*but: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function refuse arguments that its annotations exclude, by their names.

    Args:
        but: arguments that the function checks itself.

    Returns:
        A decorator. What is decorated raises TypeError for an argument of another kind, and
        ValueError for a name that it has no argument of.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        told = function.__qualname__.removesuffix(".__init__")
        hints: dict[str, Any] = {}

        @functools.wraps(function)
        def check_first(*args: P.args, **kwargs: P.kwargs) -> R:
            _check_names(told, signature, args, kwargs)
            if not hints:
                hints.update(_hints(function))
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                kind = signature.parameters[name].kind
                if name in hints and name not in but and kind is not kind.VAR_KEYWORD:
                    check_argument(name, value, hints[name])
            return function(*args, **kwargs)

        return check_first

    return decorate


def fields_checked(cls: type[T]) -> type[T]:
    """Make a dataclass name a field that it does not have, or that is missing.

    What its fields hold is its own business, see `zoo.core.settings`.
    """
    made = cast(Any, cls).__init__  # a class's own is not to be read through an instance
    signature = inspect.signature(made)

    @functools.wraps(made)
    def check_first(self: T, *args: Any, **kwargs: Any) -> None:
        _check_names(cls.__name__, signature, (self, *args), kwargs)
        made(self, *args, **kwargs)

    cast(Any, cls).__init__ = check_first
    return cls


def check_argument(name: str, value: object, hint: Any) -> None:
    """Refuse a value that an annotation excludes.

    Of containers the kind is looked at, and of sequences what they hold; callables and protocols
    are not looked into.

    Args:
        name: of the argument, for the message.
        value: what was given.
        hint: a type, or a union of some.

    Raises:
        TypeError: with the value and what is taken.
        ValueError: for a text that is none of those to choose from, with the nearest ones.
    """
    kinds = _kinds(hint)
    if any(_fits(value, kind) for kind in kinds):
        return
    choices = [each for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]
    if choices and isinstance(value, str):
        raise unknown_name(name, value, map(str, choices))
    taken = " or ".join(dict.fromkeys(map(_described, kinds)))
    inner = getattr(value, "model", None)  # a network's result in the place of the network
    way = "; give its .model" if any(_fits(inner, kind) for kind in kinds if inner) else ""
    raise TypeError(f"{name} is {_shown(value)}; it must be {taken}{way}")


def _check_names(
    told: str, signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> None:
    """Refuse names without an argument, and name what is missing.

    Raises:
        ValueError: for the first name that there is no argument of, with the nearest ones.
        TypeError: naming what is missing.
    """
    found = signature.parameters
    shown = [name for name in found if name not in ("self", "cls")]
    if not any(each.kind is each.VAR_KEYWORD for each in found.values()):
        for name in kwargs:
            if name not in found:
                raise unknown_name(f"argument of {told}", name, shown)
    required = [n for n, each in found.items() if each.default is each.empty and
                each.kind is each.POSITIONAL_OR_KEYWORD]  # fmt: skip
    if missing := [name for name in required[len(args) :] if name not in kwargs]:
        raise TypeError(f"{told} needs {', '.join(missing)}; it takes {', '.join(shown)}")


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    return hints


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, without limits."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for each in get_args(hint) for kind in _kinds(each))
    return (hint,)


def _fits(value: object, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(kind)
    if origin is float:  # a tensor or an array of one number is a number, too
        return hasattr(value, "__float__") and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if origin in (tuple, Sequence):
        return _holds(value, kind)
    if origin is Iterable:  # what has numbered items can be gone through, too
        return hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    if origin is Callable or not isinstance(origin, type) or _is_protocol(origin):
        return origin is not Callable or callable(value)
    return isinstance(value, origin)


def _holds(value: object, kind: Any) -> bool:
    """Whether a sequence, of any class, has as many items as it should, each of the right kind."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    items = [*cast(Sequence[object], value)]
    inner = [each for each in get_args(kind) if each is not Ellipsis]
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return len(items) == len(inner) and all(map(_fits_any, items, inner))
    return all(_fits_any(item, inner[0]) for item in items) if inner else True


def _fits_any(value: object, hint: Any) -> bool:
    return any(_fits(value, kind) for kind in _kinds(hint))


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) and kind is not os.PathLike


def _described(kind: Any) -> str:
    """An annotation in words."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if origin is tuple and Ellipsis not in get_args(kind):
        return f"({', '.join(_described(each) for each in get_args(kind))})"
    if origin in (tuple, Sequence):
        inner = get_args(kind)[:1]
        return "a sequence" + "".join(f", each {_described(each)}" for each in inner)
    if origin in _WORDS:
        return _WORDS[origin]
    return _with_article(getattr(origin, "__name__", str(origin)))


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return reprlib.repr(value) if isinstance(value, _PLAIN) else _with_article(type(value).__name__)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"

"""One check of settings: each field of a dataclass against its own annotation, and its range.

Settings come from Python, from suites and from the command line; wherever they are wrong, that is
said before anything is trained, by name, with the value and what it may be.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.core.errors import unknown_name

__all__ = ["MOST", "Range", "check_settings"]

MOST = 1_000_000_000
"""Of any whole number: no run that does something so often would end."""

Range = Literal[
    "at least 0",
    "at least 1",
    "at least 2",
    "above 0",
    "between 0 and 1",
    "above 0 and at most 1",
    "at least 0 and below 1",
    "above 0 and below 1",
]
_IS_IN: Mapping[Range, Callable[[float], bool]] = {
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "at least 2": lambda value: value >= 2,
    "above 0": lambda value: value > 0,
    "between 0 and 1": lambda value: 0 <= value <= 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
    "above 0 and below 1": lambda value: 0 < value < 1,
}


def check_settings(settings: Any, ranges: Mapping[str, Range] | None = None) -> None:
    """Refuse a dataclass whose fields hold what their annotations exclude.

    Whole numbers, numbers, flags, text, `Literal`, tuples of these and `None` are checked; a field
    of any other type is its owner's business. A whole number is a number, too; a flag is neither,
    and NaN and infinity are no numbers. A list in the place of a tuple, as files give it, becomes
    one.

    Args:
        settings: an instance of a dataclass.
        ranges: what numbers may be, by field; one that is None is not a number.

    Raises:
        ValueError: naming the first field that is wrong, its value, and what it may be.
    """
    hints = _hints(type(settings))
    for field in fields(settings):
        if not field.init or field.name not in hints:
            continue
        name, hint = field.name, hints[field.name]
        value = getattr(settings, name)
        if isinstance(value, list) and any(get_origin(kind) is tuple for kind in _kinds(hint)):
            value = tuple(value)
            object.__setattr__(settings, name, value)  # they may be frozen
        if not any(_fits(value, kind) for kind in _kinds(hint)):
            raise _refusal(name, value, hint)
    for name, allowed in (ranges or {}).items():
        value = getattr(settings, name)
        if value is not None and not _IS_IN[allowed](value):
            raise ValueError(f"{name} is {value}; it must be {allowed}")


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # a class of someone else's, made where its annotations cannot be looked up
        return {}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and _items_fit(value, get_args(kind))
    if kind is int:
        return isinstance(value, Integral) and _is_no_flag(value) and abs(int(value)) <= MOST
    if kind is float:
        if isinstance(value, Integral):
            return _is_no_flag(value) and abs(int(value)) <= MOST
        return isinstance(value, Real) and math.isfinite(value)
    if kind in (bool, str, NoneType):
        return isinstance(value, kind)
    return True


def _items_fit(value: tuple[object, ...], kinds: tuple[Any, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(any(_fits(item, kind) for kind in _kinds(kinds[0])) for item in value)
    return len(value) == len(kinds) and all(map(_fits, value, kinds))


def _is_no_flag(value: object) -> bool:
    return not isinstance(value, bool)


def _refusal(name: str, value: object, hint: Any) -> ValueError:
    choices = [k for kind in _kinds(hint) if get_origin(kind) is Literal for k in get_args(kind)]
    if choices and isinstance(value, str):
        return unknown_name(name, value, map(str, choices))
    allowed = " or ".join(_told(kind) for kind in _kinds(hint))
    return ValueError(f"{name} is {reprlib.repr(value)}; it must be {allowed}")


def _told(kind: Any) -> str:
    """An annotation in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        items = [item for item in get_args(kind) if item is not Ellipsis]
        return f"a list, each {' or '.join(_told(item) for item in items)}"
    words = {
        int: f"a whole number of at most {MOST:,}",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        NoneType: "none",
    }
    return words.get(kind, getattr(kind, "__name__", str(kind)))

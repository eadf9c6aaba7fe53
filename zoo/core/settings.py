"""One check of settings: each field of a dataclass against its own annotation, limits included.

Settings come from Python, from suites and from the command line. A wrong one is reported before
anything is trained, with its name, its value and what it may be.
"""

from __future__ import annotations

import math
import operator
import reprlib
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.core.errors import unknown_name

__all__ = ["MOST", "check_settings"]

MOST = 1_000_000_000
"""Limit of any whole number: a run that does something more often would never end."""

# What a limit is called in `pydantic.Field` and in `operator`, and in words.
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def check_settings(settings: Any) -> None:
    """Refuse a dataclass whose fields hold what their annotations exclude.

    Whole numbers, numbers, flags, text, `Literal`, tuples of these and `None` are checked; a field
    of any other type is its owner's business. A whole number is a number, too; a flag is neither,
    and NaN and infinity are no numbers. The limits of a number stand in its annotation, as in
    `Annotated[float, Field(ge=0, lt=1)]`. A list in the place of a tuple, as files give it, becomes
    one.

    Args:
        settings: an instance of a dataclass.

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
        fitting = [kind for kind in _kinds(hint) if _fits(value, kind)]
        if not fitting:
            raise _refusal(name, value, hint)
        if not any(_is_within(value, kind) for kind in fitting):
            allowed = " or ".join(_told_limits(kind) for kind in fitting)
            raise ValueError(f"{name} is {value}; it must be {allowed}")


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:  # a class of someone else's, made where its annotations cannot be looked up
        return {}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _bare(kind: Any) -> Any:
    """An annotation without its limits."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _limits(kind: Any) -> list[tuple[str, Any]]:
    """The limits of an annotation, each with its name in `_LIMITS`."""
    metadata = kind.__metadata__ if get_origin(kind) is Annotated else ()
    marks = [mark for each in metadata for mark in getattr(each, "metadata", ())]
    found = [(name, getattr(mark, name, None)) for mark in marks for name in _LIMITS]
    return [(name, limit) for name, limit in found if limit is not None]


def _is_within(value: object, kind: Any) -> bool:
    is_number = isinstance(value, Real)
    return all(not is_number or getattr(operator, n)(value, limit) for n, limit in _limits(kind))


def _told_limits(kind: Any) -> str:
    return " and ".join(f"{_LIMITS[name]} {limit}" for name, limit in _limits(kind))


def _fits(value: object, kind: Any) -> bool:
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and _items_fit(value, get_args(kind))
    if kind in (int, float) and isinstance(value, Integral):
        return not isinstance(value, bool) and abs(int(value)) <= MOST
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    if kind in (int, bool, str, NoneType):
        return isinstance(value, kind)
    return True


def _items_fit(value: tuple[object, ...], kinds: tuple[Any, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(any(_fits(item, kind) for kind in _kinds(kinds[0])) for item in value)
    return len(value) == len(kinds) and all(map(_fits, value, kinds))


def _refusal(name: str, value: object, hint: Any) -> ValueError:
    choices = [k for kind in _kinds(hint) if get_origin(kind) is Literal for k in get_args(kind)]
    if choices and isinstance(value, str):
        return unknown_name(name, value, map(str, choices))
    allowed = " or ".join(_describe(kind) for kind in _kinds(hint))
    return ValueError(f"{name} is {reprlib.repr(value)}; it must be {allowed}")


def _describe(kind: Any) -> str:
    """The type of an annotation in words."""
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        items = [item for item in get_args(kind) if item is not Ellipsis]
        return f"a list, each {' or '.join(_describe(item) for item in items)}"
    words = {
        int: f"a whole number of at most {MOST:,}",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        NoneType: "none",
    }
    return words.get(kind, getattr(kind, "__name__", str(kind)))

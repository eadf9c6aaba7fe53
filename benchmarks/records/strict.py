"""Settings read from files: typed without coercion, unknown keys refused, errors in a line."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic import Strict as Typed
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from benchmarks.records.plain import visible

__all__ = ["Many", "Strict", "explain", "explained", "suggest"]

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Typed(False)]
"""A tuple that also takes the list that JSON and TOML give; its items are not coerced."""

UNKNOWN_KEY = "unknown_key"
"""Type of the error that a key is no field."""

MOST_ERRORS = 5
"""Of one text that are told."""
LONGEST_KEY = 60
"""Characters of a key that are told."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known names as half a sentence, or the first few when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(near) + "?"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"known: {shown}"


def explain(error: ValidationError) -> str:
    """One short line for what pydantic found wrong, each with its place."""
    parts = explained(error)
    more = [f"and {len(parts) - MOST_ERRORS} more"] if len(parts) > MOST_ERRORS else []
    return "; ".join([*parts[:MOST_ERRORS], *more])


def explained(error: ValidationError) -> list[str]:
    """Everything that pydantic found wrong, each with its place."""
    parts = []
    errors = error.errors(include_url=False)
    inner = {found["loc"][:depth] for found in errors for depth in range(len(found["loc"]))}
    for found in errors:
        if found["loc"] and found["loc"] in inner and found["type"] != UNKNOWN_KEY:
            continue  # the item inside is named already
        place = ".".join(visible(str(step), LONGEST_KEY) for step in found["loc"])
        message = visible(_said(found), 500)
        parts.append(f"{place}: {message}" if place else message)
    return parts


_LIMITS: Mapping[str, str] = {
    "le": "is above {:,}",
    "lt": "is not below {:,}",
    "ge": "is below {:,}",
    "gt": "is not above {:,}",
    "max_length": "is too long, at most {:,}",
    "min_length": "is too short, at least {:,}",
}
"""What a value is that breaks a limit, by pydantic's name of the limit."""


def _said(found: ErrorDetails) -> str:
    """What is wrong with one value; the value and the limit where one is broken."""
    limits = found.get("ctx", {})
    broken = [text.format(limits[name]) for name, text in _LIMITS.items() if name in limits]
    if broken:
        return f"{reprlib.repr(found['input'])} {broken[0]}"
    return found["msg"].removeprefix("Value error, ")


class Strict(BaseModel):
    """Frozen, typed without coercion, every number finite; unknown keys refused by the nearest."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def refuse_unknown_keys(
        cls,
        given: Any,
        handler: ModelWrapValidatorHandler[Self],  # Any: pydantic's raw input
    ) -> Self:
        """Refuse keys that are no field, together with whatever else is wrong.

        Raises:
            ValidationError: with the nearest field names.
        """
        unknown = (
            [key for key in given if key not in cls.model_fields]
            if isinstance(given, Mapping)
            else []
        )
        if not unknown:
            return handler(given)
        faults = [_unknown_key(key, cls.model_fields) for key in unknown]
        try:
            handler({key: value for key, value in given.items() if key not in unknown})
        except ValidationError as error:
            faults += [_again(found) for found in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, faults)


def _unknown_key(key: object, known: Iterable[str]) -> InitErrorDetails:
    name = visible(str(key), LONGEST_KEY)
    return _told_unknown((), f"unknown key {name!r}; {suggest(name, known)}")


def _told_unknown(place: tuple[int | str, ...], told: str) -> InitErrorDetails:
    kind = PydanticCustomError(UNKNOWN_KEY, "{told}", {"told": told})
    return InitErrorDetails(type=kind, loc=place, input=None)


def _again(found: ErrorDetails) -> InitErrorDetails:
    """An error that was found, to be raised beside others."""
    if found["type"] == UNKNOWN_KEY:
        return _told_unknown(found["loc"], found["msg"])
    return InitErrorDetails(
        type=found["type"], loc=found["loc"], input=found["input"], ctx=found.get("ctx", {})
    )

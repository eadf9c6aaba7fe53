"""Settings read from files: typed without coercion, unknown keys refused, errors in a line."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Strict as Typed

__all__ = ["Many", "Strict", "explain", "suggest"]

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Typed(False)]
"""A tuple that also takes the list that JSON and TOML give; its items are not coerced."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known names as half a sentence, or the first few when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(near) + "?"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"known: {shown}"


def explain(error: ValidationError) -> str:
    """One line for all that pydantic found wrong, each with its place."""
    parts = []
    errors = error.errors(include_url=False, include_context=False)
    inner = {found["loc"][:depth] for found in errors for depth in range(len(found["loc"]))}
    for found in errors:
        if found["loc"] and found["loc"] in inner:
            continue  # the item inside is named already
        place = ".".join(str(step) for step in found["loc"])
        message = found["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}" if place else message)
    return "; ".join(parts)


class Strict(BaseModel):
    """Frozen, typed without coercion; an unknown key is refused with the nearest known ones.

    NaN and infinity are no numbers here: no setting means them, and JSON cannot hold them.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown_keys(cls, given: Any) -> Any:  # Any: pydantic hands over raw input
        """Refuses keys that are no field.

        Raises:
            ValueError: with the nearest field names.
        """
        if not isinstance(given, Mapping):
            return given
        for key in given:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}; {suggest(str(key), cls.model_fields)}")
        return given

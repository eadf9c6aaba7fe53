"""Types of the fields of a record: what a number or a text can be at all.

Bounds lie far beyond whatever a run gives, and close enough that no sum, ratio or drawing of
numbers within them overflows. Imports neither torch nor zoo.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

__all__ = [
    "LARGEST",
    "Brief",
    "Bytes",
    "Count",
    "Finite",
    "Milliseconds",
    "Name",
    "Options",
    "Seconds",
    "Share",
    "Sized",
    "Some",
    "Text",
    "Time",
    "moment",
    "numbers",
]

LARGEST = 10**24
"""Of any count: more than all multiply-adds that one machine could do."""

FARTHEST = 1e30
"""Of any other number, either way."""

MOST_OPTIONS = 100_000
"""Characters of settings, as JSON."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Sized = Annotated[int, Field(ge=1, le=LARGEST)]
"""A count of what cannot be nothing."""
Some = Annotated[int, Field(ge=1, le=10**9)]
"""A count of what a machine holds or does one by one: threads, batches, rounds."""
Bytes = Annotated[int, Field(ge=0, le=10**18)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Milliseconds = Annotated[float, Field(ge=1e-9, le=1e12)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Brief = Annotated[str, Field(max_length=1000)]
Text = Annotated[str, Field(max_length=10_000)]


def numbers(values: Iterable[object]) -> list[float]:
    """Those values of a trace, which may be anything, that can be drawn and averaged."""
    return [
        float(value)
        for value in values
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and -FARTHEST <= value <= FARTHEST  # false for NaN
    ]


def moment(utc: str) -> datetime:
    """What is compared of the time of a record: as a text, other offsets have another order.

    Args:
        utc: a `Time`.
    """
    return datetime.fromisoformat(utc)


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _time(given: str) -> str:
    """A text that is a moment: a date, a time of day to the second at least, and an offset.

    Raises:
        ValueError: if it is none.
    """
    with contextlib.suppress(ValueError):  # the thirteenth month
        if _TIME.fullmatch(given) and moment(given):
            return given
    raise ValueError(f"{given!r} is no time such as 2026-01-31T12:00:00+00:00")


Time = Annotated[str, Field(max_length=40), AfterValidator(_time)]
"""When a record was written; by `moment` it is compared."""


def _options(given: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Settings that can be written, read and shown.

    Raises:
        ValueError: if they are longer than `MOST_OPTIONS`, or hold a number that is not finite.
    """
    try:
        length = len(json.dumps(given, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise ValueError("holds a number that is not finite, or is nested without end") from error
    if length > MOST_OPTIONS:
        raise ValueError(f"is {length:,} characters long, {MOST_OPTIONS:,} are allowed")
    if any(abs(number) > LARGEST for number in _numbers(given)):
        raise ValueError(f"holds a number beyond {LARGEST:g}")
    return given


def _numbers(value: JsonValue) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value if isinstance(value, int) or math.isfinite(value) else math.inf]
    return []


Options = Annotated[dict[str, JsonValue], AfterValidator(_options)]
"""Settings of a method or a network."""

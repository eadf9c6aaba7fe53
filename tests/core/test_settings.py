"""Settings that cannot work are refused as they are made, by name, value and limit."""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from zoo.core.channels.config import WidthRules
from zoo.core.cost.measure_latency import Timing
from zoo.core.method.discovery import create_pruner, get_pruner, list_pruners
from zoo.core.settings import MOST, check_settings


@dataclass(frozen=True)
class Kinds:
    """One field of each type."""

    count: Annotated[int, Field(ge=1)] = 1
    share: float = 0.5
    flag: bool = True
    text: str = "a"
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    either: Annotated[int, Field(ge=1)] | None = None
    choice: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    part: Annotated[float, Field(ge=0, lt=1)] = 0.0
    other: Any = None
    made: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    "given",
    [
        {"share": 1},
        {"count": np.int64(3), "share": np.float32(0.5)},
        {"names": ("a", "b")},
        {"either": 3},
        {"choice": 4},
        {"other": object()},
    ],
)
def test_what_fits_is_taken(given: dict[str, Any]) -> None:
    assert all(getattr(Kinds(**given), name) == value for name, value in given.items())


def test_a_list_from_a_file_becomes_a_tuple() -> None:
    assert Kinds(names=["a"]) == Kinds(names=("a",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"count": True}, "count is True; it must be a whole number"),
        ({"count": 1.0}, r"count is 1\.0; it must be a whole number"),
        ({"count": "1"}, "count is '1'; it must be a whole number"),
        ({"count": None}, "count is None; it must be a whole number"),
        ({"count": MOST + 1}, "count is 1000000001; it must be a whole number of at most 1,000,0"),
        ({"share": math.nan}, "share is nan; it must be a finite number"),
        ({"share": -math.inf}, "share is -inf; it must be a finite number"),
        ({"share": np.float64("inf")}, "share is .*inf.*; it must be a finite number"),
        ({"share": False}, "share is False; it must be a finite number"),
        ({"share": 10**400}, "share is 1000.*; it must be a finite number"),
        ({"flag": 1}, "flag is 1; it must be true or false"),
        ({"text": 1}, "text is 1; it must be text"),
        ({"kind": "c"}, "unknown kind 'c'; known: a, b"),
        ({"kind": 1}, "kind is 1; it must be 'a' or 'b'"),
        ({"kind": []}, r"kind is \[\]; it must be 'a' or 'b'"),
        ({"names": "ab"}, "names is 'ab'; it must be a list, each text"),
        ({"names": (1,)}, r"names is \(1,\); it must be a list, each text"),
        ({"pair": (1,)}, "pair is .*; it must be a list"),
        ({"either": 0}, "either is 0; it must be at least 1"),
        ({"either": "x"}, "either is 'x'; it must be a whole number .* or none"),
        ({"choice": -1}, "choice is -1; it must be at least 0"),
        ({"part": 1}, "part is 1; it must be at least 0 and below 1"),
        ({"part": -0.5}, "part is -0.5; it must be at least 0 and below 1"),
        ({"choice": 1.5}, "choice is 1.5; it must be 'auto' or a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Kinds(**given)


WRONG: tuple[object, ...] = (None, [], {}, "nonsense", math.nan, math.inf, 10**12, object())


@pytest.mark.parametrize("name", list_pruners())
def test_no_pruner_takes_a_setting_of_another_type(name: str) -> None:
    for setting in fields(get_pruner(name)):  # type: ignore[arg-type]
        for wrong in WRONG:
            if wrong is None and "None" in str(setting.type):
                continue
            if wrong == [] and "tuple" in str(setting.type):
                continue
            with pytest.raises(ValueError, match=f"settings of {name}: .*{setting.name}"):
                create_pruner(name, **{setting.name: wrong})


@pytest.mark.parametrize("name", list_pruners())
def test_every_number_of_a_pruner_has_a_floor(name: str) -> None:
    for setting in fields(get_pruner(name)):  # type: ignore[arg-type]
        if not isinstance(setting.default, bool | str | tuple):
            with pytest.raises(ValueError, match=f"{setting.name} is -1"):
                create_pruner(name, **{setting.name: -1})


@pytest.mark.parametrize("name", list_pruners())
def test_the_settings_of_the_contract_are_taken(name: str) -> None:
    assert get_pruner(name).tiny() and create_pruner(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_keep": 0}, "min_keep is 0; it must be above 0 and at most 1"),
        ({"min_keep": math.nan}, "min_keep is nan"),
        ({"min_keep": "0.1"}, "min_keep is '0.1'; it must be a finite number"),
        ({"divisor": 0}, "divisor is 0; it must be at least 1"),
        ({"divisor": 8.0}, r"divisor is 8\.0; it must be a whole number"),
    ],
)
def test_rules_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WidthRules(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"batch": 1.5}, "batch is 1.5; it must be a whole number"),
        ({"threads": -1}, "threads is -1"),
        ({"rounds": True}, "rounds is True"),
        ({"block_ms": math.inf}, "block_ms is inf; it must be a finite number"),
        ({"block_ms": 0}, "block_ms is 0; it must be above 0"),
        ({"memory_format": "nhwc"}, "unknown memory_format 'nhwc'.*channels_last"),
    ],
)
def test_a_timing_that_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timing(**given)

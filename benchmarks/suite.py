"""Suites: TOML files that say which networks, data, budgets, seeds and methods to compare.

A suite expands to cells, one for each combination; see `benchmarks.record.Cell`. Unknown keys are
refused with the nearest names. The suites that come with the package lie in `benchmarks/suites`; a
path that ends in `.toml` reads any other.
"""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from benchmarks.record import (
    BudgetValue,
    Cell,
    Data,
    Latency,
    Many,
    Model,
    Rules,
    Schedule,
    Strict,
    explain,
    suggest,
)

__all__ = ["PROTOCOL", "Suite", "expand", "list_suites", "load_suite"]

PROTOCOL = 1
"""Version of the steps in `benchmarks.protocol`; raised when results stop being comparable."""


class Suite(Strict):
    """The fields of a suite file."""

    title: str
    protocol: int = PROTOCOL
    methods: Literal["all"] | Many[str] = "all"
    budgets: Many[BudgetValue] = Field(min_length=1)
    metric: Literal["macs", "params"] = "macs"
    seeds: Many[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    models: Many[Model] = Field(min_length=1)
    datasets: Many[Data] = Field(min_length=1)
    parent: Schedule
    finetune: Schedule
    rules: Rules = Rules()
    recalibration_batches: int = Field(default=8, ge=1)
    latency: Latency = Latency()
    settings: dict[str, dict[str, JsonValue]] = {}

    @field_validator("protocol")
    @classmethod
    def know_the_protocol(cls, version: int) -> int:
        """Refuses a suite written for another order of steps.

        Raises:
            ValueError: if the version is not the one of this program.
        """
        if version != PROTOCOL:
            raise ValueError(
                f"protocol {version} is not the one of this program, {PROTOCOL}; "
                "use the release that ran it, or raise the number in the suite"
            )
        return version


def list_suites() -> tuple[str, ...]:
    """Names of the suites that come with the package."""
    files = resources.files("benchmarks").joinpath("suites").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if _is_suite(file.name)))


def load_suite(name: str) -> Suite:
    """Reads a suite by its name or by the path of a `.toml` file.

    Raises:
        ValueError: if there is no such suite, or the file does not say what a suite must.
        OSError: if a file given by its path cannot be read.
    """
    try:
        return Suite.model_validate(tomllib.loads(_suite_text(name)))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"suite {name!r} is not TOML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"suite {name!r}: {explain(error)}") from error


def expand(
    suite: Suite,
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, JsonValue]],
    device: str = "cpu",
) -> list[Cell]:
    """Every combination of a suite as a cell, cells that share a parent side by side.

    Args:
        suite: what to combine.
        methods: names of the methods; what `methods = "all"` stands for is the caller's knowledge.
        settings: per method those settings that differ from its defaults.
        device: where the cells run.
    """
    grid = product(suite.models, suite.datasets, suite.seeds, suite.budgets, methods)
    return [
        Cell(
            protocol=suite.protocol,
            model=model,
            data=data,
            method=method,
            settings=dict(settings.get(method, {})),
            metric=suite.metric,
            budget=budget,
            seed=seed,
            parent=suite.parent,
            finetune=suite.finetune,
            rules=suite.rules,
            recalibration_batches=suite.recalibration_batches,
            latency=suite.latency,
            device=device,
        )
        for model, data, seed, budget, method in grid
    ]


def _is_suite(file_name: str) -> bool:
    return file_name.endswith(".toml")


def _suite_text(name: str) -> str:
    if _is_suite(name):
        return Path(name).read_text(encoding="utf-8")
    if name not in list_suites():
        raise ValueError(
            f"unknown suite {name!r}; {suggest(name, list_suites())} "
            "(or the path of a .toml file, './mine.toml')"
        )
    return resources.files("benchmarks").joinpath("suites", f"{name}.toml").read_text("utf-8")

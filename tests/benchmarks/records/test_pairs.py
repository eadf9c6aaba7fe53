"""What records say without torch and the library says again is the same.

Records are read where there is no torch, so their schema cannot take these from the library.
"""

import inspect
from dataclasses import MISSING, fields
from typing import get_args

from pydantic_core import PydanticUndefined

import zoo
from benchmarks import cli
from benchmarks.records import cell, record, runtime
from zoo.core.channels.config import WidthRules
from zoo.core.cost import budget, operator_calls
from zoo.core.cost.measure_latency import Timing
from zoo.core.meter import Phase, Spent
from zoo.core.supernet.supernet import RECALIBRATION_BATCHES
from zoo.core.training import train

REQUIRED = object()


def recorded(schema: type[cell.Strict]) -> dict[str, object]:
    found = {name: field.default for name, field in schema.model_fields.items()}
    return {name: REQUIRED if each is PydanticUndefined else each for name, each in found.items()}


def of_library(kind: type) -> dict[str, object]:
    found = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }
    return {name: REQUIRED if each is MISSING else each for name, each in found.items()}


def test_schemas_of_records_have_the_fields_and_defaults_of_the_library() -> None:
    assert recorded(cell.Schedule) == of_library(train.Recipe)
    assert recorded(cell.Rules) == of_library(WidthRules)
    assert recorded(record.PhaseCost) == of_library(Spent)


def test_operators_are_timed_as_networks_are() -> None:
    """Rounds and blocks differ: an operator is short, and there are hundreds."""
    networks, operators = runtime.Latency(), Timing()
    assert networks.batches[0] == operators.batch
    assert networks.threads == operators.threads
    assert networks.memory_format == operators.memory_format


def test_names_that_fields_may_have_are_those_of_the_library() -> None:
    schedule = cell.Schedule.model_fields["schedule"].annotation
    assert get_args(schedule) == get_args(train.Schedule)
    assert get_args(cell.BudgetMetric) == get_args(budget.BudgetUnit)
    assert get_args(runtime.MemoryFormat) == get_args(operator_calls.MemoryFormat)
    assert get_args(record.Phase) == get_args(Phase) == record.PHASES


def test_the_command_fine_tunes_and_recalibrates_as_the_function_does() -> None:
    assert cell.RECALIBRATION_BATCHES == RECALIBRATION_BATCHES
    assert inspect.signature(zoo.prune).parameters["recipe"].default is train.FINETUNE
    assert inspect.signature(cli.prune).parameters["epochs"].default == train.FINETUNE.epochs

"""Pruners as parameters of tests; those that need what is not installed are skipped, and say so."""

from collections.abc import Iterable

import pytest

from zoo.core.method.discovery import get_pruner, list_pruners
from zoo.core.method.pruner import missing_packages

OURS = (*list_pruners("method"), *list_pruners("baseline"))
"""Pruners that take every network and fill a budget up; peers promise neither."""


def ready(names: Iterable[str] = list_pruners()) -> list:  # never changes
    found = []
    for name in names:
        missing = missing_packages(get_pruner(name))
        reason = f"{', '.join(missing)} is not installed"
        found.append(pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=reason)))
    return found

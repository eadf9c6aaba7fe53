"""What holds for every test."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _lasting_objects_are_no_garbage() -> None:
    """Keep what is there before a file's tests out of every later garbage collection.

    A metered phase begins with a whole one. Half a million objects of torch and of the test files,
    and what earlier tests have imported and cached, made it take 0.2 seconds or more, several times
    in each pruning.
    """
    gc.collect()
    gc.freeze()

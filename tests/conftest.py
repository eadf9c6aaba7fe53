"""What holds for every test."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Keep what torch and the test files hold out of every later garbage collection.

    A metered phase begins with one. Half a million objects that outlive every test made it take
    0.2 seconds or more, several times in each pruning.
    """
    gc.collect()
    gc.freeze()

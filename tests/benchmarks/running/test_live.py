"""Lines of `zoo run` where there is no terminal."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from benchmarks.running.live import cell_lines


@pytest.mark.parametrize("is_terminal", [False, True])
def test_cells_are_told_with_the_time_that_is_left(is_terminal: bool) -> None:
    file = io.StringIO()
    ended = 0
    console = Console(file=file, force_terminal=is_terminal, width=80)
    with cell_lines(console, "quick", 4, lambda: ended, seconds=0.01):
        for ended in (1, 2, 3):  # noqa: B007  (the thread looks at it)
            time.sleep(0.1)
    lines = file.getvalue().splitlines()
    if is_terminal:  # the bar tells it there
        assert not lines
        return
    assert re.fullmatch(r"quick, 3 of 4 cells: 75 %, 0:00 so far, about 0:00 left", lines[-1])
    assert len(lines) >= 3


def test_the_lines_end_with_the_run() -> None:
    file = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        cell_lines(Console(file=file), "quick", 4, lambda: 0, seconds=0.01),
    ):
        raise KeyboardInterrupt
    seen = file.getvalue()
    time.sleep(0.05)
    assert file.getvalue() == seen

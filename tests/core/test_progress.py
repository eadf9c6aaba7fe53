"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zoo.core import progress
from zoo.core.progress import Lines, duration, show_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_comes_every_thirty_seconds_with_the_time_that_is_left(clock: list[float]) -> None:
    written: list[str] = []
    lines = Lines(written.append)
    for second in range(0, 100, 2):
        clock[0] = float(second)
        lines(f"fine-tuning, loss {second / 100:.2f}", 100 + second, 300)
    assert written == [
        "fine-tuning, loss 0.30: 43 %, 0:30 so far, about 2:50 left",
        "fine-tuning, loss 0.60: 53 %, 1:00 so far, about 2:20 left",
        "fine-tuning, loss 0.90: 63 %, 1:30 so far, about 1:50 left",
    ]


def test_another_step_begins_its_own_time(clock: list[float]) -> None:
    written: list[str] = []
    lines = Lines(written.append)
    lines("searching", 0, None)
    clock[0] = 50.0
    lines("searching", 0, None)
    lines("fine-tuning, loss 1", 0, 10)
    clock[0] = 90.0
    lines("fine-tuning, loss 2", 5, 10)
    assert written == [
        "searching, 0:50 so far",
        "fine-tuning, loss 2: 50 %, 0:40 so far, about 0:40 left",
    ]


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 61, 3599.4, 3661)] == [
        "0:00",
        "1:00",
        "1:01",
        "59:59",
        "1:01:01",
    ]


@pytest.mark.parametrize("is_shown", [True, False])
def test_lines_go_where_there_is_no_terminal(is_shown: bool, clock: list[float]) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False)
    with show_progress(is_shown=is_shown, console=console) as (tell, say):
        say("a search will cost [bold] 3")
        tell("searching", 0, 10)
        clock[0] = 31.0
        tell("searching", 5, 10)
    expected = "a search will cost [bold] 3\nsearching: 50 %, 0:31 so far, about 0:31 left\n"
    assert file.getvalue() == (expected if is_shown else "")

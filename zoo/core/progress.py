"""Progress of long work: a bar on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["LINE_SECONDS", "Lines", "Tell", "duration", "show_progress"]

Tell = Callable[[str, int, int | None], None]
"""Shows progress: what is being done, how far, and of how much, None where nobody knows.

What stands behind a comma, such as a loss, may change while the same thing is done.
"""

LINE_SECONDS = 30.0
"""Time between two lines of progress."""


class Lines:
    """Tells progress in lines, with the time that is left, at most one in so many seconds.

    Args:
        write: takes a line.
        seconds: between two lines.
    """

    def __init__(self, write: Callable[[str], object], seconds: float = LINE_SECONDS) -> None:
        self._write = write
        self._seconds = seconds
        self._doing = ""
        # When it was last told, and wrote; when what is done began, and was first told of.
        self._told = self._last = self._began = self._first = time.monotonic()
        self._done_before = 0

    def __call__(self, text: str, done: int, total: int | None) -> None:
        """Take note of progress, and write a line if it is time; see `Tell`."""
        now, doing = time.monotonic(), text.partition(",")[0]
        if doing != self._doing:
            self._doing, self._began = doing, self._told
            self._first, self._done_before = now, done
        self._told = now
        if now - self._last < self._seconds:
            return
        self._last = now
        told = text
        if total:
            told += f": {100 * done / total:.0f} %"
        told += f", {duration(now - self._began)} so far"
        if total and done > self._done_before:
            left = (now - self._first) * (total - done) / (done - self._done_before)
            told += f", about {duration(left)} left"
        self._write(told)


def duration(seconds: float) -> str:
    """A time as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def show_progress(
    *, is_shown: bool = True, console: Console | None = None
) -> Iterator[tuple[Tell, Callable[[str], None]]]:
    """Show what is going on while the context is open.

    Args:
        is_shown: False shows nothing.
        console: where to; standard error if None.

    Yields:
        A function that is told of progress, and one that shows a line for good.
    """
    console = console or Console(stderr=True)
    is_live = console.is_terminal or console.is_jupyter

    def say(line: str) -> None:
        if is_shown:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    if not is_live:
        lines = Lines(say)
        yield (lines if is_shown else lambda *_: None), say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays out of the terminal
        disable=not is_shown,
    ) as bar:
        bar.add_task("preparing", total=None)

        def tell(text: str, done: int, total: int | None) -> None:
            (task,) = bar.tasks
            if total == task.total:
                bar.update(task.id, description=text, completed=done)
                return
            bar.remove_task(task.id)  # a new step: a bar that was full stays full
            bar.add_task(text, completed=done, total=total)

        yield tell, say

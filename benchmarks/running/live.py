"""What looks on while cells run: a tracker's curves, and lines of progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from benchmarks.records.plain import counted
from benchmarks.tracking.tracker import Tracker
from zoo.core.progress import LINE_SECONDS, Lines, Tell
from zoo.core.training.events import READ_EVERY, EpochEvent, StepEvent, Watch

__all__ = ["cell_lines", "watching"]

_LOOK_SECONDS = 1.0


def watching(tracker: Tracker | None, tell: Tell | None = None) -> Watch:
    """Tell a tracker of the losses and scores of trainings.

    Args:
        tracker: of the run; None for none.
        tell: shows progress.
    """
    if tracker is None:
        return Watch(tell=tell)

    def on_step(event: StepEvent) -> None:
        tracker.log({f"{event.phase}/loss": event.loss}, event.step)

    def on_epoch(event: EpochEvent) -> None:
        values = {f"{event.phase}/epoch loss": event.loss}
        if event.score is not None:
            values[f"{event.phase}/score"] = event.score
        tracker.log(values, event.step)

    return Watch(on_step, on_epoch, tell, step_every=READ_EVERY)


@contextmanager
def cell_lines(
    console: Console,
    suite: str,
    total: int,
    done: Callable[[], int],
    seconds: float = LINE_SECONDS,
) -> Iterator[None]:
    """Tell how many cells are done, and what time is left, where no bar does.

    Args:
        console: where to; nothing is told on a terminal.
        suite: its name.
        total: cells in all.
        done: says how many have ended.
        seconds: between two lines.
    """
    if console.is_terminal or console.is_jupyter:
        yield
        return
    is_over = threading.Event()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def look() -> None:
        lines = Lines(say, seconds)
        while True:
            ended = done()
            lines(f"{suite}, {ended} of {counted(total, 'cell')}", ended, total)
            if is_over.wait(min(seconds, _LOOK_SECONDS)):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

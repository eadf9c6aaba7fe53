"""The end of a run that a signal asked for."""

import signal

__all__ = ["Stopped"]


class Stopped(KeyboardInterrupt):
    """A run was told to end by a signal other than that of Ctrl-C."""

    def __init__(self, signal_: signal.Signals) -> None:
        super().__init__(signal_.name)
        self.signal = signal_

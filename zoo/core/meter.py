"""What was spent, by phase: images drawn, MACs forward and backward, seconds, peak bytes."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

__all__ = ["Meter", "Phase", "Spent"]

Phase = Literal["baseline", "scoring", "supernet", "search", "finetune", "finetune_own"]

# A backward pass computes the gradient of every product with respect to both of its factors. That
# is charged throughout, as is usual. It is too much where a factor needs no gradient: the images,
# and what is read by a block that is trained alone (tests/test_charges.py counts both).
BACKWARD_MACS = 2

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Spent:
    """Totals of one phase, or of several.

    Attributes:
        images: images drawn from a training or search split.
        macs_forward: multiply-adds of forward passes.
        macs_backward: multiply-adds of backward passes.
        seconds: wall-clock time, with the device's queue empty at both ends.
        peak_bytes: growth at its highest: on a GPU of what torch has allocated there, on a CPU of
            the process's resident set; None where the system does not tell.
    """

    images: int = 0
    macs_forward: int = 0
    macs_backward: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of forward and backward passes."""
        return self.macs_forward + self.macs_backward

    def to_json(self) -> dict[str, int | float | None]:
        """The fields as a JSON object."""
        return asdict(self)


class Meter:
    """Collects what a run spends; every charge belongs to the phase that is open.

    Args:
        device: where the networks run; decides how seconds and bytes are taken.

    Attributes:
        spent: totals by phase.
        open_phase: the phase that is charged; None outside any.
        listener: called after every charge of passes.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.spent: dict[str, Spent] = {}
        self.open_phase: Phase | None = None
        self.listener: Callable[[], object] | None = None
        self._open: Spent | None = None
        self._began = 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[Spent]:
        """Charge everything inside to one phase; entering it again adds to it.

        Args:
            name: `"baseline"`, `"scoring"`, `"supernet"`, `"search"`, `"finetune"`, or
                `"finetune_own"` for a finish beside the common one.

        Yields:
            The totals of the phase; seconds and bytes are final on leaving.

        Raises:
            ValueError: if the name is another.
            RuntimeError: if a phase is open already.
        """
        if name not in get_args(Phase):
            raise ValueError(f"unknown phase {name!r}; one of {', '.join(get_args(Phase))}")
        if self._open is not None:
            raise RuntimeError(f"phase {name!r} begins inside another; close that one first")
        spent = self._open = self.spent.setdefault(name, Spent())
        self.open_phase = name
        memory = _start_memory(self.device)
        self._began = self._now()
        try:
            yield spent
        finally:
            spent.seconds += self._now() - self._began
            spent.peak_bytes = _larger(spent.peak_bytes, _peak_bytes(self.device, memory))
            self._open = self.open_phase = None

    def images(self, count: int) -> None:
        """Charge images drawn.

        Raises:
            RuntimeError: outside any phase.
            ValueError: if the count is negative.
        """
        self._charged(count).images += count

    def passes(self, n_images: int, macs_per_image: int, *, backward: bool) -> None:
        """Charge a forward pass, and the backward pass that follows it.

        Args:
            n_images: images in the batch.
            macs_per_image: multiply-adds of one forward pass for one image.
            backward: whether gradients are computed; they cost twice the forward pass.

        Raises:
            RuntimeError: outside any phase.
            ValueError: if a number is negative.
        """
        macs = n_images * macs_per_image
        self.add_macs(macs, BACKWARD_MACS * macs if backward else 0)

    def add_macs(self, forward: int, backward: int) -> None:
        """Charge the open phase multiply-adds, such as other processes spent on the same work.

        Args:
            forward: of forward passes.
            backward: of backward passes.

        Raises:
            RuntimeError: outside any phase.
            ValueError: if a number is negative.
        """
        self._charged(min(forward, backward)).macs_forward += forward
        self._charged(0).macs_backward += backward
        if self.listener is not None:
            self.listener()

    @property
    def counts(self) -> tuple[int, int, int]:
        """What the open phase has come to: images, multiply-adds of forward and backward passes.

        Raises:
            RuntimeError: outside any phase.
        """
        spent = self._charged(0)
        return spent.images, spent.macs_forward, spent.macs_backward

    def add(self, name: Phase, spent: Spent) -> None:
        """Charge a phase with what the same work cost when it was done before."""
        self.spent[name] = _sum(self.spent.get(name, Spent()), spent)

    def state_dict(self) -> dict[str, int | float | None]:
        """What the open phase has come to, for a checkpoint.

        Raises:
            RuntimeError: outside any phase.
        """
        state = self._charged(0).to_json()
        seconds = self._charged(0).seconds + self._now() - self._began
        return {**state, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, int | float | None]) -> None:
        """Set the counts of the open phase to a checkpoint's; seconds add up: they were spent.

        Raises:
            RuntimeError: outside any phase.
        """
        spent, before = self._charged(0), Spent(**state_dict)  # type: ignore[arg-type]
        spent.images = before.images
        spent.macs_forward, spent.macs_backward = before.macs_forward, before.macs_backward
        spent.seconds += before.seconds
        spent.peak_bytes = _larger(spent.peak_bytes, before.peak_bytes)

    def total(self) -> Spent:
        """Sums over all phases; the peak is the highest of any phase."""
        return functools.reduce(_sum, self.spent.values(), Spent())

    def to_json(self) -> dict[str, dict[str, int | float | None]]:
        """The phases in the order in which they were first opened."""
        return {name: spent.to_json() for name, spent in self.spent.items()}

    def _charged(self, amount: int) -> Spent:
        if self._open is None:
            raise RuntimeError("a charge outside any phase; wrap the work in `meter.phase(name)`")
        if amount < 0:
            raise ValueError(f"a charge of {amount} is negative")
        return self._open

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _sum(first: Spent, second: Spent) -> Spent:
    return Spent(
        first.images + second.images,
        first.macs_forward + second.macs_forward,
        first.macs_backward + second.macs_backward,
        first.seconds + second.seconds,
        _larger(first.peak_bytes, second.peak_bytes),
    )


def _start_memory(device: torch.device) -> int | None:
    """Reset the peak that the system keeps; returns the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    _give_back_freed()
    try:
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set, and nothing else
    except OSError:
        return None
    return _resident_bytes("VmRSS")


class _Collector:
    """Collects garbage, but spends no more than a share of the time on looking at every object.

    That takes 0.2 s with torch loaded, which is more than a small search. In between only objects
    that are young are looked at: what an earlier phase left behind is nearly always among them.
    """

    SHARE = 0.05

    def __init__(self) -> None:
        self._due = 0.0

    def collect(self) -> None:
        """Look at every object if that is due, else at young ones."""
        began = time.perf_counter()
        if began < self._due:
            gc.collect(1)
            return
        gc.collect()
        ended = time.perf_counter()
        self._due = ended + (ended - began) / self.SHARE


_collector = _Collector()


def _give_back_freed() -> None:
    """Return what earlier phases freed to the system: taken up again, it would not be seen."""
    _collector.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
        if trim is not None:
            trim(0)


def _peak_bytes(device: torch.device, started_at: int | None) -> int | None:
    if started_at is None:
        return None
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device)) - started_at
    highest = _resident_bytes("VmHWM")
    return None if highest is None else max(0, highest - started_at)


def _resident_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(found[0]) if found else None


def _larger(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return max(known, default=None)

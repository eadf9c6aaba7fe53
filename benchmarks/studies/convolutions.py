"""Are torch's convolutions right on this CPU? Each against float64, in a process of its own.

    python -m benchmarks.studies.convolutions narrow   # strided 1 x 1 layers, 1 to 17 channels read
    python -m benchmarks.studies.convolutions sweep    # kernels 1 to 7, strides, groups, widths

Each runs twice, with the CPU's own instructions and with those of AVX2 alone, under glibc's checks
of the heap where they are installed. `--guarded` does it as our trainings do, around the kernel
that is known to be wrong (`zoo.core.training.gradients`); without it torch is seen as it is. The
exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import ctypes.util
import math
import os
import platform
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import islice, product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.core.training.gradients import gradients

__all__ = ["INSTRUCTIONS", "Case", "Found", "checked", "environment", "narrow_cases", "sweep_cases"]

INSTRUCTIONS = ("ALL", "AVX2")
"""Values of ONEDNN_MAX_CPU_ISA."""

TOLERANCE = 1e-4
"""Largest error over the largest value, or over what a sum of so many products comes to."""

SECONDS = 10.0
"""A case that takes longer hangs, which overwritten barriers of threads lead to."""

CASES_PER_FORK = 17

HEAP_CHECK = "libc_malloc_debug.so.0"

Study = Literal["narrow", "sweep"]


@dataclass(frozen=True)
class Case:
    """One convolution of square images."""

    kernel: int
    stride: int
    groups: int
    channels: int
    outputs: int
    size: int
    batch: int
    channels_last: bool
    threads: int = 1


@dataclass(frozen=True)
class Found:
    """What was wrong with a case; an empty text if nothing was."""

    case: Case
    fault: str


def narrow_cases() -> Iterator[Case]:
    """Strided 1 x 1 convolutions around the block of 16 channels, of all sizes of images."""
    grid = product((8, 12, 16, 24, 32, 40, 48, 64), (32,), (1, 8, 33), (2, 3), range(1, 18))
    for size, batch, outputs, stride, channels in grid:
        yield Case(1, stride, 1, channels, outputs, size, batch, True)
    for size, channels in product((16, 32, 64), range(1, 18)):  # some of these hang
        yield Case(1, 2, 1, channels, 8, size, 32, True, threads=2)


def sweep_cases() -> Iterator[Case]:
    """All kernels, strides, formats and batches, with widths 1 to 33, partners drawn."""
    drawn = random.Random(0)
    for kernel, stride, last, batch in product((1, 3, 5, 7), (1, 2), (True, False), (1, 32)):
        # Scratch buffers of 1 x 1 kernels overflow on large images only.
        size = 56 if kernel == 1 else 24 if batch == 1 else 8
        for width in range(1, 34):
            partner, groups = drawn.randint(1, 33), drawn.choice((2, 3, 4))
            pairs = [(1, width, partner) if width % 2 else (1, partner, width)]
            pairs += [(width, width, width)]
            pairs += [(groups, groups * width, groups * drawn.randint(1, 9))] * (width % 3 == 0)
            for groups, channels, outputs in pairs:
                yield Case(kernel, stride, groups, channels, outputs, size, batch, last)


def environment(instructions: str) -> dict[str, str]:
    """Variables of a process that uses some instructions, and checks its heap where it can."""
    ours = {"ONEDNN_MAX_CPU_ISA": instructions, "MALLOC_CHECK_": "3"}
    if platform.system() == "Linux" and _can_check_heap():
        ours["LD_PRELOAD"] = HEAP_CHECK
    return {**os.environ, **ours}


def checked(study: Study, instructions: str, *, guarded: bool) -> list[Found]:
    """Run all cases of a study with some instructions.

    Args:
        study: which cases.
        instructions: a value of ONEDNN_MAX_CPU_ISA.
        guarded: as our trainings run them, not as torch does.

    Returns:
        All cases in order, with what was wrong.

    Raises:
        RuntimeError: if the process that runs the cases ends by itself.
    """
    command = [sys.executable, "-m", "benchmarks.studies.convolutions", study, "--here"]
    command += ["--guarded"] if guarded else []
    run = subprocess.run(
        command, env=environment(instructions), stdout=subprocess.PIPE, text=True, check=False
    )
    lines = [line.split("\t") for line in run.stdout.splitlines() if "\t" in line]
    if run.returncode:
        raise RuntimeError(f"the cases ended with status {run.returncode} after {len(lines)}")
    return [Found(_read_case(numbers), fault) for numbers, fault in lines]


def _can_check_heap() -> bool:
    try:
        ctypes.CDLL(HEAP_CHECK)
    except OSError:
        return False
    return True


def _read_case(text: str) -> Case:
    kernel, stride, groups, channels, outputs, size, batch, last, threads = map(int, text.split())
    return Case(kernel, stride, groups, channels, outputs, size, batch, bool(last), threads)


def _run_here(study: Study, guarded: bool) -> None:
    """Print each case with its fault; they run in forks, for they may die."""
    cases = narrow_cases() if study == "narrow" else sweep_cases()
    while some := list(islice(cases, CASES_PER_FORK)):
        faults = _faults_in_fork(some, guarded)
        if any(faults):  # one case may have harmed another, so each runs alone
            faults = [_faults_in_fork([case], guarded)[0] for case in some]
        for case, fault in zip(some, faults, strict=True):
            numbers = " ".join(str(int(value)) for value in astuple(case))
            sys.stdout.write(f"{numbers}\t{fault}\n")
        sys.stdout.flush()


def _faults_in_fork(cases: Sequence[Case], guarded: bool) -> list[str]:
    """What was wrong with each case; how the process ended, for all, if it did not live."""
    source, target = os.pipe()
    child = os.fork()
    if not child:
        # Nothing of this copy may reach the parent's output or its exit handlers.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(target, "\n".join(_fault(case, guarded) for case in cases).encode())
        os._exit(0)
    os.close(target)
    is_done = bool(select.select([source], [], [], SECONDS * len(cases))[0])
    if not is_done:
        os.kill(child, signal.SIGKILL)
    said = os.read(source, 65_536).decode()
    os.close(source)
    status = os.waitpid(child, 0)[1]
    if not is_done:
        return ["hangs"] * len(cases)
    if os.WIFSIGNALED(status):
        return [f"dies of {signal.Signals(os.WTERMSIG(status)).name}"] * len(cases)
    if status:
        return [f"ends with status {status}"] * len(cases)
    return said.split("\n")


def _fault(case: Case, guarded: bool) -> str:
    """Compare output and gradients with those in float64; names those that differ."""
    torch.set_num_threads(case.threads)
    made = torch.Generator().manual_seed(0)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    images = torch.randn(case.batch, case.channels, case.size, case.size, generator=made)
    shape = (case.outputs, case.channels // case.groups, case.kernel, case.kernel)
    weight = torch.randn(shape, generator=made)
    made.manual_seed(1)
    exact = _passes(case, images.double(), weight.double(), made, guarded=False)
    made.manual_seed(1)
    here = [tensor.to(memory_format=layout) for tensor in (images, weight)]
    found = _passes(case, here[0], here[1], made, guarded)
    area = case.kernel**2
    terms = (
        shape[1] * area,
        case.outputs // case.groups * area,
        case.batch * exact[0].shape[2] * exact[0].shape[3],
    )
    faults = []
    for name, right, value, count in zip(_NAMES, exact, found, terms, strict=True):
        scale = max(float(right.abs().max()), math.sqrt(count))
        error = float((value.double() - right).abs().max()) / scale
        if not error <= TOLERANCE:  # NaN too
            faults.append(f"{name} off by {error:.0e}")
    return ", ".join(faults)


_NAMES = ("output", "gradient of the input", "gradient of the weight")


def _passes(
    case: Case, images: Tensor, weight: Tensor, made: torch.Generator, guarded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the gradients of input and weight."""
    images, weight = images.requires_grad_(), weight.requires_grad_()
    output = F.conv2d(
        images, weight, stride=case.stride, padding=case.kernel // 2, groups=case.groups
    )
    outer = torch.randn(output.shape, generator=made).to(output)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    loss, leaves = (output * outer.to(memory_format=layout)).sum(), (images, weight)
    of_images, of_weight = (gradients if guarded else torch.autograd.grad)(loss, leaves)
    return output.detach(), of_images, of_weight


def _shown(found: Sequence[Found]) -> Iterator[str]:
    """Lines of faults, those that differ in the number of channels alone in one."""
    rows: dict[tuple[str, str], list[int]] = {}
    for each in found:
        if each.fault:
            kind = each.fault.partition(" off by")[0]
            rest = (f"{k} {v}" for k, v in asdict(each.case).items() if k != "channels")
            rows.setdefault((kind, ", ".join(rest)), []).append(each.case.channels)
    for (kind, case), channels in rows.items():
        yield f"{kind}: channels {channels}, {case}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study and print what was wrong.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.convolutions", description=__doc__
    )
    parser.add_argument("study", choices=("narrow", "sweep"))
    parser.add_argument("--guarded", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.here:
        _run_here(chosen.study, chosen.guarded)
        return 0
    is_wrong = False
    for instructions in INSTRUCTIONS:
        found = checked(chosen.study, instructions, guarded=chosen.guarded)
        kinds = Counter(each.fault.partition(" off by")[0] or "right" for each in found)
        counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        head = (
            f"torch {torch.__version__}, instructions {instructions}: {len(found)} cases, {counts}"
        )
        sys.stdout.write("\n".join((head, *_shown(found), "")))
        sys.stdout.flush()
        is_wrong |= len(found) > kinds["right"]
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())

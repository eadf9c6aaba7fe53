"""A training pass as a CUDA graph: its kernels are recorded once and launched together after that.

A small network keeps the host busier with launches than the GPU with work. Recorded is what is
long: forward, loss and backward. Optimizer, learning rate, clipping and averages stay as they are;
they are a few launches over all parameters, and what changes from step to step is theirs.

A recording repeats kernels on the same addresses and runs no Python. So it is held against what it
took for given, and is refused where a pass reads values on the host, draws there, or counts.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.data.inputs import Inputs, mapped, tensors_of
from zoo.core.errors import said
from zoo.core.randomness import global_random
from zoo.core.training.ranks import world

__all__ = ["WARM_UP", "CapturedPass", "check_capture"]

_LOGGER = logging.getLogger(__name__)

WARM_UP = 3
"""Passes of a form that run as ever before the next one is recorded, as torch asks for."""

_WAY_OUT = "set cuda_graph to False"

_Gradients = list[tuple[Tensor, Tensor | None]]


def check_capture(device: torch.device, is_capturable: bool, loss: str) -> None:
    """Refuse to capture where it cannot work, before any work.

    Args:
        device: of the network.
        is_capturable: of its loss, see `TrainingLoss`.
        loss: what it is called.

    Raises:
        ValueError: with the way out.
    """
    if device.type != "cuda":
        raise ValueError(
            f"cuda_graph needs a CUDA device and the network is on {device}; move it there "
            f"(device 'cuda') or {_WAY_OUT}"
        )
    if world() > 1:
        raise ValueError(
            f"cuda_graph records a training in one process, and {world()} train together; "
            f"{_WAY_OUT}, or train in one"
        )
    if not is_capturable:
        raise ValueError(
            f"cuda_graph runs the Python of a loss once, and {loss} may need it in every step; "
            f"{_WAY_OUT}, or pass a TrainingLoss with is_capturable = True if it never does"
        )


class CapturedPass:
    """A pass that is recorded when batches of one form have come `WARM_UP` times.

    Batches of any other form, such as a smaller last one, run as ever. There is one recording.

    Args:
        run: the pass: the loss of a batch, a scalar without a graph; it clears gradients and leaves
            its own in the parameters.
        module: has all parameters and buffers that are trained, and all modes.
        device: of the module.
    """

    def __init__(
        self, run: Callable[[Inputs, Any], Tensor], module: nn.Module, device: torch.device
    ) -> None:
        self._run = run
        self._module = module
        self._device = device
        self._seen: Counter[str] = Counter()
        self._recorded: _Recorded | None = None
        self._is_sure = False

    def __call__(self, inputs: Inputs, targets: Any, whole: int | None = None) -> Tensor:
        """The loss of a batch, a scalar without a graph; gradients are left in the parameters.

        Args:
            inputs: of the batch.
            targets: of the same.
            whole: None, as one process trains.

        Raises:
            ValueError: if the pass cannot be captured; names the place and the way out.
        """
        assert whole is None
        form = _form((inputs, targets))
        if self._recorded is not None and not self._is_sure:
            if _taken_for_given(self._module) != self._recorded.given:
                self._recorded = None  # somebody changed the network: Python has to see it
                self._seen.clear()
            self._is_sure = True
        if self._recorded is None:
            return self._warm_up(form, inputs, targets)
        if form != self._recorded.form:
            return self._run(inputs, targets)
        return self._recorded.replay((inputs, targets))

    def look_again(self) -> None:
        """Say that somebody may have changed the network: tensors, modes, hooks or settings."""
        self._is_sure = False

    def _warm_up(self, form: str, inputs: Inputs, targets: Any) -> Tensor:
        count = self._seen[form] = self._seen[form] + 1
        if count > WARM_UP:
            self._recorded = _record(self._run, self._module, form, (inputs, targets))
            self._is_sure = True
            _LOGGER.info("batches of %s are trained on as a CUDA graph from now on", form)
            return self._recorded.replay((inputs, targets))
        # Not on the default stream, whose work a recording must not wait for.
        with _beside(self._device):
            if count < WARM_UP:
                return self._run(inputs, targets)
            with _refusing(self._module):
                return self._run(inputs, targets)


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A recording: the tensors it reads and writes, and what else it stands on."""

    form: str
    given: list[object]
    graph: torch.cuda.CUDAGraph
    batch: Any
    gradients: _Gradients
    loss: Tensor

    def replay(self, batch: tuple[Inputs, Any]) -> Tensor:
        for held, new in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
            held.copy_(new, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss.clone()  # the next replay writes over it


def _record(
    run: Callable[[Inputs, Any], Tensor], module: nn.Module, form: str, batch: tuple[Inputs, Any]
) -> _Recorded:
    """Record a pass. Nothing runs on the device but the copies of the batch."""
    graph = torch.cuda.CUDAGraph()
    held = mapped(batch, torch.clone)
    device = next(module.parameters()).device
    try:
        # Other threads pin memory for batches, which is no part of the recording.
        mode = "thread_local"
        with torch.cuda.graph(graph, stream=_stream(device), capture_error_mode=mode):
            loss = run(*held)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = error.__context__ or error  # ending a recording that failed fails, too
        raise _refusal(f"it cannot be recorded ({said(cause)})", cause) from error
    gradients: _Gradients = [(weight, weight.grad) for weight in module.parameters()]
    return _Recorded(form, _taken_for_given(module), graph, held, gradients, loss)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """A stream beside the default one; the same for all, as each gets buffers of its own."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """A stream beside the current one, which goes on when the context ends."""
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@contextmanager
def _refusing(module: nn.Module) -> Iterator[None]:
    """Refuse what a recording would not repeat: reads, draws and counts of the host.

    Raises:
        ValueError: if the pass in the context does one of these.
    """
    drawn, before = global_random(), _taken_for_given(module)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise _refusal("it reads a value on the host", error) from error
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    if not _is_same(drawn, global_random()):
        raise _refusal("it draws random numbers on the host, which would be the same in all steps")
    names = [name or "the network" for name, _ in module.named_modules()]
    for name, old, new in zip(names, before, _taken_for_given(module), strict=True):
        if old != new:
            raise _refusal(f"it changes attributes of {name}, which would stay as they are")


def _refusal(reason: str, error: BaseException | None = None) -> ValueError:
    where = "" if error is None else _place(error)
    return ValueError(f"the training pass cannot be a CUDA graph: {reason}{where}; {_WAY_OUT}")


def _place(error: BaseException) -> str:
    """The last line outside of torch that an error came from."""
    torchs = str(Path(torch.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if torchs not in f.filename]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _form(batch: object) -> str:
    """Structure, shapes, types and strides of a batch.

    Raises:
        ValueError: if something in it is no tensor, which a recording would not see change.
    """

    def told(value: Any) -> object:
        if value is None or isinstance(value, Tensor):
            return value is not None and (*value.shape, str(value.dtype), value.stride())
        if isinstance(value, dict):
            return {key: told(part) for key, part in value.items()}
        if isinstance(value, tuple | list):
            return type(value).__name__, [told(part) for part in value]
        raise _refusal(f"a batch holds a {type(value).__name__} beside tensors")

    return repr(told(batch))


def _taken_for_given(module: nn.Module) -> list[object]:
    """Of each module what a recording stands on: tensors and their places, settings, hooks."""
    return [
        (
            id(each),
            [
                (key, id(tensor), tensor.data_ptr(), tensor.requires_grad)
                for slots in (each._parameters, each._buffers)
                for key, tensor in slots.items()
                if tensor is not None
            ],
            [(k, v) for k, v in vars(each).items() if isinstance(v, bool | int | float | str)],
            [
                tuple(hooks)
                for hooks in (
                    each._forward_hooks,
                    each._forward_pre_hooks,
                    each._backward_hooks,
                    each._backward_pre_hooks,
                )
            ],
        )
        for each in module.modules()
    ]


def _is_same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether the global generators of the host are in the same state."""
    numpys = zip(before["numpy"], after["numpy"], strict=True)
    return (
        before["python"] == after["python"]
        and all(np.array_equal(old, new) for old, new in numpys)
        and torch.equal(before["torch"], after["torch"])
    )

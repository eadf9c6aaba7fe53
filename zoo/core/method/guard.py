"""What a method may not change: the network that it is given, and torch's settings.

The parent is scored and cut after a search, and a worker runs one cell after the other, so a change
that a method leaves behind would be in the numbers of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.method.pruner import Pruner

__all__ = ["left_alone"]


def _set_benchmark(is_on: bool) -> None:
    torch.backends.cudnn.benchmark = is_on


def _set_deterministic(modes: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])


# Any: each setting has a type of its own.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _set_deterministic,
    ),
    (lambda: torch.backends.cudnn.benchmark, _set_benchmark),
)
"""How to read and how to set what holds for the whole process."""


@contextmanager
def left_alone(network: nn.Module, pruner: Pruner) -> Iterator[None]:
    """Refuse what changes a network meanwhile; torch's settings are put back in any case.

    Looked at are weights, buffers of floating point, the mode of each module, and which parameters
    are trained. What a forward pass keeps otherwise is the network's own.

    Args:
        network: that the method is given.
        pruner: whose code runs.

    Raises:
        ValueError: at the end, if the network is another one then.
    """
    settings = [read() for read, _ in _SETTINGS]
    tensors = {name: tensor.detach().clone() for name, tensor in _tensors(network)}
    facts = dict(_facts(network))
    try:
        yield
    finally:
        for (read, write), value in zip(_SETTINGS, settings, strict=True):
            if read() != value:
                write(value)
    if (changed := _difference(network, tensors, facts)) is not None:
        raise ValueError(
            f"{type(pruner).__name__} changed the network that it was given, {changed}: its "
            "numbers would be of another network. Let it work on copy.deepcopy(problem.model)"
        )


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer


def _facts(network: nn.Module) -> Iterator[tuple[str, bool]]:
    for path, module in network.named_modules():
        yield f"training mode of {path or 'the whole'}", module.training
    for name, parameter in network.named_parameters():
        yield f"requires_grad of {name}", parameter.requires_grad


def _difference(
    network: nn.Module, tensors: dict[str, Tensor], facts: dict[str, bool]
) -> str | None:
    """The first thing that is another one than before, or None."""
    now = dict(_tensors(network))
    if now.keys() != tensors.keys():
        return f"tensor {min(now.keys() ^ tensors.keys())}"
    same = [_is_same(tensors[name], tensor) for name, tensor in now.items()]
    # Read at once: a GPU is waited for one time, not once for each tensor.
    flags = torch.stack([flag.to(same[0].device) for flag in same]).tolist() if same else []
    for name, is_same in zip(now, flags, strict=True):
        if not is_same:
            return f"tensor {name}"
    found = dict(_facts(network))
    return next((name for name in facts if found.get(name) != facts[name]), None)


def _is_same(before: Tensor, after: Tensor) -> Tensor:
    """Whether two tensors hold the same numbers, NaN among them, as a tensor."""
    if before.shape != after.shape or before.dtype != after.dtype or before.device != after.device:
        return torch.tensor(False)
    return ((before == after) | ((before != before) & (after != after))).all()

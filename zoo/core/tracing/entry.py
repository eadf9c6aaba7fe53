"""What enters a network, or the part of it that is traced, without its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.data.inputs import Inputs, call, count_images, mapped, tensors_of
from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.copies import float_dtype

__all__ = [
    "Entry",
    "InputSize",
    "blank_inputs",
    "enter",
    "heard",
    "image_size",
    "laid_out",
    "random_inputs",
]


@dataclass(frozen=True)
class Entry:
    """The inputs of a network, or of a part of it, by shape.

    Attributes:
        part: path of the module that is called; "" for the whole network.
        count: images in the batch that the shapes were taken from.
        inputs: a batch of that size, on the meta device.
    """

    part: str
    count: int
    inputs: Inputs = field(repr=False, compare=False)

    @property
    def told(self) -> str:
        """Types and shapes of what enters, in words."""
        return str(mapped(self.inputs, lambda tensor: f"{tensor.dtype} {list(tensor.shape)}"))

    @classmethod
    def of(cls, inputs: Inputs, part: str = "") -> Entry:
        """The entry of inputs as they are."""
        return cls(part, count_images(inputs), _blank(inputs, None, _meta))

    @classmethod
    def of_part(cls, model: nn.Module, part: str, inputs: Inputs) -> Entry:
        """The entry of a part, as inputs of the whole network reach it in one pass.

        Args:
            model: the whole network, in the mode in which it is to run; it runs once.
            part: path of the part.
            inputs: of the whole network.

        Raises:
            UnsupportedModel: if the pass does not call it, or with nothing to count images in.
        """
        caught: list[Any] = []

        def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append((args, kwargs))

        handle = model.get_submodule(part).register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad():
                call(model, inputs)
        finally:
            handle.remove()
        if not caught:
            raise UnsupportedModel(
                f"a pass through {type(model).__name__} does not call its part {part!r}; name a "
                "module that is called as a whole"
            )
        args, kwargs = caught[0]
        if args and kwargs:
            raise UnsupportedModel(
                f"the part {part!r} is called by position and by keyword at once; name a part "
                "that is called in one way"
            )
        entering = kwargs or (args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args)
        return cls.of(entering, part)


InputSize = Sequence[int] | Entry
"""(C, H, W) of one image where a network is called with images alone; else its `Entry`."""


def blank_inputs(model: nn.Module, size: InputSize, count: int = 1) -> Inputs:
    """Inputs without data for a network on the meta device.

    Args:
        model: tells the type of floating-point numbers.
        size: what enters.
        count: images.
    """
    dtype = float_dtype(model)
    if not isinstance(size, Entry):
        return torch.empty(count, *size, device="meta", dtype=dtype)

    def blank(shape: Sequence[int], own: torch.dtype) -> Tensor:
        return _meta(shape, dtype if own.is_floating_point else own)

    return _blank(size.inputs, (size.count, count), blank)


def random_inputs(model: nn.Module, size: InputSize, count: int) -> Inputs:
    """Inputs on a network's device and of its type, between 0 and 1, whole numbers 0.

    Args:
        model: not on the meta device.
        size: what enters.
        count: images.
    """
    generator = torch.Generator().manual_seed(0)
    anchor = next(model.parameters())

    def drawn(blank: Tensor) -> Tensor:
        if not blank.is_floating_point():
            return torch.zeros(blank.shape, dtype=blank.dtype, device=anchor.device)
        return torch.rand(blank.shape, generator=generator).to(anchor.device, anchor.dtype)

    return mapped(blank_inputs(model, size, count), drawn)


def laid_out(inputs: Inputs, memory_format: torch.memory_format) -> Inputs:
    """Inputs with maps and images, shape (N, C, H, W), in a memory format."""

    def put(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor

    return mapped(inputs, put)


def enter(model: nn.Module, size: InputSize, inputs: Inputs) -> Any:
    """Call the network, or its part that is traced, with inputs such as `blank_inputs` makes."""
    return call(model.get_submodule(size.part) if isinstance(size, Entry) else model, inputs)


def image_size(size: InputSize) -> tuple[int, int, int]:
    """(C, H, W) of one image of what enters; (numbers, 1, 1) where nothing has that shape.

    Raises:
        ValueError: for as many numbers as no image has dimensions.
    """
    if not isinstance(size, Entry):
        if len(size) != 3:
            raise ValueError(f"input_size is {tuple(size)}; it must be (C, H, W)")
        channels, height, width = (int(each) for each in size)
        return channels, height, width
    found = [tuple(tensor.shape) for tensor in tensors_of(size.inputs)]
    for shape in found:
        if len(shape) in (3, 4):
            channels, height, width = shape[-3:]
            return channels, height, width
    return max((shape[-1] for shape in found if shape), default=1), 1, 1


@contextmanager
def heard(model: nn.Module, part: str) -> Iterator[list[Any]]:
    """Keep what a part of a network returned last, in a list of one, while the context is open."""
    kept: list[Any] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        kept[:] = [output]

    handle = model.get_submodule(part).register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def _meta(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


_Make = Callable[[Sequence[int], torch.dtype], Tensor]


def _blank(value: Any, counts: tuple[int, int] | None, make: _Make) -> Any:
    """Inputs with other tensors, for another number of images if counts are given."""
    if isinstance(value, Tensor):
        shape = list(value.shape)
        if counts and shape and shape[0] == counts[0]:
            shape[0] = counts[1]
        return make(shape, value.dtype)
    if isinstance(value, Mapping):
        return {key: _blank(part, counts, make) for key, part in value.items()}
    if isinstance(value, list) and counts and len(value) == counts[0]:
        return [_blank(value[0], None, make) for _ in range(counts[1])]
    if isinstance(value, tuple | list):
        parts = [_blank(part, counts, make) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value

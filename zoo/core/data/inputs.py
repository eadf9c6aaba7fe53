"""What a network is called with: one tensor, several in a tuple, or keywords in a dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Inputs",
    "call",
    "count_images",
    "divided",
    "mapped",
    "moved",
    "rows_of",
    "rows_of_rank",
    "tensors_of",
]

Inputs = Any
"""A tensor is one argument, a tuple several by position, a dict several by keyword; a list is one
argument, as detectors take images of several sizes. Inside there may be anything."""


def call(network: nn.Module, inputs: Inputs) -> Any:
    """What a network, or a part of one, returns for inputs."""
    if isinstance(inputs, tuple):
        return network(*inputs)
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(inputs)


def tensors_of(value: object) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts, of any shape, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_of(part)


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:  # whatever a batch holds
    """The same tuples, lists and dicts with other tensors; all else stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(part, change) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(part, change) for part in value)
    return value


def moved(
    value: Any,  # whatever a batch holds
    device: torch.device,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Any:
    """Tensors on a device, those of floating-point numbers in a type, images in a memory format.

    Args:
        value: inputs or targets.
        device: where they go.
        dtype: of floating-point numbers; their own if None.
        memory_format: of what has shape (N, C, H, W).
    """

    def put(tensor: Tensor) -> Tensor:
        is_real = tensor.is_floating_point() and tensor.ndim == 4
        layout = memory_format if is_real else torch.preserve_format
        kind = dtype if tensor.is_floating_point() else None
        return tensor.to(device, kind, non_blocking=True, memory_format=layout)

    return mapped(value, put)


def count_images(inputs: Inputs) -> int:
    """Number of images: of the first tensor (N, C, H, W), or of a list of images, or of rows.

    Raises:
        ValueError: if there is no tensor that has a first dimension.
    """
    if isinstance(inputs, Tensor) and inputs.ndim:
        return len(inputs)
    found = list(tensors_of(inputs))
    for tensor in found:
        if tensor.ndim >= 4:
            return len(tensor)
        if tensor.ndim == 3 and (images := _list_of(tensor, inputs)) is not None:
            return len(images)
    rows = [len(tensor) for tensor in found if tensor.ndim]
    if not rows:
        raise ValueError(
            "no images can be counted: the inputs hold no tensor with a first dimension; let "
            "batch= return (inputs, targets), inputs with a tensor of shape (N, ...)"
        )
    return rows[0]


def _list_of(image: Tensor, value: object) -> list[Any] | None:
    """The list of tensors that an image lies in; None if it lies in no list."""
    if isinstance(value, list) and any(part is image for part in value):
        return value
    parts: Iterable[object] = ()
    if isinstance(value, Mapping | tuple | list):
        parts = value.values() if isinstance(value, Mapping) else value
    for part in parts:
        found = _list_of(image, part)
        if found is not None:
            return found
    return None


def divided(value: Any, count: int, parts: int) -> list[Any]:  # whatever a batch holds
    """Equal parts of inputs or targets, image by image; images beyond them are left out.

    Args:
        value: tensors and lists with an entry for each image, in tuples and dicts.
        count: images in it.
        parts: how many parts.

    Raises:
        ValueError: if a tensor or a list has another number of entries.
    """
    size = count // parts
    return [rows_of(value, count, slice(k * size, (k + 1) * size)) for k in range(parts)]


def rows_of_rank(count: int, rank: int, ranks: int) -> slice:
    """The rows of a batch that a rank takes: neighbours, as many in every rank as can be.

    Raises:
        ValueError: if there are fewer images than ranks.
    """
    if count < ranks:
        raise ValueError(
            f"a batch of {count} images cannot be shared by {ranks} processes; use larger batches "
            "or fewer processes"
        )
    return slice(count * rank // ranks, count * (rank + 1) // ranks)


def rows_of(value: Any, count: int, rows: slice) -> Any:
    """Some of the images of inputs or targets; see `divided`.

    Args:
        value: tensors and lists with an entry for each image, in tuples and dicts.
        count: images in it.
        rows: which of them.

    Raises:
        ValueError: if a tensor or a list has another number of entries.
    """
    if isinstance(value, Mapping):
        return {key: rows_of(part, count, rows) for key, part in value.items()}
    if isinstance(value, Tensor | list):
        if isinstance(value, Tensor) and not value.ndim:
            return value
        if len(value) != count:
            told = tuple(value.shape) if isinstance(value, Tensor) else f"a list of {len(value)}"
            raise ValueError(
                f"a batch of {count} images holds {told}, which cannot be divided; "
                "let every tensor and list have an entry for each image"
            )
        return value[rows]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(rows_of(part, count, rows) for part in value))
    if isinstance(value, tuple):
        return tuple(rows_of(part, count, rows) for part in value)
    return value

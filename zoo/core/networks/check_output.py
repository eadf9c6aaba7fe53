"""Outputs of a network for fixed images, by which a loaded network is recognised.

The weights alone do not make a network: with another stride, activation or pooling, the same
tensors load and compute something else. So a saved network carries what it put out for images that
every machine makes alike, computed in float64 where the network runs in it: there, two kinds of CPU
differ by less than 1e-12, and hardly any change to a network moves its outputs by so little.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zoo.core.errors import said
from zoo.core.tracing.copies import copy_network, float_dtype
from zoo.core.tracing.entry import blank_inputs
from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta, tensors_in
from zoo.core.tracing.trace import on_meta

__all__ = ["CheckOutput", "check_output", "different_operator", "different_output"]

FloatName = Literal["float64", "float32", "bfloat16", "float16"]

_GRAINS = ((1, 0.5), (2, 2.0), (4, 16.0), (16, 128.0))
"""Side of the squares of one colour, and contrast, of each image. Some are coarse and bright, since
an activation that is cut off at 6 shows in large values only."""

_VALUES = 64  # kept of what one image gives
_TOLERANCES: Mapping[FloatName, tuple[float, float]] = {
    # Share of an image's distance from the median one, and of its largest value. With AVX-512 and
    # without any such instructions, ten networks of timm's differed by at most 4e-13 of that
    # distance in float64 and 1.4e-4 in float32.
    "float64": (1e-6, 1e-10),
    "float32": (1e-2, 1e-4),
    "float16": (5e-2, 5e-3),
    "bfloat16": (2e-1, 2e-2),
}


class CheckOutput(BaseModel):
    """What a network put out for the fixed images, in eval mode on the CPU.

    Attributes:
        dtype: what the network ran in.
        coarsest: the coarsest floating type that it computed with inside.
        shapes: of the tensors that one image gives, in order.
        values: at most 64 of their values for every image, evenly spaced; None where one is NaN or
            infinite.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    dtype: FloatName
    coarsest: FloatName
    shapes: list[list[int]] = Field(min_length=1, max_length=1000)
    values: list[Annotated[list[float | None], Field(max_length=_VALUES)]] = Field(
        min_length=len(_GRAINS), max_length=len(_GRAINS)
    )

    @property
    def is_blank(self) -> bool:
        """Whether no value is finite, so that it identifies no network."""
        return all(value is None for row in self.values for value in row)


def check_output(
    model: nn.Module, input_size: Sequence[int], dtype: FloatName | None = None
) -> CheckOutput:
    """Return what a network puts out for the fixed images; it is not touched.

    Args:
        model: any network of images.
        input_size: (C, H, W) of one image.
        dtype: what to run in; None for float64, or the network's own type if it cannot run in it.

    Raises:
        ValueError: if it cannot be copied or run on the CPU, or puts out no floating tensor.
    """
    tried = [dtype] if dtype else list(dict.fromkeys(("float64", _own_dtype(model))))
    for last, name in enumerate(tried, start=1):
        try:
            return _run(copy_network(model).eval().cpu().to(getattr(torch, name)), input_size, name)
        except Exception as error:  # whatever a foreign forward pass may raise
            if last == len(tried):
                raise ValueError(
                    f"{type(model).__name__} cannot be run on the CPU in {name}: {said(error)}"
                ) from error
    raise AssertionError("one type is always tried")


def different_output(saved: CheckOutput, found: CheckOutput) -> str | None:
    """Return in half a sentence how two outputs differ, None if they do not."""
    if saved.shapes != found.shapes:
        return f"outputs of shape {found.shapes}, not {saved.shapes}"
    wanted, given = _array(saved), _array(found)
    if wanted.shape != given.shape or (np.isnan(wanted) != np.isnan(given)).any():
        return "other outputs that are NaN or infinite"
    if saved.is_blank:
        return None
    wanted, given = np.nan_to_num(wanted), np.nan_to_num(given)
    of_spread, of_largest = max(_TOLERANCES[saved.coarsest], _TOLERANCES[found.coarsest])
    spread = np.abs(wanted - np.median(wanted, axis=0)).max(axis=1)
    limit = of_spread * spread + of_largest * np.abs(wanted).max(axis=1)
    difference = np.abs(wanted - given).max(axis=1)
    over = np.flatnonzero(difference > limit)
    if not len(over):
        return None
    worst = over[0]
    return (
        f"other outputs: they differ by {difference[worst]:.2g} for image {worst + 1}, where "
        f"{limit[worst]:.2g} is allowed"
    )


def different_operator(model: nn.Module, other: nn.Module, input_size: Sequence[int]) -> str | None:
    """Return in half a sentence which operator of ``other`` is not that of ``model``, if any.

    Both run without data, in eval and in training mode. So a dropout or a head that only training
    uses is compared too, and so is what zeros in the weights would hide.

    Args:
        model: the network that was saved.
        other: the one made again.
        input_size: (C, H, W) of one image.
    """
    for is_training in (False, True):
        mode = "training" if is_training else "eval"
        first, second = (_operators(net, input_size, is_training) for net in (model, other))
        for mine, its in zip(first, second, strict=False):
            if mine != its:
                return f"another operator in {mode} mode: {its} instead of {mine}"
        if len(first) != len(second):
            return f"{len(second)} operators in {mode} mode instead of {len(first)}"
    return None


def _own_dtype(model: nn.Module) -> FloatName:
    """Return the type of the first floating parameter, single precision for an unknown one."""
    own = float_dtype(model)
    return next((name for name in _TOLERANCES if getattr(torch, name) == own), "float32")


def _run(model: nn.Module, input_size: Sequence[int], name: FloatName) -> CheckOutput:
    shapes: list[list[int]] = []
    values = []
    watch = _Coarsest(name)
    for image in _images(input_size):
        given = torch.from_numpy(image)[None].to(getattr(torch, name))
        with torch.no_grad(), torch.autocast("cpu", enabled=False), watch:
            found = list(_tensors(model(given)))
        if not found:
            raise ValueError("it puts out no tensor of floating numbers")
        shapes = [list(tensor.shape) for tensor in found]
        flat = torch.cat([tensor.detach().double().flatten() for tensor in found]).numpy()
        places = np.linspace(0, len(flat) - 1, min(len(flat), _VALUES)).astype(np.int64)
        values.append([float(v) if math.isfinite(v) else None for v in flat[places]])
    return CheckOutput(dtype=name, coarsest=watch.name, shapes=shapes, values=values)


def _images(input_size: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield images (C, H, W) in float64, the same on every machine and for every version."""
    channels, height, width = input_size
    for number, (side, contrast) in enumerate(_GRAINS):
        shape = (channels, -(-height // side), -(-width // side))
        drawn = hashlib.shake_256(b"image %d" % number).digest(math.prod(shape))
        squares = (np.frombuffer(drawn, dtype=np.uint8).reshape(shape) - 127.5) / 74.0
        image = squares.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
        yield np.ascontiguousarray(contrast * image)


def _tensors(output: Any, depth: int = 4) -> Iterator[Tensor]:  # Any: whatever a network returns
    """Yield the floating tensors of an output, also of objects that torch does not look into."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point():
                yield leaf
        elif depth and hasattr(leaf, "__dict__"):
            yield from _tensors(vars(leaf), depth - 1)


def _array(output: CheckOutput) -> np.ndarray:
    """Return the values, shape (images, values), NaN for those that are not finite."""
    return np.array([[math.nan if v is None else v for v in row] for row in output.values])


class _Coarsest(OperatorMode):
    """Watches for the coarsest floating type that an operator returns."""

    def __init__(self, name: FloatName) -> None:
        super().__init__()
        self.name = name
        self._names = {getattr(torch, known): known for known in _TOLERANCES}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            found = self._names.get(tensor.dtype)
            if found is not None and _TOLERANCES[found] > _TOLERANCES[self.name]:
                self.name = found
        return result


def _operators(model: nn.Module, input_size: Sequence[int], is_training: bool) -> list[str]:
    """Return the operators of one pass with their numbers and shapes, the error last if it ends."""
    meta = on_meta(model).train(is_training)
    listed = _Listed()
    try:
        with torch.no_grad(), listed:
            meta(blank_inputs(meta, input_size, 2))
    except Exception as error:  # whatever a foreign forward pass may raise
        listed.found.append(f"{type(error).__name__}: {str(error).splitlines()[:1]}")
    return listed.found


class _Listed(OperatorMode):
    """Lists the operators that run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        told = tree_map(lambda v: list(v.shape) if isinstance(v, Tensor) else v, (args, kwargs))
        self.found.append(f"{func}{told}")
        return run_on_meta(func, args, kwargs)

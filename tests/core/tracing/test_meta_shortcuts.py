"""Operators that are not run on the meta device give what torch gives there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.core.tracing.operator_mode import run_on_meta

ACTIVATIONS: tuple[Callable[..., Tensor], ...] = (
    F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.leaky_relu, F.elu,
)  # fmt: skip
LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.to(memory_format=torch.channels_last),
    lambda x: x.transpose(0, 2),
    lambda x: x[::2, :, 1:],
)


class Seen(TorchDispatchMode):
    """Runs every operator in a given way and notes its name."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return self.run(func, args, kwargs or {})


def told(run: Callable[..., Any], function: Callable[..., Tensor], images: Tensor) -> object:
    with torch.no_grad(), Seen(run) as seen:
        made = function(images)
    is_shared = made.untyped_storage()._cdata == images.untyped_storage()._cdata
    return made.shape, made.stride(), made.dtype, made.device, is_shared, seen.names


def test_activations_have_torch_s_shapes_strides_and_types() -> None:
    for function in (*ACTIVATIONS, F.gelu, *(partial(f, inplace=True) for f in ACTIVATIONS)):
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.float64):
                images = layout(torch.empty(4, 3, 5, 6, device="meta", dtype=dtype))
                wanted = told(lambda func, args, kwargs: func(*args, **kwargs), function, images)
                assert told(run_on_meta, function, images) == wanted, function

"""The calls of torch's functions in a pass: what they tell that no operator call shows.

Those are values of tensors made from Python numbers, and whether the code of the network meets a
number of channels at all. Code that neither reads a shape nor calls a function that is given one
runs in the same way at all widths, so a smaller network need not be tried to know that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.core.tracing.sources import Sources, digest

__all__ = ["FunctionCalls"]

_FROM_VALUES = (
    torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, Tensor.new_tensor,
)  # fmt: skip


def _read(name: str) -> Any:
    """The function that is called where code reads an attribute of a tensor."""
    return getattr(Tensor, name).__get__


# Functions that neither tell a number of channels nor are given one. A convolution is given one if
# it is grouped: `zoo.core.tracing.trace` looks at those itself.
_WITHOUT_WIDTHS: frozenset[Any] = frozenset(
    (
        torch.conv1d, torch.conv2d, F.linear, F.batch_norm, torch.batch_norm,
        F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, torch.max_pool2d,
        F.relu, F.relu6, F.silu, F.gelu, F.elu, F.leaky_relu, F.mish, F.sigmoid, F.tanh,
        F.hardswish, F.hardsigmoid, F.hardtanh, F.dropout, F.interpolate,
        torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.flatten, torch.mean, torch.cat,
        torch.add, torch.sub, torch.mul, torch.div, torch._assert,
        Tensor.relu, Tensor.relu_, Tensor.sigmoid, Tensor.tanh, Tensor.flatten, Tensor.mean,
        Tensor.add, Tensor.add_, Tensor.sub, Tensor.mul, Tensor.mul_, Tensor.div, Tensor.contiguous,
        Tensor.dim, *(_read(name) for name in ("ndim", "dtype", "device")),
    )
)  # fmt: skip


class FunctionCalls(TorchFunctionMode):
    """Sees the functions that the code of a network calls.

    Args:
        sources: where values made from Python numbers are noted.

    Attributes:
        is_blind: whether no code has met a number of channels up to now: no function tells one or
            takes one.
        is_inside: whether a function is running.
    """

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.is_blind = True
        self.is_inside = False
        self._sources = sources

    def note_width(self) -> None:
        """Note that code has met a number of channels, or may have."""
        self.is_blind = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.is_blind = self.is_blind and func in _WITHOUT_WIDTHS
        self.is_inside = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.is_inside = False
        if func in _FROM_VALUES and isinstance(result, Tensor):
            given = args[1:] if func is Tensor.new_tensor else args
            values = given[0] if given else (kwargs or {}).get("data", (kwargs or {}).get("obj"))
            if not isinstance(values, Tensor) and result.device.type == "meta":
                self._sources.note(result, digest(np.asarray(values)))
        return result

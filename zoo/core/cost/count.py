"""A count of multiply-adds that knows nothing of channels: torch's own formulas, call by call.

It holds the cost model to account: the cost of a configuration must equal the count on the network
that is rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from zoo.core.data.inputs import tensors_of
from zoo.core.tracing.entry import InputSize, blank_inputs, enter
from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta, tensors_in
from zoo.core.tracing.trace import on_meta

__all__ = ["count_macs"]


def count_macs(model: nn.Module, size: InputSize) -> int:
    """Return the multiply-adds of one image, counted while the network runs without data.

    Counted are convolutions and products of which a factor does not depend on the image.

    Args:
        model: any network; not touched.
        size: what enters: (C, H, W) of one image, or an `Entry`, which may name a part.
    """
    meta = on_meta(model)
    inputs = blank_inputs(meta, size)
    counter = _Counter(tensors_of(inputs))
    with torch.no_grad(), counter:
        enter(meta, size, inputs)
    return counter.macs


class _Counter(OperatorMode):
    """Adds up multiply-adds, and follows what depends on the images."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.macs = 0
        self._alive = list(inputs)  # keeps storages from being used again
        self._dependent = {tensor.untyped_storage()._cdata for tensor in self._alive}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = run_on_meta(func, args, kwargs)
        read = tensors_in((args, kwargs))
        made = tensors_in(result)
        dependent = [t.untyped_storage()._cdata in self._dependent for t in read]
        name = str(func.overloadpacket)
        if "conv" in name or not all(dependent[-2:]):  # the factors are read last
            self.macs += _macs(func.overloadpacket, name, args, kwargs, result)
        if any(dependent):
            self._dependent.update(t.untyped_storage()._cdata for t in made)
        self._alive += made
        return result


def _macs(packet: Any, name: str, args: Any, kwargs: Any, result: Any) -> int:
    if name in _BEYOND_TORCH:
        return _BEYOND_TORCH[name](args, result)
    if packet not in flop_registry:
        return 0
    return int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2


# What torch's counter passes over.
_BEYOND_TORCH: dict[str, Callable[[Any, Any], int]] = {
    "aten.mv": lambda args, _: args[0].numel(),
    "aten.addmv": lambda args, _: args[1].numel(),
    "aten.dot": lambda args, _: args[0].numel(),
    "aten.vdot": lambda args, _: args[0].numel(),
    "aten.addbmm": lambda args, _: args[1].numel() * args[2].shape[2],
    "aten._trilinear": lambda args, made: made.numel() * prod(args[1].shape[1:]),
    "aten.conv_tbc": lambda args, made: made.numel() * prod(args[1].shape[:2]),
    "torchvision.deform_conv2d": lambda args, made: made.numel() * prod(args[1].shape[1:]),
}

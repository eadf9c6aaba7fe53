"""Batch norm folded into the convolution before it, as runtimes for deployment do.

In eval mode a batch norm is an affine map of each channel. Where nothing else reads the output of
the convolution in front of it, that map goes into the convolution's weight and bias, and the
network computes the same with fewer passes over memory. Which convolutions these are is read off
one pass on the meta device.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.core.arguments import checked
from zoo.core.tracing.copies import copy_network
from zoo.core.tracing.entry import blank_inputs, image_size
from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta, tensors_in
from zoo.core.tracing.trace import on_meta

__all__ = ["fold_batch_norm"]

_CONVOLUTIONS: frozenset[Any] = frozenset((nn.Conv2d, Conv2dSame))
_CONVOLUTION = "aten.convolution.default"
_BATCH_NORM = "aten.native_batch_norm.default"


@checked()
def fold_batch_norm(model: nn.Module, input_size: Sequence[int]) -> nn.Module:
    """Return a copy in eval mode whose batch norms are folded into the convolutions before them.

    A batch norm stays where it is if it reads anything but the output of one convolution, if
    anything else reads that output, or if one of the two is not of torch's own class or timm's (of
    a derived class, or with a parametrization), has a forward hook or a forward method of its own.

    Args:
        model: the network; it is not touched.
        input_size: (C, H, W) of one image.

    Raises:
        UnsupportedModel: if the model cannot be copied.
    """
    folded = copy_network(model).eval()
    modules = dict(folded.named_modules())
    for convolution, norm in _pairs(model, input_size):
        _fold(modules[convolution], modules[norm])
    return folded


def _fold(convolution: Any, norm: Any) -> None:  # Any: of classes that are looked at first
    """Fold two layers in place, wherever else the network holds them, if that is exact."""
    rest = _without_statistics(norm)
    if rest is None or type(convolution) not in _CONVOLUTIONS:
        return
    if _is_changed(convolution) or _is_changed(norm):
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias,
        norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
    )  # fmt: skip
    vars(norm).update(vars(rest.eval()))  # code may read the other attributes
    object.__setattr__(norm, "__class__", type(rest))


def _is_changed(layer: nn.Module) -> bool:
    """Whether calling a layer is more than what its class does."""
    own = vars(layer)
    return bool(own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own)


def _pairs(model: nn.Module, input_size: Sequence[int]) -> list[tuple[str, str]]:
    """Paths of the convolutions that a batch norm alone reads, each with that batch norm."""
    meta = on_meta(model)
    reader = _Reader(meta)
    with torch.no_grad(), reader:
        outputs = meta(blank_inputs(meta, image_size(input_size)))
    reader.note(outputs)
    return [
        (convolution, norm)
        for made, (convolution, norm) in reader.pairs.items()
        if reader.reads[made] == 1 and all(reader.calls[path] == 1 for path in (convolution, norm))
    ]


class _Reader(OperatorMode):
    """Counts how often every tensor is read, and notes which batch norm reads a convolution.

    Attributes:
        reads: by identity of the tensor, which is kept alive.
        calls: how many operators read a tensor of a module, by the module's path.
        pairs: by identity of the tensor between them, paths of convolution and batch norm.
    """

    def __init__(self, meta: nn.Module) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()
        self.calls: Counter[str] = Counter()
        self.pairs: dict[int, tuple[str, str]] = {}
        self._owners = {
            id(tensor): path
            for path, module in meta.named_modules()
            if isinstance(module, nn.Conv2d | nn.modules.batchnorm._BatchNorm)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._makers: dict[int, str] = {}
        self._alive: list[Tensor] = []

    def note(self, values: object) -> None:
        """Count every tensor among some values as read once more."""
        self.reads.update(id(tensor) for tensor in tensors_in(values))

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.note((args, kwargs))
        owner = self._owners.get(id(args[1])) if len(args) > 1 else None
        result = run_on_meta(func, args, kwargs)  # a batch norm in one call, not its decomposition
        known = (self._owners.get(id(tensor)) for tensor in tensors_in((args, kwargs)))
        self.calls.update({path for path in known if path is not None})
        if owner is not None:
            if str(func) == _CONVOLUTION:
                self._makers[id(result)] = owner
            elif str(func) == _BATCH_NORM and id(args[0]) in self._makers:
                self.pairs[id(args[0])] = self._makers[id(args[0])], owner
        self._alive += tensors_in((args, result))
        return result


def _without_statistics(norm: nn.Module) -> nn.Module | None:
    """The rest of a batch norm without its affine map; None for an unknown kind."""
    if getattr(norm, "running_mean", None) is None:
        return None
    if type(norm) is BatchNormAct2d:
        parts = {name: norm.get_submodule(name) for name in ("drop", "act")}
        return nn.Sequential(OrderedDict(parts))
    return nn.Identity() if type(norm) is nn.BatchNorm2d else None

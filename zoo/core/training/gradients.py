"""The one way to gradients: around a kernel of torch that writes past its buffer on CPUs.

oneDNN (seen in 3.12, part of torch 2.14) steps through a scratch buffer of strided 1 x 1
convolutions by 8 (AVX2) or 16 (AVX-512) channels a position, though it holds as many as the layer
reads. The gradient of the weight of a layer that reads fewer, in channels_last memory, then
overwrites what lies behind the buffer: the process dies or hangs, or goes on with wrong numbers.
https://github.com/uxlfoundation/oneDNN/issues/6035

A strided 1 x 1 convolution reads every s-th position and nothing else, so its gradients are those
of the same convolution with stride 1 at these positions. Before each pass back we look through its
graph for such layers, be they modules, slices of a supernet or functions, and lead those around
the kernel; no module, hook or state dict changes, and all other layers run as ever. That look is a
hundredth of the smallest step; a kernel of our own for all convolutions (`guard`) is up to six, so
it is for code that we cannot look into. `docs/convolutions.md` tells what a user's own training
risks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.utils._python_dispatch import _push_mode

from zoo.core.tracing.operator_mode import OperatorMode

__all__ = [
    "LEAST_CHANNELS",
    "backward",
    "gradients",
    "guard",
    "guard_against",
    "is_guarded",
    "is_unsafe",
]

LEAST_CHANNELS = 16
"""Channels that a strided 1 x 1 convolution must read, per group, for torch's kernel to be right.

The block of AVX-512; 8 would do for AVX2, but results must not depend on the kind of CPU.
"""

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

_OWN = ("zoo", "baselines", "benchmarks", "torch")


def backward(loss: Tensor) -> None:
    """Add the gradients of a loss to the leaves it depends on, as ``loss.backward()`` does.

    Args:
        loss: a scalar.
    """
    _lead_around(loss)
    torch.autograd.backward(loss)


def gradients(loss: Tensor, leaves: Sequence[Tensor], *, zeros: bool = False) -> list[Tensor]:
    """Gradients of a loss with respect to tensors, one for each, of their shapes.

    Args:
        loss: a scalar.
        leaves: what to differentiate by.
        zeros: return zeros for tensors that the loss does not depend on, which are an error
            otherwise.
    """
    _lead_around(loss)
    return list(torch.autograd.grad(loss, leaves, materialize_grads=zeros))


def _lead_around(loss: Tensor) -> None:
    """Have the narrow strided layers of a graph led around the kernel when it is passed back."""
    if is_guarded() or not loss.is_cpu:  # all layers are, or the kernel is another
        return
    nodes, is_opaque = _narrow_strided(loss.grad_fn)
    if is_opaque:
        guard()
        return
    for node in nodes:
        node.register_prehook(_enter)


def _narrow_strided(root: Node | None) -> tuple[list[Node], bool]:
    """The unsafe convolutions of a graph, and whether some part of it cannot be looked into.

    Opaque are nodes that are not torch's own formulas: a compiled or scripted graph, a checkpoint
    that computes its part anew, a function with a backward pass in Python.
    """
    found: list[Node] = []
    is_opaque = False
    seen = {root}
    ahead = [] if root is None else [root]
    while ahead:
        node = ahead.pop()
        kind = type(node)
        if kind is _CONVOLUTION:
            if _is_narrow_strided(node):
                found.append(node)
        elif kind not in _FORMULAS:
            is_opaque = True
        for after, _ in node.next_functions:
            # Leaves are half of a graph and lead nowhere.
            if after is None or type(after) is _LEAF or after in seen:
                continue
            seen.add(after)
            ahead.append(after)
    return found, is_opaque


# Of torch._C, as the parts of a graph have no public types.
_FORMULAS = frozenset(kind for kind in vars(torch._C._functions).values() if isinstance(kind, type))
_CONVOLUTION = torch._C._functions.ConvolutionBackward0  # type: ignore[attr-defined]
_LEAF: Any = torch._C._functions.AccumulateGrad


def _is_narrow_strided(node: Any) -> bool:
    stride = node._saved_stride
    is_strided = max(stride) > 1 and not node._saved_transposed
    return is_strided and is_unsafe(node._saved_weight.shape, stride)


class _Around(OperatorMode):
    """In force in one thread, while one convolution is passed back."""

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            return _around(func, *args, **kwargs)
        return func(*args, **kwargs)


_AROUND = _Around()


def _enter(outer: object) -> None:
    """Put `_Around` in force; torch itself ends what a node has put in force, with the node."""
    _push_mode(_AROUND)


def guard_against(code: type) -> None:
    """`guard`, if a class is neither ours nor torch's: its code may differentiate by itself."""
    if code.__module__.split(".")[0] not in _OWN:
        guard()


@cache
def guard() -> None:
    """Lead every backward pass of this process around the kernel, from now on and in all threads.

    It replaces torch's own function in torch's registry, so it meets code that does not ask for
    it. It stays, because a kernel that is taken away while another thread calls it is a crash of
    its own.
    """
    original = torch.library.get_kernel("aten::convolution_backward", "CPU")

    def around(keys: torch.DispatchKeySet, *args: Any) -> _Gradients:
        return _around(partial(original.call_boxed, keys), *args)

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl(  # type: ignore[no-untyped-call]
        "convolution_backward", around, "CPU", with_keyset=True
    )
    _libraries.append(library)


_libraries: list[Any] = []  # one that is collected takes its functions with it


def is_guarded() -> bool:
    """Whether `guard` was called in this process."""
    return bool(_libraries)


def is_unsafe(weight: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether torch's gradient of a convolution may be wrong on some CPU.

    Args:
        weight: its shape, (C_out, C_in / groups, kernel...).
        stride: of each dimension.
    """
    return weight[1] < LEAST_CHANNELS and max(stride) > 1 and max(weight[2:]) == 1


def _around(
    original: Callable[..., _Gradients],
    outer: Tensor,
    images: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> _Gradients:
    """Gradients of input, weight and bias of a convolution, by ``original`` with a stride it can.

    Arguments after the first are those of ``aten::convolution_backward``.
    """
    rest = (dilation, transposed, output_padding, groups, wanted)
    if transposed or not is_unsafe(weight.shape, stride):
        return original(outer, images, weight, bias_sizes, stride, padding, *rest)
    is_padded = any(padding)
    sides = [side for p in reversed(padding) for side in (p, p)]
    padded = F.pad(images, sides) if is_padded else images
    read = (slice(None), slice(None), *(slice(None, None, s) for s in stride))
    ones, none = [1] * len(stride), [0] * len(stride)
    of_read, of_weight, of_bias = original(
        outer, padded[read], weight, bias_sizes, ones, none, *rest
    )
    if of_read is None:
        return None, of_weight, of_bias
    whole = torch.zeros_like(padded)
    whole[read] = of_read
    if is_padded:
        inside = zip(padding, padded.shape[2:], strict=True)
        whole = whole[(slice(None), slice(None), *(slice(p, n - p) for p, n in inside))].clone()
    return whole, of_weight, of_bias

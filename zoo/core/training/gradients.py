"""The one way to gradients: around a kernel of torch that writes past its buffer on CPUs.

oneDNN (seen in 3.12, part of torch 2.14) steps through a scratch buffer of strided 1 x 1
convolutions by 8 (AVX2) or 16 (AVX-512) channels a position, though it holds as many as the layer
reads. The gradient of the weight of a layer that reads fewer, in channels_last memory, then
overwrites what lies behind the buffer: the process dies or hangs, or goes on with wrong numbers.
https://github.com/uxlfoundation/oneDNN/issues/6035

A strided 1 x 1 convolution reads every s-th position and nothing else, so its gradients are those
of the same convolution with stride 1 at these positions. torch's own registry lets a kernel be
replaced for certain arguments: no module, hook or state dict changes, and what counts are the
tensors that a step really meets, be it a layer, a slice of a supernet or a function. What this
means for trainings of a user's own is told in `docs/convolutions.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LEAST_CHANNELS", "backward", "gradients", "guard", "is_unsafe"]

LEAST_CHANNELS = 16
"""Channels that a strided 1 x 1 convolution must read, per group, for torch's kernel to be right.

The block of AVX-512; 8 would do for AVX2, but results must not depend on the kind of CPU.
"""

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def backward(loss: Tensor) -> None:
    """Add the gradients of a loss to the leaves it depends on, as ``loss.backward()`` does.

    Args:
        loss: a scalar.
    """
    guard()
    torch.autograd.backward(loss)


def gradients(loss: Tensor, leaves: Sequence[Tensor], *, zeros: bool = False) -> list[Tensor]:
    """Gradients of a loss with respect to tensors, one for each, of their shapes.

    Args:
        loss: a scalar.
        leaves: what to differentiate by.
        zeros: return zeros for tensors that the loss does not depend on, which are an error
            otherwise.
    """
    guard()
    return list(torch.autograd.grad(loss, leaves, materialize_grads=zeros))


@cache
def guard() -> None:
    """Lead every backward pass of this process around the kernel, from now on and in all threads.

    Called by `backward` and `gradients`; who runs code that may differentiate by itself, such as a
    loss, calls it before. It stays, because a kernel that is taken away while another thread calls
    it is a crash of its own.
    """
    original = torch.library.get_kernel("aten::convolution_backward", "CPU")

    def around(
        keys: torch.DispatchKeySet,
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
        rest = (dilation, transposed, output_padding, groups, wanted)
        if transposed or not is_unsafe(weight.shape, stride):
            found: _Gradients = original.call_boxed(
                keys, outer, images, weight, bias_sizes, stride, padding, *rest
            )
            return found
        spread = _Spread(images, outer.shape[2:], stride, padding)
        ones, none = [1] * len(stride), [0] * len(stride)
        inner, *others = original.call_boxed(
            keys, outer, spread.read, weight, bias_sizes, ones, none, *rest
        )
        return (None if inner is None else spread.back(inner), *others)

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl(  # type: ignore[no-untyped-call]
        "convolution_backward", around, "CPU", with_keyset=True
    )
    _kept.append(library)


_kept: list[Any] = []  # a library that is collected takes its kernels with it


def is_unsafe(weight: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether torch's gradient of a convolution may be wrong on some CPU.

    Args:
        weight: its shape, (C_out, C_in / groups, kernel...).
        stride: of each dimension.
    """
    return weight[1] < LEAST_CHANNELS and max(stride) > 1 and max(weight[2:]) == 1


class _Spread:
    """The positions that a strided 1 x 1 convolution reads, and the way back to all positions."""

    def __init__(
        self, images: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        sides = [side for p in reversed(padding) for side in (p, p)]
        self.padded = F.pad(images, sides) if any(padding) else images
        steps = [slice(0, (n - 1) * s + 1, s) for n, s in zip(size, stride, strict=True)]
        self.places = (slice(None), slice(None), *steps)
        inside = zip(padding, images.shape[2:], strict=True)
        self.inside = (slice(None), slice(None), *(slice(p, p + n) for p, n in inside))
        self.read = self.padded[self.places]

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of all positions from that of the positions read."""
        whole = torch.zeros_like(self.padded)
        whole[self.places] = gradient
        part = whole[self.inside]
        return part if part.shape == whole.shape else part.clone()

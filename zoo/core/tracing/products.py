"""Multiply-adds of one operator call: every convolution, and every product with a parameter.

What counts is the call, whatever is known of its channels: transposed and grouped convolutions,
weights that are computed from parameters, einsum. A product of two tensors that both depend on the
images (attention) is left out, as in the published figures.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zoo.core.tracing.atoms import Product
from zoo.core.tracing.flow import Call, Flow
from zoo.core.tracing.sources import Sources

__all__ = ["note_product"]

_Dims = list[tuple[Tensor, int]]  # the dimensions whose sizes multiply to the multiply-adds

# operator -> the two factors of the product: names of its arguments
_MATRIX_PRODUCTS = {
    "mm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "bmm": ("self", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"),
    "addmv": ("mat", "vec"),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
}


def note_product(flow: Flow, sources: Sources, call: Call) -> None:
    """Add the multiply-adds of a call to the trace, if it is a product that counts.

    Args:
        flow: labels of the pass, and its trace.
        sources: says which tensors depend on the images.
        call: the operator call.
    """
    dims = _factors(sources, call)
    if dims is None:
        return
    labels, constant = [], 1
    for tensor, dim in dims:
        label = flow.get(tensor).get(dim)
        if label is None:
            constant *= tensor.shape[dim]
        else:
            labels.append(label)
    flow.trace.products.append(Product(flow.where, constant, tuple(labels)))


def _factors(sources: Sources, call: Call) -> _Dims | None:
    """The dimensions whose sizes multiply to the multiply-adds of a call; None if none count."""
    if call.name in _CONVOLUTIONS:
        return _CONVOLUTIONS[call.name](call)
    if call.name in _MATRIX_PRODUCTS:
        left, right = (call.bound[name] for name in _MATRIX_PRODUCTS[call.name])
        if sources.holds_images(left) and sources.holds_images(right):
            return None
        return [*_all(left), *([(right, right.ndim - 1)] if right.ndim > 1 else [])]
    if call.name == "_trilinear":
        three = [call.bound[f"i{place}"] for place in (1, 2, 3)]
        return _trilinear(call) if sum(map(sources.holds_images, three)) < 3 else None
    return None


def _convolution(call: Call) -> _Dims:
    weight = call.bound["weight"]
    positions = call.bound["input"] if call.bound.get("transposed") else call.outputs[0]
    return [*_all(weight), *(place for place in _all(positions) if place[1] != 1)]


def _convolution_in_time(call: Call) -> _Dims:
    return [*_all(call.bound["weight"]), (call.outputs[0], 0), (call.outputs[0], 1)]


_CONVOLUTIONS: dict[str, Callable[[Call], _Dims]] = {
    "convolution": _convolution,
    "torchvision.deform_conv2d": _convolution,
    "conv_tbc": _convolution_in_time,
}


def _trilinear(call: Call) -> _Dims:
    """Every dimension once: each is one of those that a factor has and does not repeat."""
    found: dict[int, tuple[Tensor, int]] = {}
    for place in (1, 2, 3):
        tensor, added = call.bound[f"i{place}"], set(call.bound[f"expand{place}"])
        own = [dim for dim in range(tensor.ndim + len(added)) if dim not in added]
        for dim, where in enumerate(own):
            if tensor.shape[dim] > 1:
                found.setdefault(where, (tensor, dim))
    return list(found.values())


def _all(tensor: Tensor) -> _Dims:
    return [(tensor, dim) for dim in range(tensor.ndim)]

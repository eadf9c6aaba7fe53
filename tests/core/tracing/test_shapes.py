"""Rules for shapes give what torch gives on the meta device, wherever they answer at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zoo.core.tracing.shapes import shape_rule

ATEN = torch.ops.aten
SHAPES = [
    (1, 1, 1, 1), (1, 3, 1, 1), (1, 1, 5, 5), (1, 4, 5, 6), (2, 4, 5, 1), (1, 4, 1, 6),
    (3, 1, 5, 6), (2, 4, 5, 6), (4, 5), (1, 5), (1, 1), (2, 3, 4), (5,), (0, 3, 2, 2),
]  # fmt: skip
PLAIN = (
    "relu", "gelu", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "sigmoid", "silu",
    "tanh",
)  # fmt: skip
ACTIVATIONS = (*PLAIN, *(f"{name}_" for name in PLAIN))


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)


def in_channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda tensor: tensor,
    in_channels_last,
    lambda tensor: tensor.transpose(0, -1),
    lambda tensor: tensor.double(),
)


def answers(func: Any, *args: Any) -> int:
    """Hold the rule of an operator against torch; tell whether it had an answer."""
    rule = shape_rule(str(func))
    assert rule is not None, func
    found = rule(args, {})
    if found is None:
        return 0
    wanted = func(*args)
    told, expected = (
        r[0] if isinstance(r, tuple) else r for r in (found, wanted)
    )  # the statistics of a norm are read by nobody
    for name in ("shape", "dtype", "device"):
        assert getattr(told, name) == getattr(expected, name), (func, name)
    assert told.stride() == expected.stride(), func
    assert any(told is a for a in args) == any(expected is a for a in args), func
    return 1


def test_activations() -> None:
    found = [
        answers(getattr(ATEN, name).default, layout(empty(*shape)))
        for name, shape, layout in product(ACTIVATIONS, SHAPES, LAYOUTS)
    ]
    assert sum(found) > len(found) / 2


def test_sums_and_products_of_two() -> None:
    found = [
        answers(getattr(ATEN, name).Tensor, layout(empty(*left)), empty(*right))
        for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")
        for left, right, layout in product(SHAPES, SHAPES, LAYOUTS)
    ]
    assert sum(found) > len(SHAPES)


def test_means() -> None:
    found = 0
    for shape in SHAPES:
        for count in range(1, min(3, len(shape)) + 1):
            for dims in permutations(range(-len(shape), len(shape)), count):
                for keeps in ((), (True,), (False,)):
                    found += answers(ATEN.mean.dim, empty(*shape), list(dims), *keeps)
    assert found > 100


def test_joined_tensors() -> None:
    found = 0
    for shape, layout in product(SHAPES, LAYOUTS):
        for dim in range(-len(shape), len(shape)):
            longer = list(shape)
            longer[dim] += 2
            found += answers(ATEN.cat.default, [layout(empty(*shape)), empty(*longer)], dim)
            found += answers(ATEN.cat.default, [layout(empty(*shape))] * 3, dim)
    assert found > 50


def test_linear_layers() -> None:
    for rows, read, made in product((1, 2), (1, 3), (1, 4)):
        bias, images = empty(made), empty(rows, read)
        assert answers(ATEN.addmm.default, bias, images, empty(made, read).t())


@given(data=st.data())
def test_convolutions(data: st.DataObject) -> None:
    def drawn(*values: int) -> int:
        return data.draw(st.sampled_from(values))

    ndim, groups = drawn(1, 2, 3), drawn(1, 2, 4)
    read, made = groups * drawn(1, 2, 3), groups * drawn(1, 2)
    images = empty(drawn(1, 2), read, *(drawn(1, 4, 7, 8) for _ in range(ndim)))
    weight = empty(made, read // groups, *(drawn(1, 2, 3, 5) for _ in range(ndim)))
    if drawn(0, 1):
        images = in_channels_last(images)
    if drawn(0, 1):
        weight = in_channels_last(weight)
    numbers = ([drawn(*values) for _ in range(ndim)] for values in ((1, 2, 3), (0, 1, 2), (1, 2)))
    bias = empty(made) if drawn(0, 1) else None
    answers(ATEN.convolution.default, images, weight, bias, *numbers, False, [0] * ndim, groups)


def test_new_tensors() -> None:
    rule = shape_rule("aten.empty.memory_format")
    assert rule is not None
    meta = torch.device("meta")
    for shape, dtype in product(SHAPES, (None, torch.float64, torch.uint8)):
        given = {"dtype": dtype, "device": meta, "pin_memory": False}
        found, wanted = rule((shape,), given), ATEN.empty.memory_format(shape, **given)
        for name in ("shape", "dtype", "device"):
            assert getattr(found, name) == getattr(wanted, name), (shape, dtype, name)
        assert found.stride() == wanted.stride()
    for given in (
        {},
        {"device": torch.device("cpu")},
        {"device": meta, "layout": torch.sparse_coo},
        {"device": meta, "memory_format": torch.channels_last},
    ):
        assert rule(((1, 2, 3, 4),), given) is None


def test_what_does_not_fit_is_left_to_torch() -> None:
    images, usual = empty(1, 4, 8, 8), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    rule = shape_rule("aten.convolution.default")
    assert rule is not None
    assert rule((images, empty(2, 4, 3, 3), None, *usual), {}) is not None
    for weight, bias in (
        (empty(2, 3, 3, 3), None),  # reads other channels
        (empty(2, 4, 9, 9), None),  # covers more than the image
        (empty(2, 4, 3, 3), empty(3)),  # another bias
        (empty(2, 4, 3, 3, dtype=torch.float64), None),
    ):
        assert rule((images, weight, bias, *usual), {}) is None
    assert answers(ATEN.add.Tensor, images, empty(1, 3, 8, 8)) == 0
    assert answers(ATEN.add_.Tensor, images, empty(2, 4, 8, 8)) == 0
    assert answers(ATEN.addmm.default, empty(2), empty(1, 4), empty(3, 2)) == 0
    assert answers(ATEN.cat.default, [images, empty(1, 4, 8, 7)], 1) == 0

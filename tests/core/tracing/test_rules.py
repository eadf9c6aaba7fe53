"""Labels under a view, against labels written out for every element."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.core.tracing.rules import labels_after_view

SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5)


def regrouped(factors: Sequence[int], cuts: Sequence[bool]) -> list[int]:
    """Multiply neighbouring factors that are not cut apart."""
    shape = [1]
    for factor, cut in zip(factors, cuts, strict=True):
        if cut:
            shape.append(factor)
        else:
            shape[-1] *= factor
    return shape


@given(factors=SIZES, data=st.data())
def test_a_view_moves_labels_as_it_moves_elements(factors: list[int], data: st.DataObject) -> None:
    cuts = st.lists(st.booleans(), min_size=len(factors), max_size=len(factors))
    old, new = (regrouped(factors, data.draw(cuts)) for _ in range(2))
    wide = [dim for dim, size in enumerate(old) if size > 1]
    if not wide:
        return
    dim = data.draw(st.sampled_from(wide))
    label = torch.arange(old[dim])
    shape = [1] * len(old)
    shape[dim] = old[dim]
    written_out = label.reshape(shape).expand(old).reshape(new)
    assert torch.equal(labels_after_view(label, dim, old, new), written_out)


def test_a_view_that_keeps_a_dimension_apart_writes_out_none_of_its_elements() -> None:
    old, new = (512, 256, 3, 3), (1, 512, 256 * 9)  # as standardised weights are normalised
    made = labels_after_view(torch.arange(512), 0, old, new)
    assert made.shape == new and made.untyped_storage().nbytes() == 8 * 512
    read = labels_after_view(torch.arange(256), 1, old, new)
    assert read.untyped_storage().nbytes() == 8 * prod(new) // 512

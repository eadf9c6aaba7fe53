"""What tells two networks apart: what they put out for images that are the same everywhere."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.networks.saving import SIZE, Backbone, fresh
from zoo.core.networks.check_output import check_output, different_output


class Wrapped:
    """What some libraries return: no tensor, tuple or dict."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.note = logits, "text"


@pytest.mark.parametrize(
    "form",
    [lambda x: (x, x[:, :2]), lambda x: {"a": x, "b": [x]}, Wrapped],
    ids=["tuple", "dict", "object"],
)
def test_outputs_of_any_form_are_compared(form: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Backbone(form)
    found = check_output(model, SIZE)
    assert different_output(found, check_output(model, SIZE)) is None
    model.second.stride = (1, 1)
    assert different_output(found, check_output(model, SIZE)) is not None


def test_a_forward_pass_in_float32_inside_gets_the_tolerance_of_float32() -> None:
    class Single(Backbone):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x).float()

    assert check_output(Single(nn.Identity()), SIZE).coarsest == "float32"
    assert check_output(Backbone(nn.Identity()), SIZE).coarsest == "float64"

    class Stubborn(Backbone):  # runs in nothing but float32
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) @ torch.ones(4, 4)

    assert check_output(Stubborn(nn.Identity()), SIZE).dtype == "float32"


def test_the_output_is_the_same_for_another_order_of_sums() -> None:
    model = fresh("resnet18")
    single = check_output(model, SIZE, "float32")
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for dtype in ("float64", "float32"):
        found = check_output(model, SIZE, dtype)  # type: ignore[arg-type]
        assert different_output(found, check_output(last, SIZE, dtype)) is None  # type: ignore[arg-type]
    assert different_output(single, check_output(model, SIZE)) is None  # by float32's tolerance


def test_the_check_images_are_those_of_every_machine() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.one * torch.stack([x.abs().sum(), x[0, 0, 0, 0], x[0, 2, -1, -1]])

    found = check_output(Sums(), (3, 17, 18)).values
    # The first byte of shake_256(b"image N") for each image, by hand, and the sum by one line of
    # Python over the digests; hashlib is a standard, so this holds on any machine.
    first = [hashlib.shake_256(b"image %d" % n).digest(1)[0] for n in range(4)]
    contrasts = (0.5, 2.0, 16.0, 128.0)
    expected = [c * (f - 127.5) / 74.0 for c, f in zip(contrasts, first, strict=True)]
    assert [row[1] for row in found] == pytest.approx(expected, rel=1e-15)
    digest = hashlib.shake_256(b"image 0").digest(3 * 17 * 18)
    assert found[0][0] == pytest.approx(sum(0.5 * abs(b - 127.5) / 74.0 for b in digest), rel=1e-12)
    assert found[0][2] == pytest.approx(0.5 * (digest[-1] - 127.5) / 74.0, rel=1e-15)

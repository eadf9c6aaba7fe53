"""Taps see what modules return and leave nothing behind; losses have the values stated."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from zoo.core.training.distill import (
    Taps,
    feature_error,
    relative_feature_error,
    soft_cross_entropy,
)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_taps_keep_what_the_modules_return() -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    names = [info["module"] for info in model.feature_info][1:]
    _, expected = model.forward_intermediates(images)
    with Taps(model, names) as taps:
        model(images)
        for name, feature in zip(names, expected[1:], strict=True):
            assert torch.equal(taps.features[name], feature)


def test_taps_are_gone_after_the_context_even_when_it_raises() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(KeyError), Taps(model, ["0"]):
        assert hooks(model) == 1
        raise KeyError
    assert hooks(model) == 0


def test_gradients_pass_through_taps() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with Taps(model, ["0"]) as taps:
        model(torch.ones(1, 2))
        taps.features["0"].sum().backward()
    assert model[0].weight.grad is not None
    assert model[1].weight.grad is None


def test_an_output_that_is_changed_in_place_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    with Taps(model, ["0"]) as taps, torch.no_grad():
        model(torch.ones(1, 2))
        with pytest.raises(RuntimeError, match="output of 0 was changed in place"):
            _ = taps.features


def test_an_unknown_module_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'layer1'"):
        Taps(timm.create_model("test_resnet"), ["layer_1"])


def test_feature_error_is_the_mean_squared_difference() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert feature_error(student, teacher).item() == 2.5


@pytest.mark.parametrize("shape", [(64, 5), (8, 5, 3, 3)])
def test_predicting_the_mean_of_each_channel_has_relative_error_1(shape: tuple[int, ...]) -> None:
    teacher = 100 * torch.randn(shape, dtype=torch.float64) + 7
    dims = [dim for dim in range(len(shape)) if dim != 1]
    student = teacher.mean(dim=dims, keepdim=True).expand(shape)
    # The epsilon beside a variance of 10,000.
    assert relative_feature_error(student, teacher).item() == pytest.approx(1.0, abs=1e-9)


def test_relative_error_does_not_depend_on_the_scale() -> None:
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    errors = [relative_feature_error(s * student, s * teacher).item() for s in (1.0, 1000.0)]
    # The epsilon weighs 1e-6 of a variance of about 1.
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_a_constant_feature_does_not_divide_by_zero() -> None:
    assert math.isfinite(relative_feature_error(torch.zeros(2, 3), torch.ones(2, 3)).item())


def test_soft_cross_entropy_is_the_divergence_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    # Single precision.
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(by_hand, rel=1e-5)
    assert soft_cross_entropy(teacher, teacher, 4.0).item() == pytest.approx(0.0, abs=1e-6)


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    sizes = []
    for temperature in (10.0, 100.0):
        student = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor([[1.0, -1.0, 0.5, 0.0]], dtype=torch.float64)
        soft_cross_entropy(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())  # type: ignore[union-attr]
    # Equal in the limit of high temperature; at 10 the next order is a few per cent.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("loss", [feature_error, relative_feature_error, soft_cross_entropy])
def test_losses_refuse_other_shapes_and_give_the_teacher_no_gradient(loss) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\) differ"):
        loss(torch.ones(2, 3), torch.ones(2, 4))
    student, teacher = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None

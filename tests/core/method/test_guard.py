"""What methods may not leave behind: a changed network, and torch's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import zoo
from baselines.l1_norm import L1Norm
from tests.tiny_network import IMAGES, Tiny, network
from tests.tiny_network import pruned as tiny_pruned
from zoo.core.method.guard import left_alone
from zoo.core.method.problem import Problem


@dataclass(frozen=True)
class Careless(L1Norm):
    """Works on the network that it is given, and leaves what it did there."""

    leave: ClassVar[Callable[[Tiny], object]] = staticmethod(lambda model: None)
    answer: ClassVar[bool] = True

    def search(self, problem: Problem) -> zoo.Subnet:
        subnet = super().search(problem)
        type(self).leave(problem.model)  # type: ignore[arg-type]
        return subnet if self.answer else None  # type: ignore[return-value]


def pruned(leave: Callable[[Tiny], object], answer: bool = True) -> zoo.PruneResult:
    class Left(Careless):
        pass

    Left.leave, Left.answer = staticmethod(leave), answer
    return tiny_pruned(method=Left())


@pytest.mark.parametrize(
    ("leave", "named"),
    [
        (lambda model: model.first.weight.data.mul_(0.5), "tensor first.weight"),
        (lambda model: model.norm.running_var.add_(1e-3), "tensor norm.running_var"),
        (lambda model: model.norm.train(), "training mode of norm"),
        (lambda model: model.requires_grad_(False), "requires_grad of first.weight"),
        (lambda model: model.head.register_parameter("bias", None), "tensor head.bias"),
        (lambda model: model.head.bias.data.fill_(torch.nan), "tensor head.bias"),
    ],
)
def test_a_method_that_changes_its_network_is_refused(
    leave: Callable[[Tiny], object], named: str
) -> None:
    with pytest.raises(ValueError, match=f"Left changed the network .*, {named}: its numbers"):
        pruned(leave)


def test_what_a_network_keeps_of_its_own_passes_is_no_change() -> None:
    class Counting(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            self.last_shape = images.shape
            return super().forward(images)

    model = Counting().eval()
    model.head.bias.data.fill_(torch.nan)
    with left_alone(model, L1Norm()):
        model(IMAGES)
    assert int(model.calls) == 1


def test_settings_of_torch_are_put_back_whatever_comes() -> None:
    def leave(model: nn.Module) -> None:
        torch.set_grad_enabled(False)
        torch.set_num_threads(threads + 1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = not benchmark

    def now() -> tuple[object, ...]:
        is_strict = torch.are_deterministic_algorithms_enabled()
        settings = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
        return (*settings, is_strict, torch.backends.cudnn.benchmark)

    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    before, plain = now(), pruned(lambda model: None)
    result = pruned(leave)  # fine-tuned with gradients
    assert now() == before and result.config == plain.config
    for mine, its in zip(result.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(RuntimeError, match="broken"), left_alone(network(), L1Norm()):
        leave(network())
        raise RuntimeError("broken")
    assert now() == before


def test_a_search_that_returns_no_subnet_is_told() -> None:
    with pytest.raises(TypeError, match="search of Left returned NoneType; return a Subnet"):
        pruned(lambda model: None, answer=False)

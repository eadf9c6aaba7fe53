"""CUDA's rules and counts without CUDA; pytest gets this file by its path, in a process of its own.

See tests/test_pretended_cuda.py.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests import pretended_cuda
from tests.pretended_cuda import pretended

pretended_cuda.install()

from tests.pretended_work import GPU, growth, images  # noqa: E402
from tests.ready import OURS  # noqa: E402
from zoo.core.contract.trial import Trial, same_config  # noqa: E402
from zoo.core.data.batches import Batches  # noqa: E402
from zoo.core.method.discovery import get_pruner  # noqa: E402
from zoo.core.networks.rebuild import rebuild  # noqa: E402


def test_rules_are_those_of_cuda() -> None:
    with pretended():
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        with pytest.raises(RuntimeError, match="one device"):
            there + here
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device=GPU, generator=torch.Generator())
        before = Counter(pretended_cuda.COUNTS)
        assert (there + 1).sum().item() == 6
        assert pretended_cuda.COUNTS - before == {"launch": 2, "wait": 1}
        before = Counter(pretended_cuda.COUNTS)
        there[torch.tensor([0, 1])].cpu()
        assert pretended_cuda.COUNTS - before == {"launch": 1, "to_device": 1, "wait": 1}


def test_batches_are_those_of_a_cpu_and_wait_for_nothing() -> None:
    def through(count: int) -> None:
        for _ in Batches(images(8 * count, True), 8, shuffle=True, device=GPU).epoch(0):
            pass

    with pretended():
        cost = growth(through)
        found = [
            (x.cpu(), y.cpu())
            for x, y in Batches(images(32, True), 8, shuffle=True, device=GPU).epoch(1)
        ]
    assert cost["to_device"] == cost["wait"] == 0 and cost["to_device_unwaited"] == 2
    for (x, y), (a, b) in zip(
        found, Batches(images(32, True), 8, shuffle=True).epoch(1), strict=True
    ):
        assert torch.equal(x, a) and torch.equal(y, b)


@pytest.mark.parametrize("name", OURS)
def test_a_pruner_chooses_as_on_the_cpu(name: str) -> None:
    cls = get_pruner(name)
    there = Trial(cls, "residual").run()
    with pretended():
        trial = Trial(cls, "residual", GPU)
        run = trial.run()
        model = run.problem.model
        small = rebuild(model, trial.space, run.subnet.config, run.subnet.weights)
        assert {str(each.device) for each in small.parameters()} == {GPU}
        loss = trial.pruner.loss(model, small, trial.space, run.subnet.config)
        if loss is not None:
            batch = next(run.problem.data.training._source.epoch(0))
            loss.to(GPU).train()
            loss(small.train(), *batch).backward()
        assert run.before.difference(run.after) is None
    assert same_config(trial.space, there.subnet.config, run.subnet.config)

"""Every pruner that the folder walk finds passes every check.

On one network all checks are made, on a second those that one search answers; the whole grid is
slow. The first has groups with a gate, with depthwise layers and without a norm, the second groups
that reach over additions.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.ready import ready
from zoo.core.contract import checks
from zoo.core.contract.checks import (
    CHECKS,
    Check,
    ContractViolation,
    check_pruner,
    run_check,
)
from zoo.core.contract.trial import NETWORKS, Run, Trial
from zoo.core.method.discovery import get_pruner

NETWORK_CHECKS = [check for check in CHECKS if check.scope == "network"]
CLASS_CHECKS = [check for check in CHECKS if check.scope == "class"]
GPU_CHECKS = [check for check in CHECKS if check.scope == "gpu"]
# These search again: by other rules, by the same seed, and within bounds.
REPEATING = ("config_fits_the_space", "search_is_reproducible", "bounds_are_met")
ONE_SEARCH_CHECKS = [check for check in NETWORK_CHECKS if check.name not in REPEATING]


def broken(checks: Sequence[Check], name: str, network: str) -> list[str]:
    """What a pruner breaks; its searches run once and serve all checks that look at them."""
    trial, found = Trial(get_pruner(name), network), []
    for check in checks:
        try:
            run_check(check, trial)
        except ContractViolation as violation:
            found.append(str(violation))
    return found


@pytest.mark.parametrize("name", ready())
def test_pruner_keeps_the_contract(name: str) -> None:
    assert not broken(NETWORK_CHECKS, name, "squeeze_excite")
    assert not broken(ONE_SEARCH_CHECKS, name, "residual")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ready())
def test_pruner_keeps_the_contract_on_every_network(name: str, network: str) -> None:
    assert not broken(NETWORK_CHECKS, name, network)


@pytest.mark.parametrize("name", ready())
def test_class_keeps_the_contract(name: str) -> None:
    assert not broken(CLASS_CHECKS, name, "residual")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ready())
def test_gpu_decides_as_the_cpu(name: str, network: str) -> None:
    assert not broken(GPU_CHECKS, name, network)


def test_a_gpu_is_compared_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's search is played by one on the CPU that notes what it calculates in."""
    seen = []

    class Noting(Trial):
        """A trial on the CPU, whatever was asked."""

        def run(self, *arguments: Any, **changes: Any) -> Run:
            device, self.device = self.device, "cpu"
            run = super().run(*arguments, **changes)
            weights = {each.dtype for each in run.problem.model.parameters()}
            images, _ = next(iter(run.problem.data.training._source.epoch(0)))
            seen.append((device, weights, images.dtype))
            return run

    monkeypatch.setattr(checks, "Trial", Noting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (check,) = GPU_CHECKS
    assert run_check(check, Trial(get_pruner("l1_norm"), "residual")).status == "passed"
    assert seen == [(name, {torch.float64}, torch.float64) for name in ("cpu", "cuda")]


def test_checks_are_numbered_from_1_to_18() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 19))


def test_outsiders_run_the_whole_contract_in_one_call() -> None:
    outcomes = check_pruner(get_pruner("uniform"), networks=["residual"])
    assert len(REPEATING) == len(NETWORK_CHECKS) - len(ONE_SEARCH_CHECKS)
    assert {outcome.number for outcome in outcomes} == set(range(1, 19))
    assert {outcome.status for outcome in outcomes} <= {"passed", "skipped"}

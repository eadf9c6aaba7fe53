"""Every pruner that the folder walk finds passes every check on every kind of network."""

from functools import cache

import pytest
import torch

from zoo.core.contract.checks import CHECKS, Check, check_pruner, run_check
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.method.discovery import get_pruner, list_pruners


@cache
def trial(name: str, network: str) -> Trial:
    """The searches of one pruner on one network, shared by the checks that look at them."""
    return Trial(get_pruner(name), network)


def cases(scope: str) -> list[object]:
    """All pairs of a check of that scope and a pruner that it is meant for."""
    return [
        pytest.param(check, name, id=f"{check.number}-{check.name}-{name}")
        for check in CHECKS
        for name in list_pruners()
        if check.scope == scope and (scope == "gpu" or check.applies(get_pruner(name)))
    ]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("check", "name"), cases("network"))
def test_pruner_keeps_the_contract(check: Check, name: str, network: str) -> None:
    assert run_check(check, trial(name, network)).status in ("passed", "expected")


@pytest.mark.parametrize(("check", "name"), cases("class"))
def test_class_keeps_the_contract(check: Check, name: str) -> None:
    assert run_check(check, trial(name, "residual")).status in ("passed", "expected")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("check", "name"), cases("gpu"))
def test_gpu_decides_as_the_cpu(check: Check, name: str, network: str) -> None:
    assert run_check(check, trial(name, network)).status in ("passed", "expected")


def test_checks_are_numbered_from_1_to_17() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 18))


def test_outsiders_run_the_whole_contract_in_one_call() -> None:
    outcomes = check_pruner(get_pruner("uniform"), networks=["residual"])
    assert {outcome.number for outcome in outcomes} == set(range(1, 18))
    assert {outcome.status for outcome in outcomes} <= {"passed", "skipped"}

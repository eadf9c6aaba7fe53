"""Every pruner that the folder walk finds passes every check.

On one network all checks are made, on a second those that one search answers; the whole grid is
slow. The first has groups with a gate, with depthwise layers and without a norm, the second groups
that reach over additions.
"""

from collections.abc import Sequence

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
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.method.discovery import get_pruner
from zoo.core.method.pruner import Pruner

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


@pytest.mark.parametrize("tf32", [True, False])
def test_a_gpu_is_compared_without_tf32(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's search is played by one on the CPU that notes the flags."""
    seen = []

    class Noting(Trial):
        """A trial on the CPU, whatever was asked."""

        def __init__(self, cls: type[Pruner], network: str, device: str) -> None:
            seen.append((device, torch.backends.cudnn.allow_tf32))
            seen.append(torch.get_float32_matmul_precision())
            super().__init__(cls, network)

    monkeypatch.setattr(checks, "Trial", Noting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    precision = "high" if tf32 else "highest"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        (check,) = GPU_CHECKS
        outcome = run_check(check, Trial(get_pruner("l1_norm"), "residual"))
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (
            tf32,
            precision,
        )
    finally:
        torch.set_float32_matmul_precision(before)
    assert outcome.status == "passed" and seen == [("cuda", False), "highest"]


def test_checks_are_numbered_from_1_to_18() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 19))


def test_outsiders_run_the_whole_contract_in_one_call() -> None:
    outcomes = check_pruner(get_pruner("uniform"), networks=["residual"])
    assert len(REPEATING) == len(NETWORK_CHECKS) - len(ONE_SEARCH_CHECKS)
    assert {outcome.number for outcome in outcomes} == set(range(1, 19))
    assert {outcome.status for outcome in outcomes} <= {"passed", "skipped"}

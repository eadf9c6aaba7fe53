"""The page of claims: its verdicts follow from records by the rule that it states."""

import json
from pathlib import Path

import pytest

from benchmarks.records.cell import Model
from benchmarks.records.files import write_record
from benchmarks.studies.claims import Claim, claims_page, load_claims, try_claim
from tests.benchmarks.fabricate import cell, record
from tests.benchmarks.figures.test_all_figures import SAMPLE

ROOT = Path(__file__).parents[3]
NEEDS = {"data": "CIFAR-10", "command": "zoo run quick", "images": 1.0, "mmacs": 41}


def claim(kind="difference", **test):
    fields = {"kind": kind, "folder": "f", "model": "tiny_net", "budget": 0.5, "method": "taylor",
              "against": "uniform"}  # fmt: skip
    return Claim.model_validate(
        {"paper": "bnp", "says": "It is better.", "test": {**fields, **test}, "needs": NEEDS}
    )


@pytest.fixture
def results(tmp_path):
    def write(*records):
        for each in records:
            write_record(tmp_path / "f" / "records", each)
        return tmp_path

    return write


def seeds(method, *top1):
    return [record(method, seed=seed, top1=value) for seed, value in enumerate(top1)]


@pytest.mark.parametrize(
    ("top1", "limits", "verdict"),
    [
        ((0.60, 0.71, 0.80), {}, "holds here"),
        ((0.40, 0.51, 0.60), {}, "does not hold here"),
        ((0.40, 0.71, 0.70), {}, "cannot be tested here"),
        ((0.60, 0.71, 0.80), {"at_least": 0.05}, "holds here"),
        ((0.60, 0.71, 0.80), {"at_least": 0.20}, "does not hold here"),
        ((0.60, 0.71, 0.80), {"at_most": 0.0}, "does not hold here"),
        ((0.60,), {}, "cannot be tested here"),
    ],
)
def test_a_verdict_needs_three_seeds_and_an_interval_beyond_the_value(
    results, top1, limits, verdict
):
    folder = results(*seeds("uniform", 0.50, 0.60, 0.70), *seeds("taylor", *top1))
    assert try_claim(claim(**limits), folder).verdict == verdict


def test_one_seed_is_called_one_seed(results):
    outcome = try_claim(claim(), results(*seeds("uniform", 0.5), *seeds("taylor", 0.6)))
    assert outcome.number == "+10.0 points" and outcome.why == "one seed, needs 3"


def test_the_best_other_method_is_the_one_to_beat(results):
    rivals = [*seeds("uniform", 0.1, 0.2, 0.3), *seeds("fpgm", 0.6, 0.7, 0.8)]
    folder = results(*rivals, *seeds("taylor", 0.5, 0.6, 0.7))
    outcome = try_claim(claim("best", against=""), folder)
    assert outcome.verdict == "does not hold here" and "fpgm, the best other" in outcome.setting


def test_a_difference_to_the_parent_is_taken_to_its_own_accuracy(results):
    outcome = try_claim(claim("parent"), results(*seeds("taylor", 0.91, 0.911, 0.909)))
    assert outcome.number.startswith("+1.0 ±") and outcome.verdict == "holds here"


def test_what_was_not_run_is_named(results):
    assert "no records in results/f" in try_claim(claim(), results()).why
    folder = results(*seeds("uniform", 0.5, 0.6, 0.7))
    assert "no record of taylor" in try_claim(claim(), folder).why


def scored(method, seed, scores, seconds):
    spent = {"supernet": {"seconds": seconds}}
    return record(cell=cell(method, 0.35, seed, sample=SAMPLE), scores=scores, spent=spent)


@pytest.fixture
def ranking(results):
    trained = [
        record(cell=cell("standalone", 0.35, s, sample=SAMPLE, member=m), top1=0.5 + 0.1 * m)
        for s in range(3)
        for m in range(4)
    ]
    good = [scored("pse_net", s, (1, 2, 3, 4), 10.0 + 0.1 * s) for s in range(3)]
    bad = [scored("bcnet", s, (4, 3, 2, 1), 40.0) for s in range(3)]
    return results(*trained, *good, *bad)


def test_taus_are_compared_seed_by_seed(ranking):
    outcome = try_claim(claim("tau", method="pse_net", against="bcnet"), ranking)
    assert outcome.number.startswith("+2.00 ±") and outcome.verdict == "holds here"
    turned = try_claim(claim("tau", method="bcnet", against="pse_net"), ranking)
    assert turned.verdict == "does not hold here"


@pytest.mark.parametrize(("limit", "verdict"), [(0.30, "holds here"), (0.16, "does not hold here")])
def test_seconds_are_a_ratio_with_an_upper_limit(ranking, limit, verdict):
    asked = claim("seconds", method="pse_net", against="bcnet", at_most=limit)
    assert try_claim(asked, ranking).verdict == verdict  # 0.25 to 0.255


@pytest.mark.parametrize(
    ("device", "ratio", "verdict"),
    [
        ("cuda", (0.7, 0.8), "holds here"),
        ("cuda", (1.1, 1.3), "does not hold here"),
        ("cuda", (0.95, 1.05), "cannot be tested here"),
        ("cpu", (0.7, 0.8), "cannot be tested here"),
    ],
)
def test_a_runtime_has_to_leave_its_noise_floor_on_the_device_of_the_claim(
    tmp_path, device, ratio, verdict
):
    low, high = ratio
    written = json.loads(min((ROOT / "results" / "references").glob("*.json")).read_text())
    written["pair"]["network"]["name"], written["pair"]["reference"]["name"] = "taylor", "uniform"
    written["device"] = device
    middle = (low + high) / 2
    for measured in written["latency"]:
        measured["ratio"] = {"q25": middle, "median": middle, "q75": middle}
        measured["ratio_interval"] = {"low": low, "high": high, "level": 0.95}
        measured["control_interval"] = {"low": 0.98, "high": 1.02, "level": 0.95}
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "one.json").write_text(json.dumps(written))
    assert try_claim(claim("runtime", device="cuda"), tmp_path).verdict == verdict


def test_every_claim_of_every_paper_has_a_verdict_and_a_way_to_test_it():
    claims = load_claims()
    assert {each.paper for each in claims} == {"knapsack", "bnp", "pse_net", "stagewise"}
    page = claims_page(ROOT / "results")
    for each in claims:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {each.says} |")]
        assert each.needs.command in line
        assert sum(f"**{verdict}" in line for verdict in (
            "holds here", "does not hold here", "cannot be tested here")) == 1  # fmt: skip


def test_the_page_is_made_from_the_records_that_there_are():
    page = (ROOT / "docs" / "claims.md").read_text("utf-8")
    assert page == claims_page(ROOT / "results"), (
        "stale; renew it: python -m benchmarks.studies.claims"
    )


def test_another_network_is_not_the_one_of_the_claim(results):
    folder = results(record(cell=cell("taylor", model=Model(name="other_net"))))
    assert "no record of taylor" in try_claim(claim(), folder).why

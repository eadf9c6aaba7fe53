"""The page of claims: its verdicts follow from records by the rule that it states."""

import json
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.records.cell import Data, Model, Schedule
from benchmarks.studies.claims import Claim, claims_page, load_claims, try_claim
from benchmarks.studies.verdicts import Verdict
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record
from tests.benchmarks.figures.test_all_figures import SAMPLE

ROOT = Path(__file__).parents[3]
ACCURACIES = ("best", "difference", "parent")
NEEDS = {"data": "CIFAR-10", "command": "zoo run quick", "images": 1.0, "mmacs": 41}


def claim(kind="difference", **test):
    fields = {"kind": kind, "folder": "f", "method": "taylor", "against": "uniform"}
    setting = {"model": "tiny_net", "data": "digits", "budget": 0.5}
    tests = [{**fields, **(setting if kind in ACCURACIES else {}), **test}]
    given = {"paper": "bnp", "says": "It is better.", "tests": tests, "needs": NEEDS}
    return Claim.model_validate(given)


def tried(asked, folder):
    (outcome,) = try_claim(asked, folder)
    return outcome


def seeds(method, *top1, budget=0.5, protocol=2, **changes):
    return [
        record(cell=cell(method, budget, seed, protocol=protocol, **changes), top1=value)
        for seed, value in enumerate(top1)
    ]


@pytest.mark.parametrize(
    ("top1", "limits", "verdict"),
    [
        ((0.60, 0.71, 0.80), {}, "points that way here"),
        ((0.40, 0.51, 0.60), {}, "points the other way here"),
        ((0.40, 0.71, 0.70), {}, "cannot be tested here"),
        ((0.60, 0.71, 0.80), {"at_least": 0.05}, "points that way here"),
        ((0.60, 0.71, 0.80), {"at_least": 0.20}, "points the other way here"),
        ((0.60, 0.71, 0.80), {"at_most": 0.0}, "points the other way here"),
        ((0.60, 0.71), {}, "cannot be tested here"),
    ],
)
def test_a_verdict_needs_three_seeds_and_an_interval_beyond_the_value(
    results, top1, limits, verdict
):
    folder = results(*seeds("uniform", 0.50, 0.60, 0.70), *seeds("taylor", *top1))
    assert tried(claim(**limits), folder).verdict == verdict


def test_of_two_processors_the_one_with_the_most_seeds_counts_and_is_named(results):
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})

    def there(*records):
        return [each.model_copy(update={"environment": gpu}) for each in records]

    few = [*seeds("uniform", 0.5, 0.6), *seeds("taylor", 0.9, 0.8)]
    on_gpu = {"device": "cuda"}
    many = [
        *seeds("uniform", 0.50, 0.60, 0.70, **on_gpu),
        *seeds("taylor", 0.40, 0.51, 0.60, **on_gpu),
    ]
    outcome = tried(claim(), results(*few, *there(*many)))
    assert outcome.verdict == "points the other way here"
    assert "trained on GPU 9" in outcome.setting and "3 seeds" in outcome.setting


def test_a_plain_verdict_needs_five_seeds(results):
    base = (0.50, 0.60, 0.70, 0.55, 0.65)
    better = [value + 0.10 + 0.01 * (seed % 2) for seed, value in enumerate(base)]
    folder = results(*seeds("uniform", *base), *seeds("taylor", *better))
    assert tried(claim(), folder).verdict == "holds here"
    assert tried(claim(method="uniform", against="taylor"), folder).verdict == "does not hold here"


@pytest.mark.parametrize("noise", [0.0, 1e-12])
def test_differences_that_do_not_spread_have_no_verdict(results, noise):
    same, better = (0.5, 0.6, 0.7), (0.6, 0.7, 0.8 + noise)
    folder = results(
        *seeds("bnp", *same, settings={"solver": "random"}),
        *seeds("bnp", *better),
        *seeds("bnp", *same, settings={"solver": "exact"}),
        *seeds("uniform", *same),
        *seeds("parent", *same, budget=1.0),
    )
    for kind in ("difference", "parent", "best"):
        outcome = tried(claim(kind, method="bnp"), folder)
        assert outcome.verdict == "cannot be tested here" and "+10.0 ± 0.0" in outcome.number
        assert kind == "best" or outcome.why.endswith("do not spread, so there is no test")
    assert tried(claim(method="uniform", against="bnp"), folder).verdict == outcome.verdict


def test_a_strong_control_that_differs_by_the_same_in_each_seed_has_no_verdict(results):
    folder = results(
        *seeds("bnp", 0.60, 0.71, 0.80),
        *seeds("bnp", 0.50, 0.60, 0.70, settings={"solver": "random"}),
        *seeds("bnp", 0.60, 0.71, 0.80, settings={"solver": "exact"}),
    )
    asked = claim(method="bnp", against="bnp (solver=random)", stronger="bnp (solver=exact)")
    outcome = tried(asked, folder)
    assert outcome.verdict == "cannot be tested here" and "there is no test" in outcome.why


def test_one_seed_is_called_one_seed(results):
    outcome = tried(claim(), results(*seeds("uniform", 0.5), *seeds("taylor", 0.6)))
    assert outcome.number == "+10.0 points" and outcome.why == "one seed, needs 3"


def test_the_best_leads_every_other_method(results):
    close = (0.60, 0.70, 0.80)
    rivals = [*seeds("fpgm", 0.1, 0.2, 0.3), *seeds("uniform", *close)]
    folder = results(*rivals, *seeds("taylor", 0.65, 0.751, 0.85))
    outcome = tried(claim("best", against=""), folder)
    assert outcome.verdict == "points that way here"
    assert outcome.control == "the mean of 2 other methods; the best of them, uniform (L1 norm)"
    results(*seeds("bn_scale", 0.65, 0.75, 0.85))
    assert tried(claim("best", against=""), folder).verdict == "cannot be tested here"


def test_a_loss_to_the_best_of_others_alone_refutes_nothing(results):
    rivals = [*seeds("uniform", 0.1, 0.21, 0.3), *seeds("fpgm", 0.60, 0.70, 0.80)]
    folder = results(*rivals, *seeds("taylor", 0.5, 0.6, 0.7))
    outcome = tried(claim("best", against=""), folder)
    assert outcome.verdict == "cannot be tested here" and "1 of 2 others" in outcome.why
    results(*seeds("bn_scale", 0.91, 0.99, 0.995), *seeds("l1_norm", 0.85, 0.95, 0.98))
    below = tried(claim("best", against=""), folder)
    assert below.verdict == "points the other way here" and "clearly below the mean" in below.why


def test_the_best_of_the_others_is_best_over_the_seeds_that_it_is_compared_over(results):
    lucky = seeds("uniform", 0.70, 0.705, 0.70, 0.95, 0.95, 0.95)  # where nothing else was run
    folder = results(*lucky, *seeds("fpgm", 0.78, 0.785, 0.782), *seeds("taylor", 0.8, 0.81, 0.8))
    outcome = tried(claim("best", against=""), folder)
    assert outcome.control == "the mean of 2 other methods; the best of them, fpgm"
    assert outcome.number.endswith("+2.1 ± 0.4 [+1.8, +2.5] points to fpgm")


def test_others_are_more_accurate_over_the_seeds_that_they_share_with_the_method(results):
    rivals = [*seeds("l1_norm", 0.801, 0.8105, 0.8), *seeds("fpgm", 0.71, 0.712, 0.709)]
    unlucky = seeds("taylor", 0.80, 0.81, 0.80, 0.55, 0.56)  # two seeds that the others lack
    outcome = tried(claim("best", against=""), results(*rivals, *unlucky))
    assert outcome.control.endswith("the best of them, l1_norm")
    assert outcome.why.endswith("; 1 of 2 others are more accurate on average")


def test_a_tie_in_another_order_of_seeds_is_no_better_method(results):
    # The mean of their differences is -2e-17.
    tied, method = seeds("fpgm", 0.84, 0.22, 0.17), seeds("taylor", 0.22, 0.17, 0.84)
    outcome = tried(claim("best", against=""), results(*tied, *method))
    assert outcome.why.endswith("; 0 of 1 others are more accurate on average")


def test_a_control_that_lost_seeds_is_named_with_how_many_failed(results):
    *whole, last = seeds("uniform", 0.3, 0.4, 0.5)
    lost = last.model_copy(update={"status": "failed", "reason": "no memory"})
    folder = results(*whole, lost, *seeds("fpgm", 0.6, 0.7, 0.8), *seeds("taylor", 0.7, 0.81, 0.9))
    told = "uniform (L1 norm), 1 of 3 failed"
    outcome = tried(claim(), folder)
    assert outcome.control == told and outcome.why == "no seed has both results"
    outcome = tried(claim("best", against=""), folder)
    assert outcome.control.endswith("the best of them, fpgm")
    assert outcome.why == f"no lead over each can be told: {told}"


def test_a_control_that_was_trained_longer_is_no_rival(results):
    longer = seeds("uniform", 0.91, 0.95, 0.99, longer=9)
    folder = results(*longer, *seeds("fpgm", 0.1, 0.2, 0.3), *seeds("taylor", 0.5, 0.61, 0.7))
    outcome = tried(claim("best", against=""), folder)
    assert outcome.verdict == "points that way here" and "1 other methods" in outcome.control


def test_variants_of_a_method_are_not_other_methods(results):
    variant = seeds("taylor", 0.9, 0.95, 0.99, settings={"batches": 1})
    folder = results(*variant, *seeds("fpgm", 0.1, 0.2, 0.3), *seeds("taylor", 0.5, 0.61, 0.7))
    outcome = tried(claim("best", against=""), folder)
    assert outcome.verdict == "points that way here" and "best of them, fpgm" in outcome.control


def test_each_other_method_counts_once_in_their_mean_whatever_its_variants(results):
    # Of fpgm 0.2 and 0.4, so 0.3; with uniform's 0.7 the mean is 0.5, and 0.433 would be of three.
    variant = seeds("fpgm", 0.4, 0.5, 0.6, settings={"distance": "cosine"})
    folder = results(*variant, *seeds("fpgm", 0.2, 0.3, 0.4), *seeds("uniform", 0.7, 0.8, 0.9))
    results(*seeds("taylor", 0.6, 0.7, 0.8))
    outcome = tried(claim("best", against=""), folder)
    assert "the mean of 2 other methods" in outcome.control and "1 of 2 others" in outcome.why
    assert outcome.number.startswith("+10.0 ± 0.0 [+10.0, +10.0] points to the mean")


def test_a_budget_of_parameters_is_not_one_of_macs(results):
    worse = seeds("taylor", 0.1, 0.21, 0.3, metric="params")
    better = seeds("uniform", 0.9, 0.95, 0.99, metric="params")
    folder = results(*worse, *better)
    assert "no record of taylor" in tried(claim(), folder).why
    assert tried(claim(metric="params"), folder).verdict == "points the other way here"
    results(*seeds("taylor", 0.60, 0.71, 0.80))
    assert "no record of uniform" in tried(claim(), folder).why
    results(*seeds("uniform", 0.50, 0.60, 0.70))
    assert tried(claim(), folder).verdict == "points that way here"
    assert "mean of 1 other" in tried(claim("best", against=""), folder).control


def test_a_gain_on_the_parent_is_one_on_the_parent_fine_tuned_alike(results):
    # The parents that pruning began with, of 0.9 in every record, are surpassed by both.
    folder = results(*seeds("taylor", 0.91, 0.911, 0.909))
    without = tried(claim("parent"), folder)
    assert (without.verdict, without.number) == ("cannot be tested here", "–")
    assert without.why == "no parent fine-tuned by the same recipe"
    results(*seeds("parent", 0.95, 0.951, 0.951, budget=1.0))
    outcome = tried(claim("parent"), folder)
    assert outcome.number.startswith("-4.1 ±") and outcome.verdict == "points the other way here"
    assert outcome.control == "the parent fine-tuned by the same recipe"


def test_other_methods_of_the_first_protocol_are_no_control(results):
    base, better = (0.50, 0.60, 0.70), (0.60, 0.71, 0.80)
    folder = results(
        *seeds("uniform", *base, protocol=1),
        *seeds("taylor", *better, protocol=1),
        *seeds("taylor", *base, protocol=1, settings={"batches": 1}),
    )
    for asked in (claim(), claim("best", against="")):
        outcome = tried(asked, folder)
        assert outcome.verdict == "cannot be tested here" and "no fair control" in outcome.why
        assert outcome.records == "results/f, protocol 1"
    within = tried(claim(against="taylor (batches=1)"), folder)
    assert within.verdict == "points that way here"
    results(*seeds("uniform", *better), *seeds("taylor", *base))
    assert tried(claim(), folder).verdict == "points the other way here"  # the newer protocol


@pytest.mark.parametrize(
    ("exact", "verdict", "told"),
    [
        ((0.601, 0.708, 0.80), "not supported here", "no difference is seen"),
        ((0.70, 0.81, 0.905), "not supported here", "it is less accurate"),
        ((0.55, 0.66, 0.755), "points that way here", "3 seeds"),
    ],
)
def test_a_lead_over_a_weak_control_needs_one_over_the_strong_control(
    results, exact, verdict, told
):
    folder = results(
        *seeds("bnp", 0.60, 0.71, 0.80),
        *seeds("bnp", 0.50, 0.60, 0.70, settings={"solver": "random"}),
        *seeds("bnp", *exact, settings={"solver": "exact"}),
    )
    asked = claim(method="bnp", against="bnp (solver=random)", stronger="bnp (solver=exact)")
    outcome = tried(asked, folder)
    assert outcome.verdict == verdict and told in outcome.why
    assert outcome.control == "bnp (solver=random); bnp (solver=exact)"
    assert outcome.number.count("points against") == 2


@pytest.mark.parametrize(
    ("is_lost", "why"), [(True, "no seed has both results"), (False, "2 seeds, needs 3")]
)
def test_a_lead_over_a_weak_control_is_no_verdict_where_the_strong_one_lacks_seeds(
    results, is_lost, why
):
    *strong, last = seeds("bnp", 0.601, 0.708, 0.80, settings={"solver": "exact"})
    lost = last.model_copy(update={"status": "failed", "reason": "no memory"})
    folder = results(
        *seeds("bnp", 0.60, 0.71, 0.80),
        *seeds("bnp", 0.50, 0.60, 0.70, settings={"solver": "random"}),
        *strong,
        *([lost] if is_lost else []),
    )
    asked = claim(method="bnp", against="bnp (solver=random)", stronger="bnp (solver=exact)")
    outcome = tried(asked, folder)
    assert (outcome.verdict, outcome.why) == ("cannot be tested here", why)


def test_what_was_not_run_is_named(results):
    assert "no records in results/f" in tried(claim(), results()).why
    folder = results(*seeds("uniform", 0.5, 0.6, 0.7))
    assert "no record of taylor" in tried(claim(), folder).why


def test_a_test_names_its_control_and_no_setting_that_it_does_not_take():
    with pytest.raises(ValueError, match="names its control: add against"):
        claim(against="")
    for setting in ({"model": "tiny_net"}, {"data": "digits"}, {"budget": 0.5}):
        with pytest.raises(ValueError, match="leave out model, data and budget"):
            claim("tau", **setting)
    with pytest.raises(ValueError, match="add at_most"):
        claim("seconds", passes={"against": 2, "beside": "autoslim", "stated": 0.16})


BAD = ((4, 3, 2, 1), (4, 3, 2, 1), (4, 3, 1, 2))
"""Taus of -1, -1 and -2/3: differences that do not spread would have no test."""


def scored(method, seed, scores, seconds):
    spent = {"supernet": {"seconds": seconds, "macs_forward": int(10 * seconds)}}
    return record(cell=cell(method, 0.35, seed, sample=SAMPLE), scores=scores, spent=spent)


@pytest.fixture
def ranking(results):
    trained = [
        record(cell=cell("standalone", 0.35, s, sample=SAMPLE, member=m), top1=0.5 + 0.1 * m)
        for s in range(3)
        for m in range(4)
    ]
    good = [scored("pse_net", s, (1, 2, 3, 4), 10.0 + 0.1 * s) for s in range(3)]
    bad = [scored("bcnet", s, each, 40.0) for s, each in enumerate(BAD)]
    return results(*trained, *good, *bad)


def alone(*top1_by_member, **changes):
    return [
        record(cell=cell("standalone", 0.35, s, sample=SAMPLE, member=m, **changes), top1=each[s])
        for m, each in enumerate(top1_by_member)
        for s in range(3)
    ]


def test_taus_are_compared_seed_by_seed(ranking):
    outcome = tried(claim("tau", method="pse_net", against="bcnet"), ranking)
    assert outcome.number.startswith("+1.89 ±") and outcome.verdict == "points that way here"
    assert outcome.control == "bcnet"
    turned = tried(claim("tau", method="bcnet", against="pse_net"), ranking)
    assert turned.verdict == "points the other way here"


def test_a_sample_on_which_trainings_disagree_compares_no_rankings(results):
    # Each seed shuffles the networks.
    trained = alone((0.1, 0.5, 0.3), (0.6, 0.2, 0.2), (0.3, 0.4, 0.6), (0.5, 0.7, 0.4))
    good = [scored("pse_net", s, (1, 2, 3, 4), 10.0) for s in range(3)]
    bad = [scored("bcnet", s, each, 40.0) for s, each in enumerate(BAD)]
    outcome = tried(claim("tau", method="pse_net", against="bcnet"), results(*trained, *good, *bad))
    assert outcome.verdict == "cannot be tested here"
    assert "one training alone ranks it at tau" in outcome.why
    agreed = [[0.5 + 0.1 * m] * 3 for m in range(4)]
    folder = results(*alone(*agreed, finetune=Schedule(epochs=9)))
    asked = claim("tau", method="pse_net", against="bcnet")
    assert tried(asked, folder).verdict == "cannot be tested here"  # the shorter one disagrees
    results(*alone(*agreed, finetune=Schedule(epochs=8)))
    assert tried(asked, folder).verdict == "points that way here"


def test_a_supernet_that_lost_seeds_is_not_compared_and_no_variant_takes_its_place(
    ranking, results
):
    lost = scored("pse_net", 3, (1, 2, 3, 4), 10.0)
    lost = lost.model_copy(update={"status": "failed", "reason": "no memory", "scores": ()})
    few = [
        record(cell=cell("pse_net", 0.35, s, sample=SAMPLE, settings={"steps": 1}), scores=each)
        for s, each in enumerate([(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4, 3)])
    ]
    folder = results(lost, *few)
    for kind in ("tau", "seconds"):
        outcome = tried(claim(kind, method="pse_net", against="bcnet"), folder)
        assert (outcome.verdict, outcome.number) == ("cannot be tested here", "–")
        assert outcome.why == "pse_net, 1 of 4 failed"


def test_a_lead_that_hangs_on_one_network_is_none(results):
    trained = alone(*[[0.5 + 0.1 * m] * 3 for m in range(4)])
    good = [scored("pse_net", s, (1, 2, 3, 4), 10.0) for s in range(3)]
    swapped = ((2, 1, 4, 3), (2, 1, 4, 3), (1, 2, 4, 3))
    near = [scored("bcnet", s, each, 40.0) for s, each in enumerate(swapped)]
    outcome = tried(
        claim("tau", method="pse_net", against="bcnet"), results(*trained, *good, *near)
    )
    assert outcome.verdict == "cannot be tested here" and "another sample" in outcome.why


@pytest.mark.parametrize(
    ("limit", "verdict"), [(0.30, "points that way here"), (0.16, "points the other way here")]
)
def test_seconds_are_a_ratio_with_an_upper_limit(ranking, limit, verdict):
    asked = claim("seconds", method="pse_net", against="bcnet", at_most=limit)
    assert tried(asked, ranking).verdict == verdict  # 0.25 to 0.255


def test_a_figure_below_what_the_passes_allow_refutes_nothing(ranking, results):
    results(*[scored("autoslim", s, (1, 2, 3, 4), 80.0) for s in range(3)])
    passes = {"against": 2, "beside": "autoslim", "stated": 0.10}
    asked = claim("seconds", method="pse_net", against="bcnet", at_most=0.20, passes=passes)
    outcome = tried(asked, ranking)
    assert outcome.verdict == "cannot be tested here"
    assert outcome.number.startswith("paper 0.20, here 0.25 ±")
    assert outcome.number.endswith("0.25 in multiply-adds")
    assert "one full pass against 2 gives 0.50 at best" in outcome.why
    assert "stand 2.00 to 1, ours 2.00 to 1" in outcome.why


def write_runtime(folder, low, high, *, device="cuda", **changes):
    """A record whose pruned network takes between `low` and `high` of the time."""
    written = json.loads(min((ROOT / "results" / "references").glob("*.json")).read_text())
    written["pair"]["network"]["name"], written["pair"]["reference"]["name"] = "taylor", "uniform"
    written |= {"device": device, **changes}
    middle = (low + high) / 2
    for measured in written["latency"]:
        measured["ratio"] = {"q25": middle, "median": middle, "q75": middle}
        measured["ratio_interval"] = {"low": low, "high": high, "level": 0.95}
        measured["control"] = {"q25": 1.0, "median": 1.0, "q75": 1.0}
        measured["control_interval"] = {"low": 0.98, "high": 1.02, "level": 0.95}
    (folder / "f").mkdir(exist_ok=True)
    written["id"] = str(len([*(folder / "f").iterdir()]))
    (folder / "f" / f"{written['id']}.json").write_text(json.dumps(written))


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
    write_runtime(tmp_path, *ratio, device=device)
    assert tried(claim("runtime", device="cuda"), tmp_path).verdict == verdict


@pytest.mark.parametrize(
    ("newer", "verdict"),
    [((1.3, 1.5), "does not hold here"), ((0.9, 1.1), "cannot be tested here")],
)
def test_a_runtime_measured_again_replaces_the_older_one(tmp_path, newer, verdict):
    write_runtime(tmp_path, 0.7, 0.8, utc="2026-01-01T00:00:00+00:00")
    write_runtime(tmp_path, *newer, utc="2026-09-01T00:00:00+00:00")
    assert tried(claim("runtime", device="cuda"), tmp_path).verdict == verdict


@pytest.mark.parametrize("fingerprint", ["cuda-1", "cuda-2"])
def test_the_newest_runtime_is_that_of_the_latest_moment(tmp_path, fingerprint):
    write_runtime(tmp_path, 0.7, 0.8, utc="2026-05-01T11:00:00Z", fingerprint="cuda-1")
    earlier = {"utc": "2026-05-01T12:00:00+02:00", "fingerprint": fingerprint}
    write_runtime(tmp_path, 1.3, 1.5, **earlier)
    assert tried(claim("runtime", device="cuda"), tmp_path).verdict == "holds here"


def test_of_two_devices_the_newest_clear_runtime_counts_and_another_kind_of_device_never(tmp_path):
    march, may, july = (f"2026-0{month}-01T00:00:00+00:00" for month in (3, 5, 7))
    write_runtime(tmp_path, 0.7, 0.8, utc=march, fingerprint="cuda-1")
    asked = claim("runtime", device="cuda")
    write_runtime(tmp_path, 0.9, 1.1, utc=may, fingerprint="cuda-2")
    write_runtime(tmp_path, 1.3, 1.5, utc=july, fingerprint="cpu-3", device="cpu")
    assert tried(asked, tmp_path).verdict == "holds here"
    write_runtime(tmp_path, 1.3, 1.5, utc=july, fingerprint="cuda-4")
    assert tried(asked, tmp_path).verdict == "does not hold here"


def test_every_claim_has_verdicts_that_name_their_controls_and_a_way_to_test_it():
    claims = load_claims()
    assert {each.paper for each in claims} == {"knapsack", "bnp", "pse_net", "stagewise"}
    lines = iter(claims_page(ROOT / "results").splitlines())
    for each in claims:
        line = next(line for line in lines if line.startswith(f"| {each.says} |"))
        assert each.needs.command in line
        rows = [line, *(next(lines) for _ in try_claim(each, ROOT / "results")[1:])]
        for row in rows:
            _, setting, control, records, _, verdict, _ = row.strip("|").split(" | ")
            assert setting == "none" or (control.strip("– ") and records.startswith("results/"))
            assert sum(verdict.startswith(f"**{known}**") for known in get_args(Verdict)) == 1


def test_the_page_is_made_from_the_records_that_there_are():
    page = (ROOT / "docs" / "claims.md").read_text("utf-8")
    assert page == claims_page(ROOT / "results"), (
        "stale; renew it: python -m benchmarks.studies.claims"
    )


def test_another_network_is_not_the_one_of_the_claim(results):
    for model in (Model(name="other_net"), Model(name="tiny_net", width=2)):
        folder = results(record(cell=cell("taylor", model=model)))
        assert "no record of taylor" in tried(claim(), folder).why
    assert "no record of uniform" in tried(claim(model="tiny_net x 2"), folder).why


def test_other_data_are_not_those_of_the_claim(results):
    folder = results(*seeds("taylor", 0.5, data=Data(name="other_digits")))
    assert "no record of taylor" in tried(claim(), folder).why

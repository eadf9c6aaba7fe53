"""A claim is tried in every setting that was run, and its rows share one level."""

from pathlib import Path

import pytest

from benchmarks.analysis.comparison import compare
from benchmarks.records.cell import Data, Model
from benchmarks.records.join import read_results
from benchmarks.studies.claims import Claim, try_claim
from benchmarks.studies.verdicts import UNTESTED, Outcome, correct
from tests.benchmarks.fabricate import ENVIRONMENT
from tests.benchmarks.studies.test_claims import NEEDS, seeds

BASE = (0.50, 0.60, 0.70)
BETTER = (0.60, 0.71, 0.80)
RESNETS = [{"model": Model(name=name)} for name in ("resnet8", "resnet14")]
OTHER = {"model": Model(name="tiny_net")}


def claim(*tests):
    fields = {"kind": "difference", "folder": "f", "method": "taylor", "against": "uniform"}
    given = {"paper": "bnp", "says": "It is better.", "needs": NEEDS}
    return Claim.model_validate({**given, "tests": [{**fields, **each} for each in tests or [{}]]})


def settings(asked, folder):
    return [outcome.setting for outcome in try_claim(asked, folder)]


def both(**changes):
    return [*seeds("uniform", *BASE, **changes), *seeds("taylor", *BETTER, **changes)]


def test_all_settings_of_a_folder_are_found_larger_budgets_first(results):
    clothes = {"data": Data(name="clothes")}
    folder = results(
        *both(budget=0.25, **OTHER),
        *both(budget=0.5, **OTHER),
        *both(budget=0.5, **OTHER, **clothes),
        *both(budget=0.25, **RESNETS[0]),
        *both(budget=0.5, **RESNETS[0]),
        *both(budget=0.5, metric="params", **RESNETS[0]),
    )
    everywhere = [
        "taylor, resnet8 on digits, 0.5 of macs, 3 seeds",
        "taylor, resnet8 on digits, 0.25 of macs, 3 seeds",
        "taylor, tiny_net on clothes, 0.5 of macs, 3 seeds",
        "taylor, tiny_net on digits, 0.5 of macs, 3 seeds",
        "taylor, tiny_net on digits, 0.25 of macs, 3 seeds",
    ]
    for kind in ("difference", "best", "parent"):
        assert settings(claim({"kind": kind}), folder) == everywhere
    assert settings(claim({"budget": 0.25}), folder) == [everywhere[1], everywhere[4]]
    assert settings(claim({"data": "clothes"}), folder) == [everywhere[2]]
    assert settings(claim({"model": "resnet8"}), folder) == everywhere[:2]
    assert len(settings(claim({"metric": "params"}), folder)) == 1


def test_budgets_descend_where_another_processor_alone_has_the_largest(results):
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = [
        each.model_copy(update={"environment": gpu})
        for budget in (0.5, 0.25)
        for each in both(budget=budget, device="cuda")[:-1]
    ]
    found = settings(claim(), results(*both(budget=0.25), *there))
    assert found == [
        "taylor, tiny_net on digits, trained on GPU 9, 0.5 of macs, 2 seeds",
        "taylor, tiny_net on digits, trained on Abacus 3000, 0.25 of macs, 3 seeds",
    ]


def test_two_data_sets_of_one_name_are_two_settings(results):
    first, second = ({"data": Data(name="folder", digest=digit * 16)} for digit in "ab")
    folder = results(*both(**first), *both(**second))
    assert len(settings(claim({"model": "tiny_net", "data": "folder", "budget": 0.5}), folder)) == 2


def test_a_pattern_takes_the_networks_that_fit_it_and_a_name_no_other(results):
    folder = results(*both(**OTHER), *[r for each in RESNETS for r in both(**each)])
    found = settings(claim({"model": "resnet*"}), folder)
    assert [each.split(" on ")[0] for each in found] == ["taylor, resnet14", "taylor, resnet8"]
    assert len(settings(claim({"model": "resnet8"}), folder)) == 1
    for no_start in ("resnet", "ResNet*"):
        assert settings(claim({"model": no_start}), folder) == ["none yet"]


def test_a_method_that_is_not_there_is_none_yet_once(results):
    folder = results(*[r for each in RESNETS for r in seeds("uniform", *BASE, **each)])
    (outcome,) = try_claim(claim(), folder)
    assert (outcome.setting, outcome.verdict) == ("none yet", UNTESTED)
    assert outcome.why == "no record of taylor in results/f"


def test_a_setting_without_the_control_is_listed_by_its_name(results):
    folder = results(*both(**RESNETS[0]), *seeds("taylor", *BETTER, **OTHER))
    asked = claim({"stronger": "taylor (batches=1)"})
    for each, missing in ((claim(), "uniform"), (claim({"kind": "best"}), "another method")):
        there, lacking = try_claim(each, folder)
        assert there.number != "–" and lacking.number == "–"
        assert lacking.setting == "taylor, tiny_net on digits, 0.5 of macs, 3 seeds"
        assert lacking.why == f"no record of {missing} in results/f"
    stronger, _ = try_claim(asked, folder)
    assert stronger.why == "no record of taylor (batches=1) in results/f"
    assert stronger.setting.startswith("taylor, resnet8")


def test_every_setting_of_the_big_suites_is_on_the_page():
    root = Path(__file__).parents[3]
    page = (root / "docs" / "claims.md").read_text("utf-8").splitlines()
    for name, method, model in (
        ("quick", "stagewise", ""), ("fashion", "stagewise", ""), ("fashion", "knapsack", "resnet"),
        ("cifar10-cores", "bnp", ""), ("fashion", "autoslim", ""),
    ):  # fmt: skip
        comparisons = compare(read_results(root / "results" / name).records)
        ran = {
            (each.network, row.cell.budget)
            for each in comparisons
            for row in each.rows
            if row.cell.method == method and row.cell.model.name.startswith(model)
        }
        told = [line for line in page if f"| {method}, " in line and f"results/{name}," in line]
        assert len(told) == len(ran) > 1


def outcome(p_value, verdict="holds here"):
    return Outcome("here", "control", "records", "+1", verdict, "5 seeds", p_value)


def test_rows_of_a_claim_are_clear_together_or_not():
    # Holm by hand: 4 x 0.01, 3 x 0.02, the rest 1; the first alone is at 0.05 or less.
    rows = [outcome(0.02), outcome(0.01), outcome(0.3, UNTESTED), outcome(None, UNTESTED)]
    second, first, *untested = correct(rows)
    assert first.verdict == "holds here"
    assert first.why == "5 seeds; p = 0.04 after Holm over the 4 rows of the claim"
    assert second.verdict == UNTESTED
    assert second.why == "clear alone (p = 0.02), not over the 4 rows of the claim " + (
        "(p = 0.06 after Holm)"
    )
    assert untested == rows[2:]


def test_a_row_alone_in_its_claim_and_one_without_a_p_value_keep_their_verdicts():
    assert correct([outcome(0.049)]) == [outcome(0.049)]
    runtime = outcome(None)
    assert correct([runtime, outcome(0.049)])[0] == runtime


def test_a_lead_that_is_clear_alone_is_none_among_many_settings(results):
    # Differences of 0.1, 0.11 and 0.1 have p = 0.001, those of 0.04, 0.08 and 0.06 p = 0.035.
    folder = results(*seeds("uniform", *BASE, **OTHER), *seeds("taylor", 0.54, 0.68, 0.76, **OTHER))
    (alone,) = try_claim(claim(), folder)
    assert (alone.verdict, alone.why) == ("points that way here", "3 seeds")
    results(*both(**RESNETS[0]))
    strong, weak = try_claim(claim(), folder)
    assert "p = 0.0021 after Holm over the 2 rows" in strong.why
    assert (weak.verdict, weak.p_value) == (alone.verdict, alone.p_value)
    results(*seeds("taylor", 0.5, **RESNETS[1]))  # no control, and yet a row of the claim
    _, strong, weak = try_claim(claim(), folder)
    assert strong.verdict == "points that way here"
    assert weak.verdict == UNTESTED and weak.number == alone.number
    assert weak.why.startswith("clear alone (p = 0.035), not over the 3 rows")


def p_value(asked, folder):
    (found,) = try_claim(claim(asked), folder)
    assert found.verdict != UNTESTED
    return found.p_value


def test_a_lead_over_several_has_the_p_value_of_the_least_clear_one(results):
    exact, random = ({"settings": {"solver": name}} for name in ("exact", "random"))
    close = (0.54, 0.67, 0.75)  # 0.06, 0.04 and 0.05 below
    folder = results(*seeds("bnp", *BETTER), *seeds("bnp", *BASE, **random))
    weak = p_value({"method": "bnp", "against": "bnp (solver=random)"}, folder)
    results(*seeds("bnp", *close, **exact), *seeds("uniform", *BASE), *seeds("fpgm", *close))
    strong = p_value({"method": "bnp", "against": "bnp (solver=exact)"}, folder)
    assert weak < strong
    asked = {"method": "bnp", "against": "bnp (solver=random)", "stronger": "bnp (solver=exact)"}
    assert p_value(asked, folder) == strong
    assert p_value({"kind": "best", "method": "bnp"}, folder) == strong


def test_a_method_below_the_mean_has_the_p_value_of_that_difference(results):
    folder = results(*both(), *seeds("fpgm", *BETTER), *seeds("l1_norm", 0.1, 0.21, 0.3))
    # 0.4667, 0.4633 and 0.4667 below the mean of the three others, by hand.
    assert p_value({"kind": "best", "method": "l1_norm"}, folder) == pytest.approx(5.7e-6, rel=0.01)

"""Tau, regret and ceiling against counting by hand; ablation tables of made-up records."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau, ttest_rel

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.ranking import agreement, collect_rankings, kendall_tau, kendall_taus
from benchmarks.records.cell import Sample, Schedule
from benchmarks.records.record import Top1
from benchmarks.running.suite import STANDALONE
from benchmarks.tables.ablation import ablation_table
from benchmarks.tables.legends import OF_SECONDS
from benchmarks.tables.ranking_table import ranking_table
from tests.benchmarks.fabricate import cell, record

SAMPLE = Sample(count=4, low=0.4, high=0.5)
TRUTH = {0: (0.5, 0.6, 0.7, 0.8), 1: (0.7, 0.6, 0.9, 0.8)}


def asked(method, seed=0, member=None, **changes):
    return cell(method, 0.5, seed, sample=SAMPLE, member=member, **changes)


def members(**changes):
    return [
        record(cell=asked(STANDALONE, seed, k, **changes), top1=top1)
        for seed, row in TRUTH.items()
        for k, top1 in enumerate(row)
    ]


def scores(method, *rows, settings=None, **changes):
    settings = settings or {}
    return [
        record(cell=asked(method, seed, settings=settings), scores=row, **changes)
        for seed, row in enumerate(rows)
    ]


def tau_by_hand(first, second):
    """Concordant less discordant pairs over all pairs, for rankings without ties."""
    signs = [
        np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
        for i, j in combinations(range(len(first)), 2)
    ]
    return np.mean(signs)


def test_tau_b_is_that_of_scipy_with_and_without_ties():
    rng = np.random.default_rng(0)
    for levels in (3, 8, 1000):
        first, second = rng.integers(levels, size=(2, 25)).astype(float)
        assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert np.isnan(kendall_tau(np.ones(5), np.arange(5.0)))


def test_members_that_tie_over_the_seeds_tie_in_the_truth():
    sums = [(0.1, 0.3, 0.0, 0.5), (0.2, 0.2, 0.0, 0.5), (0.3, 0.1, 0.0, 0.5)]
    assert len({float(mean) for mean in np.mean(sums, axis=0)}) == 4
    found = [record(cell=asked(STANDALONE, s, k), top1=t)
             for s, row in enumerate(sums) for k, t in enumerate(row)]  # fmt: skip
    (ranking,) = collect_rankings([*found, *scores("bnp", (1.0, 1.0, 0.0, 2.0))])
    assert ranking.mean_truth.tolist() == [0.2, 0.2, 0.0, 0.5]
    assert [each.tau for each in ranking.agreements.values()] == [1.0]


def test_taus_of_resamples_are_those_of_resampled_rankings():
    rng = np.random.default_rng(0)
    first, second = rng.integers(6, size=(2, 12)).astype(float)
    drawn = [rng.integers(12, size=12) for _ in range(50)]
    counts = np.array([np.bincount(entries, minlength=12) for entries in drawn])
    taus = [kendall_tau(first[entries], second[entries]) for entries in drawn]
    # Counted in whole numbers both ways, so to the last digit.
    assert kendall_taus(first, second, counts).tolist() == taus
    assert np.isnan(kendall_taus(first, second, np.eye(12)[:1] * 12)).all()


def test_tau_is_the_share_of_concordant_pairs_less_that_of_discordant_ones():
    rng = np.random.default_rng(0)
    first, second = rng.random(12), rng.random(12)
    found = agreement([first], [second])
    assert found.tau == pytest.approx(tau_by_hand(first, second))
    assert found.low < found.tau < found.high


def test_a_perfect_ranking_has_tau_one_and_no_regret():
    truth = np.array([0.2, 0.5, 0.1, 0.9])
    found = agreement([2 * truth + 3], [truth])
    assert (found.tau, found.low, found.high, found.regret) == (1, 1, 1, 0)


def test_regret_is_what_the_best_scored_one_lacks_to_the_best():
    truth = np.array([0.2, 0.5, 0.1, 0.9])
    assert agreement([np.array([0.0, 9.0, 1.0, 2.0])], [truth]).regret == pytest.approx(0.4)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_regret_of_tied_best_scores_is_their_mean_in_any_order_of_configurations(order):
    truth, tied = np.array([0.5, 0.9, 0.7, 0.1]), np.array([9.0, 1.0, 9.0, 2.0])
    found = agreement([tied[order]], [truth[order]])
    assert found.regret == pytest.approx(0.9 - (0.5 + 0.7) / 2)


def test_scores_are_judged_by_the_mean_accuracy_over_seeds():
    (ranking,) = collect_rankings([*members(), *scores("bnp", (1.0, 2, 3, 4), (4.0, 3, 2, 1))])
    assert np.allclose(ranking.mean_truth, [0.6, 0.6, 0.8, 0.8])
    (scorer,) = ranking.scorers
    found = ranking.agreements[scorer.name]
    # Of six pairs two are tied in the truth: tau-b of the first seed is 4 / sqrt(6 * 4).
    assert found.tau == pytest.approx(0)
    assert found.regret == pytest.approx((0 + 0.2) / 2)


def test_the_ceiling_compares_each_seed_with_the_mean_of_the_others():
    (ranking,) = collect_rankings([*members(), *scores("macs", (1.0, 2, 3, 4))])
    found = ranking.ceiling
    assert found.tau == pytest.approx(tau_by_hand(*map(np.array, TRUTH.values())))
    assert found.regret == pytest.approx((0.9 - 0.8 + 0.8 - 0.7) / 2)


def test_one_seed_has_no_ceiling():
    (ranking,) = collect_rankings([r for r in members() if r.cell.seed == 0])
    assert ranking.ceiling is None
    assert "one seed" in ranking_table([ranking])


def test_a_seed_with_a_lost_member_is_no_truth():
    lost = [r for r in members() if (r.cell.seed, r.cell.member) != (1, 2)]
    (ranking,) = collect_rankings(lost)
    assert set(ranking.truth) == {0}


def test_the_cost_of_training_alone_is_that_of_whole_seeds():
    spent = {"finetune": {"macs_forward": 3 * 10**11, "seconds": 5.0}}
    found = [each.model_copy(update={"spent": record(spent=spent).spent}) for each in members()]
    partly = [r for r in found if r.cell.seed == 0 or r.cell.member == 2]
    for kept in (found, partly):
        (ranking,) = collect_rankings(kept)
        # Four members of 0.3 TMACs and 5 seconds each.
        assert ranking.alone_tmacs == pytest.approx(1.2)
        assert ranking.alone_seconds == pytest.approx(20)


def test_a_scorer_of_two_recipes_counts_once_a_seed_and_the_one_of_the_trained_networks_is_taken():
    rows = (1.0, 2.0, 3.0, 4.0)
    matching = scores("macs", rows, rows)
    longer = Schedule(epochs=9)
    for change in ({"finetune": longer}, {"distill": 1.0}):
        other = [
            record(
                cell=asked("macs", seed, **change), scores=rows[::-1], utc="2026-02-01T00:00:00Z"
            )
            for seed in TRUTH
        ]
        for found in ([*matching, *other], [*other, *matching]):
            (ranking,) = collect_rankings([*members(), *found])
            assert ranking.scorers[0].records == tuple(matching)
        (ranking,) = collect_rankings([*members(finetune=Schedule(epochs=7)), *other, *matching])
        assert ranking.scorers[0].records == tuple(other)  # the newest


def failed(made):
    return made.model_copy(update={"status": "failed", "reason": "no memory", "scores": ()})


@pytest.mark.parametrize("count", [1, 2])
def test_a_scorer_that_lost_seeds_has_no_tau_and_says_how_many_failed(count):
    made = scores("pse_net", (1.0, 2, 3, 4), (1.0, 2, 4, 3))
    lost = [failed(each) if seed < count else each for seed, each in enumerate(made)]
    (ranking,) = collect_rankings([*members(), *scores("macs", *TRUTH.values()), *lost])
    assert [*ranking.agreements] == ["macs"] and [each.name for each in ranking.lost] == ["pse_net"]
    last = ranking_table([ranking]).splitlines()[-1]
    assert last == f"| pse_net | {count} of 2 failed | – | – | – | – | – |"


def test_a_seed_that_another_recipe_s_record_has_scored_is_not_lost():
    rows = (1.0, 2.0, 3.0, 4.0)
    other = [
        record(cell=asked("macs", seed, finetune=Schedule(epochs=9)), scores=rows) for seed in TRUTH
    ]
    lost = [failed(each) for each in scores("macs", rows, rows)]
    (ranking,) = collect_rankings([*members(), *lost, *other])
    assert ranking.scorers[0].records == tuple(other) and not ranking.lost


def test_the_newest_scorer_is_that_of_the_latest_moment():
    rows, train = (1.0, 2.0, 3.0, 4.0), members(finetune=Schedule(epochs=7))
    january = {"utc": "2026-02-01T01:00:00+02:00"}
    sooner = [each.model_copy(update=january) for each in scores("macs", rows, rows)]
    later = [
        record(cell=asked("macs", seed, distill=1.0), scores=rows, utc="2026-02-01T00:00:00Z")
        for seed in TRUTH
    ]
    for found in ([*sooner, *later], [*later, *sooner]):
        (ranking,) = collect_rankings([*train, *found])
        assert ranking.scorers[0].records == tuple(later)


def test_what_was_trained_otherwise_is_another_ranking():
    longer = members(finetune=Schedule(epochs=9))
    assert len(collect_rankings([*members(), *longer])) == 2
    assert len(collect_rankings([*members(), *members(distill=1.0)])) == 2
    assert len(collect_rankings([*members(), *members(start="scratch")])) == 2


def test_scores_from_a_device_of_another_fingerprint_are_not_held_against_a_ranking():
    here = [r.model_copy(update={"fingerprint": "cpu-11111111"}) for r in members()]
    scored = scores("macs", (1.0, 2, 3, 4), (1.0, 2, 3, 4), fingerprint="cpu-11111111")
    (ranking,) = collect_rankings([*here, *scored])
    assert [scorer.name for scorer in ranking.scorers] == ["macs"]
    elsewhere = [r.model_copy(update={"fingerprint": "cpu-22222222"}) for r in scored]
    (ranking,) = collect_rankings([*here, *elsewhere])
    assert not ranking.scorers


def test_the_table_names_costs_and_puts_the_best_tau_first():
    found = [
        *members(),
        *scores("macs", (1.0, 2, 4, 3), (1.0, 2, 4, 3)),
        *scores("bnp", (4.0, 3, 2, 1), (4.0, 3, 2, 1), settings={"steps": 0, "ratios": 5}),
        *scores("bnp", (1.0, 3, 2, 4), (1.0, 3, 2, 4), settings={"ratios": 5}),
    ]
    table = ranking_table(collect_rankings(found))
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| one training alone (the ceiling)",
        "| macs",
        "| bnp",
        "| bnp (steps=0)",
    ]
    # One scoring and one searching phase of 1 and 0.5 TMACs; four trainings of 0.3 TMACs a seed.
    assert lines[1].endswith("| 1.50 | 2.0 |") and lines[0].endswith("| 1.20 | 0.0 |")


def test_rankings_are_no_rows_of_the_comparison():
    found = [*members(), *scores("macs", (1.0, 2, 3, 4)), record("taylor")]
    (comparison,) = compare(found)
    assert [row.cell.method for row in comparison.rows] == ["taylor"]


def ablated(settings, *top1, gap=None):
    trace = ({"step": "solve", "gap": gap},) if gap is not None else ()
    return [
        record(cell=cell("bnp", seed=seed, settings=settings), top1=value, trace=trace)
        for seed, value in enumerate(top1)
    ]


def test_an_ablation_pairs_variants_with_the_plain_method_by_seed():
    found = [
        *ablated({"steps": 7}, 0.5, 0.7, gap=0.002),
        *ablated({"steps": 7, "solver": "random"}, 0.4, 0.7, gap=0.5),
        *ablated({}, 0.6, 0.9),
        record("uniform"),
    ]
    table = ablation_table(compare(found))
    lines = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [line[0] for line in lines] == ["| plain", "| steps=7", "| solver=random, steps=7"]
    assert lines[1][4].startswith("-15.0 ±") and lines[2][4].startswith("-20.0 ±")
    assert [line[6] for line in lines] == ["–", "2.00 ± 0.00", "500.00 ± 0.00"]
    assert "uniform" not in table
    assert "| Search s |" in table and OF_SECONDS in table


@pytest.mark.parametrize(
    ("losing", "told"),
    [
        ({}, {"plain": ["2 of 3 failed", "–"], "solver=exact": ["81.0 ± 1.0", "–"]}),
        (
            {"solver": "exact"},
            {"plain": ["71.0 ± 1.0", "–"], "solver=exact": ["2 of 3 failed", "–"]},
        ),
    ],
)
def test_an_own_finish_has_no_difference_where_a_side_of_an_ablation_lost_seeds(losing, told):
    found = []
    for settings, own in (({}, 0.7), ({"solver": "exact"}, 0.8)):
        for seed, made in enumerate(ablated(settings, 0.5, 0.6, 0.7)):
            changes = {"top1": Top1(finetuned=0.5, own=own + seed / 100)}
            if settings == losing and seed:
                changes = {"status": "failed", "reason": "no memory", "top1": Top1()}
            found.append(made.model_copy(update=changes))
    lines = [line.strip("| ").split(" | ") for line in ablation_table(compare(found)).splitlines()]
    assert {line[0]: line[-2:] for line in lines if line[0] in told} == told


def test_a_variant_is_bold_if_holm_over_the_table_leaves_its_difference():
    plain, clear = (0.5, 0.6, 0.7), (0.46, 0.57, 0.66)  # p = 0.0082
    variants = {"kd": clear, **{f"other{i}": (0.5, 0.62, 0.69) for i in range(7)}}
    found = [record(cell=cell("bnp", 0.5, s), top1=top1) for s, top1 in enumerate(plain)]
    for count, is_bold in ((6, True), (7, False)):
        tried = [
            record(cell=cell("bnp", 0.5, s, settings={name: 1}), top1=top1)
            for name in list(variants)[:count]
            for s, top1 in enumerate(variants[name])
        ]
        text = ablation_table(compare([*found, *tried]))
        (line,) = [line for line in text.splitlines() if line.startswith("| kd=1")]
        assert ("**" in line) == is_bold, ttest_rel(clear, plain)


def test_the_plain_method_of_an_ablation_may_have_settings_of_its_suite():
    found = [*ablated({"steps": 7}, 0.5), *ablated({"steps": 9, "solver": "exact"}, 0.6)]
    table = ablation_table(compare(found))
    assert "| plain |" in table and "| solver=exact, steps=9 |" in table


def test_a_setting_put_back_to_its_default_is_named():
    found = [*ablated({"steps": 7}, 0.5), *ablated({"kd": 0.0, "beta": 0.0}, 0.6)]
    assert "| beta=0.0, kd=0.0, steps=default |" in ablation_table(compare(found))


def test_a_variant_that_others_are_as_plain_as_is_not_called_the_plain_method():
    found = [*ablated({"steps": 7}, 0.5), *ablated({"steps": 0}, 0.6)]
    table = ablation_table(compare(found))
    assert "| plain |" not in table
    assert table.index("| first, steps=0 |") < table.index("| steps=7 |")


def test_methods_without_variants_give_no_ablation():
    assert ablation_table(compare([record("uniform"), record("taylor")])) == ""


def test_networks_trained_from_scratch_are_never_the_plain_method():
    def rows(**changes):
        settings = {"steps": 150}
        return [
            record(cell=cell("stagewise", 0.5, seed, settings=settings, **changes))
            for seed in (0, 1)
        ]

    table = ablation_table(compare([*rows(scratch=Schedule(epochs=10)), *rows()]))
    assert table.index("| plain |") < table.index("| from scratch=10 epochs |")

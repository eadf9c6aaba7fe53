"""Tables about supernets against numbers worked out by hand from made-up records."""

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.ranking import collect_rankings
from benchmarks.records.record import PhaseCost
from benchmarks.tables.supernets import reach_table, sharing_table, supernet_table
from tests.benchmarks.analysis.test_ranking import members, scores
from tests.benchmarks.fabricate import record

GOOD, FAIR, POOR = (1.0, 2, 3, 4), (1.0, 2, 4, 3), (4.0, 3, 2, 1)
"""Rankings of the made-up sample; its accuracies put the last two members first, in two ties."""


def lines_of(table):
    return [line for line in table.splitlines() if line.startswith("| ")][1:]


def trained(method, images, ranks, *, pairs=None, settings=None, trace=()):
    cost = PhaseCost(
        images=images, macs_forward=images * 10**10, macs_backward=2 * images * 10**10,
        seconds=images / 10, peak_bytes=3 * 2**20,
    )  # fmt: skip
    rows = ({"step": "train", "pairs": pairs or images}, *trace)
    return scores(method, ranks, settings=settings, spent={"supernet": cost}, trace=rows)


def test_supernets_are_listed_with_what_their_training_cost_and_the_cheapest_first():
    found = [
        *members(),
        *scores("macs", GOOD),
        *trained("autoslim", 90, FAIR, pairs=360),
        *trained("pse_net", 30, FAIR, trace=({"step": "joint_norm", "gradient_error": 0.625},)),
    ]
    lines = lines_of(supernet_table(collect_rankings(found)))
    assert len(lines) == 2
    assert lines[0].startswith("| pse_net | 1 | 30 | 30 | 0.300 | 0.600 | 3.0 | 3 | 0.62 | ")
    assert lines[1].startswith("| autoslim | 1 | 90 | 360 | 0.900 | 1.800 | 9.0 | 3 | – | ")


def test_a_supernet_is_charged_once_or_shared_by_its_targets():
    def target(budget, seed, key, search_macs):
        spent = {
            "supernet": PhaseCost(macs_forward=10**12, macs_backward=2 * 10**12, seconds=6.0),
            "search": PhaseCost(macs_forward=search_macs, seconds=2.0),
        }
        trace = ({"step": "train", "pairs": 5}, {"step": "supernet", "key": key, "reused": False})
        return record("pse_net", budget, seed, spent=spent, trace=trace)

    found = [
        target(0.5, 0, "a", 10**12),
        target(0.25, 0, "a", 3 * 10**12),
        target(0.5, 1, "b", 2 * 10**12),
        target(0.25, 1, "b", 2 * 10**12),
        record("taylor"),
    ]
    (line,) = lines_of(sharing_table(compare(found)))
    # 3 TMACs once; 2 TMACs and 2 s for each target; 3 + 2 for one, 3 / 2 + 2 for each of two.
    assert line == "| pse_net | 2 | 2 | 3.000 | 6.0 | 2.000 | 2.0 | 5.000 | 3.500 |"
    lost = record("pse_net", 0.5, 2, status="failed", reason="x")
    (line,) = lines_of(sharing_table(compare([*found, lost])))
    assert line == "| pse_net | 1 of 3 failed | – | – | – | – | – | – | – |"
    assert sharing_table(compare([record("taylor")])) == ""


def lengths(method, *steps):
    """Trainings of a method: steps, images and ranking of each."""
    return [
        made
        for count, images, ranks in steps
        for made in trained(method, images, ranks, settings={"steps": count})
    ]


def test_the_cost_of_equal_quality_is_the_shortest_training_that_reaches_the_reference():
    found = [
        *members(),
        *scores("macs", POOR),
        *lengths("pse_net", (1, 30, POOR), (2, 60, GOOD), (4, 120, GOOD)),
        *lengths("bcnet", (2, 100, POOR), (4, 200, GOOD)),
        *lengths("autoslim", (2, 150, GOOD), (4, 300, POOR)),
        *scores("autoslim", FAIR, settings={"random_subnets": 1, "steps": 1},
                spent={"supernet": PhaseCost(images=7)}, trace=({"pairs": 7},)),
        *trained("pse_net", 10, POOR, settings={"steps": 1, "subnets": 1}),
    ]  # fmt: skip
    table = reach_table(collect_rankings(found))
    # Of six pairs of the made-up sample two are tied: tau-b of GOOD is 4 / sqrt(6 * 4).
    assert "tau 0.82, the highest that autoslim and bcnet and pse_net all reach" in table
    assert "macs alone -0.82, one training alone, the ceiling, 0.33" in table
    lines = lines_of(table)
    costs = {line.split(" | ")[0]: line.split(" | ")[2:] for line in lines}
    assert costs["| autoslim"] == ["150", "4.500", "15.0 |"]
    assert costs["| bcnet"] == ["200", "6.000", "20.0 |"]
    assert costs["| pse_net"] == ["60", "1.800", "6.0 |"]
    assert costs["| autoslim (random_subnets=1)"][0] == "7"  # FAIR ties with GOOD here
    assert costs["| pse_net (subnets=1)"] == ["not reached", "–", "– |"]
    assert "-0.82 at 30; 0.82 at 60; 0.82 at 120" in table
    for share, method, stated in ((30, "bcnet", 30), (40, "autoslim", 16)):
        assert (
            f"pse_net reaches it with {share}% of the images, {share}% of the multiply-adds and "
            f"{share}% of the seconds that {method} takes; the paper states {stated}% of its "
            "training cost, in a unit that is not known."
        ) in table


def test_supernets_that_lost_seeds_have_no_tau_and_are_named():
    lost = [
        made.model_copy(update={"status": "failed", "reason": "no memory", "scores": ()})
        for made in trained("pse_net", 30, FAIR)
    ]
    rankings = collect_rankings([*members(), *trained("autoslim", 90, FAIR), *lost])
    for table in (supernet_table(rankings), reach_table(rankings)):
        (line,) = lines_of(table)
        assert line.startswith("| autoslim | ")
        assert table.endswith("\nWithout a tau: pse_net, 1 of 1 failed.\n")


def test_without_supernets_there_is_nothing_to_reach():
    assert reach_table(collect_rankings([*members(), *scores("macs", GOOD)])) == ""

"""What tells comparisons, rankings and pairs of one name apart; without a twin it is not told."""

import pytest

from benchmarks.analysis.apart import words_apart
from benchmarks.analysis.comparison import compare
from benchmarks.analysis.effects import overall_effects
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.ranking import collect_rankings
from benchmarks.analysis.regression import compare_sets, pair_up
from benchmarks.analysis.standing import average_ranks
from benchmarks.figures.rows import kept_widths
from benchmarks.figures.search import proxy_against_accuracy
from benchmarks.page.page import build_page
from benchmarks.records.cell import FREE, Cell, Data, Model, Rules, Sample, Schedule
from benchmarks.records.files import Loaded
from benchmarks.records.runtime import Latency
from tests.benchmarks.fabricate import cell, record

HEX = "0123456789abcdef"

TWINS = {
    "size": ({"data": Data(name="digits", image_size=16)}, {"data": Data(name="digits")}),
    "args": ({"model": Model(name="tiny_net", args={"drop_rate": 0.1})}, {}),
    "weights": ({"model": Model(name="tiny_net", weights=HEX)}, {}),
    "content": (
        {"data": Data(name="imagefolder", digest=HEX)}, {"data": Data(name="imagefolder")},
    ),
    "epochs": ({"finetune": Schedule(epochs=9)}, {}),
    "parent": ({"parent": Schedule(epochs=1)}, {}),
    "rate": ({"finetune": Schedule(epochs=2, lr=0.5)}, {}),
    "protocol": ({"protocol": 2}, {}),
    "images": ({"data": Data(name="digits", train_size=64)}, {}),
    "rules": ({"rules": Rules(divisor=8)}, {}),
    "distillation": ({"distill": 0.5}, {"distill": 1.0}),
}  # fmt: skip
TOLD = {
    "size": ("tiny_net on digits at 16 px", "tiny_net on digits at the data's own size"),
    "args": ("tiny_net (drop_rate=0.1) on digits", "tiny_net (without arguments) on digits"),
    "weights": (f"tiny_net from weights {HEX} on digits", "tiny_net from no weights on digits"),
    "content": (f"tiny_net on imagefolder {HEX}", "tiny_net on imagefolder of unknown content"),
    "epochs": ("tiny_net on digits, 9 epochs of fine-tuning",
               "tiny_net on digits, 2 epochs of fine-tuning"),
    "parent": ("tiny_net on digits, 1 epoch for the parent",
               "tiny_net on digits, 3 epochs for the parent"),
    "rate": ("tiny_net on digits, finetune.lr 0.5", "tiny_net on digits, finetune.lr 0.1"),
    "protocol": ("tiny_net on digits, protocol 2", "tiny_net on digits, protocol 1"),
    "images": ("tiny_net on digits, data.train_size 64",
               "tiny_net on digits, data.train_size null"),
    "rules": ("tiny_net on digits, rules.divisor 8", "tiny_net on digits, rules.divisor 1"),
    "distillation": ("tiny_net on digits with distillation, 0.5 x distillation",
                     "tiny_net on digits with distillation, 1 x distillation"),
}  # fmt: skip
OF_NETWORKS = ("size", "args", "weights", "content")


def run(gain=0.03, seeds=3, **changes):
    return [
        record(cell=cell(method, 0.5, seed, **changes), top1=0.8 + 0.01 * seed + more,
               images={"test": 10_000})
        for seed in range(seeds)
        for method, more in (("uniform", 0.0), ("bnp", gain + 0.001 * seed))
    ]  # fmt: skip


def both(twin):
    first, second = TWINS[twin]
    return run(0.03, **first), run(-0.03, **second)


@pytest.mark.parametrize("twin", TWINS)
def test_comparisons_of_one_name_are_told_apart_by_what_differs(twin):
    first, second = both(twin)
    assert {each.title for each in compare([*first, *second])} == {*TOLD[twin]}
    for alone in (first, second):
        (found,) = compare(alone)
        assert found.title in ("tiny_net on digits", "tiny_net on imagefolder",
                               "tiny_net on digits with distillation")  # fmt: skip


def test_only_as_much_is_told_as_tells_apart():
    cells = [
        cell(data=Data(name="digits", image_size=16), finetune=Schedule(epochs=9)),
        cell(data=Data(name="digits", image_size=32)),
        cell(model=Model(name="other"), finetune=Schedule(epochs=5)),
    ]
    first, second, other = words_apart(cells)
    assert (first.data, first.recipe) == (" at 16 px", "") and second.data == " at 32 px"
    assert other.network(cells[2]) == "other on digits" and other.recipe == ""


def test_whatever_a_comparison_holds_equal_tells_it_from_another():
    """Each field of a cell, and of its parts, changed by itself."""
    plain = cell(sample=Sample(low=0.2, high=0.4))
    held = {*Cell.model_fields} - FREE - {"device", "member"}
    assert held == {"protocol", "model", "data", "parent", "finetune", "rules", "latency", "start",
                    "sample", "finishes", "distill", "recalibration_batches"}  # fmt: skip
    changed = {
        "protocol": 2, "start": "scratch", "finishes": ("common",), "distill": 2.0,
        "recalibration_batches": 3,
    }  # fmt: skip
    others = [plain.model_copy(update={name: value}) for name, value in changed.items()]
    for part, kind in (("data", Data), ("parent", Schedule), ("finetune", Schedule),
                       ("rules", Rules), ("sample", Sample), ("latency", Latency)):  # fmt: skip
        for name in {*kind.model_fields} - {"name"}:
            own = getattr(plain, part).model_copy(update={name: 77})
            others.append(plain.model_copy(update={part: own}))
    others += [plain.model_copy(update={"model": Model(name="tiny_net", **new)})
               for new in ({"args": {"a": 1}}, {"width": 2}, {"weights": HEX})]  # fmt: skip
    for other in others:
        words = words_apart([plain, other])
        told = {f"{w.network(c)}{w.recipe}" for w, c in zip(words, (plain, other), strict=True)}
        assert len(told) == 2


@pytest.mark.parametrize("twin", TWINS)
def test_another_size_start_or_network_counts_as_another_and_another_recipe_does_not(twin):
    first, second = both(twin)
    if twin == "protocol":
        return  # only the latest counts
    found = compare([*first, *second])
    count = 2 if twin in OF_NETWORKS else 1
    assert [each.networks for each in overall_effects(found)] == [count]
    assert average_ranks(found).networks == count


@pytest.mark.parametrize("twin", TWINS)
def test_a_collapse_on_one_of_two_of_one_name_is_found(twin):
    """Of two sizes one gives accuracies of chance, and the mean over both is within its noise."""
    first, second = both(twin)
    fallen = [each.model_copy(update={"top1": each.top1.model_copy(update={"finetuned": 0.1})})
              for each in first]  # fmt: skip
    verdict, _ = compare_sets(Loaded([*first, *second], []), Loaded([*fallen, *second], []),
                              ["accuracy"])  # fmt: skip
    assert verdict.fails
    rows = [f.group for f in verdict.findings if f.verdict == "worse" and f.group[:5] == "bnp, "]
    assert rows == [f"bnp, {TOLD[twin][0]} at 0.5 of macs"]
    networks = {pair.network for pair in pair_up([*first, *second], [*fallen, *second])}
    assert len(networks) == (2 if twin in OF_NETWORKS else 1)


def ranked(**changes):
    sample = Sample(count=4, low=0.2, high=0.4)
    alone = [
        record(cell=cell("standalone", 0.4, 0, sample=sample, member=at, **changes), top1=top1)
        for at, top1 in enumerate((0.5, 0.6, 0.7, 0.8))
    ]
    scored = cell("bnp", 0.4, 0, sample=sample, **changes)
    return [*alone, record(cell=scored, scores=(0.1, 0.2, 0.3, 0.4))]


@pytest.mark.parametrize("twin", [each for each in TWINS if each != "distillation"])
def test_rankings_of_one_name_are_told_apart_and_so_are_their_panels(twin):
    first, second = TWINS[twin]
    rankings = collect_rankings([*ranked(**first), *ranked(**second)])
    band = ", 4 configurations at 20 to 40 % of macs"
    network, comma, recipe = zip(*(told.partition(",") for told in TOLD[twin]), strict=True)
    titles = {f"{n}{band}{c}{r}" for n, c, r in zip(network, comma, recipe, strict=True)}
    assert {each.title for each in rankings} == titles
    panels = [axis.get_title().split("\n")[0] for axis in proxy_against_accuracy(rankings).axes]
    assert {*panels} == {*TOLD[twin]}
    (alone,) = collect_rankings(ranked(**first))
    assert alone.title in (f"tiny_net on {data}{band}" for data in ("digits", "imagefolder"))


def test_rows_of_two_sizes_are_told_apart_on_the_page_and_in_small_panels():
    first, second = both("size")
    text = build_page(Findings.of([*first, *second]), title="")
    for told in ("digits at 16 px", "digits at the data's own size"):
        assert f">{told.replace(chr(39), '&#39;')}<" in text
    titles = [axis.get_title() for axis in kept_widths(compare([*first, *second])).axes]
    assert len({*titles}) == len(titles) == 4


def test_another_budget_or_method_needs_no_words():
    assert {str(words) for words in words_apart([cell(), cell("bnp", 0.2, 3)])} == {
        str(words_apart([cell()])[0])
    }
    assert words_apart([]) == []

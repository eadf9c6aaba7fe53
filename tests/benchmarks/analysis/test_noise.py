"""What counts as noise in a comparison of two sets: never a change, however many methods it hit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import pytest

from benchmarks.analysis.losses import CHECKS, Check
from benchmarks.analysis.regression import Verdict, judge, pair_up
from benchmarks.records.cell import Data
from benchmarks.records.files import write_record
from benchmarks.records.record import PhaseCost, Record
from benchmarks.studies.false_alarms import alarms
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record
from tests.benchmarks.test_cli import run  # noqa: F401  (a fixture)

METHODS = (
    "uniform", "taylor", "fpgm", "l1_norm", "bnp", "knapsack", "pse_net", "stagewise", "dmcp",
    "metapruning", "random", "autoslim",
)  # fmt: skip
IMAGES = {"train": 100, "test": 10_000}
Hit = Callable[[Record], bool]


def steady(methods: int, seeds: int) -> list[Record]:
    """Seeds that differ by two tenths of a point."""
    return [
        record(method, seed=seed, top1=round(0.9 + 0.002 * seed, 4), images=IMAGES)
        for method in METHODS[:methods]
        for seed in range(seeds)
    ]


def with_top1(found: Record, **points: float) -> Record:
    """With accuracies that are lower by some shares."""
    lower = {name: getattr(found.top1, name) - fall for name, fall in points.items()}
    return found.model_copy(update={"top1": found.top1.model_copy(update=lower)})


def fallen(base: Iterable[Record], fall: float, is_hit: Hit) -> list[Record]:
    return [with_top1(each, finetuned=fall) if is_hit(each) else each for each in base]


def of_first(count: int) -> Hit:
    return lambda each: each.cell.method in METHODS[:count]


def named(verdict: Verdict, kind: Literal["worse", "better"] = "worse") -> set[str]:
    return {found.group for found in verdict.findings if found.verdict == kind}


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("methods", [1, 2, 4, 12])
@pytest.mark.parametrize("fall", [0.1, 0.8])
def test_a_loss_is_found_whatever_share_of_the_methods_has_it(
    seeds: int, methods: int, fall: float
) -> None:
    base = steady(methods, seeds)
    for count in {1, methods // 2 or 1, methods - 1 or 1, methods}:
        found = named(judge(pair_up(base, fallen(base, fall, of_first(count))), ["accuracy"]))
        assert found & {*METHODS} == {*METHODS[:count]}
        assert "all cells" in found or fall * count / methods < 0.05


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("methods", "hit"), [(1, 1), (4, 1), (4, 2), (4, 4), (12, 12)])
def test_one_seed_that_is_lost_is_no_noise(seeds: int, methods: int, hit: int) -> None:
    base = steady(methods, seeds)
    new = fallen(base, 0.8, lambda each: of_first(hit)(each) and each.cell.seed == 0)
    found = named(judge(pair_up(base, new), ["accuracy"]))
    assert found & {*METHODS} == {*METHODS[:hit]}


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_one_method_loses_another_does_not_make_up_for(seeds: int) -> None:
    base = steady(4, seeds)
    new = [with_top1(each, finetuned=0.5) if each.cell.method == "uniform"
           else with_top1(each, finetuned=-0.05) if each.cell.method == "taylor" else each
           for each in base]  # fmt: skip
    verdict = judge(pair_up(base, new), ["accuracy"])
    assert {"uniform"} == named(verdict) & {*METHODS}
    assert {"taylor"} == named(verdict, "better") & {*METHODS}


def broken(check: Check, found: Record) -> Record:
    """A record that is much worse in one check."""
    if check in ("accuracy", "recalibrated"):
        name = {"accuracy": "finetuned"}.get(check, check)
        return with_top1(found, **{name: getattr(found.top1, name) - 0.01})
    if check == "latency":
        return found.model_copy(update={"latency": (measured(1, 8.0), measured(8, 5.0))})
    if check == "cost":
        search = PhaseCost(macs_forward=10**15, seconds=1)
        return found.model_copy(update={"spent": {**found.spent, "search": search}})
    if check == "macs":
        assert found.size is not None
        return found.model_copy(update={"size": found.size.model_copy(update={"macs": 900_000})})
    config = {group.name: [group.size - 1 - i for i in range(group.kept)] for group in found.groups}
    return found.model_copy(update={"config": config})


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("methods", [2, 4])
def test_half_of_the_methods_are_found_in_every_check(
    check: Check, seeds: int, methods: int
) -> None:
    kept = {"stem": [0, 1, 2, 3], "blocks.0.conv1": [*range(12)]}
    base = [each.model_copy(update={"config": kept}) for each in steady(methods, seeds)]
    hit = of_first(methods // 2)
    new = [broken(check, each) if hit(each) else each for each in base]
    found = named(judge(pair_up(base, new), [check]))
    assert found & {*METHODS} == {*METHODS[: methods // 2]}


def test_a_method_that_collapsed_beside_one_that_did_not_gives_status_one(
    run, tmp_path  # noqa: F811
):  # fmt: skip
    base = steady(2, 3)
    for folder, records in (("base", base), ("new", fallen(base, 0.8, of_first(1)))):
        for each in records:
            write_record(tmp_path / folder / "records", each)
    status, out, _ = run("compare", "base", "new", "--check", "accuracy", columns=200)
    assert status == 1 and "worse by more than noise" in out and "nothing got worse" not in out


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("change", [0.0, 1e-15])
def test_equal_sets_and_those_equal_but_for_the_last_bit_are_the_same(
    seeds: int, change: float
) -> None:
    base = steady(4, seeds)
    new = [
        with_top1(each, finetuned=change * (-1) ** each.cell.seed, recalibrated=change)
        for each in base
    ]
    for first, second in ((base, new), (new, base)):
        verdict = judge(pair_up(first, second))
        assert not verdict.fails and {found.verdict for found in verdict.findings} == {"same"}


def test_times_that_are_equal_but_for_the_last_bit_are_the_same() -> None:
    base = steady(4, 2)
    new = [each.model_copy(update={"latency": (measured(1, 0.8 * (1 + 1e-15)), each.latency[1])})
           for each in base]  # fmt: skip
    assert not judge(pair_up(base, new), ["latency"]).fails


@pytest.mark.parametrize("apart", ["content", "processor"])
def test_rows_of_two_data_sets_or_processors_do_not_make_up_for_each_other(apart: str) -> None:
    def side(*top1: float) -> list[Record]:
        rows = []
        for place, value in enumerate(top1):
            data = Data(name="imagefolder", digest=f"{place if apart == 'content' else 0}" * 16)
            cpu = f"Abacus {place if apart == 'processor' else 0}"
            rows += [
                record(
                    cell=cell("bnp", seed=seed, data=data, protocol=2), images=IMAGES,
                    top1=round(value + 0.001 * seed, 4), id=f"{place}-{seed}",
                    environment=ENVIRONMENT.model_copy(update={"cpu": cpu}),
                )
                for seed in range(3)
            ]  # fmt: skip
        return rows

    verdict = judge(pair_up(side(0.8, 0.6), side(0.6, 0.8)), ["accuracy"])
    (lost,), (won,) = (
        {group for group in named(verdict, kind) if group.startswith("bnp, tiny_net on image")}
        for kind in ("worse", "better")
    )
    told = {"content": "imagefolder {0}{0}", "processor": "trained on Abacus {0}"}[apart]
    assert told.format(0) in lost and told.format(1) in won


@pytest.mark.parametrize(("methods", "seeds"), [(1, 2), (1, 3), (4, 3)])
def test_an_unchanged_program_seldom_raises_an_alarm(methods: int, seeds: int) -> None:
    # Aimed at is 1 in 1000; a spread that is known from two or three values gives a few more.
    assert sum(alarms(record(), 200, methods, seeds)) <= 2


@pytest.mark.parametrize(("methods", "hit"), [(1, 1), (4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize(("fall", "least"), [(0.03, 30), (0.1, 99), (0.8, 100)])
def test_a_loss_is_found_among_seeds_that_differ(
    methods: int, hit: int, fall: float, least: int
) -> None:
    assert sum(alarms(record(), 100, methods, 3, fall, hit)) >= least

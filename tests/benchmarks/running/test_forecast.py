import dataclasses
from pathlib import Path

import pytest
import timm

from benchmarks.records.cell import Model, Sample, Schedule
from benchmarks.records.files import load_records
from benchmarks.records.rates import MACS_PER_SECOND, hours, training_macs
from benchmarks.running.forecast import forecast, forecast_lines
from benchmarks.running.plan import plan_suite
from benchmarks.running.suite import list_suites, load_suite
from benchmarks.studies.suite_page import INTRODUCTION, suite_section
from tests.benchmarks.fabricate import cell, record
from zoo.core.data.datasets import load_splits, outline

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "results/reference/records"
SMALL = cell(model=Model(name="test_resnet"))


def test_parents_cost_to_the_mac_what_records_metered_and_pruned_networks_no_more():
    records = load_records(REFERENCE)
    found = [r for r in records if r.cell.method == "uniform" and r.cell.seed == 0]
    assert len(found) == 2 * 2  # networks, budgets
    for each in found:
        (cost,) = forecast([each.cell])
        assert cost.macs == each.size.full_macs
        assert cost.parent_macs == each.spent["baseline"].macs
        spent = each.spent["finetune"].macs
        assert spent <= cost.finetune_macs < 1.05 * spent


def test_a_teacher_s_passes_count_with_the_tuning_as_records_metered_them():
    records = load_records(ROOT / "results/fashion-teachers/records")
    taught = [r for r in records if r.cell.seed == 0 and r.status == "ok"]
    assert taught and all(r.cell.distill for r in taught)
    for each in taught:
        (cost,) = forecast([each.cell])
        spent = each.spent["finetune"].macs
        assert spent <= cost.finetune_macs < 1.05 * spent
    plain = taught[0].cell.model_copy(update={"distill": 0.0})
    (cost,), (with_teacher,) = forecast([plain]), forecast([taught[0].cell])
    images = taught[0].spent["finetune"].images
    assert with_teacher.finetune_macs - cost.finetune_macs == images * cost.macs
    assert with_teacher.parent_macs == cost.parent_macs


@pytest.mark.parametrize(
    ("changes", "has_own"),
    [
        ({}, True),
        ({"finishes": ("common",)}, False),
        ({"method": "uniform"}, False),
        ({"method": "parent", "budget": 1.0}, False),
        ({"start": "scratch"}, False),
    ],
)
def test_what_cannot_be_known_before_is_named_and_own_finishes_where_there_may_be(changes, has_own):
    asked = SMALL.model_copy(update={"method": "bnp", **changes})
    (line,) = [s for s in forecast_lines([asked], forecast([asked]), 1) if "on top" in s]
    own = "methods' own finishes, " if has_own else ""
    assert f"Searches, {own}tests and timing come on top" in line


def test_a_parent_counts_once_and_one_that_is_there_costs_nothing(tmp_path):
    cells = [SMALL, SMALL.model_copy(update={"budget": 0.25})]
    (once,), (both,) = forecast(cells[:1]), forecast(cells, tmp_path)
    assert both.cells == 2 and both.parent_macs == once.parent_macs > 0
    assert both.finetune_macs == pytest.approx(1.5 * once.finetune_macs, rel=1e-4)
    (tmp_path / SMALL.parent_file).touch()
    (cached,) = forecast(cells, tmp_path)
    assert cached.parent_macs == 0 and cached.finetune_macs == both.finetune_macs


def test_what_scores_a_sample_trains_nothing_and_its_members_train_under_their_recipe():
    sample = Sample(count=2, low=0.4, high=0.5)
    scorer = SMALL.model_copy(update={"sample": sample})
    member = scorer.model_copy(update={"member": 0, "scratch": Schedule(epochs=6)})
    tuned, alone = SMALL.model_copy(update={"finetune": Schedule(epochs=2)}), member
    assert forecast([scorer])[0].finetune_macs == 0
    assert forecast([alone])[0].finetune_macs == 3 * forecast([tuned])[0].finetune_macs


def test_budgets_of_parameters_count_with_their_share_and_those_of_milliseconds_with_all():
    def tuning(**changes):
        return forecast([SMALL.model_copy(update=changes)])[0].finetune_macs

    half, whole = tuning(), tuning(budget=1.0)
    assert tuning(metric="params") == pytest.approx(half, rel=1e-4)
    assert tuning(metric="latency") == pytest.approx(half, rel=1e-4)
    assert tuning(metric="latency_ms", budget=3.0) == whole


def test_budgets_out_of_reach_are_told_and_those_above_the_parent_refused():
    low, high = (SMALL.model_copy(update={"budget": budget}) for budget in (0.001, 10**12))
    (cost,) = forecast([SMALL, low])
    assert cost.unreachable == (0.001,) and 0.001 < cost.floor < cost.inner_floor < 0.5
    assert "out of reach of all methods: 0.001" in forecast_lines([low], [cost], 1)[-1]
    with pytest.raises(ValueError, match="above the parent's"):
        forecast([high])
    count = SMALL.model_copy(update={"budget": 1})
    bare = dataclasses.replace(cost, unreachable=(1_234_567,))
    assert "out of reach of all methods: 1,234,567." in forecast_lines([count], [bare], 1)[-1]


def test_imagenet_is_counted_without_its_files_and_without_published_weights(monkeypatch):
    asked = []
    create = timm.create_model

    def watched(name, **args):
        asked.append(args)
        return create(name, **args)

    monkeypatch.setattr(timm, "create_model", watched)
    cells = plan_suite("imagenet", load_suite("imagenet"), device="cuda").cells
    (cost,) = forecast(cells)
    assert asked and not any(args.get("pretrained") for args in asked)
    assert cost.macs == 4_089_184_256 and cost.parent_macs == 0
    images = (1_281_167 - 50_000) // 256 * 256
    networks = 12 * (2 * 10**9 + 10**9) + cost.macs  # the parent is fine-tuned, too
    assert cost.finetune_macs == 50 * 3 * images * networks
    (line,) = [line for line in forecast_lines(cells, [cost], 1) if "GMACs a second" in line]
    assert f"{cost.finetune_macs / 2e12 / 3600:,.0f} hours of one GPU" in line


def test_a_folder_of_images_is_not_counted_and_the_forecast_says_so():
    unknown = SMALL.model_copy(
        update={"data": SMALL.data.model_copy(update={"name": "imagefolder"})}
    )
    assert forecast([unknown]) == []
    (line,) = forecast_lines([unknown], [], 1)  # and no cost of nothing
    assert line.startswith("imagefolder is known from its files only")
    section = suite_section("cifar10-cores", load_suite("cifar10-cores"))
    assert line in section and "| network |" not in section


def test_records_of_other_seeds_tell_what_whole_cells_take():
    ran = [record(seed=seed).model_copy(update={"seconds": 60.0 * seed}) for seed in (1, 3)]
    cells = [ran[0].cell.model_copy(update={"seed": seed}) for seed in (5, 6, 7)]
    other = cells[0].model_copy(update={"budget": 0.125})
    (line,) = [s for s in forecast_lines([*cells, other], [], 2, ran) if "other seeds" in s]
    assert line.startswith("Of 3 cells") and "3 minutes with 2 workers" in line
    assert not any("other seeds" in s for s in forecast_lines([other], [], 2, ran))


def test_workers_divide_the_hours_of_cores_and_not_those_of_a_gpu():
    macs = training_macs(10, 7)
    assert macs == 210
    assert hours(macs, "cpu", 2) == macs / MACS_PER_SECOND["cpu"] / 7200
    assert hours(macs, "cuda:1", 2) == hours(macs, "cuda") == macs / MACS_PER_SECOND["cuda"] / 3600


@pytest.mark.parametrize(
    "sizes",
    [{}, {"image_size": 16, "train_size": 40, "search_size": 20}, {"search_size": 30}],
)
@pytest.mark.parametrize("name", ["digits", "cluttered_digits"])
def test_the_outline_of_a_set_is_that_of_its_splits(name, sizes):
    known, splits = outline(name, **sizes), load_splits(name, test_size=10, **sizes)
    assert known.num_classes == splits.num_classes
    assert known.input_size == splits.input_size
    assert known.num_train == len(splits.train)


def test_the_outlines_of_sets_in_files_are_those_published():
    assert outline("cifar100").num_train == 45_000 and outline("cifar100").num_classes == 100
    assert outline("imagenet", search_size=50_000).num_train == 1_231_167
    assert outline("imagefolder") is None
    with pytest.raises(ValueError, match="cifar10"):
        outline("cifar11")


LARGE = ("imagenet-mobile", "clutter32")
"""Suites whose networks take seconds to count."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in list_suites()],
)
def test_the_page_of_suites_says_of_each_what_its_file_says(name):
    assert suite_section(name, load_suite(name)) in (ROOT / "docs/suites.md").read_text("utf-8")


def test_the_page_of_suites_holds_nothing_else():
    text = (ROOT / "docs/suites.md").read_text("utf-8")
    assert text.startswith(INTRODUCTION)
    assert sorted(list_suites()) == [s[3:] for s in text.splitlines() if s.startswith("## ")]

"""Primary contrasts: confirmatory only where they were named before, and told first."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.contrasts import primary_contrasts
from benchmarks.analysis.uncertainty import estimate
from benchmarks.records.cell import Data, Model, Schedule
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.record import Top1
from benchmarks.tables.contrast_lines import NONE, OTHERS, contrast_lines
from benchmarks.tables.tables import to_latex, to_markdown, to_short_markdown
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

NAMED = Primary(contrast=Contrast(method="taylor", budget=0.5), metric="macs", seeds=(0, 1, 2))
UNIFORM, TAYLOR = (0.50, 0.60, 0.70), (0.53, 0.635, 0.73)


def run(*, model="tiny_net", primary=(NAMED,), taylor=TAYLOR, uniform=UNIFORM):
    return [
        record(cell=cell(method, 0.5, seed, model=Model(name=model)), top1=top1, primary=primary)
        for method, row in (("taylor", taylor), ("uniform", uniform))
        for seed, top1 in enumerate(row)
    ]


def test_a_contrast_is_tested_by_itself_and_told_before_every_table():
    others = [
        record(f"m{i}", 0.5, s, top1=0.5 + 0.001 * s * i) for i in range(30) for s in range(3)
    ]
    comparisons = compare([*run(), *others])
    (found,) = primary_contrasts(comparisons)
    assert found.p_value == pytest.approx(ttest_rel(TAYLOR, UNIFORM).pvalue)  # not of 31 tests
    assert found.is_clear and not found.problem
    assert found.detectable == estimate(np.subtract(TAYLOR, UNIFORM)).detectable(0.05)
    line, rest = contrast_lines(comparisons)
    assert line.startswith("Primary contrast: taylor against uniform at 0.5 of macs, tiny_net on")
    assert "named before the run: +3.2 ± 0.3 [+3.0, +3.5] points, a clear difference" in line
    assert rest == OTHERS
    for write in (to_markdown, to_short_markdown, to_latex):
        assert write(comparisons).startswith("Primary contrast: taylor against uniform")


def test_contrasts_on_several_networks_are_corrected_together():
    first, second = primary_contrasts(compare([*run(), *run(model="other", taylor=UNIFORM)]))
    assert first.title.startswith("other") and first.p_value == 1.0 and not first.is_clear
    assert second.p_value == pytest.approx(2 * ttest_rel(TAYLOR, UNIFORM).pvalue)
    # What is called detectable is so by the test that is made, not by one at 5 %.
    assert second.detectable == estimate(np.subtract(TAYLOR, UNIFORM)).detectable(0.05 / 2)


def on_gpu(records):
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    moved = [r.cell.model_copy(update={"device": "cuda"}) for r in records]
    changes = [{"environment": gpu, "cell": cell} for cell in moved]
    return [r.model_copy(update=update) for r, update in zip(records, changes, strict=True)]


def test_what_another_processor_has_begun_is_no_further_test_and_what_it_ended_is():
    raw = ttest_rel(TAYLOR, UNIFORM).pvalue
    begun = [each for each in on_gpu(run()) if each.cell.seed < 2]
    for there, p_values, family in ((begun, [raw, 1.0], 1), (on_gpu(run()), [2 * raw] * 2, 2)):
        found = primary_contrasts(compare([*run(), *there]))
        assert sorted(each.p_value for each in found) == pytest.approx(p_values)
        assert {each.family for each in found} == {family}
    both = [each for each in run() if each.cell.seed < 2]
    found = primary_contrasts(compare([*both, *begun, *run(model="other")]))
    assert [each.p_value for each in found if not each.problem] == pytest.approx([2 * raw])


def test_what_another_folder_of_images_has_begun_is_a_test():
    def on(digest, records):
        data = Data(name="imagefolder", digest=digest * 16)
        moved = [each.cell.model_copy(update={"data": data}) for each in records]
        return [r.model_copy(update={"cell": c}) for r, c in zip(records, moved, strict=True)]

    begun = [each for each in run() if each.cell.seed < 2]
    found = primary_contrasts(compare([*on("a", run()), *on("b", begun)]))
    raw = ttest_rel(TAYLOR, UNIFORM).pvalue
    assert [each.p_value for each in found] == pytest.approx([2 * raw, 1.0])


def planned(*names):
    """The contrast as the records carry it of a suite that runs these networks."""
    return NAMED.model_copy(update={"networks": tuple(f"{name} on digits" for name in names)})


def test_planned_networks_without_a_record_count_and_no_second_time_once_they_have_one():
    raw = ttest_rel(TAYLOR, UNIFORM).pvalue
    asked = (planned("tiny_net", "other", "third"),)
    (found,) = primary_contrasts(compare(run(primary=asked)))
    assert found.p_value == pytest.approx(3 * raw) and found.family == 3
    assert found.detectable == estimate(np.subtract(TAYLOR, UNIFORM)).detectable(0.05 / 3)
    begun = run(model="other", primary=asked)[:1]
    found = primary_contrasts(compare([*run(primary=asked), *begun]))
    assert {each.family for each in found} == {3}
    there = [each for name in ("other", "third") for each in run(model=name, primary=asked)]
    found = primary_contrasts(compare([*run(primary=asked), *there]))
    assert [each.p_value for each in found] == pytest.approx([3 * raw] * 3)


def test_records_of_one_suite_ask_the_same_whether_they_say_what_was_planned_or_not():
    """Those of an earlier release do not, and a folder may hold both."""
    raw = ttest_rel(TAYLOR, UNIFORM).pvalue
    for old, new in ((run()[:2], run(primary=(planned("tiny_net", "other"),))[2:]),
                     (run()[2:], run(primary=(planned("tiny_net", "other"),))[:2])):  # fmt: skip
        (found,) = primary_contrasts(compare([*old, *new]))
        assert not found.problem and found.p_value == pytest.approx(2 * raw)
    # A network that was added to the suite since makes no other question of it.
    first = run(primary=(planned("tiny_net", "other"),))[:2]
    more = run(primary=(planned("tiny_net", "other", "third"),))[2:]
    (found,) = primary_contrasts(compare([*first, *more]))
    assert not found.problem and found.family == 3


def test_two_networks_of_one_name_that_are_planned_count_twice():
    asked = (planned("tiny_net", "tiny_net"),)
    (found,) = primary_contrasts(compare(run(primary=asked)))
    assert found.family == 2


def test_contrasts_that_are_shown_alone_are_tested_with_all_others():
    records = [*run(), *run(model="other", taylor=UNIFORM)]
    keys = {each.cell.key for each in run()}
    (found,) = primary_contrasts(compare(records), keys)
    assert found.title == "tiny_net on digits" and found.family == 2
    assert found in primary_contrasts(compare(records))
    assert primary_contrasts(compare(records), set()) == []


@pytest.mark.parametrize(
    "other",
    [
        {"data": Data(name="digits", image_size=32)},
        {"model": Model(name="tiny_net", args={"drop_rate": 0.5})},
        {"finetune": Schedule(epochs=9)},
        {"distill": 1.0},
    ],
)
def test_what_is_begun_of_another_comparison_is_a_test_as_that_of_another_network_is(other):
    begun = [each for each in run() if each.cell.seed < 2]
    moved = [each.cell.model_copy(update=other) for each in begun]
    there = [r.model_copy(update={"cell": c}) for r, c in zip(begun, moved, strict=True)]
    found = primary_contrasts(compare([*run(), *there]))
    raw = ttest_rel(TAYLOR, UNIFORM).pvalue
    assert sorted(each.p_value for each in found) == pytest.approx([2 * raw, 1.0])
    # What another processor has begun of both is in neither family.
    again = primary_contrasts(compare([*run(), *there, *on_gpu(begun), *on_gpu(there)]))
    assert {each.family for each in again} == {2}


def test_runs_that_were_repeated_once_the_question_was_known_confirm_nothing():
    first = [each.model_copy(update={"id": f"{each.id}-a"}) for each in run(primary=())]
    again = [
        each.model_copy(update={"utc": "2026-01-02T12:00:00+00:00", "supersedes": old})
        for each, old in zip(run(), [f.id for f in first[:3]] + [None] * 3, strict=True)
    ]
    (found,) = primary_contrasts(compare([*first, *again]))
    assert "not named like this when 6 of its 12 records" in found.problem and not found.is_clear
    (found,) = primary_contrasts(compare([*run(), *again]))
    assert not found.problem


def test_a_seed_that_was_run_again_to_another_accuracy_confirms_nothing():
    first = [each.model_copy(update={"id": f"{each.id}-a"}) for each in run()]
    again = [
        each.model_copy(update={"utc": "2026-01-02T12:00:00+00:00"})
        for each in run(taylor=(*TAYLOR[:2], TAYLOR[2] + 0.001))
    ]
    (found,) = primary_contrasts(compare(first))
    assert found.is_clear
    (found,) = primary_contrasts(compare([*first, *again]))
    assert found.problem == "seed 2 was run again after its accuracy was known"
    assert not found.is_clear
    back = [
        each.model_copy(update={"utc": "2026-01-03T12:00:00+00:00", "id": f"{each.id}-b"})
        for each in run()
    ]
    (found,) = primary_contrasts(compare([*first, *again, *back]))
    assert found.problem, "back at the first accuracy"
    failed = [
        each.model_copy(update={"status": "failed", "reason": "no memory", "top1": Top1()})
        for each in first
    ]
    (found,) = primary_contrasts(compare([*failed, *again]))
    assert not found.problem


def test_a_seed_that_was_run_again_on_one_processor_leaves_the_contrast_of_another():
    there, again = (
        [
            each.model_copy(
                update={
                    "environment": ENVIRONMENT.model_copy(update={"cpu": "Abacus 4000"}),
                    "utc": f"2026-01-0{day}T12:00:00+00:00",
                    "id": f"{each.id}-{day}",
                }
            )
            for each in run(taylor=(*TAYLOR[:2], TAYLOR[2] + day / 1000))
        ]
        for day in (2, 3)
    )
    problems = [each.problem for each in primary_contrasts(compare([*run(), *there, *again]))]
    assert sorted(problems) == ["", "seed 2 was run again after its accuracy was known"]


def test_a_budget_of_many_channels_or_weights_is_told_with_all_its_digits():
    contrast = Contrast(method="taylor", budget=1_234_567)
    named = NAMED.model_copy(update={"contrast": contrast, "metric": "params"})
    at = {"budget": 1_234_567, "metric": "params"}
    moved = [each.model_copy(update={"cell": each.cell.model_copy(update=at)})
             for each in run(primary=(named,))]  # fmt: skip
    (line, _) = contrast_lines(compare(moved))
    assert "taylor against uniform at 1,234,567 params, " in line


def test_records_that_carry_none_have_none():
    comparisons = compare(run(primary=()))
    assert primary_contrasts(comparisons) == [] and contrast_lines(comparisons) == [NONE]
    assert to_markdown(comparisons).startswith(NONE)


LATER = NAMED.model_copy(update={"seeds": (0, 1, 2, 3)})


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        # Named when some results were there.
        ([*run()[:5], *run(primary=())[5:]], "not named like this when 1 of its 6 records"),
        # A seed added when three had been seen.
        (
            [*run(), record("taylor", seed=3, primary=(LATER,)), record(seed=3, primary=(LATER,))],
            "2 of its 8 records",
        ),
        ([*run(taylor=TAYLOR[:2])], "taylor: not all planned seeds are there, seed 2 is not"),
        (
            [*run(taylor=TAYLOR[:2]),
             record("taylor", 0.5, 2, status="failed", reason="x", primary=(NAMED,))],
            "taylor: 1 of 3 failed",
        ),
        (run()[:3], "not run yet"),
    ],
)  # fmt: skip
def test_what_was_not_named_before_or_did_not_end_confirms_nothing(records, problem):
    found = primary_contrasts(compare(records))[0]
    assert problem in found.problem and not found.is_clear and found.p_value == 1.0
    assert f"not confirmatory ({found.problem})" in contrast_lines(compare(records))[0]


def test_settings_that_tell_no_rows_apart_are_left_out_of_the_names():
    settings = {"calibration": 0.2}
    named = Primary(
        contrast=Contrast(method="taylor", settings=settings, budget=0.5),
        metric="macs",
        seeds=(0, 1, 2),
    )
    records = [
        record(cell=cell(method, 0.5, seed, settings=own), top1=top1, primary=(named,))
        for method, own, row in (("taylor", settings, TAYLOR), ("uniform", {}, UNIFORM))
        for seed, top1 in enumerate(row)
    ]
    (found,) = primary_contrasts(compare(records))
    assert found.sides == ("taylor", "uniform") and found.is_clear


def test_a_contrast_may_be_between_variants_of_a_method():
    against = Contrast(
        method="bnp", settings={"kd": 0.1}, against="bnp", against_settings={"steps": 0}, budget=0.5
    )
    primary = NAMED.model_copy(update={"contrast": against})
    rows = {"kd": (0.1, TAYLOR), "steps": (0, UNIFORM), "beta": (0.0, (0.1, 0.2, 0.3))}
    records = [
        record(cell=cell("bnp", 0.5, seed, settings={key: value}), top1=top1, primary=(primary,))
        for key, (value, row) in rows.items()
        for seed, top1 in enumerate(row)
    ]
    (found,) = primary_contrasts(compare(records))
    assert found.gain.values == pytest.approx(tuple(np.subtract(TAYLOR, UNIFORM)))
    assert "bnp (kd=0.1) against bnp (steps=0)" in contrast_lines(compare(records))[0]

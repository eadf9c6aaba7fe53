"""The page on teachers: which numbers of which records it sets against each other."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from benchmarks.analysis.comparison import compare
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.files import write_record
from benchmarks.records.record import PhaseCost, Record, Top1
from benchmarks.running.suite import load_suite
from benchmarks.studies import teachers
from benchmarks.studies.teachers import (
    DECISIONS,
    LONGER,
    OWN,
    PLAIN,
    SUITES,
    TAUGHT,
    WHOLE,
    draw,
    main,
    page,
    tasks_of,
)
from benchmarks.tables.contrast_lines import OTHERS, contrast_lines
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

PLAIN_TOP1 = {"uniform": 0.80, "bnp": 0.82, "knapsack": 0.79}
TAUGHT_TOP1 = {"uniform": 0.83, "bnp": 0.84, "knapsack": 0.83}
PARENT_TOP1, LONGER_TOP1 = (0.90, 0.91), (0.85, 0.86)  # with cross-entropy, with distillation
OWN_TOP1 = {"bnp": 0.86, "knapsack": 0.85}
SETTINGS: dict[str, dict[str, JsonValue]] = {"bnp": {"steps": 250}}  # of both suites


def finished(method: str, seed: int, distill: float = 0.0, **changes: object) -> Record:
    label = f"{method}-{seed}-{distill:g}-{len(changes)}"
    changes = {"settings": SETTINGS.get(method, {}), **changes}
    asked = cell(method, seed=seed, protocol=2, distill=distill, **changes)
    top1 = (TAUGHT_TOP1 if distill else PLAIN_TOP1)[method] + seed / 100
    own = OWN_TOP1[method] + seed / 100 if method in OWN_TOP1 else None
    own = 0.1 if own and distill else own  # the own finish is told by the plain record alone
    made = record(method, seed=seed, latency=())
    found = Top1(parent=0.9, finetuned=top1, own=own)
    return made.model_copy(update={"id": label, "cell": asked, "top1": found})


def all_records(seeds: int = 3) -> list[Record]:
    return [
        finished(method, seed, distill)
        for method in PLAIN_TOP1
        for seed in range(seeds)
        for distill in (0.0, 1.0)
    ]


def text_of(records: list[Record]) -> str:
    return page(tasks_of(records), [])


def test_each_finish_is_taken_from_its_record_and_paired_by_seed() -> None:
    (task,) = tasks_of(all_records())
    assert task.of("bnp", PLAIN) == {0: 0.82, 1: 0.83, 2: pytest.approx(0.84)}
    assert task.mean("bnp", OWN).mean == pytest.approx(0.87)  # type: ignore[union-attr]
    for finish, gain in ((PLAIN, 0.02), (TAUGHT, 0.01)):
        found = task.gain("bnp", finish)
        assert found is not None and found.mean == pytest.approx(gain)
        assert found.sd == pytest.approx(0.0, abs=1e-12)


def test_one_network_on_two_processors_has_two_tables_that_name_them() -> None:
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = [
        each.model_copy(
            update={
                "id": f"{each.id}-there",
                "cell": each.cell.model_copy(update={"device": "cuda"}),
                "environment": gpu,
            }
        )
        for each in all_records()
    ]
    tasks = tasks_of([*all_records(), *there])
    headings = [line for line in page(tasks, []).splitlines() if line.startswith("## ")]
    assert len(headings) == len({*headings}) == 2
    assert sum("trained on GPU 9, 3 seeds" in heading for heading in headings) == 1
    assert len({task.title for task in tasks}) == len(tasks) == 2


def test_what_each_finish_costs_stands_beside_it() -> None:
    records = []
    for each in all_records():
        macs = (3 if each.cell.distill else 1) * 10**12
        spent = {
            "finetune": PhaseCost(macs_forward=macs),
            "finetune_own": PhaseCost(macs_forward=macs, macs_backward=4 * 10**12),
        }
        records.append(each.model_copy(update={"spent": spent}))
    (task,) = tasks_of(records)
    lines = [line for line in page([task], []).splitlines() if line.startswith("|")]
    ends = {name: next(x for x in lines if f"| {name} |" in x) for name in DECISIONS}
    assert ends["uniform"].endswith("| 1.00 / 3.00 |")
    assert ends["bnp"].endswith("| 1.00 / 3.00 / 5.00 |")


def test_a_seed_that_lacks_a_finish_counts_in_none() -> None:
    records = all_records()
    records.remove(next(r for r in records if r.id == "knapsack-2-1-0"))
    (task,) = tasks_of(records)
    assert task.seeds == [0, 1] and set(task.of("uniform", PLAIN)) == {0, 1}
    assert "2 seeds" in page([task], [])


def losing(method: str, distill: float, *seeds: int) -> list[Record]:
    failed = {"status": "failed", "reason": "no memory", "top1": Top1()}
    return [
        each.model_copy(update=failed)
        if each.cell.method == method and each.cell.distill == distill and each.cell.seed in seeds
        else each
        for each in all_records()
    ]


def table_of(records: list[Record]) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text_of(records).splitlines()]
    return {line[1]: line[2:] for line in lines if line[0] in ("0.5 of macs", "1 of macs")}


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2)])
def test_a_decision_that_lost_seeds_has_no_mean_and_cuts_no_seed_of_another(
    seeds: tuple[int, ...],
) -> None:
    whole, records = table_of(all_records()), losing("bnp", 0.0, *seeds)
    told = f"{len(seeds)} of 3 failed"
    assert table_of(records) == {
        **whole,
        "bnp": [told, "85.0 ± 1.0", told, "–", "–", "+1.0 ± 0.0", "– / 0.30 / –"],
    }
    assert "3 seeds" in text_of(records)


def test_a_taught_decision_that_lost_seeds_keeps_its_plain_and_its_own_finish() -> None:
    whole, found = table_of(all_records()), table_of(losing("bnp", 1.0, 2))
    assert found["bnp"][:6] == [
        whole["bnp"][0], "1 of 3 failed", whole["bnp"][2], "–", whole["bnp"][4], "–"
    ]  # fmt: skip


def test_nothing_is_compared_with_uniform_width_that_lost_seeds() -> None:
    whole, found = table_of(all_records()), table_of(losing("uniform", 0.0, 1))
    assert found["uniform"][:4] == ["1 of 3 failed", "84.0 ± 1.0", "–", "–"]
    for method in ("bnp", "knapsack"):
        assert found[method][:4] == whole[method][:4]
        assert found[method][4:6] == ["–", whole[method][5]]


def test_the_figure_names_what_has_no_point_since_seeds_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(teachers, "set_title", lambda _, title, **looks: titles.append(title))
    failed = {"status": "failed", "reason": "no memory", "top1": Top1()}
    controls = [each.model_copy(update=failed) for each in all_controls()]  # are in no panel
    lost = losing("bnp", 0.0, 0), losing("knapsack", 1.0, 0, 1, 2)
    for records in ([*all_records(), *controls], *lost):
        draw(tasks_of(records), tmp_path / "teachers.png")
    assert [title.splitlines()[1:] for title in titles] == [
        [], ["no mean: bnp cross-entropy, own"], ["no mean: knapsack with distillation"]
    ]  # fmt: skip


def test_tasks_without_a_common_teacher_stay_out() -> None:
    assert tasks_of([r for r in all_records() if not r.cell.distill]) == []


def control(seed: int, distill: float, *, longer: int | None = None) -> Record:
    """The parent, fine-tuned, or uniform width, fine-tuned for so many epochs."""
    budget = 0.5 if longer else 1.0
    changes = {"protocol": 2, "distill": distill, "longer": longer}
    asked = cell("uniform" if longer else "parent", budget, seed, **changes)
    top1 = (LONGER_TOP1 if longer else PARENT_TOP1)[bool(distill)] + seed / 100
    made = record(cell=asked, latency=(), top1=top1)
    return made.model_copy(update={"id": f"{asked.method}-{seed}-{distill:g}-{longer}"})


def all_controls(seeds: int = 3) -> list[Record]:
    """The longer ones of the two suites cost as much as other methods, so they differ in length."""
    both = [(seed, distill) for seed in range(seeds) for distill in (0.0, 1.0)]
    longer = [control(seed, distill, longer=5 if distill else 9) for seed, distill in both]
    return [*longer, *(control(seed, distill) for seed, distill in both)]


def test_controls_of_both_suites_stand_beside_the_decisions_and_change_none() -> None:
    alone, found = table_of(all_records()), table_of([*all_controls(), *all_records()])
    assert found.keys() == {*DECISIONS, WHOLE, LONGER}
    assert {name: found[name] for name in DECISIONS} == alone
    taught = ["91.0 ± 1.0", "92.0 ± 1.0", "–", "+1.0 ± 0.0 [+1.0, +1.0]", "–", "–", "0.30 / 0.30"]
    assert found[WHOLE] == taught
    assert found[LONGER] == [
        "86.0 ± 1.0", "87.0 ± 1.0", "–", "–", "+5.0 ± 0.0", "+3.0 ± 0.0", "0.30 / 0.30"
    ]  # fmt: skip
    assert "Controls are" in text_of([*all_controls(), *all_records()])


def test_the_parent_stands_once_above_the_budgets_of_its_network() -> None:
    quarter = [
        each.model_copy(
            update={
                "id": f"{each.id}-quarter",
                "cell": each.cell.model_copy(update={"budget": 0.25}),
            }
        )
        for each in all_records()
    ]
    lines = text_of([*quarter, *all_records(), *all_controls()]).splitlines()
    names = [line.split(" | ")[1] for line in lines if line.startswith("| ")][1:]
    assert names == [WHOLE, *DECISIONS, LONGER, *DECISIONS]


def test_controls_that_one_suite_lacks_in_a_seed_stay_out() -> None:
    lacking = [each for each in all_controls() if each.cell.seed < 2 or not each.cell.distill]
    records = [*all_records(), *lacking]
    assert text_of(records) == text_of(all_records())
    assert "Controls" not in text_of(records)
    failed = {"status": "failed", "reason": "no memory", "top1": Top1()}
    lost = [r.model_copy(update=failed if r.cell.seed == 2 else {}) for r in all_controls()]
    found = table_of([*all_records(), *lost])
    for name in (WHOLE, LONGER):
        assert found[name][:4] == ["1 of 3 failed", "1 of 3 failed", "–", "–"]


def test_the_longest_of_a_seeds_longer_controls_counts() -> None:
    shorter = [control(seed, 0.0, longer=4) for seed in range(3)]
    worse = [r.model_copy(update={"top1": Top1(parent=0.9, finetuned=0.1)}) for r in shorter]
    records = [*all_records(), *all_controls()]
    assert text_of([*records, *worse]) == text_of([*worse, *records]) == text_of(records)


def spread(records: list[Record], method: str, distill: float, *changes: float) -> list[Record]:
    """The accuracies of a row, each changed by so much."""
    return [
        each.model_copy(
            update={
                "top1": each.top1.model_copy(
                    update={"finetuned": (each.top1.finetuned or 0) + changes[each.cell.seed]}
                )
            }
        )
        if each.cell.method == method and each.cell.distill == distill
        else each
        for each in records
    ]


def test_what_the_teacher_brings_is_paired_by_seed_and_bold_where_it_is_clear() -> None:
    records = spread(all_records(), "uniform", 1.0, -0.131, -0.130, -0.129)
    found = table_of(spread(records, "bnp", 1.0, -0.06, 0.02, 0.01))
    # 83 to 85 less 13.1 to 12.9 against 80 to 82: all seeds lose ten points, 0.1 apart.
    assert found["uniform"][3] == r"**-10.0 ± 0.1 [-10.1, -9.9]**"
    assert found["bnp"][3] == "+1.0 ± 4.4 [-4.0, +4.0]"
    # Knapsack gains 4 points in each seed: no spread, no test.
    assert found["knapsack"][3] == "+4.0 ± 0.0 [+4.0, +4.0]"


def test_what_the_teacher_brings_is_corrected_over_the_table() -> None:
    """A p-value of 0.0144 is clear as the least of three, and not as the least of four."""
    records = spread(all_records(), "uniform", 1.0, -0.0421, -0.0400, -0.0379)
    (task,) = tasks_of(records)
    found = task.brought("uniform")
    assert found is not None and found.p_value is not None and 0.05 / 3 > found.p_value > 0.05 / 4
    longer = [each for each in all_controls() if each.cell.longer]
    for three in (records, [*records, *longer]):
        assert table_of(three)["uniform"][3] == "**-1.0 ± 0.2 [-1.2, -0.8]**"
    assert table_of([*records, *all_controls()])["uniform"][3] == "-1.0 ± 0.2 [-1.2, -0.8]"


def test_the_page_tells_the_primary_contrasts_of_the_taught_suite_alone(tmp_path: Path) -> None:
    def asked(each: Record, *methods: str) -> Record:
        named = [Contrast(method=method, budget=0.5, settings=SETTINGS.get(method, {}))
                 for method in methods]  # fmt: skip
        primary = tuple(Primary(contrast=c, metric="macs", seeds=(0, 1, 2)) for c in named)
        return each.model_copy(update={"primary": primary})

    plain = [asked(r, "knapsack") for r in all_records() if not r.cell.distill]
    taught = [asked(r, "bnp") for r in all_records() if r.cell.distill]
    for suite, records in zip(SUITES, (plain, taught), strict=True):
        for each in records:
            write_record(tmp_path / suite / "records", each)
    main(["--results", str(tmp_path), "--docs", str(tmp_path)])
    lines = (tmp_path / "teachers.md").read_text().splitlines()
    told = [line.removeprefix("- ") for line in lines if "contrast:" in line or OTHERS in line]
    assert told == contrast_lines(compare(taught)) and len(told) == 2
    assert "bnp" in told[0] and "tiny_net on digits with distillation" in told[0]


def test_variants_of_a_decision_stay_out() -> None:
    variants = [
        finished(method, seed, distill, settings=settings)
        for method, settings in (("bnp", {"steps": 1}), ("bnp", {}), ("knapsack", {"solver": "x"}))
        for seed in range(4)
        for distill in (0.0, 1.0)
    ]
    worse = [
        each.model_copy(update={"top1": Top1(parent=0.9, finetuned=0.1, own=0.1)})
        for each in variants
    ]
    for records in ([*worse, *all_records()], [*all_records(), *worse]):
        assert text_of(records) == text_of(all_records())


def test_both_suites_set_the_decisions_alike() -> None:
    plain, taught = (load_suite(name).settings for name in SUITES)
    for method in DECISIONS:
        assert plain.get(method, {}) == taught.get(method, {}) == SETTINGS.get(method, {})


def test_page_and_figure_name_what_they_show(tmp_path: Path) -> None:
    tasks = tasks_of(all_records())
    row = next(line for line in page(tasks, []).splitlines() if "| bnp |" in line)
    assert "+2.0 ± 0.0 | +1.0 ± 0.0" in row
    draw(tasks, tmp_path / "teachers.png")
    assert (tmp_path / "teachers.png").stat().st_size > 10_000

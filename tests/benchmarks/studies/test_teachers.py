"""The page on teachers: which numbers of which records it sets against each other."""

from pathlib import Path

import pytest

from benchmarks.records.record import PhaseCost, Record, Top1
from benchmarks.running.suite import load_suite
from benchmarks.studies import teachers
from benchmarks.studies.teachers import (
    DECISIONS,
    OWN,
    PLAIN,
    SUITES,
    TAUGHT,
    draw,
    page,
    tasks_of,
)
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

PLAIN_TOP1 = {"uniform": 0.80, "bnp": 0.82, "knapsack": 0.79}
TAUGHT_TOP1 = {"uniform": 0.83, "bnp": 0.84, "knapsack": 0.83}
OWN_TOP1 = {"bnp": 0.86, "knapsack": 0.85}
SETTINGS = {"bnp": {"steps": 250}}  # of both suites


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


def test_each_finish_is_taken_from_its_record_and_paired_by_seed() -> None:
    (task,) = tasks_of(all_records())
    assert task.of("bnp", PLAIN) == {0: 0.82, 1: 0.83, 2: pytest.approx(0.84)}
    assert task.mean("bnp", OWN).mean == pytest.approx(0.87)  # type: ignore[union-attr]
    for finish, base, gain in ((PLAIN, PLAIN, 0.02), (TAUGHT, TAUGHT, 0.01), (OWN, PLAIN, 0.06)):
        found = task.gain("bnp", finish, base)
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
    headings = [line for line in page(tasks).splitlines() if line.startswith("## ")]
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
    lines = [line for line in page([task]).splitlines() if line.startswith("|")]
    ends = {name: next(x for x in lines if f"| {name} |" in x) for name in DECISIONS}
    assert ends["uniform"].endswith("| 1.00 / 3.00 |")
    assert ends["bnp"].endswith("| 1.00 / 3.00 / 5.00 |")


def test_a_seed_that_lacks_a_finish_counts_in_none() -> None:
    records = all_records()
    records.remove(next(r for r in records if r.id == "knapsack-2-1-0"))
    (task,) = tasks_of(records)
    assert task.seeds == [0, 1] and set(task.of("uniform", PLAIN)) == {0, 1}
    assert "2 seeds" in page([task])


def losing(method: str, distill: float, *seeds: int) -> list[Record]:
    failed = {"status": "failed", "reason": "no memory", "top1": Top1()}
    return [
        each.model_copy(update=failed)
        if each.cell.method == method and each.cell.distill == distill and each.cell.seed in seeds
        else each
        for each in all_records()
    ]


def table_of(records: list[Record]) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in page(tasks_of(records)).splitlines()]
    return {line[1]: line[2:] for line in lines if line[0] == "0.5 of macs"}


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2)])
def test_a_decision_that_lost_seeds_has_no_mean_and_cuts_no_seed_of_another(
    seeds: tuple[int, ...],
) -> None:
    whole, records = table_of(all_records()), losing("bnp", 0.0, *seeds)
    told = f"{len(seeds)} of 3 failed"
    assert table_of(records) == {
        **whole,
        "bnp": [told, "85.0 ± 1.0", told, "–", "+1.0 ± 0.0", "–", "– / 0.30 / –"],
    }
    assert "3 seeds" in page(tasks_of(records))


def test_a_taught_decision_that_lost_seeds_keeps_its_plain_and_its_own_finish() -> None:
    whole, found = table_of(all_records()), table_of(losing("bnp", 1.0, 2))
    assert found["bnp"][:6] == [
        whole["bnp"][0], "1 of 3 failed", whole["bnp"][2], whole["bnp"][3], "–", whole["bnp"][5]
    ]  # fmt: skip


def test_nothing_is_compared_with_uniform_width_that_lost_seeds() -> None:
    whole, found = table_of(all_records()), table_of(losing("uniform", 0.0, 1))
    assert found["uniform"][:3] == ["1 of 3 failed", "84.0 ± 1.0", "–"]
    for method in ("bnp", "knapsack"):
        assert found[method][:3] == whole[method][:3]
        assert found[method][3:6] == ["–", whole[method][4], "–"]


def test_the_figure_names_what_has_no_point_since_seeds_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(teachers, "set_title", lambda _, title, **looks: titles.append(title))
    for records in (all_records(), losing("bnp", 0.0, 0), losing("knapsack", 1.0, 0, 1, 2)):
        draw(tasks_of(records), tmp_path / "teachers.png")
    assert [title.splitlines()[1:] for title in titles] == [
        [], ["no mean: bnp cross-entropy, own"], ["no mean: knapsack with distillation"]
    ]  # fmt: skip


def test_longer_controls_and_tasks_without_a_common_teacher_stay_out() -> None:
    longer = finished("uniform", 0, longer=9)
    top1 = longer.top1.model_copy(update={"finetuned": 0.99})
    records = [*all_records(1), longer.model_copy(update={"top1": top1})]
    (task,) = tasks_of(records)
    assert task.of("uniform", PLAIN) == {0: 0.80}
    assert tasks_of([r for r in all_records() if not r.cell.distill]) == []


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
        assert page(tasks_of(records)) == page(tasks_of(all_records()))


def test_both_suites_set_the_decisions_alike() -> None:
    plain, taught = (load_suite(name).settings for name in SUITES)
    for method in DECISIONS:
        assert plain.get(method, {}) == taught.get(method, {}) == SETTINGS.get(method, {})


def test_page_and_figure_name_what_they_show(tmp_path: Path) -> None:
    tasks = tasks_of(all_records())
    text = page(tasks)
    row = next(line for line in text.splitlines() if "| bnp |" in line)
    assert "+2.0 ± 0.0" in row and "+1.0 ± 0.0" in row and "+6.0 ± 0.0" in row
    draw(tasks, tmp_path / "teachers.png")
    assert (tmp_path / "teachers.png").stat().st_size > 10_000

"""What `zoo submit` says of records: nothing of published ones, and what was changed by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.files import load_record
from benchmarks.records.join import joined, network_key, read_results
from benchmarks.records.record import PhaseCost, Top1
from benchmarks.running.submission import _parents, _rows, _spending, _times, check_submission
from tests.benchmarks.machines import BETA, GPU, timing, trained

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results" / "quick" / "records"
NAMES = [
    f"{method}-test_efficientnet-cluttered_digits-macs0.5-s{seed}"
    for method in ("uniform", "knapsack")
    for seed in (0, 1)
]

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four published records: a method and its control, two seeds each."""
    target = tmp_path / "mine" / "records"
    target.mkdir(parents=True)
    for name in NAMES:
        (found,) = [path for path in PUBLISHED.glob(f"*{name}-*") if is_plain(path)]
        shutil.copy(found, target)
    return target.parent


def is_plain(path: Path) -> bool:
    return json.loads(path.read_text("utf-8"))["cell"]["longer"] is None


def record_of(folder: Path, method: str = "knapsack", seed: int = 0) -> Path:
    (found,) = (folder / "records").glob(f"*-{method}-*-s{seed}-*")
    return found


def change(path: Path, do: Change) -> None:
    fields = json.loads(path.read_text("utf-8"))
    do(fields)
    path.write_text(json.dumps(fields), "utf-8")


def told(folder: Path) -> list[str]:
    return [fault.text for fault in check_submission(folder)[1]]


def test_published_records_can_be_handed_in(folder: Path) -> None:
    assert check_submission(folder) == (4, [])
    assert check_submission(folder / "records") == (4, [])  # a folder of records alone


def better(fields: dict[str, Any]) -> None:
    fields["top1"]["finetuned"] = 0.9012345


def cheaper(fields: dict[str, Any]) -> None:
    fields["size"]["macs"] -= 1


def smaller(fields: dict[str, Any]) -> None:
    fields["size"]["params"] -= 1


def larger_parent(fields: dict[str, Any]) -> None:
    fields["size"]["full_macs"] += 1


def over_budget(fields: dict[str, Any]) -> None:
    fields["size"]["limit"] = fields["size"]["macs"] - 1


def another_seed(fields: dict[str, Any]) -> None:
    fields["cell"]["seed"] = 7


def trained_longer(fields: dict[str, Any]) -> None:
    fields["spent"]["finetune"]["images"] *= 2


def less_work(fields: dict[str, Any]) -> None:
    fields["spent"]["finetune"]["macs_forward"] //= 2


def parent_less_work(fields: dict[str, Any]) -> None:
    fields["spent"]["baseline"]["macs_backward"] //= 2


def another_parent(fields: dict[str, Any]) -> None:
    fields["top1"]["parent"] += 0.001


def dirty(fields: dict[str, Any]) -> None:
    fields["environment"]["dirty"] = True


def unknown_code(fields: dict[str, Any]) -> None:
    fields["environment"]["commit"] = None


def no_test_images(fields: dict[str, Any]) -> None:
    del fields["images"]["test"]


def without_channels(fields: dict[str, Any]) -> None:
    fields["config"] = None


def other_channels(fields: dict[str, Any]) -> None:
    group = next(g for g in fields["groups"] if g["kept"] > 1)
    group["kept"] -= 1
    fields["config"][group["name"]].pop()


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (better, "no whole number of answers to 1000 images"),
        (cheaper, "counted from its channels"),
        (smaller, "counted from its channels"),
        (larger_parent, "counted from its channels"),
        (other_channels, "counted from its channels"),
        (over_budget, "above its limit"),
        (another_seed, "changed after it was written"),
        (trained_longer, "1 epoch would take 2,400"),
        (less_work, "its images cost"),
        (parent_less_work, "its images cost"),
        (another_parent, "its parent has top-1"),
        (dirty, "checkout with changes"),
        (unknown_code, "checkout with changes"),
        (no_test_images, "number of test images is not told"),
        (without_channels, "no config"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_was_changed_by_hand_is_told(folder: Path, do: Change, expected: str) -> None:
    change(record_of(folder), do)
    assert any(expected in text for text in told(folder)), told(folder)


def test_a_timing_from_a_changed_checkout_is_told_as_one(folder: Path) -> None:
    record = load_record(record_of(folder))
    (name,) = (PUBLISHED.parent / "timings").glob(f"*{network_key(record)}*")
    timings = folder / "timings"
    timings.mkdir()
    shutil.copy(name, timings)
    assert told(folder) == []
    change(timings / name.name, dirty)
    (fault,) = told(folder)
    assert fault.startswith("timed from a checkout with changes")


def ratios_tenth(each: dict[str, Any]) -> None:
    each["ratio"] = {name: value / 10 for name, value in each["ratio"].items()}


def interval_tenth_too(each: dict[str, Any]) -> None:
    ratios_tenth(each)
    each["ratio_interval"] = {**each["ratio_interval"], "low": 1e-3, "high": 1.0}


def control_tenth(each: dict[str, Any]) -> None:
    each["control"] = {name: value / 10 for name, value in each["control"].items()}


def pruned_in_no_time(each: dict[str, Any]) -> None:
    each["pruned_ms"] = {name: value / 10 for name, value in each["pruned_ms"].items()}


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (ratios_tenth, "does not hold its median"),
        (control_tenth, "does not hold its median"),
        (interval_tenth_too, "its times allow"),
        (pruned_in_no_time, "its times allow"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_times_that_do_not_agree_are_told(
    folder: Path, do: Callable[[dict[str, Any]], None], expected: str
) -> None:
    record = load_record(record_of(folder))
    (name,) = (PUBLISHED.parent / "timings").glob(f"*{network_key(record)}*")
    (folder / "timings").mkdir()
    shutil.copy(name, folder / "timings")
    assert told(folder) == []
    change(folder / "timings" / name.name, lambda fields: do(fields["latency"][0]))
    assert any(expected in text for text in told(folder)), told(folder)


def test_all_published_times_agree() -> None:
    count = 0
    for results in sorted(path for path in (ROOT / "results").iterdir() if path.is_dir()):
        loaded = read_results(results) if (results / "records").is_dir() else None
        assert loaded is None or not loaded.unread
        for record in loaded.records if loaded else ():
            count += len(record.latency)
            assert not [*_times(record)], record.id
    assert count > 1000


def test_a_record_that_replaces_one_of_another_cell_is_told(
    folder: Path,
) -> None:
    one, other = record_of(folder), record_of(folder, "uniform")
    change(one, lambda fields: fields.update(supersedes=other.stem))
    count, faults = check_submission(folder)
    assert count == 4
    assert [(fault.where, fault.text) for fault in faults] == [
        (one.stem, f"supersedes {other.stem}, a record of another cell; both count")
    ]


def test_rows_need_the_seeds_of_their_control(folder: Path) -> None:
    record_of(folder, "knapsack", 1).unlink()
    assert told(folder) == ["seeds [1] are missing"]


def test_a_control_without_a_seed_is_told(folder: Path) -> None:
    record_of(folder, "uniform", 1).unlink()
    assert told(folder) == ["uniform has no seeds [1]"]


def test_rows_need_a_control(folder: Path) -> None:
    for seed in (0, 1):
        record_of(folder, "uniform", seed).unlink()
    assert told(folder) == ["no control: run uniform at the same budget on this machine"]


def test_files_that_are_no_records_are_told(folder: Path) -> None:
    (folder / "records" / "half.json").write_text('{"id": ')
    (fault,) = check_submission(folder)[1]
    assert fault.text.startswith("half.json: ")


def test_an_empty_folder_and_none_are_told(tmp_path: Path) -> None:
    assert told(tmp_path) == ["no record in it; make some with: zoo run SUITE"]
    with pytest.raises(ValueError, match="is no folder"):
        check_submission(tmp_path / "nothing")


def test_a_training_that_may_end_early_is_not_counted_again(folder: Path) -> None:
    found = load_record(record_of(folder))
    cell = found.cell
    patient = cell.finetune.model_copy(update={"patience": 1})
    spent = {**found.spent, "finetune": PhaseCost(images=1)}
    off = found.model_copy(update={"spent": spent})
    assert any("finetune: 1 images" in text for text in _spending(off))
    early = off.model_copy(update={"cell": cell.model_copy(update={"finetune": patient})})
    assert not list(_spending(early))


def test_timing_does_not_bring_together_what_two_machines_trained() -> None:
    there = Top1(parent=0.89, pruned=0.1, recalibrated=0.3, finetuned=0.8)
    records = [trained(on=BETA, top1=0.8), trained("fpgm", kept=5)]
    records[0] = records[0].model_copy(update={"top1": there})
    both = joined(records, [timing(each, on=GPU, device="cuda") for each in records])
    for found in (records, both):
        assert not [*_parents(found)]
        (fault,) = _rows(found)
        assert fault.where.startswith("fpgm") and "no control" in fault.text


def test_a_record_that_two_devices_timed_counts_once_and_so_do_its_faults(folder: Path) -> None:
    timings = folder / "timings"
    timings.mkdir()
    one = load_record(record_of(folder))
    for device, on in (("cpu", BETA), ("cuda", GPU)):
        made = timing(one, on=on, device=device).model_copy(update={"id": device})
        (timings / f"{device}.json").write_text(made.model_dump_json(), "utf-8")
    assert check_submission(folder) == (4, [])
    change(record_of(folder), better)
    count, faults = check_submission(folder)
    assert (count, len(faults)) == (4, 1)

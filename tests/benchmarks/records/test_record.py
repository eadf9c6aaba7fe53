import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.analysis.comparison import compare
from benchmarks.records.cell import Cell, Model, Schedule
from benchmarks.records.files import (
    DamagedRecord,
    current_records,
    faulty_links,
    load_record,
    load_records,
    read_folder,
    write_record,
)
from benchmarks.records.record import Record
from benchmarks.records.strict import explain
from tests.benchmarks.fabricate import cell, record


def test_a_record_reads_back_as_it_was_written(tmp_path):
    written = write_record(tmp_path, record())
    assert load_records(tmp_path) == [written]


def test_the_name_says_date_method_model_data_budget_seed_and_hash(tmp_path):
    written = write_record(tmp_path, record("taylor", 0.25, 3))
    key = cell("taylor", 0.25, 3).key
    assert written.id == f"20260101-taylor-tiny_net-digits-macs0.25-s3-{key}"
    assert [path.name for path in tmp_path.iterdir()] == [f"{written.id}.json"]


def test_a_second_attempt_is_a_second_file_and_leaves_the_first_alone(tmp_path):
    first = write_record(tmp_path, record(status="failed", reason="loss is NaN"))
    before = (tmp_path / f"{first.id}.json").read_bytes()
    second = write_record(tmp_path, record())
    assert second.id == f"{first.id}-2"
    assert (tmp_path / f"{first.id}.json").read_bytes() == before
    assert len(load_records(tmp_path)) == 2


def test_the_hash_is_over_settings_without_defaults():
    # Spelled out by hand: sha256 of exactly this text, so that a reordering or a new field with a
    # default cannot change the names of records that exist.
    text = (
        '{"budget":0.5,"data":{"name":"digits"},"finetune":{"epochs":2},'
        '"latency":{"batches":[1,8]},"method":"uniform","model":{"name":"tiny_net"},'
        '"parent":{"epochs":3},"protocol":1,"seed":0}'
    )
    assert cell().key == hashlib.sha256(text.encode()).hexdigest()[:8] == "a3df8548"


def test_a_setting_spelled_out_at_its_default_changes_no_hash():
    assert cell(finetune=Schedule(epochs=2, lr=0.1)).key == cell().key
    assert cell(finetune=Schedule(epochs=2, lr=0.2)).key != cell().key


def test_a_width_of_one_changes_no_hash_and_another_one_is_named():
    plain = cell(model=Model(name="tiny_net", width=1.0))
    assert (plain.key, plain.parent_key, plain.label) == (
        cell().key, cell().parent_key, cell().label,
    )  # fmt: skip
    wide = cell(model=Model(name="tiny_net", width=1.5))
    assert wide.key != cell().key and wide.parent_key != cell().parent_key
    assert "-tiny_netx1.5-" in wide.label
    (comparison,) = compare([record(cell=wide)])
    assert comparison.title == "tiny_net x 1.5 on digits"
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Model(name="tiny_net", width=0.5)


@pytest.mark.parametrize("field", ["budget", "method", "seed"])
def test_cells_that_differ_in_what_is_compared_share_parent_and_comparison(field):
    other = cell(**{field: {"budget": 0.25, "method": "fpgm", "seed": 7}[field]})
    assert other.key != cell().key
    assert other.comparison == cell().comparison
    assert (other.parent_key == cell().parent_key) == (field != "seed")
    assert (other.variant == cell().variant) == (field == "seed")


def test_a_missing_measurement_is_null_in_the_file(tmp_path):
    written = write_record(tmp_path, record(status="infeasible", reason="too small"))
    fields = json.loads((tmp_path / f"{written.id}.json").read_text())
    assert fields["top1"] == dict.fromkeys(("parent", "pruned", "recalibrated", "finetuned", "own"))
    assert fields["size"]["macs"] is None and fields["config"] is None


@pytest.mark.parametrize("status", ["failed", "infeasible", "cancelled"])
def test_a_record_that_is_not_ok_needs_a_reason(status):
    with pytest.raises(ValidationError, match="needs a reason"):
        record(status=status)


def test_numbers_are_not_coerced():
    fields = record().model_dump()
    fields["seconds"] = "12"
    with pytest.raises(ValidationError, match=r"seconds"):
        Record.model_validate(fields)


def test_an_unknown_key_is_refused_with_the_nearest_one():
    fields = cell().model_dump() | {"buget": 0.5}
    with pytest.raises(ValidationError) as caught:
        Cell.model_validate(fields)
    assert explain(caught.value) == "unknown key 'buget'; did you mean budget?"


@pytest.mark.parametrize("budget", [0, -0.5, float("nan"), float("inf")])
def test_a_budget_that_is_not_positive_is_refused(budget):
    with pytest.raises(ValidationError, match="not positive"):
        cell(budget=budget)


def test_a_budget_up_to_one_is_a_ratio_and_above_a_count():
    assert isinstance(cell(budget=1).budget, float)
    assert isinstance(cell(budget=2.0).budget, int)
    assert cell(metric="latency_ms", budget=2.5).budget == 2.5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_damaged_record_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / "20260101-broken.json").write_text(text)
    with pytest.raises(DamagedRecord, match=r"20260101-broken\.json is not a whole record.*move"):
        load_records(tmp_path)


def test_half_a_record_is_damaged(tmp_path):
    written = write_record(tmp_path, record())
    path = tmp_path / f"{written.id}.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(DamagedRecord, match="not a whole record"):
        load_record(path)


def test_a_record_of_a_later_schema_says_to_update(tmp_path):
    path = tmp_path / "later.json"
    path.write_text(record(schema_version=999).model_dump_json())
    with pytest.raises(DamagedRecord, match=r"999.*update"):
        load_record(path)


def test_a_copy_of_a_record_counts_once_and_is_named(tmp_path):
    """Or one seed would count as two, and a mean and its deviation be of something else."""
    written = [write_record(tmp_path, record(cell=cell(seed=seed))) for seed in (0, 1)]
    text = (tmp_path / f"{written[0].id}.json").read_text()
    for name in ("0 before the record", f"{written[0].id} (copy)"):
        (tmp_path / f"{name}.json").write_text(text)
    found = read_folder(tmp_path, Record)
    assert found.records == written
    assert [each.name for each in found.unread] == [
        "0 before the record.json",
        f"{written[0].id} (copy).json",
    ]
    assert {each.reason for each in found.unread} == {
        f"has the id of {written[0].id}.json, which counts once; move it away"
    }
    (tmp_path / f"{written[0].id}.json").unlink()  # what was renamed is a record still
    assert read_folder(tmp_path, Record).records == [written[0], written[1]]
    assert len(read_folder(tmp_path, Record).unread) == 1


def test_what_a_killed_writer_leaves_is_not_read(tmp_path):
    (tmp_path / ".20260101-x.json.123.tmp").write_text('{"half')
    assert load_records(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "records").write_text("a file in the way")
    with pytest.raises(OSError, match="records"):
        write_record(tmp_path / "records", record())


def test_of_several_records_of_a_cell_an_ok_one_counts_before_a_later_failure():
    good = record(id="a")
    bad = record(id="b", status="failed", reason="x", utc="2027-01-01T00:00:00+00:00")
    assert current_records([good, bad]) == [good]


def test_a_failure_from_the_future_unsettles_no_infeasible_cell():
    never = record(id="a", status="infeasible", reason="x", utc="2026-01-01T00:00:00+00:00")
    bad = record(id="b", status="failed", reason="x", utc="2099-01-01T00:00:00+00:00")
    assert current_records([never, bad]) == [never] == current_records([bad, never])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T12:00:00+02:00", "2026-01-01T11:00:00+00:00"),
        ("2026-01-01T11:00:00Z", "2026-01-01T11:00:00.5Z"),
        ("2025-12-31T23:30:00-02:00", "2026-01-01T01:30:00.000001Z"),
    ],
)
def test_of_records_alike_the_later_moment_counts_however_it_is_written(earlier, later):
    old, new = record(id="old", utc=earlier), record(id="new", utc=later)
    assert current_records([old, new]) == [new] == current_records([new, old])


def test_a_superseded_record_does_not_count():
    old, new = record(id="old"), record(id="new", supersedes="old", top1=0.5)
    assert current_records([new, old]) == [new]


def test_records_that_supersede_each_other_in_a_circle_replace_none():
    for names in ("ab", "abc"):
        circle = [
            record(id=name, supersedes=names[place - 1], utc=f"2026-01-0{place + 1}T12:00:00+00:00")
            for place, name in enumerate(names)
        ]
        assert current_records(circle) == [circle[-1]]
        assert [each.id for each, _ in faulty_links(circle)] == [*names]
        # What only leads into the circle is a correction like any other.
        last = record(id="last", supersedes="b", utc="2026-02-01T12:00:00+00:00")
        assert current_records([*circle, last]) == [last]
        assert len(faulty_links([*circle, last])) == len(names)


def test_a_record_does_not_replace_one_of_another_cell():
    old, new = record("fpgm", id="old"), record("taylor", id="new", supersedes="old")
    assert current_records([old, new]) == [old, new]
    ((found, reason),) = faulty_links([old, new])
    assert found == new and reason == "supersedes old, a record of another cell; both count"
    assert not faulty_links([new]) and not faulty_links([old, record("fpgm", id="n")])


def test_the_record_module_needs_neither_torch_nor_zoo():
    script = (
        "import sys; import benchmarks.records.record, benchmarks.analysis.comparison, "
        "benchmarks.figures.all_figures, benchmarks.running.suite; "
        "print([m for m in ('torch', 'zoo', 'timm') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"

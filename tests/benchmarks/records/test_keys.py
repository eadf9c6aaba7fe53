"""What names a cell, its parent and its supernet: the content of the data, where a name does not.

Two folders of images under one name are two data sets, and published records keep their names.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks.records.cell import Cell, Data, Model, Schedule, network_name
from benchmarks.records.files import load_record, load_records
from benchmarks.running.parent import Places, recipe_of
from benchmarks.running.plan import Job, plan_suite
from benchmarks.running.precheck import named
from benchmarks.running.prune_one import Request, prune_one
from benchmarks.running.run_cells import run_plan
from benchmarks.running.suite import Suite
from tests.benchmarks.fabricate import cell
from tests.benchmarks.in_this_process import IN_THIS_PROCESS
from tests.benchmarks.test_cli import few_rounds  # noqa: F401  (a fixture for all)

# timm's reader leaves files to be closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROOT = Path(__file__).parents[3]
SIDE = 16

PUBLISHED = sorted(
    path
    for folder in ("earlier/clutter16", "reference", "ranking", "bnp-headline", "smoke")
    for path in sorted((ROOT / "results" / folder / "records").glob("*.json"))[::40]
)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_records_keep_their_hashes(path: Path) -> None:
    record = load_record(path)
    assert record.cell.key in record.id
    again = Cell.model_validate(json.loads(record.cell.model_dump_json()))
    assert again.parent_key == record.cell.parent_key
    assert record.cell.data.digest is None and named(record.cell.data, None) == record.cell.data


def test_the_keys_of_a_cell_of_an_embedded_set_are_what_they_were() -> None:
    """By hand, with the program as it was before data sets had a digest."""
    assert (cell().key, cell().parent_key, cell().supernet_key) == (
        "a3df8548",
        "817a85f8",
        "b0f21a0e",
    )


def test_a_recorded_training_is_another_cell_and_an_unrecorded_one_is_what_it_was() -> None:
    plain, recorded = (cell(parent=Schedule(epochs=1, cuda_graph=g)) for g in (False, True))
    assert plain.key == cell(parent=Schedule(epochs=1)).key != recorded.key
    assert plain.parent_key != recorded.parent_key
    assert recipe_of(recorded.parent).cuda_graph and not recipe_of(plain.parent).cuda_graph


def folder_of(root: Path, seed: int, per_class: int = 6, classes: int = 3) -> Path:
    """A tiny set of images, as colours with noise."""
    rng = np.random.default_rng(seed)
    for part in ("train", "val"):
        for label in range(classes):
            place = root / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(per_class):
                pixels = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[..., label % 3] += 150
                Image.fromarray(pixels).save(place / f"{number}.png")
    return root


def request(**changes: object) -> Request:
    fields: dict[str, object] = {
        "model": "test_resnet",
        "width": 1.0,
        "method": "l1_norm",
        "budget": 0.5,
        "metric": "macs",
        "dataset": "imagefolder",
        "image_size": SIDE,
        "train_size": None,
        "epochs": 1,
        "parent_epochs": 1,
        "batch_size": None,
        "is_pretrained": False,
        "seed": 0,
        "device": "cpu",
    }
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


def suite(**changes: object) -> Suite:
    few = Schedule(epochs=1, batch_size=8, lr=0.05)
    fields: dict[str, object] = {
        "title": "t",
        "methods": ("uniform",),
        "budgets": (0.5,),
        "models": (Model(name="test_resnet"),),
        "datasets": (Data(name="imagefolder", image_size=SIDE),),
        "parent": few,
        "finetune": few,
        "latency": cell().latency.model_copy(update={"rounds": 3, "block_ms": 1.0}),
        "controls": False,
    }
    return Suite.model_validate({**fields, **changes})


def keys(cell: Cell) -> set[str]:
    return {cell.key, cell.parent_key, cell.parent_file, cell.supernet_key, cell.comparison}


def test_other_files_under_one_name_are_another_data_set(tmp_path: Path) -> None:
    one, copy = folder_of(tmp_path / "a", 0), tmp_path / "copy"
    shutil.copytree(one, copy)
    cells = {
        name: plan_suite("t", suite(), data=path).cells[0]
        for name, path in (("a", one), ("copy", copy), ("b", folder_of(tmp_path / "b", 1)))
    }
    assert cells["a"] == cells["copy"]
    assert not keys(cells["a"]) & keys(cells["b"])
    assert not keys(cells["a"]) & keys(plan_suite("t", suite()).cells[0])


def test_a_single_changed_byte_of_the_same_length_changes_the_digest(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", 0)
    before = named(Data(name="imagefolder"), root).digest
    path = root / "val" / "class1" / "3.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert named(Data(name="imagefolder"), root).digest != before
    content[-1] ^= 1
    path.write_bytes(content)
    assert named(Data(name="imagefolder"), root).digest == before
    path.rename(path.with_name("4b.png"))
    assert named(Data(name="imagefolder"), root).digest != before


def test_what_is_no_image_does_not_count(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", 0)
    before = named(Data(name="imagefolder"), root)
    (root / "train" / "Thumbs.db").write_bytes(b"x")
    assert named(Data(name="imagefolder"), root) == before


def test_large_sets_are_known_by_names_and_sizes(tmp_path, monkeypatch) -> None:
    root = folder_of(tmp_path / "a", 0)
    monkeypatch.setattr("zoo.core.data.folders.DIGEST_BYTES", 100)
    before = named(Data(name="imagefolder"), root)
    path = root / "train" / "class0" / "0.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert named(Data(name="imagefolder"), root) != before


def test_a_digest_that_a_suite_asks_for_is_held_against_the_files(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", 0)
    found = named(Data(name="imagefolder"), root)
    assert named(found, root) == found
    with pytest.raises(ValueError, match=r"other files than the suite asks for: digest [0-9a-f]+"):
        named(found.model_copy(update={"digest": "0" * 16}), root)


def test_a_run_resumes_with_the_same_files_and_starts_anew_with_others(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "a", 0), folder_of(tmp_path / "b", 1)]
    results = tmp_path / "results"
    for count, path in enumerate(folders, start=1):
        job = Job(results, path)
        plan = plan_suite("t", suite(), job.records, data=path)
        assert len(plan.missing) == 1
        assert run_plan(plan, job, Console(quiet=True), IN_THIS_PROCESS) == {"ok": 1}
        again = plan_suite("t", suite(), job.records, data=path)
        assert again.missing == () and len(load_records(job.records)) == count
    assert len(list((results / ".cache" / "parents").glob("*.safetensors"))) == 2


def test_prune_with_other_files_does_not_start_from_their_parent(tmp_path: Path) -> None:
    """The second set has the first one's classes in another order: its parent is wrong on all.

    The names and sizes of all files together are the same.
    """
    one = folder_of(tmp_path / "a", 0)
    other = tmp_path / "b"
    for part in ("train", "val"):
        for label in range(3):
            shutil.copytree(one / part / f"class{label}", other / part / f"class{(label + 1) % 3}")
    cells = []
    for path in (one, other):
        record = prune_one(
            request(),
            out=tmp_path / f"out-{path.name}",
            results=tmp_path / "results",
            data=path,
            console=Console(quiet=True),
        )
        cells.append(record.cell)
    assert cells[0].parent_key != cells[1].parent_key
    assert len(list((tmp_path / "results").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("per_class", "batch_size", "taken"),
    [(3, None, 8), (2, None, 5), (2, 2, 2), (6, 4, 4)],  # a tenth, at least one, is held out
)
def test_prune_takes_a_few_images_of_each_class(
    tmp_path: Path, per_class: int, batch_size: int | None, taken: int
) -> None:
    """Of 6, 9 or 18 images; the search and test splits end in smaller batches, also of one."""
    path = folder_of(tmp_path / "a", 0, per_class=per_class)
    record = prune_one(
        request(batch_size=batch_size),
        out=tmp_path / "out",
        results=tmp_path / "results",
        data=path,
        console=Console(quiet=True),
    )
    assert record.status == "ok"
    assert record.cell.finetune.batch_size == record.cell.parent.batch_size == taken


def test_a_request_for_an_embedded_set_is_the_cell_that_it_was(tmp_path: Path) -> None:
    asked = request(dataset="digits", image_size=None).cell(Places(tmp_path))
    assert asked.finetune == Schedule(epochs=1, lr=0.02) and asked.data == Data(name="digits")


def test_a_batch_above_the_training_images_names_the_option(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "a", 0)
    with pytest.raises(ValueError, match=r"batch_size 64 is above the 16 .*--batch-size"):
        prune_one(
            request(batch_size=64),
            out=tmp_path / "out",
            results=tmp_path / "results",
            data=path,
            console=Console(quiet=True),
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "results").exists()


def test_a_folder_of_known_content_is_told_by_what_it_holds_and_any_other_by_its_name():
    known = Data(name="imagefolder", digest="bf8a1c0046482d35", image_size=32)
    assert known.title == "CIFAR-10 (JPEG copy)"
    assert known.model_copy(update={"digest": "0" * 16}).title == "imagefolder"
    assert Data(name="cifar10").title == "cifar10"
    # What was planned stays comparable with what was recorded.
    planned = "net on imagefolder bf8a1c0046482d35 at 32 px"
    assert network_name(Model(name="net"), known) == planned

"""Methods of other packages and of files in suites and commands, up to their records."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from benchmarks.analysis.comparison import compare
from benchmarks.records.cell import Cell, Origin
from benchmarks.records.contrast import Arm
from benchmarks.records.files import load_records
from benchmarks.running.methods import asked_method, method_files, named_methods
from benchmarks.running.plan import plan_suite
from benchmarks.running.suite import load_suite
from tests.benchmarks.fabricate import cell, record
from tests.core.method.test_outside import no_module_left  # noqa: F401  (a fixture for all)
from tests.installed import install, site, template  # noqa: F401  (site is a fixture)

ROOT = Path(__file__).parents[3]

SUITE = """
title = "mine"
methods = {methods}
budgets = [0.5]
models = [{{name = "test_resnet"}}]
datasets = [{{name = "digits", image_size = 16, train_size = 64, test_size = 32}}]
parent = {{epochs = 0, batch_size = 32}}
finetune = {{epochs = 1, batch_size = 32}}
controls = false
"""


def write_suite(folder: Path, methods: str, more: str = "") -> str:
    path = folder / "mine.toml"
    path.write_text(SUITE.format(methods=methods) + more)
    return str(path)


def cells(path: str) -> list[Cell]:
    return list(plan_suite("mine", load_suite(path)).cells)


def test_cells_name_a_file_by_its_content_and_not_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    template(folder, "least")
    more = '[settings."sub/least.py:Least"]\npower = 1.0\n'
    path = write_suite(tmp_path, '["sub/least.py:Least", "uniform"]', more)
    mine, uniform = cells(path)
    assert mine.method == "least.py:Least" and mine.settings == {"power": 1.0}
    assert mine.origin is not None and mine.origin.file == "least.py"
    assert uniform.origin is None
    assert str(tmp_path) not in mine.model_dump_json()
    assert mine.parent_key == uniform.parent_key and mine.comparison == uniform.comparison

    source = folder / "least.py"
    source.write_text(source.read_text() + "\n# another method\n")
    changed, same = cells(path)
    assert changed.key != mine.key and changed.supernet_key != mine.supernet_key
    assert same == uniform


def test_a_cell_without_an_origin_has_the_key_it_had() -> None:
    assert cell().origin is None and cell().key == "a3df8548"


def test_a_package_in_another_version_is_another_cell(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    text = template(tmp_path, "least")
    install(site, "own_pruners", "1.2", {"least": "own_pruners.least:Least"}, {"least": text})
    path = write_suite(tmp_path, '["least"]')
    (old,) = cells(path)
    assert old.origin == Origin(package="own_pruners", version="1.2")
    (site / "own_pruners-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: own_pruners\nVersion: 1.3\n"
    )
    (new,) = cells(path)
    assert new.origin == Origin(package="own_pruners", version="1.3") and new.key != old.key
    with pytest.raises(ValueError, match=r"changed since the run was planned.*1\.2.*1\.3"):
        asked_method(old, ())


def test_a_file_that_changes_while_a_run_goes_on_is_refused(tmp_path: Path) -> None:
    template(tmp_path, "least")
    asked = f"{tmp_path / 'least.py'}:Least"
    (planned,) = cells(write_suite(tmp_path, '["least.py:Least"]'))
    files = method_files([asked])
    assert asked_method(planned, files) == asked
    (tmp_path / "least.py").write_text((tmp_path / "least.py").read_text() + "\n")
    with pytest.raises(ValueError, match="changed since the run was planned"):
        asked_method(planned, files)
    with pytest.raises(ValueError, match="not at hand"):
        asked_method(planned, ())


def test_two_files_with_methods_of_one_name_are_refused_with_both(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        template(tmp_path / name, "least")
    one, other = (f"{tmp_path / name / 'least.py'}:Least" for name in ("a", "b"))
    with pytest.raises(
        ValueError, match=r"two methods would be called 'least\.py:Least'"
    ) as caught:
        named_methods([one, other])
    assert one in str(caught.value) and other in str(caught.value)


def test_all_stands_for_the_methods_of_this_package_alone(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = write_suite(tmp_path, '"all"')
    before = {each.method for each in cells(path)}
    text = template(tmp_path, "least")
    install(site, "own_pruners", "1.2", {"least": "own_pruners.least:Least"}, {"least": text})
    assert {each.method for each in cells(path)} == before >= {"taylor", "knapsack"}


def test_editions_of_one_method_are_told_apart_in_tables_and_contrasts() -> None:
    asked = cell(method="least.py:Least")
    one, other = (
        asked.model_copy(update={"origin": Origin(file="least.py", digest=digit * 16)})
        for digit in "ab"
    )
    (comparison,) = compare([record(cell=one), record(cell=other)])
    names = {comparison.label(row) for row in comparison.rows}
    assert names == {
        "Least (edition=aaaaaaaaaaaaaaaa)",
        "Least (edition=bbbbbbbbbbbbbbbb)",
    }
    arm = Arm(method="least.py:Least", origin=one.origin)
    assert arm.holds(one) and not arm.holds(other) and not arm.holds(asked)


@pytest.mark.parametrize(
    "given",
    [
        {}, {"package": "a"}, {"file": "a.py"}, {"package": "a", "digest": "a" * 16},
        {"file": "/home/jane/a.py", "digest": "a" * 16}, {"file": "a.py", "digest": "a"},
        {"package": "a", "version": "1", "file": "a.py", "digest": "a" * 16},
    ],
)  # fmt: skip
def test_an_origin_names_one_source_and_no_folder(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"package|folder|digest"):
        Origin(**given)


def test_a_run_in_worker_processes_records_packages_and_files(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As a user runs it: `zoo` and its workers are processes of their own."""
    text = template(tmp_path, "least")
    install(site, "own_pruners", "1.2", {"least": "own_pruners.least:Least"}, {"least": text})
    path = write_suite(tmp_path, '["least", "least.py:Least"]')
    elsewhere = tmp_path / "elsewhere"  # where a suite lies is not where it is run
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", "run", path, "--workers", "2", "--no-time"],
        cwd=elsewhere, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = elsewhere / "results" / "records"
    found = {each.cell.method: each for each in load_records(records)}
    assert {each.status for each in found.values()} == {"ok"}
    assert found["least"].cell.origin == Origin(package="own_pruners", version="1.2")
    origin = found["least.py:Least"].cell.origin
    assert origin is not None and origin.file == "least.py" and origin.digest is not None
    assert found["least"].groups == found["least.py:Least"].groups  # the same source
    assert found["least"].method_settings == {"power": 2.0}
    texts = [each.read_text() for each in records.iterdir()]
    assert not [text for text in texts if str(tmp_path) in text]


def test_the_function_takes_a_file_too(tmp_path: Path) -> None:
    import timm
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    template(tmp_path, "least")
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, torch.arange(16) % 4), batch_size=8)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    recipe = zoo.Recipe(epochs=0)
    asked = {"macs": 0.5, "recipe": recipe, "progress": False}
    file = zoo.prune(model, loader, loader, f"{tmp_path / 'least.py'}:Least", **asked)
    given = zoo.prune(model, loader, loader, "l1_norm", **asked)
    assert file.macs <= 0.5 * file.parent_macs and file.config != given.config
    power = {"settings": {"power": 1.0}}
    one = zoo.prune(model, loader, loader, f"{tmp_path / 'least.py'}:Least", **asked, **power)
    assert one.config == given.config  # the norm of power 1 is that of L1


def test_a_method_that_changes_the_parent_fails_its_cell_and_no_other(tmp_path: Path) -> None:
    """Weights are scaled behind autograd's back, and gradients are off for whatever comes next."""
    source = template(tmp_path, "least")
    lines = source.splitlines()
    place = next(at for at, line in enumerate(lines) if "def search" in line)
    body = next(at for at in range(place, len(lines)) if lines[at].rstrip().endswith(":")) + 1
    lines[body:body] = [
        "        import torch",
        "        for parameter in problem.model.parameters():",
        "            parameter.data.mul_(0.5)",
        "        torch.set_grad_enabled(False)",
    ]
    (tmp_path / "least.py").write_text("\n".join(lines) + "\n")
    path = write_suite(tmp_path, '["least.py:Least", "uniform"]')
    results = tmp_path / "results"
    arguments = [path, "--results", str(results), "--workers", "1", "--no-time"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", "run", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = {each.cell.method: each for each in load_records(results / "records")}
    assert found["uniform"].status == "ok"
    assert found["least.py:Least"].status == "failed"
    assert "Least changed the network that it was given" in (found["least.py:Least"].reason or "")

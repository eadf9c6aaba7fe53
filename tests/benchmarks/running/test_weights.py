"""A parent may start from a file of weights, which cells and records know by its content."""

import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from rich.console import Console

import zoo
from benchmarks.records.cell import Model
from benchmarks.records.files import load_record, load_records
from benchmarks.records.join import network_key
from benchmarks.running.network import untrained
from benchmarks.running.parent import Places, parent_for, splits_of
from benchmarks.running.plan import Job, plan_suite
from benchmarks.running.precheck import check_cells
from benchmarks.running.run_cells import run_plan
from benchmarks.running.suite import Suite, load_suite
from benchmarks.running.time_networks import time_networks
from benchmarks.running.weights import weight_files
from tests.benchmarks.fabricate import cell
from tests.benchmarks.in_this_process import IN_THIS_PROCESS
from tests.benchmarks.test_cli import few_rounds, run, suite_file  # noqa: F401  (fixtures)

SMALL = ("--dataset", "digits", "--image-size", "16", "--train-size", "128", "--method", "l1_norm")
WITHOUT = "{epochs = 0}"
DIGEST = "0123456789abcdef"


def written(path: Path, classes: int = 10, seed: int = 7, name: str = "test_resnet") -> Path:
    torch.manual_seed(seed)
    torch.save(timm.create_model(name, num_classes=classes).state_dict(), path)
    return path


def of_weights(path: Path, file: str, **changes: str) -> Suite:
    """A suite in a folder, whose network starts from a file and is not trained."""
    fields = {
        "title": '"t"',
        "methods": '["uniform"]',
        "budgets": "[0.5]",
        "models": f"[{{name = 'test_resnet', weights = '{file}'}}]",
        "datasets": '[{name = "digits", image_size = 16, train_size = 128}]',
        "parent": WITHOUT,
        "finetune": WITHOUT,
        "controls": "false",
        "latency": "{rounds = 3, block_ms = 1.0, warmup_ms = 1.0, batches = [1]}",
    }
    path.write_text("\n".join(f"{k} = {v}" for k, v in {**fields, **changes}.items()))
    return load_suite(str(path))


def start_of(model: torch.nn.Module, path: Path) -> bool:
    """Whether a network has the weights of a file."""
    given = torch.load(path, weights_only=True)
    return all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())


def test_an_untrained_parent_is_the_file_and_a_trained_one_starts_there(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth")
    suite = of_weights(tmp_path / "a.toml", "w.pth")
    places = Places(tmp_path / "cache", weights=weight_files(suite.models))
    (first,) = plan_suite("t", suite).cells
    assert start_of(parent_for(first, places).model, path)
    path.unlink()  # it is in the cache now
    parent = parent_for(first, Places(tmp_path / "cache"))
    assert parent.cost.seconds == 0
    written(path)
    assert start_of(parent.model, path)

    slow = "{epochs = 1, batch_size = 64, lr = 1e-9}"
    (second,) = plan_suite("t", of_weights(tmp_path / "b.toml", "w.pth", parent=slow)).cells
    trained = parent_for(second, places)
    assert second.parent_key != first.parent_key and trained.cost.images == 128
    given = torch.load(path, weights_only=True)["conv1.0.weight"]
    assert torch.allclose(trained.model.get_parameter("conv1.0.weight"), given, atol=1e-6)


def test_a_cell_knows_the_content_of_the_file_and_not_its_place(tmp_path: Path) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
    copied = shutil.copy(written(tmp_path / "a" / "a.pth"), tmp_path / "b" / "b.pth")
    assert copied.is_file() and written(tmp_path / "c" / "c.pth", seed=8)
    a, b, c = (
        plan_suite("t", of_weights(tmp_path / f"{n}.toml", f"{n}/{n}.pth")).cells[0] for n in "abc"
    )
    bare = of_weights(tmp_path / "d.toml", "", models="[{name = 'test_resnet'}]")
    (plain,) = plan_suite("t", bare).cells
    assert a == b
    keys = [{each.key, each.parent_key, each.comparison} for each in (a, c, plain)]
    assert len(set.union(*keys)) == 9
    assert str(tmp_path) not in a.model_dump_json()


def test_no_cell_holds_a_path() -> None:
    assert cell(model=Model(name="test_resnet", weights=DIGEST)).model.weights == DIGEST
    with pytest.raises(ValidationError, match="16 hexadecimal digits"):
        cell(model=Model(name="test_resnet", weights="/home/me/w.pth"))


def test_two_files_of_the_same_content_are_refused_in_one_suite(tmp_path: Path) -> None:
    shutil.copy(written(tmp_path / "a.pth"), tmp_path / "b.pth")
    twice = ", ".join(f"{{name = 'test_resnet', weights = '{n}.pth'}}" for n in "ab")
    with pytest.raises(ValueError, match="has the weights of another"):
        plan_suite("t", of_weights(tmp_path / "s.toml", "a.pth", models=f"[{twice}]"))


def test_a_network_drawn_anew_is_not_the_file(tmp_path: Path) -> None:
    """As the networks that are trained from scratch beside it are to be."""
    path = written(tmp_path / "w.pth")
    (asked,) = plan_suite("t", of_weights(tmp_path / "a.toml", "w.pth")).cells
    model = untrained(asked, splits_of(asked.data, 0, Places(tmp_path)))
    assert not start_of(model, path)


def test_a_run_is_timed_and_reported_without_the_file(tmp_path, run) -> None:  # noqa: F811
    path = written(tmp_path / "w.pth")
    suite = of_weights(tmp_path / "a.toml", "w.pth")
    job = Job(tmp_path / "results", weights=weight_files(suite.models))
    plan = plan_suite("t", suite, job.records)
    assert check_cells(plan.missing, job) == ()
    assert run_plan(plan, job, Console(quiet=True), IN_THIS_PROCESS) == {"ok": 1}
    (record,) = load_records(job.records)
    assert record.status == "ok" and re.fullmatch("[0-9a-f]{16}", str(record.cell.model.weights))
    assert "w.pth" not in record.model_dump_json()
    assert plan_suite("t", suite, job.records).missing == ()
    path.unlink()
    assert time_networks(job, Console(quiet=True)) == 0
    status, _, err = run("report", "--results", str(job.results))
    assert status == 0, err
    table = (job.results / "tables" / "results.md").read_text()
    assert f"Parent started from weights {record.cell.model.weights}, trained for 0 epochs" in table


def test_the_time_of_a_network_does_not_depend_on_its_weights(tmp_path: Path) -> None:
    path = next((Path(__file__).parents[3] / "results" / "quick" / "records").glob("*.json"))
    record = load_record(path)
    model = record.cell.model.model_copy(update={"weights": DIGEST})
    other = record.model_copy(update={"cell": record.cell.model_copy(update={"model": model})})
    assert network_key(record) == network_key(other) is not None
    timings = path.parents[1] / "timings"
    assert list(timings.glob(f"*{network_key(record)}*"))  # as it was named when it was published


def test_what_does_not_fit_is_refused_before_any_work(tmp_path, run, suite_file) -> None:  # noqa: F811
    written(tmp_path / "test_efficientnet-1.pth", name="test_efficientnet")
    models = "[{name = 'test_resnet', weights = 'test_efficientnet-1.pth'}]"
    status, out, err = run("run", suite_file(models=models))
    assert status == 2 and "does not fit test_resnet: " in err and len(err.splitlines()) == 1
    assert out == "" and not (tmp_path / "results").exists()
    status, _, err = run("prune", "test_resnet", "--weights", "test_efficientnet-1.pth", *SMALL)
    assert status == 2 and "it fits test_efficientnet" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "pruned").exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "w.pth", "--pretrained"), "two starts; give one"),
        (("--weights", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--weights", "w.onnx"), "no file of weights"),
    ],
)
def test_prune_refuses_starts_that_cannot_be(tmp_path, run, arguments, message) -> None:  # noqa: F811
    status, _, err = run("prune", "test_resnet", *arguments, *SMALL)
    assert status == 2 and message in err and not (tmp_path / "pruned").exists()


def test_a_model_is_not_both_pretrained_and_given_weights(tmp_path, run, suite_file) -> None:  # noqa: F811
    models = "[{name = 'test_resnet', args = {pretrained = true}, weights = 'w.pth'}]"
    written(tmp_path / "w.pth")
    status, _, err = run("run", suite_file(models=models), "--dry-run")
    assert status == 2 and "both pretrained and weights" in err


def test_prune_starts_from_the_file(tmp_path, run) -> None:  # noqa: F811
    path = written(tmp_path / "w.pth")
    nothing = ("--epochs", "0", "--parent-epochs", "0")
    status, _, err = run("prune", "test_resnet", "--weights", str(path), *SMALL, *nothing)
    assert status == 0, err
    (file,) = (tmp_path / "pruned").glob("*-l1_norm-*.json")
    text = file.read_text()
    assert load_record(file).cell.model.weights and str(tmp_path) not in text
    kept = zoo.load_pruned(tmp_path / "pruned").get_parameter("fc.weight").detach()
    given = torch.load(path, weights_only=True)["fc.weight"]
    columns = [int((given == column[:, None]).all(0).nonzero()) for column in kept.T]
    assert len(columns) == kept.shape[1] and columns == sorted(columns)


def test_another_head_needs_a_training_and_is_told(tmp_path, run) -> None:  # noqa: F811
    written(tmp_path / "w.pth", classes=7)
    asked = ("prune", "test_resnet", "--weights", "w.pth", *SMALL, "--epochs", "0")
    status, _, err = run(*asked, "--parent-epochs", "0")
    assert status == 2 and "has a head of 7 classes and the network's has 10" in err
    assert not (tmp_path / "pruned").exists() and not (tmp_path / "results").exists()
    status, out, err = run(*asked, "--parent-epochs", "1")
    assert status == 0, err
    assert "a head of 7 classes, so the one of 10 classes is newly drawn" in out


def test_a_file_that_changes_after_the_plan_is_not_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth")
    suite = of_weights(tmp_path / "a.toml", "w.pth")
    places = Places(tmp_path / "cache", weights=weight_files(suite.models))
    (asked,) = plan_suite("t", suite).cells
    written(path, seed=8)
    with pytest.raises(ValueError, match=r"w\.pth changed since the run was planned"):
        parent_for(asked, places)
    with pytest.raises(ValueError, match="are not at hand"):
        check_cells([asked], Places(tmp_path / "cache"))

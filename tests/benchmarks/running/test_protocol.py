"""The road from suite to records, on networks and data of seconds."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import cli
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import figures_of
from benchmarks.page.renew import loaded_records
from benchmarks.records.cell import PARENT, Data, Model, Rules, Schedule
from benchmarks.records.files import load_records, write_record
from benchmarks.running import parent, protocol
from benchmarks.running.parent import Places, splits_for_all
from benchmarks.running.plan import Job, plan_suite
from benchmarks.running.protocol import run_cell
from benchmarks.running.run_cells import run_plan
from benchmarks.running.suite import Suite, load_suite
from tests.benchmarks.fabricate import FEW, TINY
from tests.benchmarks.fabricate import tiny_cell as cell
from tests.benchmarks.in_this_process import IN_THIS_PROCESS, run_cells_here
from tests.latencies import made_up_times
from zoo.core.channels.config import SubnetConfig
from zoo.core.cost import measure_latency as timing
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.sealed import write_tensors
from zoo.core.training.train import TaskLoss

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


def run(asked, places):
    return run_cell(asked, suite="test", places=places)


@pytest.fixture(scope="module")
def plain(places):
    """Record and findings of the plain cell."""
    return run(cell(), places)


@dataclass(frozen=True)
class Stub(Pruner):
    """Keeps one channel fewer than there are in the first group that has a block."""

    def search(self, problem):
        with problem.meter.phase("search"):
            list(problem.data.search())
        widths = problem.rules.minimums(problem.space)
        groups = problem.space.groups
        keep = {g.name: tuple(range(int(w))) for g, w in zip(groups, widths, strict=True)}
        problem.trace("stub")
        return Subnet(SubnetConfig(keep=keep))


@pytest.fixture
def stub(monkeypatch):
    def install(cls):
        monkeypatch.setattr(protocol, "create_pruner", lambda name, **settings: cls(**settings))

    return install


def test_a_cell_that_works_records_everything(plain):
    record, findings = plain
    assert (record.status, record.reason) == ("ok", None)
    size = record.size
    assert size.macs <= size.limit == size.full_macs // 2
    assert size.params == sum(p.numel() for p in findings.network.parameters())
    assert None not in record.top1.model_dump(exclude={"own"}).values()
    assert record.images == {"train": 64, "search": 32, "test": 32}
    assert record.config and all(group.kept <= group.size for group in record.groups)
    assert not record.latency  # that is a phase of its own
    assert record.input_size == (3, 16, 16) and record.num_classes == 10
    assert record.trace and record.environment.torch == torch.__version__.split("+")[0]


def test_training_is_charged_by_phase_exactly(plain):
    record, _ = plain
    spent, size = record.spent, record.size
    # One epoch of 64 images each; a backward pass costs two forward passes.
    for phase, macs in (("baseline", size.full_macs), ("finetune", size.macs)):
        assert spent[phase].images == 64
        assert spent[phase].macs_forward == 64 * macs
        assert spent[phase].macs_backward == 2 * 64 * macs
        assert spent[phase].seconds > 0


def test_the_same_cell_gives_the_same_numbers_again(places, plain):
    first, _ = plain
    second, _ = run(cell(), places)
    assert first.top1 == second.top1 and first.config == second.config
    assert first.cell.key == second.cell.key


def test_a_run_leaves_the_global_random_state_alone(places):
    before = torch.get_rng_state()
    run(cell(), places)
    assert torch.equal(before, torch.get_rng_state())


def test_every_method_starts_from_the_same_parent(places, plain, monkeypatch):
    first, _ = plain
    monkeypatch.setattr(parent, "_train_parent", None)  # a second training would call it
    second, _ = run(cell("l1_norm", budget=0.4), places)
    assert second.status == "ok"
    assert second.top1.parent == first.top1.parent
    assert second.spent["baseline"] == first.spent["baseline"]


@pytest.mark.parametrize("kind", ["cut", "zeroed", "zeroed data", "another network", "no cost"])
def test_a_damaged_parent_is_trained_anew(tmp_path, kind):
    places = Places(cache=tmp_path)
    first = protocol.parent_for(cell(), places)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    half = len(whole) // 2
    if kind == "another network":
        write_tensors(path, {"weight": torch.zeros(3)}, {"cost": first.cost.model_dump_json()})
    elif kind == "no cost":  # its tensors must not be what the training starts from
        tensors = {name: torch.zeros_like(t) for name, t in first.model.state_dict().items()}
        write_tensors(path, tensors, {})
    else:
        zeroed = {"zeroed": bytes(len(whole)), "zeroed data": whole[:half] + bytes(half)}
        path.write_bytes(zeroed.get(kind, whole[:half]))
    with pytest.warns(UserWarning, match=r"safetensors\.damaged and is made anew"):
        second = protocol.parent_for(cell(), places)
    trained, again = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    third = protocol.parent_for(cell(), places)  # without a warning
    assert third.cost == second.cost


def test_the_parent_of_another_seed_is_another(places):
    assert run(cell(seed=1), places)[0].spent["baseline"] != {}
    assert len(list(places.cache.glob("*.safetensors"))) >= 2
    assert not list(places.cache.glob(".*"))


def test_a_budget_below_the_smallest_subnet_is_recorded_as_infeasible(places):
    record, _ = run(cell(budget=0.0001), places)
    assert record.status == "infeasible"
    assert "below the smallest subnet" in record.reason
    assert record.size.macs is None and record.config is None and "baseline" in record.spent


def test_a_budget_of_latency_is_recorded_as_predicted_beside_measured(places, plain, monkeypatch):
    monkeypatch.setattr(timing, "_samples", made_up_times)
    asked = cell(metric="latency", budget=0.9)
    untimed, _ = run(asked, places)
    assert untimed.predicted_latency.error is None and not untimed.latency
    record, _ = run_cell(asked, suite="test", places=places, is_timed=True)
    assert (record.status, record.reason) == ("ok", None)
    found, (measured,) = record.predicted_latency, record.latency
    assert found.batch == measured.batch == 1
    assert found.parent_ms == 100.0 and found.limit_ms == 90.0
    assert record.size.limit == 90_000_000 and 80 < found.pruned_ms <= 90
    assert found.measured_pruned_ms == measured.pruned_ms.median
    assert found.measured_parent_ms == measured.parent_ms.median
    assert found.error == found.pruned_ms / measured.pruned_ms.median - 1
    assert len(list((places.cache / "latency").glob("*.json"))) == 1
    again, _ = run(cell(metric="latency_ms", budget=90.0), places)
    assert again.config == record.config and again.cell.key != record.cell.key
    assert len(list((places.cache / "latency").glob("*.json"))) == 1
    assert plain[0].predicted_latency is None


def test_a_budget_above_the_parent_fails_with_both_numbers(places):
    record, _ = run(cell(budget=10**12), places)
    assert record.status == "failed"
    assert "1,000,000,000,000" in record.reason and "above the parent" in record.reason


def test_a_loss_that_diverges_is_recorded_as_failed_with_what_was_spent(places):
    hot = Schedule(epochs=4, batch_size=8, lr=1e6)
    record, _ = run(cell(finetune=hot), places)
    assert record.status == "failed" and record.reason.startswith("Diverged: training loss")
    assert record.config is not None and record.spent["finetune"].images > 0
    assert record.top1.finetuned is None


def test_a_wide_parent_is_pruned_to_the_cost_of_the_narrow_one(places):
    narrow, _ = run(cell(budget=0.9), places)
    wide = Model(name="test_resnet", width=1.5)
    record, findings = run(cell(model=wide, budget=narrow.size.full_macs), places)
    assert record.status == "ok", record.reason
    assert record.size.limit == narrow.size.full_macs < record.size.full_macs / 2
    assert 0.97 * record.size.limit < record.size.macs <= record.size.limit
    assert record.cell.model.width == 1.5
    sizes = zip(record.groups, narrow.groups, strict=True)
    assert all(group.size == 1.5 * other.size for group, other in sizes)
    assert findings.network(torch.zeros(1, *findings.problem.space.input_size)).shape == (1, 10)


def test_whatever_a_method_raises_becomes_a_record(places, stub):
    class Broken(Stub):
        def search(self, problem):
            raise ZeroDivisionError("no channels left")

    stub(Broken)
    record, _ = run(cell(), places)
    assert record.status == "failed"
    assert record.reason.startswith("ZeroDivisionError: no channels left (test_protocol.py, line ")


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (FileNotFoundError(2, "No such file", "/home/jane doe/x.pt"), "No such file: 'x.pt' (test"),
        (RuntimeError("x" * 100_000), "RuntimeError: xxx"),
        (RuntimeError("red \x1b[31m\nline"), r"red \x1b[31m\nline"),
        (SystemExit(0), "SystemExit: 0 (test_protocol.py, line "),
        (Unreadable(), "Unreadable: its message cannot be read"),
    ],
)
def test_a_reason_is_a_short_line_without_folders(places, stub, tmp_path, raised, reason):
    class Broken(Stub):
        def search(self, problem):
            raise raised

    stub(Broken)
    record, _ = run_cell(cell(), suite="/home/jane/mine.toml", places=places)
    assert record.status == "failed" and reason in record.reason
    assert "/" not in record.reason and len(record.reason) < 5000
    assert record.suite == "mine.toml"
    assert load_records(tmp_path) == [] and write_record(tmp_path, record)
    assert len(load_records(tmp_path)) == 1


def test_an_impossible_accuracy_fails_its_cell_only(places, stub, monkeypatch):
    stub(Stub)
    monkeypatch.setattr(protocol, "evaluate", lambda *_: float("nan"))
    monkeypatch.setattr(protocol, "_PARENT_TOP1", {})
    record, _ = run(cell(), places)
    assert record.status == "failed" and "parent: Input should be a finite number" in record.reason


def test_a_trace_holds_null_for_what_is_no_number(places, stub, tmp_path):
    class Diverging(Stub):
        def search(self, problem):
            problem.trace("train", losses=[float("nan"), float("inf"), 1.0])
            return super().search(problem)

    stub(Diverging)
    record, _ = run(cell(), places)
    assert record.status == "ok", record.reason
    write_record(tmp_path, record)
    (read,) = load_records(tmp_path)
    assert [None, None, 1.0] in [row.get("losses") for row in read.trace]


def test_what_cannot_be_recorded_fails_its_cell_only(places, stub):
    @dataclass(frozen=True)
    class Verbose(Stub):
        notes: str = "x" * 200_000

    stub(Verbose)
    record, findings = run(cell(), places)
    assert record.status == "failed" and record.method_settings == {}
    assert record.reason.startswith("what came of it cannot be recorded: method_settings: is 200,")
    assert str(findings.error) == record.reason


def test_an_interrupted_cell_is_recorded_as_cancelled(places, stub):
    class Interrupted(Stub):
        def search(self, problem):
            raise KeyboardInterrupt

    stub(Interrupted)
    record, _ = run(cell(), places)
    assert (record.status, record.reason) == ("cancelled", "interrupted")


def test_a_method_that_misses_its_budget_is_refused(places, stub):
    class Greedy(Stub):
        def search(self, problem):
            return Subnet(SubnetConfig.full())

    stub(Greedy)
    record, _ = run(cell(), places)
    assert record.status == "failed" and "above its budget" in record.reason


def test_the_test_split_opens_once_and_after_the_last_training_step(places, stub, monkeypatch):
    events = []

    class Watched(TaskLoss):
        def forward(self, student, images, labels):
            events.append("step")
            return super().forward(student, images, labels)

    class Watching(Stub):
        def loss(self, teacher, student, space, config):
            return Watched()

    opened = protocol.TestSplit.open
    monkeypatch.setattr(
        protocol.TestSplit, "open", lambda self: (events.append("test"), opened(self))[1]
    )
    stub(Watching)
    record, _ = run(cell(), places)
    assert record.status == "ok"
    assert events == ["step", "step", "test"]


def test_methods_see_no_test_images(places, stub):
    class Curious(Stub):
        def search(self, problem):
            held = {id(value) for value in vars(problem.data).values()}
            assert not any(isinstance(v, protocol.TestSplit) for v in vars(problem).values())
            assert held
            return super().search(problem)

    stub(Curious)
    record, _ = run(cell(), places)
    assert record.status == "ok"
    assert record.spent["search"].images == 32 == record.images["search"]


def test_recalibration_changes_statistics_and_no_weights(places, stub):
    stub(Stub)
    _, findings = run(cell(), places)
    splits = splits_for_all(cell(), places)
    before = {k: v.clone() for k, v in findings.network.state_dict().items()}
    after = protocol._recalibrated(findings.network, cell(), splits).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)


def test_a_head_that_does_not_match_the_classes_is_refused(places):
    wrong = cell(model=Model(name="test_resnet", args={"num_classes": 7}))
    with pytest.raises(ValueError, match=r"digits has 10 classes.*7"):
        protocol.parent_for(wrong, places)


def test_an_unknown_model_names_the_nearest(places):
    with pytest.raises(ValueError, match="unknown model 'resnet19'; did you mean resnet1"):
        protocol.parent_for(cell(model=Model(name="resnet19")), places)


# From here on whole suites.


def suite(**changes):
    fields = {
        "title": "test",
        "methods": ("uniform", "l1_norm"),
        "budgets": (0.5,),
        "models": (Model(name="test_resnet"),),
        "datasets": (TINY,),
        "parent": FEW,
        "finetune": FEW,
        "latency": cell().latency,
        "controls": False,
    }
    return Suite.model_validate({**fields, **changes})


def run_suite(asked, job):
    plan = plan_suite("test", asked, job.records)
    return plan, run_plan(plan, job, Console(quiet=True), IN_THIS_PROCESS)


def test_a_failed_cell_is_recorded_the_others_run_and_only_it_is_tried_again(tmp_path):
    job = Job(tmp_path)
    plan, outcomes = run_suite(suite(budgets=(0.5, 0.0001)), job)
    assert len(plan.missing) == 4
    assert outcomes == {"ok": 2, "infeasible": 2}
    again, nothing = run_suite(suite(budgets=(0.5, 0.0001)), job)
    assert again.missing == () and nothing == {}

    hot = suite(methods=("uniform",), finetune=Schedule(epochs=4, batch_size=8, lr=1e6))
    _, outcomes = run_suite(hot, job)
    assert outcomes == {"failed": 1}
    retried, outcomes = run_suite(hot, job)
    assert len(retried.missing) == 1 and outcomes == {"failed": 1}
    names = [record.id for record in load_records(job.records)]
    assert len(names) == 6 and sum(name.endswith("-2") for name in names) == 1


def test_when_the_time_is_up_nothing_starts_and_the_next_part_goes_on(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 9.0, 9.0, 9.0, 9.0])  # the parent, the first cell, then it is over
    monkeypatch.setattr("benchmarks.running.plan.time.time", lambda: next(clock))
    first, outcomes = run_suite(suite(budgets=(0.5, 0.25)), Job(tmp_path, until=5.0))
    assert len(first.missing) == 4 and outcomes == {"ok": 1}
    monkeypatch.undo()
    rest, outcomes = run_suite(suite(budgets=(0.5, 0.25)), Job(tmp_path))
    assert rest.missing == first.missing[1:] and outcomes == {"ok": 3}
    assert len(list((tmp_path / ".cache/parents").glob("*.safetensors"))) == 1


def test_a_method_that_breaks_does_not_stop_the_others(tmp_path, monkeypatch):
    create = protocol.create_pruner

    def break_uniform(name, **settings):
        if name == "uniform":
            raise ZeroDivisionError("broken")
        return create(name, **settings)

    monkeypatch.setattr(protocol, "create_pruner", break_uniform)
    _, outcomes = run_suite(suite(), Job(tmp_path))
    assert outcomes == {"failed": 1, "ok": 1}


def test_a_parent_that_diverges_fails_its_cells_and_not_the_others(tmp_path):
    job = Job(tmp_path)
    asked = suite(methods=("uniform",), parent=Schedule(epochs=4, batch_size=8, lr=1e6))
    _, outcomes = run_suite(asked, job)
    assert outcomes == {"failed": 1}
    (record,) = load_records(job.records)
    assert record.reason.startswith("parent: Diverged") and record.top1.parent is None


def test_results_that_cannot_be_written_are_refused_before_anything_runs(tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    job = Job(tmp_path / "results")
    plan = plan_suite("test", suite(), tmp_path / "none")
    with pytest.raises(OSError, match=r"cannot be written to .*give another --results"):
        run_plan(plan, job, Console(quiet=True))


def test_a_request_that_cannot_be_met_stops_the_run_before_a_cell_is_recorded(tmp_path):
    job = Job(tmp_path)
    asked = suite(datasets=(TINY.model_copy(update={"train_size": 10**6}),))
    with pytest.raises(ValueError, match="lower train_size"):
        run_suite(asked, job)
    assert load_records(job.records) == []


def test_a_plan_names_a_damaged_record_and_runs_its_cell_again(tmp_path):
    (tmp_path / "20260101-x.json").write_text('{"id": "x", ')
    plan = plan_suite("test", suite(), tmp_path)
    assert [unread.name for unread in plan.unread] == ["20260101-x.json"]
    assert plan.missing == plan.cells


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("unifrom",)}, "unifrom.*uniform"),
        ({"models": (Model(name="resnt18"),)}, "unknown model 'resnt18'; did you mean .*resnet18"),
        ({"datasets": (Data(name="digit"),)}, "unknown dataset 'digit'; did you mean .*digits"),
        ({"settings": {"taylor": {}}}, "settings for 'taylor', which the suite does not run"),
        ({"settings": {"uniform": {"nonsense": 1}}}, "nonsense"),
    ],
)
def test_a_suite_with_an_unknown_name_is_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        plan_suite("test", suite(**changes), tmp_path)


def test_settings_at_their_defaults_name_the_same_cells(tmp_path):
    from zoo.core.method.discovery import create_pruner

    n_samples = create_pruner("random_search").__dict__
    plain = plan_suite("test", suite(methods=("random_search",)), tmp_path)
    spelled = plan_suite(
        "test", suite(methods=("random_search",), settings={"random_search": n_samples}), tmp_path
    )
    assert [c.key for c in spelled.cells] == [c.key for c in plain.cells]


def smoke(results):
    """The arguments of the command."""
    return ["run", "smoke", "--workers", "1", "--results", str(results)]


def start_smoke(results):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.cli import main; main()", *smoke(results)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_records(folder, count, process):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("[!.]*.json"))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_leaves_whole_records_and_the_next_one_finishes(tmp_path, monkeypatch, capsys):
    process = start_smoke(tmp_path)
    records = tmp_path / "records"
    wait_for_records(records, 1, process)
    process.kill()  # the main process alone: no worker may outlive it
    process.communicate(timeout=60)
    group_is_gone(process.pid)
    whole = {path: path.read_bytes() for path in records.glob("[!.]*.json")}
    for content in whole.values():
        json.loads(content)
    settled = [r.cell.key for r in load_records(records) if r.status == "ok"]

    run_cells_here(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["zoo", *smoke(tmp_path)])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    output = capsys.readouterr().out
    assert f"2 cells, {len(settled)} done, {2 - len(settled)} to run" in output
    assert all(path.read_bytes() == content for path, content in whole.items())
    done = [r.cell.key for r in load_records(records) if r.status == "ok"]
    assert len(done) == len(set(done)) == len(load_suite("smoke").methods)
    for name in ("results.md", "results.csv", "results.tex"):
        assert (tmp_path / "tables" / name).stat().st_size > 0
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    found = Findings.of(loaded_records(tmp_path).records)  # with the timings beside them
    assert drawn == set(figures_of(found)) and "accuracy_macs" in drawn


def group_is_gone(group):
    """Waits until no process of a group is left."""
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.05)


def test_networks_from_scratch_are_trained_under_their_own_recipe(places, plain):
    anew = run(cell(scratch={"epochs": 2, "batch_size": 32}), places)[0]
    tuned, _ = plain
    assert anew.status == "ok" and anew.config == tuned.config
    assert anew.spent["finetune"].images == 2 * tuned.spent["finetune"].images
    assert anew.top1.pruned == tuned.top1.pruned  # as surgery leaves it


def test_networks_from_scratch_keep_no_weight_of_the_parent(places):
    untrained = {"epochs": 0, "batch_size": 32}
    _, anew = run(cell(scratch=untrained), places)
    _, kept = run(cell(finetune=untrained), places)
    pairs = zip(anew.network.parameters(), kept.network.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs if a.ndim == 4)


@pytest.mark.parametrize("is_last", [False, True])
def test_networks_from_scratch_have_the_memory_format_of_their_recipe(places, is_last):
    recipe = {"epochs": 0, "batch_size": 32, "channels_last": is_last}
    other = {"epochs": 0, "batch_size": 32, "channels_last": not is_last}
    _, anew = run(cell(scratch=recipe, finetune=other), places)
    weight = next(p for p in anew.network.parameters() if p.ndim == 4 and p.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) == is_last


def test_a_network_that_takes_no_such_images_is_told_before_it_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(parent, "train", lambda *_, **__: pytest.fail("a training began"))
    grey = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten())
    monkeypatch.setattr(parent, "untrained", lambda *_: grey)
    record, _ = run(cell(), Places(cache=tmp_path))
    assert record.status == "failed" and record.reason.startswith("ValueError: the first batch of")
    assert "digits's training images does not go through Sequential in eval mode" in record.reason
    assert "reads images of 1 channels" in record.reason


def test_the_control_is_whole_beside_methods_that_are_bounded(places):
    halved = Rules(ratios={"*": (0.0, 0.5)})
    method, control = (
        run(cell(name, budget=budget, rules=halved), places)[0]
        for name, budget in (("uniform", 0.5), (PARENT, 1.0))
    )
    assert method.status == control.status == "ok"
    assert all(2 * group.kept <= group.size for group in method.groups)
    assert all(group.kept == group.size for group in control.groups)

"""The command line as a user meets it: exit status, one red line, and no traceback."""

import os
import subprocess
import sys
from fnmatch import fnmatch
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch

import zoo
from benchmarks import cli
from benchmarks.page.renew import marked_blocks
from benchmarks.records.files import load_record, write_record
from benchmarks.records.runtime import Latency
from tests.benchmarks.fabricate import record
from tests.benchmarks.in_this_process import InThisProcess, run_cells_here
from zoo.core.data.datasets import load_splits
from zoo.core.networks.export import onnx_runner

ROOT = Path(__file__).parents[2]
SMALL = ("--dataset", "digits", "--image-size", "16", "--train-size", "128",
         "--epochs", "1", "--parent-epochs", "1")  # fmt: skip

MARKERS = [
    f"<!-- zoo {name}: {end} -->" for name in ("report", "pruners") for end in ("begin", "end")
]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command line; returns exit status, standard output and standard error."""

    def call(*arguments, columns=60):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
        else:
            status = 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Pruned networks are timed as always, in a hundredth of the time."""
    few = partial(Latency, batches=(1,), rounds=3, block_ms=1.0, warmup_ms=1.0)
    monkeypatch.setattr("benchmarks.running.prune_one.Latency", few)


@pytest.fixture
def suite_file(tmp_path):
    def write(**changes):
        fields = {
            "title": '"t"',
            "methods": '["uniform"]',
            "budgets": "[0.5]",
            "models": '[{name = "test_resnet"}]',
            "datasets": '[{name = "digits", image_size = 16}]',
            "parent": "{epochs = 1}",
            "finetune": "{epochs = 1}",
            "controls": "false",
        }
        path = tmp_path / "mine.toml"
        path.write_text("\n".join(f"{k} = {v}" for k, v in {**fields, **changes}.items()))
        return str(path)

    return write


def test_help_names_every_command_and_needs_no_torch():
    script = (
        "import sys; sys.argv = ['zoo', '--help']\n"
        "from benchmarks.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'timm', 'zoo', 'pydantic') "
        "if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.rstrip().endswith("[]")
    for command in COMMANDS:
        assert f" {command} " in done.stdout


COMMANDS = ("run", "time", "prune", "list", "report", "compare", "check", "new-method")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_within_sixty_columns(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert all(len(line.rstrip()) <= 60 for line in out.splitlines())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": '[{name = "resnt18"}]'}, "unknown model 'resnt18'; did you mean"),
        ({"methods": '["tailor"]'}, "taylor"),
        ({"datasets": '[{name = "digts"}]'}, "unknown dataset 'digts'; did you mean"),
        ({"budgets": "[0]"}, "budget 0 is not positive"),
        ({"budgets": "[-2]"}, "budget -2 is not positive"),
        ({"epoch": "3"}, "unknown key 'epoch'"),
        ({"settings": "{uniform = {shape = 1}}"}, "shape"),
    ],
)
def test_a_suite_that_asks_for_what_is_not_there_is_one_line_and_status_two(
    run, suite_file, changes, message
):
    status, out, err = run("run", suite_file(**changes))
    assert status == 2 and out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err


def test_an_unknown_suite_names_the_nearest(run):
    status, _, err = run("run", "quik")
    assert status == 2 and "did you mean quick?" in err


def test_results_that_cannot_be_written_are_refused(run, suite_file, tmp_path):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    status, _, err = run("run", suite_file(), "--results", "occupied")
    assert status == 2 and "cannot be written to" in err and "--results" in err


@pytest.mark.parametrize(
    ("prepare", "message"),
    [(None, "does not exist"), ("empty", "holds no"), ("nothing", "give their folder: --data")],
)
def test_a_data_path_that_is_missing_or_empty_is_named(run, tmp_path, prepare, message):
    folder = tmp_path / "images"
    if prepare == "empty":
        folder.mkdir()
    where = () if prepare == "nothing" else ("--data", str(folder))
    status, _, err = run("prune", "test_resnet", "--dataset", "cifar10", *where)
    assert status == 2 and message in err
    assert not (tmp_path / "pruned").exists()


def test_a_dry_run_lists_the_cells_and_makes_nothing(run, suite_file, tmp_path):
    path = suite_file(budgets="[0.5, 0.25]")
    before = sorted(tmp_path.iterdir())
    status, out, _ = run("run", path, "--dry-run", columns=200)
    assert status == 0 and "2 cells, 0 done, 2 to run" in out
    assert "uniform-test_resnet-digits-macs0.25-s0" in out
    assert sorted(tmp_path.iterdir()) == before


def test_one_method_of_a_suite_is_run_alone(run, suite_file):
    path = suite_file(methods='["uniform", "fpgm"]', budgets="[0.5, 0.25]")
    status, out, err = run("run", path, "--dry-run", "--method", "fpgm", columns=200)
    assert status == 0, err
    assert "4 cells, 0 done, 2 to run, 2 of other methods" in out and "uniform" not in out
    status, _, err = run("run", path, "--minutes", "0", "--method", "fpmg")
    assert status == 2 and "the suite runs no method 'fpmg'; did you mean fpgm?" in err


def test_a_dry_run_tells_the_cost_within_sixty_columns_and_needs_no_device(run, suite_file):
    path = suite_file(budgets="[0.5, 0.25]")
    status, out, err = run("run", path, "--dry-run", "--device", "cuda", "--seeds", "2")
    assert status == 0, err
    assert "4 cells, 0 done, 4 to run" in out and "-s1" in out
    assert "of one GPU" in " ".join(out.split())
    (row,) = [line for line in out.splitlines() if " 1.226 " in line]  # MMACs, then cells
    cells, parents, tuning = row.split()[-3:]
    assert cells == "4" and float(tuning) == pytest.approx(0.75 * float(parents), rel=0.01)
    assert all(len(line.rstrip()) <= 60 for line in out.splitlines())


def test_a_dry_run_refuses_a_budget_that_no_run_could_take(run, suite_file):
    status, _, err = run("run", suite_file(budgets="[1000000000000]"), "--dry-run")
    assert status == 2 and "above the parent's" in err


def test_no_time_at_all_starts_nothing_and_says_what_is_left(
    run, suite_file, tmp_path, monkeypatch
):
    run_cells_here(monkeypatch)
    path = suite_file(methods='["uniform", "fpgm"]', budgets="[0.5, 0.25]")
    for count, arguments in ((4, ()), (2, ("--method", "uniform"))):
        status, out, err = run("run", path, "--minutes", "0", "--workers", "1", *arguments)
        assert status == 0, err
        assert f"time is up: {count} cells left" in out and "report" not in out
    assert list((tmp_path / "results").rglob("*.json")) == []
    assert list((tmp_path / "results").rglob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("option", "value"), [("--seeds", "0"), ("--seeds", "x"), ("--minutes", "-1")]
)
def test_no_seeds_and_negative_time_are_refused(run, option, value):
    status, _, err = run("run", "smoke", option, value, "--dry-run")
    assert status == 2 and option in err


def test_a_device_that_is_not_there_is_refused(run):
    assert run("run", "smoke", "--device", "tpu")[0] == 2
    assert run("run", "smoke", "--device", "tpu", "--dry-run")[0] == 2
    if not torch.cuda.is_available():
        status, _, err = run("run", "smoke", "--device", "cuda")
        assert status == 2 and "use --device cpu" in err


def test_prune_saves_a_smaller_network_that_loads(run, tmp_path):
    status, out, err = run("prune", "test_resnet", "--method", "l1_norm", "--macs", "0.5", *SMALL)
    assert status == 0, err
    assert "test top-1" in out and "saved in pruned" in out
    network = zoo.load_pruned(tmp_path / "pruned")
    (path,) = (tmp_path / "pruned").glob("*-l1_norm-*.json")
    assert sum(p.numel() for p in network.parameters()) == load_record(path).size.params

    status, _, err = run("prune", "test_resnet", "--method", "l1_norm", *SMALL)
    assert status == 2 and "pruned" in err  # never written over

    budgets = {
        "0": "not positive",
        "-1": "not positive",
        "1e15": "above the parent",
        "0.0001": "below the smallest subnet",
    }
    for budget, message in budgets.items():
        status, _, err = run("prune", "test_resnet", "--method", "l1_norm", "--macs", budget,
                             "--out", "other", *SMALL)  # fmt: skip
        assert status == 2 and message in err, (budget, err)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("weight", "finish"), [(None, "own"), ("0", "common"), ("2", "common")])
def test_prune_fine_tunes_as_distill_says_and_else_with_the_method_s_own_loss(
    run, tmp_path, weight, finish
):
    option = () if weight is None else ("--distill", weight)
    status, _, err = run("prune", "test_resnet", "--method", "bnp", *option, *SMALL)
    assert status == 0, err
    (path,) = (tmp_path / "pruned").glob("*-bnp-*.json")
    found = load_record(path)
    assert (found.cell.finishes, found.cell.distill) == ((finish,), float(weight or 0))
    phase, images = ("finetune_own" if finish == "own" else "finetune"), 128
    is_taught = finish == "own" or weight != "0"
    macs = found.size.macs + (found.size.full_macs if is_taught else 0)
    assert found.spent[phase].macs_forward == images * macs
    assert found.handed_on == (("weights", "loss") if finish == "own" else ())


def test_help_of_prune_shows_patterns_as_they_are_typed(run):
    out = run("prune", "--help", columns=160)[1]  # where nothing is wrapped inside a word
    for typed in ("--keep 'layer4.*' --keep stem", "'layer1.*=0.8'", "'layer2=0.5:0.9'"):
        assert typed in out


def test_prune_keeps_to_the_patterns_that_options_give(run, tmp_path):
    status, _, err = run("prune", "test_resnet", "--method", "l1_norm", "--macs", "0.7",
                         "--keep", "stem", "--ratio", "layer3.*.conv1=0.75",
                         "--ratio", "layer4=0.5:", "--divisor", "2", *SMALL)  # fmt: skip
    assert status == 0, err
    record = load_record(next((tmp_path / "pruned").glob("*-l1_norm-*.json")))
    assert record.cell.rules.ratios == {"layer3.*.conv1": 0.75, "layer4": (0.5, 1.0)}
    stem = [group for group in record.groups if group.stage == 0]
    assert stem and all(group.kept == group.size for group in stem)
    inner = [group for group in record.groups if fnmatch(group.name, "layer3.*.conv1")]
    assert inner and all(group.kept == group.size * 3 // 4 for group in inner)
    second = [group for group in record.groups if group.name.startswith("layer4.")]
    assert second and all(2 * group.kept >= group.size for group in second)
    assert all(group.kept in (group.size, group.kept // 2 * 2) for group in record.groups)


def test_ctrl_c_ends_prune_as_it_ends_any_command(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.running.protocol._follow", interrupted)
    untrained = ("--parent-epochs", "0", "--epochs", "0", "--dataset", "digits")
    status, _, err = run("prune", "test_resnet", *untrained)
    assert status == 130 and "error" not in err
    assert not (tmp_path / "pruned").exists()


def test_prune_from_a_wider_network_to_an_absolute_budget(run, tmp_path):
    space = zoo.ChannelSpace.trace(timm.create_model("test_resnet", num_classes=10), (3, 16, 16))
    limit = zoo.CostModel(space).full_macs
    status, _, err = run("prune", "test_resnet", "--method", "l1_norm", "--width", "1.5",
                         "--macs", str(limit), *SMALL)  # fmt: skip
    assert status == 0, err
    network = zoo.load_pruned(tmp_path / "pruned")
    record = load_record(next((tmp_path / "pruned").glob("*-l1_norm-*.json")))
    assert record.cell.model.width == 1.5
    assert record.size.macs <= limit < record.size.full_macs
    assert sum(p.numel() for p in network.parameters()) == record.size.params


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test_resnt",), "unknown model 'test_resnt'; did you mean test_resnet"),
        (("test_resnet", "--method", "napsack"), "knapsack"),
        (("test_resnet", "--dataset", "digit"), "digits"),
        (("test_resnet", "--macs", "0.5", "--params", "0.5"), "--macs and --params are 2 budgets"),
        (("test_resnet", "--latency", "0.5", "--latency-ms", "3"), "--latency and --latency-ms"),
        (("test_resnet", "--ratio", "0.8"), "--ratio 0.8 names no share"),
        (("test_resnet", "--ratio", "stem=1.5"), "'1.5' is no ratio of what is kept"),
        (("test_resnet", "--ratio", "stem=0.5", "--ratio", "stem=0.6"), "'stem' stands twice"),
        (("test_resnet", "--min-keep", "0"), "min_keep is 0"),
        (("test_resnet", "--keep", ""), "keep"),
        (("test_resnet", "--dataset", "digits", "--keep", "stme"), "did you mean 'stem'"),
        (("test_resnet", "--dataset", "digits", "--keep", "*"), "keep '*' is most in the way"),
    ],
)
def test_prune_refuses_what_is_not_there_and_leaves_no_folder(run, tmp_path, arguments, message):
    status, _, err = run("prune", *arguments)
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "pruned").exists()


def test_prune_exports_the_network_that_it_saves(run, tmp_path):
    status, out, err = run("prune", "test_resnet", "--method", "l1_norm", "--export",
                           "torch-export", "--fold-batch-norm", *SMALL)  # fmt: skip
    assert status == 0, err
    assert "exported pruned/network.pt2" in out and "loaded again, its logits" in out
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = zoo.load_pruned(tmp_path / "pruned")(images)
        found = torch.export.load(tmp_path / "pruned" / "network.pt2").module()(images)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    (path,) = (tmp_path / "pruned").glob("*-l1_norm-*.json")
    saved = load_record(path)
    assert all(measured.batch_norm_folded for measured in saved.latency)
    assert saved.fingerprint == saved.runs_on and set(saved.footprint) == {"parent", "pruned"}
    assert saved.footprint["pruned"].disk_bytes < saved.footprint["parent"].disk_bytes


def test_prune_exports_a_timm_file(run, tmp_path):
    status, out, err = run("prune", "test_resnet", "--method", "l1_norm", "--export", "timm",
                           *SMALL)  # fmt: skip
    assert status == 0, err
    assert "exported pruned/timm/network.py" in out
    names = {"__name__": "network", "__file__": tmp_path / "pruned" / "timm" / "network.py"}
    exec(names["__file__"].read_text(), names)
    mine = zoo.load_pruned(tmp_path / "pruned").state_dict()
    its = names["load_network"]().state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[n], its[n]) for n in mine)
    assert load_record(next((tmp_path / "pruned").glob("*-l1_norm-*.json"))).quantized is None


def test_prune_exports_int8_and_records_accuracy_and_latency_beside_float(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="an optional extra")
    pytest.importorskip("onnxscript", reason="an optional extra")
    status, out, err = run("prune", "test_resnet", "--method", "l1_norm", "--export", "onnx-int8",
                           *SMALL)  # fmt: skip
    assert status == 0, err
    assert "exported pruned/network.int8.onnx" in out and "float32 -> INT8: test top-1" in out
    folder = tmp_path / "pruned"
    (path,) = folder.glob("*-l1_norm-*.json")
    saved = load_record(path)
    found = saved.quantized
    assert found.int8_bytes == (folder / "network.int8.onnx").stat().st_size
    assert found.float_bytes == (folder / "network.onnx").stat().st_size > found.int8_bytes
    assert found.calibration_images == min(512, saved.images["search"]) and 0 < found.deviation < 1
    assert found.float_top1 == saved.top1.own
    test = load_splits("digits", image_size=16, train_size=128, seed=0).test
    images = torch.stack([image for image, _ in test])
    labels = torch.tensor([int(label) for _, label in test])
    answers = [onnx_runner(folder / name)(images).argmax(1)
               for name in ("network.onnx", "network.int8.onnx")]  # fmt: skip
    assert found.int8_top1 == pytest.approx(float((answers[1] == labels).double().mean()))
    assert found.same_answer == pytest.approx(float((answers[0] == answers[1]).double().mean()))
    assert [each.batch for each in found.latency] == [each.batch for each in saved.latency]
    assert all(each.way == "onnxruntime, int8, contiguous, batch norm folded"
               for each in found.latency)  # fmt: skip


def test_a_failed_export_keeps_the_saved_network_and_no_half_file(run, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ValueError("logits differ")

    monkeypatch.setattr("zoo.core.networks.export._compared", fails)
    status, _, err = run("prune", "test_resnet", "--method", "l1_norm", "--export",
                         "torch-export", *SMALL)  # fmt: skip
    assert status == 2 and err == "error: logits differ\n"
    names = {path.name for path in (tmp_path / "pruned").iterdir()}
    assert names >= {"network.safetensors", "network.json"} and len(names) == 3  # and the record
    zoo.load_pruned(tmp_path / "pruned")


def test_an_export_that_cannot_be_written_is_refused_before_anything_is_trained(
    run, tmp_path, monkeypatch
):
    status, _, err = run("prune", "test_resnet", "--export", "tflite")
    assert status == 2 and "use onnx, onnx-int8, torch-export or timm" in err
    monkeypatch.setattr("zoo.core.networks.export.importlib.util.find_spec", lambda name: None)
    for form in ("onnx", "onnx-int8"):
        status, _, err = run("prune", "test_resnet", "--export", form)
        assert status == 2 and f"{form} needs onnx, onnxscript, onnxruntime" in err
        assert "pip install onnx onnxscript onnxruntime" in err
    assert not (tmp_path / "pruned").exists()


def test_list_shows_methods_baselines_data_and_suites(run):
    status, out, _ = run("list")
    assert status == 0
    for name in ("knapsack", "uniform", "cluttered_digits", "quick", "resnet20_cifar"):
        assert name in out
    assert all(len(line.rstrip()) <= 60 for line in out.splitlines())


def test_report_draws_what_records_hold_and_replaces_the_readme_block(run, tmp_path):
    write_record(tmp_path / "results" / "records", record())
    (tmp_path / "README.md").write_text("\n".join(["top", *MARKERS, "bottom\n"]))
    status, out, err = run("report", "--readme", "README.md")
    assert status == 0, err
    assert "tiny_net on digits" in out and "A/A" in out
    assert (tmp_path / "results" / "page.html").stat().st_size > 100_000
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("top\n") and "| uniform |" in text and text.endswith("bottom\n")
    assert (tmp_path / "results" / "figures" / "accuracy_macs.png").is_file()
    assert (tmp_path / "results" / "tables" / "results.tex").is_file()


def test_report_makes_what_a_paper_takes_of_chosen_methods(run, tmp_path):
    for method in ("uniform", "taylor", "fpgm"):
        write_record(tmp_path / "results" / "records", record(method))
    status, _, err = run("report", "--methods", "taylor")
    assert status == 2 and "add --paper" in err
    status, _, err = run("report", "--paper", "--methods", "taylor,nobody")
    assert status == 2 and "no records of nobody; --methods can name: fpgm; taylor; uniform" in err
    assert not (tmp_path / "results" / "tables").exists()
    status, out, err = run("report", "--paper", "--methods", "taylor,uniform", columns=200)
    assert status == 0, err
    assert "whole tables stay in tables/results.csv" in out
    text = (tmp_path / "results" / "paper" / "tables.tex").read_text()
    assert "taylor" in text and "fpgm" not in text
    assert "fpgm" in (tmp_path / "results" / "tables" / "results.csv").read_text()
    assert (tmp_path / "results" / "paper" / "accuracy_macs.pdf").stat().st_size > 5_000


def test_report_leaves_blocks_that_the_records_say_nothing_of(run, tmp_path):
    write_record(tmp_path / "results" / "records", record())
    page = tmp_path / "page.md"
    kept = "<!-- zoo supernets: begin -->\n\nfrom other records\n\n<!-- zoo supernets: end -->\n"
    page.write_text(kept + "\n".join(MARKERS[:2]))
    status, out, err = run("report", "--readme", str(page))
    assert status == 0, err
    assert page.read_text().startswith(kept) and "tiny_net on digits" in page.read_text()
    assert out.strip().endswith(": report")


def test_blocks_of_what_is_no_file_are_refused_and_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    for path in (tmp_path / "pipe.md", tmp_path, tmp_path / "nowhere.md"):
        with pytest.raises(ValueError, match="is no file; give the path of a text"):
            marked_blocks(path)
    (tmp_path / "picture.md").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"picture\.md is no text in UTF-8"):
        marked_blocks(tmp_path / "picture.md")


def test_a_page_without_blocks_is_refused_before_the_report_is_made(run, tmp_path):
    write_record(tmp_path / "results" / "records", record())
    (tmp_path / "README.md").write_text("nothing marked")
    status, _, err = run("report", "--readme", str(tmp_path / "README.md"))
    assert status == 2 and "no block to renew" in err
    assert not (tmp_path / "results" / "tables").exists()


def test_report_without_records_says_how_to_make_some(run):
    status, _, err = run("report")
    assert status == 2 and "zoo run" in err


def test_report_names_and_counts_a_damaged_record_and_reports_the_others(run, tmp_path):
    folder = tmp_path / "results" / "records"
    write_record(folder, record())
    (folder / "20260101-bad\x1b[31m.json").write_text("{")
    status, out, err = run("report", columns=200)
    assert status == 0, err
    assert "tiny_net on digits" in out and "1 file is no whole record and left out." in out
    assert r"20260101-bad\x1b[31m.json: is not a whole record" in out and "\x1b" not in out
    for name in ("page.html", "tables/results.md", "tables/results.tex"):
        text = (tmp_path / "results" / name).read_text("utf-8")
        assert "1 file is no whole record and left out." in text and "20260101-bad" in text


def test_report_of_damaged_records_only_names_them(run, tmp_path):
    folder = tmp_path / "results" / "records"
    folder.mkdir(parents=True)
    (folder / "20260101-bad.json").write_text("{")
    status, _, err = run("report")
    assert status == 2 and "no records in" in err and "20260101-bad.json: is not a whole" in err


@pytest.mark.parametrize(
    ("prepare", "message"),
    [(None, "there is no such folder"), ("folder", "it holds none"), ("file", "it is no folder")],
)
@pytest.mark.parametrize("command", [("report", "--results", "here"), ("compare", "here", "here")])
def test_a_folder_without_records_is_named_with_the_way_out(
    run, tmp_path, prepare, message, command
):
    if prepare == "folder":
        (tmp_path / "here").mkdir()
    if prepare == "file":
        (tmp_path / "here").write_text("x")
    status, out, err = run(*command)
    assert status == 2 and out == "" and f"no records in here: {message}" in err
    assert "zoo run SUITE" in err and err.count("\n") == 1


def test_a_run_takes_a_damaged_record_for_none_and_says_so(run, suite_file, tmp_path, monkeypatch):
    run_cells_here(monkeypatch)
    path = suite_file(
        datasets='[{name = "digits", image_size = 16, train_size = 128}]',
        latency="{batches = [1], rounds = 3, block_ms = 1.0, warmup_ms = 1.0}",
    )
    arguments = ("run", path, "--workers", "1")
    status, out, err = run(*arguments, columns=200)
    assert status == 0, err
    (written,) = (tmp_path / "results" / "records").glob("*.json")
    assert "1 cell, 1 done, 0 to run" in run(*arguments, "--dry-run")[1]
    whole = written.read_text()
    written.write_text(whole[:1000])
    status, out, _ = run(*arguments, "--dry-run", columns=200)
    assert status == 0 and "1 file is no whole record and left out." in out
    assert written.name in out and "1 cell, 0 done, 1 to run" in out
    status, out, err = run(*arguments, columns=200)
    assert status == 0, err
    assert "1 file is no whole record and left out." in out and written.name in out
    assert written.read_text() == whole[:1000]
    again = written.with_name(f"{written.stem}-2.json")
    assert load_record(again).status == "ok"
    assert "1 cell, 1 done, 0 to run" in run(*arguments, "--dry-run")[1]


@pytest.mark.parametrize(
    ("target", "message"),
    [("no_such_module_xyz", "no module"), ("nowhere.py", "does not exist"), ("json", "no pruner")],
)
def test_check_of_what_is_no_pruner_is_refused(run, monkeypatch, target, message):
    monkeypatch.setattr("benchmarks.running.check_module.Workers", InThisProcess)
    status, _, err = run("check", target)
    assert status == 2 and message in err


@pytest.mark.parametrize("width", [50, 80])
def test_help_fits_the_terminal_and_cuts_nothing_short(width: int) -> None:
    told = subprocess.run(
        [sys.executable, "-c", TELL_ALL], env={**os.environ, "COLUMNS": str(width)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [line.strip(" │╭╮╰╯─") for line in told.splitlines()]
    assert max(map(len, told.splitlines())) <= width
    assert "…" not in told and "..." not in told.replace("]...", "]")
    options = {name for line in lines for name in line.split()[:1] if name.startswith("--")}
    assert {"--parent-epochs", "--fold-batch-norm", "--dry-run", "--tolerance"} <= options
    # A line ends early only at the end of a paragraph.
    start = next(at for at, line in enumerate(lines) if line.startswith("Exit status: 1"))
    end = next(at for at, line in enumerate(lines) if at > start and line.endswith("met."))
    for line, after in pairwise(lines[start : end + 1]):
        assert len(f"{line} {after.split()[0]}") > width - 5


TELL_ALL = """
import sys
from benchmarks import cli
for name in ("", "run", "prune", "list", "report", "compare", "check"):
    sys.argv = ["zoo", *filter(None, [name]), "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
"""
"""Prints the help of every command."""

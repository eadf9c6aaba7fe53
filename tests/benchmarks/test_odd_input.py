"""Whatever is typed or lies in a suite's file: one clear line, status two, and nothing is begun."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.records.files import write_record
from tests.benchmarks.fabricate import record
from tests.benchmarks.in_this_process import InThisProcess

FIELDS = {
    "title": '"t"',
    "methods": '["uniform"]',
    "budgets": "[0.5]",
    "models": '[{name = "test_resnet"}]',
    "datasets": '[{name = "digits", image_size = 16}]',
    "parent": "{epochs = 1}",
    "finetune": "{epochs = 1}",
    "controls": "false",
}


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr("benchmarks.running.run_cells.run_plan", refuse)
    monkeypatch.setattr("benchmarks.running.finetune.train", refuse)
    monkeypatch.setattr("benchmarks.running.check_module.Workers", InThisProcess)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Iterator[object]:
    """Runs a command line in an empty folder; returns its status and standard error."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


def tree(folder: Path) -> list[Path]:
    """All that lies there, but for folders without a file."""
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def refused(run, tmp_path: Path, *arguments: str) -> str:
    """What a command says that must refuse, leaving nothing behind."""
    before = tree(tmp_path)
    status, err = run(*arguments)
    assert status == 2, err
    assert "Traceback" not in err and "ZOO_TRACEBACK" not in err
    assert tree(tmp_path) == before
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 or "Usage: " in err, err  # our own line, or the parser's
    return err


def write_suite(folder: Path, **changes: str) -> str:
    path = folder / "mine.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in {**FIELDS, **changes}.items()))
    return str(path)


SUITES: list[tuple[dict[str, str], str]] = [
    ({"parent": '{epochs = 1, optimizer = "sdg"}'}, "parent: unknown optimizer 'sdg'; did you"),
    ({"finetune": "{epochs = 1, warmup_epochs = 2}"}, "finetune: 2.* warm-up epochs do not fit"),
    ({"finetune": "{epochs = 1, lr = inf}"}, r"finetune\.lr: Input should be a finite number"),
    ({"parent": "{epochs = 1, lr = nan}"}, r"parent\.lr: Input should be a finite number"),
    ({"parent": "{epochs = 1, lr = 0}"}, r"parent\.lr: .*is not above 0"),
    ({"parent": '{epochs = 1, lr = "0.1"}'}, r"parent\.lr: .*valid number"),
    ({"parent": "{epochs = -1}"}, r"parent\.epochs: .*is below 0"),
    ({"parent": "{epochs = 1.5}"}, r"parent\.epochs: .*valid integer"),
    ({"parent": "{epochs = true}"}, r"parent\.epochs: .*valid integer"),
    ({"parent": "{epochs = 1000000000000}"}, "parent.epochs: 1000000000000 is above"),
    ({"parent": "{epochs = 1, batch_size = 0}"}, r"parent\.batch_size: .*is below 1"),
    ({"parent": "{epochs = 1, batch_size = 9000}"}, "parent: batch_size 9000 is above the .* tra"),
    ({"finetune": "{epochs = 1, cuda_graph = true}"}, "cuda_graph needs a CUDA device.*cuda_graph"),
    ({"finetune": "{epochs = 1, milestones = [2.0]}"}, "finetune: milestones are .2.0"),
    ({"latency": "{batches = []}"}, r"latency\.batches: .*is too short, at least 1"),
    ({"latency": "{batches = [0]}"}, r"latency\.batches\.0: .*is below 1"),
    ({"latency": "{batches = [-1, 4]}"}, r"latency\.batches\.0: .*is below 1"),
    ({"latency": "{batches = [4, 4]}"}, "latency: batches: 4 stands twice"),
    ({"latency": "{block_ms = inf}"}, r"latency\.block_ms: .*finite"),
    ({"settings": "{uniform = {shape = 1}}"}, "unknown setting of uniform 'shape'"),
    ({"methods": '["taylor"]', "settings": "{taylor = {calibration = true}}"}, "calibration is Tr"),
    (
        {"methods": '["taylor"]', "settings": "{taylor = {calibration = inf}}"},
        "settings.taylor.calibration.*finite",
    ),
    ({"methods": '["bnp"]', "settings": "{bnp = {steps = 2.0}}"}, "settings of bnp: steps is 2.0"),
    ({"methods": '["bnp"]', "settings": "{bnp = {steps = -1}}"}, "steps is -1; it must be at le"),
    ({"methods": '["bnp"]', "settings": '{bnp = {solver = "x"}}'}, "unknown solver 'x'"),
    ({"methods": '["bnp"]', "settings": "{bnp = {solver = 3}}"}, "solver is 3; it must be 'chain'"),
    ({"methods": '["knapsack"]', "settings": "{knapsack = {positions = [1]}}"}, "positions is"),
    ({"methods": '["stagewise"]', "settings": "{stagewise = {fullnet = 1}}"}, "fullnet is 1"),
    ({"methods": "[]"}, "methods: an empty list"),
    ({"methods": '["uniform", "uniform"]'}, "'uniform' stands twice"),
    ({"methods": '["uniformm"]'}, "uniformm"),
    ({"methods": "[1]"}, r"methods"),
    ({"budgets": "[]"}, "budgets: .*at least 1 item"),
    ({"budgets": "[0.5, 0.5]"}, "budgets: 0.5 stands twice"),
    ({"budgets": "[nan]"}, r"budgets\.0: budget nan is not positive"),
    ({"budgets": "[inf]"}, r"budgets\.0: budget .* is not positive and at most 1e.15"),
    (
        {"budgets": "[1" + "0" * 400 + "]"},
        r"budgets\.0: budget .* is not positive and at most 1e.15",
    ),
    ({"budgets": "[1" + "0" * 5000 + "]"}, "is not TOML: Exceeds the limit"),
    ({"budgets": "[true]"}, r"budgets\.0"),
    ({"budgets": '["half"]'}, r"budgets\.0"),
    ({"budgets": "[100000000]"}, "test_resnet on digits: budget .* is above the parent's"),
    ({"budgets": "[2.0]", "metric": '"latency"'}, "budgets: 2 is no keep ratio of the latency"),
    ({"seeds": "[]"}, "seeds: .*is too short, at least 1"),
    ({"seeds": "[0, 1, 0]"}, "seeds: 0 stands twice"),
    ({"seeds": "[4294967296]"}, r"seeds\.0: .*is above 4,294,967,295"),
    ({"seeds": "[0.0]"}, r"seeds\.0: .*valid integer"),
    ({"models": "[]"}, "models: .*is too short, at least 1"),
    ({"models": '[{name = "test_resnet"}, {name = "test_resnet"}]'}, "models: .*stands twice"),
    ({"models": '[{name = ""}]'}, r"models\.0\.name: '' is too short"),
    ({"models": '[{name = "hf-hub:timm/resnet18.a1_in1k"}]'}, "hf-hub"),
    ({"models": '[{name = "local-dir:/tmp"}]'}, "local-dir"),
    ({"models": '[{name = "resnet18.no_such_tag"}]'}, "no_such_tag"),
    ({"models": '[{name = "test_resnet", width = inf}]'}, r"models\.0\.width: .*finite"),
    ({"models": '[{name = "test_resnet", width = 9.0}]'}, r"models\.0\.width: .*is above 8"),
    ({"models": '[{name = "test_resnet", args = {nonsense = 1}}]'}, "'nonsense' is no argument"),
    ({"models": '[{name = "test_resnet", args = {stem_width = 0}}]'}, "cannot make|other args"),
    (
        {"models": '[{name = "test_resnet", args = {growth_rate = 8}}]'},
        "timm cannot make 'test_resnet' with args .*growth_ra.*; change or remove an argument",
    ),
    *(
        ({"models": f'[{{name = "test_resnet", args = {{{args}}}}}]'}, message)
        for args, message in (
            ("output_stride = 3", r"assert output_stride in \(8, 16, 32\); change or re"),
            ('act_layer = "nope"', "'act_layer' is 'nope'; it must be an activation .*such as r"),
            ('norm_layer = "nope"', "'norm_layer' is 'nope'; it must be a normalization .*such"),
            ("in_chans = 5", "images of 3 channels and test_resnet is to read 5; remove in_chans"),
            ('global_pool = ""', "global_pool = '' makes no classifier; remove it, or give 'avg'"),
            ("channels = [20000, 20000]", "it would have more than 1,073,741,824 parameters"),
        )
    ),
    ({"models": '[{name = "test_resnet", args = {num_classes = 7}}]'}, "head has 7 outputs"),
    ({"models": '[{name = "test_resnet", args = {features_only = true}}]'}, "'features_only' make"),
    ({"models": '[{name = "test_resnet", args = {pretrained = 1}}]'}, "'pretrained' is 1"),
    *(
        ({"models": f'[{{name = "test_resnet", args = {{{key} = {value}}}}}]'}, f"'{key}' is not t")
        for key, value in (
            ("pretrained_cfg", '{url = "https://example.org/x.bin"}'),
            ("pretrained_cfg_overlay", '{file = "/etc/passwd"}'),
            ("pretrained_strict", "false"),
            ("checkpoint_path", '"/etc/passwd"'),
            ("cache_dir", '"."'),
            ("model_name", '"resnet18"'),
            ("file", '"x"'),
        )
    ),
    ({"datasets": "[]"}, "datasets: .*is too short, at least 1"),
    ({"datasets": '[{name = "digits"}, {name = "digits"}]'}, "datasets: .*stands twice"),
    (
        {"datasets": '[{name = "digits", image_size = 1000000}]'},
        "image_size: 1000000 is above 100,000",
    ),
    ({"datasets": '[{name = "digits", image_size = 4000}]'}, "GiB of memory"),
    ({"datasets": '[{name = "digits", train_size = 99999}]'}, "lower train_size"),
    ({"datasets": '[{name = "digits", test_size = 99999}]'}, "test_size 99999 is above"),
    ({"datasets": '[{name = "cluttered_digits", train_size = 9999999999}]'}, "GiB of memory"),
    ({"datasets": '[{name = "digits", digest = "../x"}]'}, r"datasets\.0\.digest"),
    ({"datasets": '[{name = "cifar10", image_size = 48}]'}, "cifar10 has 32 x 32 images"),
    ({"datasets": '[{name = "imagefolder"}]'}, "imagefolder is read from files; .*--data"),
    ({"datasets": '[{name = "cifar10"}]'}, "cifar10 is read from files; .*--data"),
    ({"rules": "{min_keep = nan}"}, r"rules\.min_keep: .*finite"),
    ({"rules": "{divisor = 0}"}, r"rules\.divisor: .*is below 1"),
    ({"recalibration_batches": "0"}, "recalibration_batches: .*is below 1"),
    ({"parent": "1"}, "parent"),
    ({"models": "3"}, "models"),
    ({"models": "[" * 100_000}, "nested too deeply"),
    ({"parent": "{a = " * 100_000}, "nested too deeply"),
    ({"parent": "{epochs = 1, lr = 1" + "0" * 400 + "}"}, "parent.lr"),
    ({"rules": "{divisor = 1" + "0" * 400 + "}"}, r"rules\.divisor: 10.*0 is above 1,000,000"),
    ({"latency": "{rounds = 9000000000}"}, r"latency\.rounds: 9000000000 is above"),
    ({"recalibration_batches": "9000000000"}, "recalibration_batches: 9000000000 is above"),
    ({"settings": "{bnp = {steps = " + "[" * 150 + "]" * 150 + "}}"}, "settings for 'bnp'|steps"),
]


@pytest.mark.parametrize(("changes", "message"), SUITES, ids=lambda value: str(value)[:60])
def test_a_suite_that_cannot_work_is_refused_in_one_line(run, tmp_path, changes, message) -> None:
    err = refused(run, tmp_path, "run", write_suite(tmp_path, **changes))
    assert re.search(message, err), err


def test_a_network_too_wide_is_refused_before_it_is_widened(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.running.network.MOST_NUMBERS", 10**6)
    monkeypatch.delattr("benchmarks.running.network.widen")
    suite = write_suite(tmp_path, models='[{name = "test_resnet", width = 8.0}]')
    err = refused(run, tmp_path, "run", suite)
    assert re.search(r"test_resnet x 8 would have up to [0-9,]{10} parameters.*lower its w", err)


def test_a_ranking_is_held_to_the_same(run, tmp_path) -> None:
    ranking = '{train = {epochs = 1, optimizer = "sdg"}, scorers = [{method = "macs"}], sample = '
    suite = write_suite(tmp_path, ranking=ranking + "{count = 2, low = 0.4, high = 0.5}}")
    assert "ranking.train: unknown optimizer" in refused(run, tmp_path, "run", suite)
    suite = write_suite(tmp_path, ranking=ranking.replace("sdg", "sgd")
                        + "{count = 1000000000, low = 0.4, high = 0.5}}")  # fmt: skip
    assert "sample.count: 1000000000 is above 1,000" in refused(run, tmp_path, "run", suite)


def test_absurd_counts_of_cells_are_refused_at_once(run, tmp_path) -> None:
    suite = write_suite(tmp_path, budgets=str([round(0.5 + k / 1000, 3) for k in range(20)]))
    assert "200,000 cells are asked for" in refused(run, tmp_path, "run", suite, "--seeds", "10000")


OPTIONS: list[tuple[tuple[str, ...], str]] = [
    *(
        (("run", "smoke", option, value), f"{option}")
        for option, value in (
            ("--seeds", "0"),
            ("--seeds", "-1"),
            ("--seeds", "1000000000"),
            ("--seeds", "nan"),
            ("--seeds", ""),
            ("--workers", "-1"),
            ("--workers", "1000000000"),
            ("--workers", "x"),
            ("--minutes", "-1"),
            ("--minutes", "nan"),
            ("--minutes", "inf"),
            ("--minutes", "x"),
        )
    ),
    (("run", ""), "unknown suite ''"),
    (("run", "nowhere.toml"), "nowhere.toml"),
    (("run", "folder.toml"), "is no file"),
    (("run", "pipe.toml"), "is no file"),
    (("run", "binary.toml"), "is no text in UTF-8"),
    (("run", "huge.toml"), "bytes; a suite has"),
    (("run", "../../etc/passwd"), "unknown suite"),
    (("run", "smoke", "--results", "holder"), "holder/records is a file where .*; move it away"),
    (("prune", "test_resnet", "--results", "holder"), "holder/.cache.* file is in the .*--results"),
    (("prune", "test_resnet", "--out", "occupied/x"), "occupied/x .a file is in the w.* .*--out"),
    (("run", "smoke", "--dataset", ""), "is no name"),
    (("run", "smoke", "--dataset", "x" * 500), "is no name"),
    (("run", "smoke", "--dataset", "imagefolder"), "--data"),
    (("run", "smoke", "--dataset", "imagefolder", "--data", "nowhere"), "nowhere does not exist"),
    (("run", "smoke", "--dataset", "imagefolder", "--data", "occupied"), "does not exist"),
    (("run", "smoke", "--dataset", "imagefolder", "--data", "empty"), "does not exist; expected"),
    (("run", "smoke", "--dataset", "cifar10", "--data", "empty"), "holds no cifar10"),
    (("run", "smoke", "--data", "empty"), "made in memory"),
    (("run", "smoke", "--device", ""), "unknown device ''"),
    (("run", "smoke", "--device", "cuda:-1"), "unknown device"),
    (("run", "smoke", "--device", "tpu"), "unknown device"),
    (("run", "smoke", "--nonsense"), "--nonsense"),
    *(
        (("prune", "test_resnet", option, value), message)
        for option, value, message in (
            ("--macs", "nan", "--macs"),
            ("--macs", "inf", "--macs"),
            ("--macs", "x", "--macs"),
            ("--macs", "0", "budget 0.0 is not positive"),
            ("--macs", "-0.5", "budget -0.5 is not positive"),
            ("--macs", "1", "budget 1.0 keeps all .*macs; nothing would be pruned"),
            ("--macs", "1.0", "nothing would be pruned"),
            ("--macs", "1e9", "is above the parent's"),
            ("--macs", "1e300", "budget 1e.300 is not positive and at most 1e.15"),
            ("--macs", "0.001", "is below the smallest subnet"),
            ("--macs", "2", "is below the smallest subnet"),
            ("--params", "nan", "--params"),
            ("--params", "1", "keeps all .*params; nothing would be pruned"),
            ("--latency", "inf", "--latency"),
            ("--latency-ms", "nan", "--latency-ms"),
            ("--latency-ms", "0", "budget 0.0 is not positive"),
            ("--latency-ms", "-1", "budget -1.0 is not positive"),
            ("--epochs", "-1", "--epochs"),
            ("--epochs", "1000000000", "--epochs"),
            ("--epochs", "1.5", "--epochs"),
            ("--parent-epochs", "-1", "--parent-epochs"),
            ("--parent-epochs", "nan", "--parent-epochs"),
            ("--batch-size", "0", "--batch-size"),
            ("--batch-size", "-8", "--batch-size"),
            ("--batch-size", "1000000000", "batch_size 1000000000 is above the .*--batch-size"),
            ("--width", "0.5", "--width"),
            ("--width", "9", "--width"),
            ("--width", "nan", "--width"),
            ("--image-size", "0", "--image-size"),
            ("--image-size", "-3", "--image-size"),
            ("--image-size", "1000000", "--image-size"),
            ("--image-size", "4096", "GiB of memory"),
            ("--train-size", "0", "--train-size"),
            ("--train-size", "-1", "--train-size"),
            ("--train-size", "1000000000", "GiB of memory"),
            ("--train-size", "1" + "0" * 400, "--train-size"),
            ("--seed", "-1", "--seed"),
            ("--seed", "4294967296", "--seed"),
            ("--seed", "1" + "0" * 400, "--seed"),
            ("--method", "", "unknown pruner ''"),
            ("--method", "napsack", "knapsack"),
            ("--dataset", "", "is no name"),
            ("--dataset", "imagefolder", "--data"),
            ("--data", "empty", "made in memory; add --dataset"),
            ("--export", "", "use onnx, onnx-int8, torch-export or timm"),
            ("--export", "exe", "use onnx, onnx-int8, torch-export or timm"),
            ("--device", "cuda:x", "unknown device"),
            ("--device", "", "unknown device ''"),
        )
    ),
    (("prune", ""), "is no name"),
    (("prune", "hf-hub:timm/resnet18"), "hf-hub"),
    (("prune", "local-dir:/tmp"), "local-dir"),
    (("prune", "../x"), "unknown model"),
    (("prune", "x" * 5000), "is no name"),
    (("prune",), "(?i)missing argument .*model"),
    (("report", "--results", "nowhere"), "no records in"),
    (("report", "--results", "occupied"), "no records in"),
    (("report", "--results", "holder"), "no records in holder/records: it is no folder"),
    (("compare", "nowhere", "nowhere"), "no records in"),
    (("compare", "nowhere", "nowhere", "--level", "nan"), "--level"),
    (("compare", "nowhere", "nowhere", "--level", "0.9"), "--level"),
    (("check", "nowhere.py"), "nowhere.py does not exist"),
    (("check", ""), "module|name"),
    (("nonsense",), "nonsense"),
]


@pytest.fixture
def oddities(tmp_path: Path) -> None:
    """Things in the folder that are not what their name says."""
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "records").write_text("a file where a folder should be")
    (tmp_path / "holder" / ".cache").write_text("a file where a folder should be")
    (tmp_path / "occupied").write_text("a file where a folder should be")
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "huge.toml").write_text("# " + "x" * 2_000_000)
    os.mkfifo(tmp_path / "pipe.toml")


@pytest.mark.usefixtures("oddities")
@pytest.mark.parametrize(("arguments", "message"), OPTIONS, ids=lambda value: str(value)[:70])
def test_odd_options_are_refused_in_one_line(run, tmp_path, arguments, message) -> None:
    err = refused(run, tmp_path, *arguments)
    assert re.search(message, " ".join(err.split())), err


def test_a_file_in_the_place_of_the_tables_is_told(run, tmp_path) -> None:
    write_record(tmp_path / "records", record())
    (tmp_path / "tables").write_text("a file where a folder should be")
    err = refused(run, tmp_path, "report", "--results", str(tmp_path))
    assert "tables (a file is in the way); give another --results" in err


def test_a_defect_of_ours_is_one_line_that_says_where(run, tmp_path, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("benchmarks.running.suite.load_suite", fails)
    status, err = run("run", "smoke")
    assert status == 2 and err.count("\n") == 1
    assert re.match(
        r"error: KeyError: 'unforeseen' \(test_odd_input\.py, line \d+\); set ZOO_", err
    )


def test_suites_and_pruners_may_keep_the_whole_network(tmp_path) -> None:
    """What `zoo prune` and `zoo.prune` refuse, in the same words; see `Budget.require_pruning`."""
    from benchmarks.running.plan import plan_suite
    from benchmarks.running.suite import load_suite

    suite = load_suite(write_suite(tmp_path, budgets="[1]"))
    (cell,) = plan_suite("mine", suite).cells
    assert cell.budget == 1.0

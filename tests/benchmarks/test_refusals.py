"""What cannot work is refused before anything is trained, all of it at once, with the way out."""

import re

import pytest
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

import zoo
from benchmarks.running import parent
from benchmarks.running.precheck import check_cells
from tests.benchmarks.fabricate import cell
from tests.benchmarks.test_cli import SMALL, few_rounds, run, suite_file  # noqa: F401  (fixtures)
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel

TYPOS = """
titel = "x"
title = "typos"
methods = ["tailor", "uniform"]
budgets = [0.5, "x"]
seeds = [-1]
models = [{name = "resnet20_cifr"}, {name = "test_resnet", widht = 2.0}]
datasets = [{name = "digit"}, {name = "digits", trian_size = 100}]
parent = {epochs = 1, batchsize = 3}
finetune = {epochs = -1}

[settings.knapsak]
gama = 1

[[variants]]
method = "bnp"
settings = {bata = 1, feed = "techer"}
"""

FOUND = (
    "unknown key 'titel'; did you mean title",
    "budgets.1",
    "seeds.0: -1 is below 0",
    "models.1: unknown key 'widht'; did you mean width",
    "datasets.1: unknown key 'trian_size'; did you mean train_size",
    "parent: unknown key 'batchsize'; did you mean batch_size",
    "finetune.epochs: -1 is below 0",
    "unknown pruner 'tailor'; did you mean 'taylor'",
    "unknown model 'resnet20_cifr'; did you mean resnet20_cifar",
    "unknown dataset 'digit'; did you mean digits",
    "settings for 'knapsak', which the suite does not run",
    "unknown setting of bnp 'bata'; did you mean 'beta'",
    "unknown feed 'techer'; did you mean 'teacher'",
)


@pytest.fixture
def untrained(monkeypatch):
    """No parent may be trained."""

    def train(*_, **__):
        raise AssertionError("a parent is trained")

    monkeypatch.setattr(parent, "_train_parent", train)


def test_all_that_is_wrong_in_a_suite_is_told_at_once(run, tmp_path):  # noqa: F811
    (tmp_path / "typos.toml").write_text(TYPOS)
    status, out, err = run("run", "typos.toml", columns=200)
    assert status == 2 and out == ""
    for told in FOUND:
        assert told in err, (told, err)
    lines = err.splitlines()
    assert re.fullmatch(rf"error: the suite has {len(lines) - 1} faults", lines[0])
    assert not (tmp_path / "results").exists()


def test_names_and_numbers_are_told_together_where_the_form_is_right(run, suite_file):  # noqa: F811
    path = suite_file(
        methods='["tailor"]',
        datasets='[{name = "digit"}, {name = "cifar10", image_size = 64}]',
        parent='{epochs = 1, optimizer = "sdg"}',
        rules="{ratios = {a = 0.05}}",
    )
    status, _, err = run("run", path, "--dry-run", columns=200)
    assert status == 2
    for told in ("'taylor'", "digits", "cifar10", "parent: unknown optimizer", "rules: ratio 'a'"):
        assert told in err, (told, err)


def test_one_fault_is_one_line(run, suite_file):  # noqa: F811
    status, _, err = run("run", suite_file(methods='["tailor"]'), columns=200)
    assert status == 2 and err == "error: unknown pruner 'tailor'; did you mean 'taylor'?\n"


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_run_refuses_a_budget_that_no_network_meets(run, suite_file, untrained, words):  # noqa: F811
    status, _, err = run("run", suite_file(budgets="[0.5, 0.0001]"), *words, columns=300)
    assert status == 2
    assert re.search(r"test_resnet on digits: budget \d+ macs is below the smallest subnet", err)
    assert "nothing was run" in err


def test_a_network_that_meets_no_budget_is_refused(run, suite_file, untrained):  # noqa: F811
    models = '[{name = "test_resnet"}, {name = "resnet20_cifar"}]'
    status, _, err = run("run", suite_file(models=models, budgets="[100000]"), columns=300)
    assert status == 2 and "resnet20_cifar on digits: budget 100,000 macs is below" in err


def test_a_budget_that_some_networks_meet_is_told_and_run():
    cells = [
        cell(model={"name": name}, data={"name": "digits", "image_size": 16}, budget=budget)
        for name in ("test_resnet", "resnet20_cifar")
        for budget in (100_000, 400_000)
    ]
    (line,) = check_cells(cells)  # the smallest subnets have 20,201 and 160,150 MACs
    assert line.startswith("resnet20_cifar on digits: budget 100,000 macs is below")
    assert line.endswith("; recorded as infeasible")


def test_a_budget_of_latency_is_refused_before_training(run, suite_file, untrained):  # noqa: F811
    path = suite_file(metric='"latency_ms"', budgets="[0.000001]")
    status, _, err = run("run", path, columns=300)
    assert status == 2 and "is below the smallest subnet" in err and "counts" not in err


def test_prune_refuses_an_impossible_budget_before_training(run, tmp_path, untrained):  # noqa: F811
    status, _, err = run(
        "prune", "test_resnet", "--method", "l1_norm", "--macs", "1.5", *SMALL, columns=400
    )
    assert status == 2 and "budget 1 macs is below the smallest subnet" in err
    assert "1.5 is above 1, so it counts macs: for 1.5 % of them give 0.015, for half" in err
    assert not (tmp_path / "pruned").exists()


def loader():
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(16) % 4), batch_size=8)


def pruned(**asked):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=4).eval()
    recipe = zoo.Recipe(epochs=0)
    return zoo.prune(model, loader(), loader(), "l1_norm", recipe=recipe, progress=False, **asked)


@pytest.mark.parametrize(
    ("macs", "hint"),
    [(1.5, "1.5 is above 1, so it counts macs"), (50, "for 50 % of them give 0.5"), (0.0001, "")],
)
def test_the_function_says_the_same_before_it_searches(monkeypatch, macs, hint):
    monkeypatch.setattr("baselines.l1_norm.L1Norm.search", None)
    with pytest.raises(zoo.InfeasibleBudget, match="below the smallest subnet") as caught:
        pruned(macs=macs)
    assert hint in str(caught.value) and ("counts" in str(caught.value)) == bool(hint)


def test_the_share_of_the_smallest_subnet_is_told_and_is_met():
    with pytest.raises(zoo.InfeasibleBudget) as caught:
        pruned(macs=0.0001)
    (share,) = re.findall(r"macs or ([0-9.e-]+) of all", str(caught.value))
    found = pruned(macs=float(share) * 1.01)
    assert found.macs <= float(share) * 1.01 * found.parent_macs


def test_ratios_below_one_need_no_budget():
    alone = pruned(ratios={"layer3.*": 0.5})
    beside = pruned(ratios={"layer3.*": 0.5}, macs=1)
    assert alone.config == beside.config and alone.macs < alone.parent_macs
    narrow = {g.name for g in alone.space.groups if len(alone.config.indices(g)) < g.size}
    assert narrow == {g.name for g in alone.space.groups if g.name.startswith("layer3.")}


@pytest.mark.parametrize("ratios", [{}, {"layer3.*": (0.5, 1.0)}])
def test_without_budget_and_ratios_below_one_the_way_out_is_told(ratios):
    with pytest.raises(ValueError, match=r"give one budget: macs=0\.5.*or ratios below 1 alone"):
        pruned(ratios=ratios)


def test_ratios_that_narrow_nothing_are_refused():
    with pytest.raises(ValueError, match=r"budget 1\.0 keeps all.*nothing would be pruned"):
        pruned(ratios={"layer3.*": 0.999})


def test_prune_takes_ratios_without_a_budget(run, tmp_path):  # noqa: F811
    status, _, err = run(
        "prune", "test_resnet", "--method", "l1_norm", "--ratio", "layer3.*=0.5", *SMALL
    )
    assert status == 0, err
    network = zoo.load_pruned(tmp_path / "pruned")
    whole = timm.create_model("test_resnet", num_classes=10)
    narrow = {
        name
        for (name, small), full in zip(network.named_parameters(), whole.parameters(), strict=True)
        if small.shape[0] < full.shape[0]
    }
    assert narrow and all(name.startswith("layer3.") for name in narrow)


def test_an_unknown_pattern_names_the_nearest_few_alone():
    with pytest.raises(ValueError, match="unknown channel group or module") as caught:
        pruned(keep="layr3.*", macs=0.5)
    told = str(caught.value)
    assert "did you mean 'layer3" in told and told.count("layer") <= 3 and len(told) < 200


def test_a_far_name_is_answered_with_some_that_there_are():
    with pytest.raises(ValueError, match="known: ") as caught:
        zoo.create_pruner("zzz")
    assert str(caught.value).endswith(", ...") and len(str(caught.value)) < 200


@pytest.mark.parametrize(("asked", "hint"), [(1.0, False), (1.5, True), (100, True), (101, False)])
def test_a_number_just_above_one_is_told_to_be_no_share(asked, hint):
    model = timm.create_model("test_resnet", num_classes=4).eval()
    cost = CostModel(zoo.ChannelSpace.trace(model, (3, 32, 32)))
    assert bool(Budget.parse(asked, cost).hint) == hint
    assert Budget.parse(asked, cost) == Budget("macs", Budget.parse(asked, cost).limit)


def test_a_data_set_from_files_says_give_data(run):  # noqa: F811
    _, _, err = run("prune", "test_resnet", "--dataset", "cifar10", columns=200)
    assert "cifar10 is read from files; give their folder: --data" in err


def test_a_folder_that_is_taken_says_give_another_out(run, tmp_path, untrained):  # noqa: F811
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("mine")
    _, _, err = run("prune", "test_resnet", "--out", "taken", *SMALL, columns=200)
    assert "give another --out" in err and (tmp_path / "taken" / "x").read_text() == "mine"


def test_a_folder_that_is_taken_is_told_before_operators_are_timed(
    run,  # noqa: F811
    tmp_path,
    untrained,
    monkeypatch,
):
    monkeypatch.setattr(
        "benchmarks.running.costs.measure_latency", lambda *_, **__: pytest.fail("timed")
    )
    (tmp_path / "taken").write_text("mine")
    asked = ("prune", "test_resnet", "--latency", "0.5", "--out", "taken", *SMALL)
    status, _, err = run(*asked, columns=200)
    assert status == 2 and "taken is no folder; give another --out" in err

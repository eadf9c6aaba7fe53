import pytest

from benchmarks.record import Data, Model, Schedule
from benchmarks.suite import Suite, expand, list_suites, load_suite
from tests.benchmarks.fabricate import cell

MINIMAL = """
title = "t"
budgets = [0.5]
models = [{name = "resnet18"}]
datasets = [{name = "digits"}]
parent = {epochs = 1}
finetune = {epochs = 1}
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_suite(str(path))


@pytest.mark.parametrize("name", list_suites())
def test_every_suite_that_comes_along_reads(name):
    assert load_suite(name).title


def test_the_suites_of_the_readme_come_along():
    assert {"quick", "smoke"} <= set(list_suites())


def test_quick_compares_all_methods_on_a_residual_and_a_mobile_network_at_two_budgets():
    quick = load_suite("quick")
    assert quick.methods == "all"
    assert quick.budgets == (0.5, 0.25)
    assert quick.seeds == (0,)
    assert quick.models[0].name == "resnet20_cifar" and len(quick.models) == 2


def test_a_file_is_read_by_its_path(tmp_path):
    suite = read(tmp_path, MINIMAL)
    assert suite.models == (Model(name="resnet18"),)
    assert suite.parent == Schedule(epochs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budgetss = [1]", "unknown key 'budgetss'; did you mean budgets"),
        ("[rules]\ndivisr = 8", "rules: unknown key 'divisr'; did you mean divisor"),
        ("seeds = []", "seeds: .*at least 1 item"),
        ("seeds = [-1]", "seeds.0: .*greater than or equal to 0"),
        ('metric = "flops"', "metric: .*'macs' or 'params'"),
        ("protocol = 99", "protocol 99 is not the one of this program"),
        ('title = ""\n', "is not TOML"),
    ],
)
def test_a_wrong_suite_is_refused_with_the_place_and_the_way_out(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, MINIMAL + change)


@pytest.mark.parametrize("budget", ["0", "-0.5", "nan"])
def test_a_budget_that_is_not_positive_is_refused(tmp_path, budget):
    with pytest.raises(ValueError, match=r"budgets\.0: budget .* is not positive"):
        read(tmp_path, MINIMAL.replace("0.5", budget))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(ValueError, match="unknown suite 'quik'; did you mean quick"):
        load_suite("quik")


def test_a_suite_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml"):
        load_suite("nowhere.toml")


def test_a_suite_expands_to_every_combination_once():
    suite = Suite(
        title="t",
        budgets=(0.5, 0.25),
        seeds=(0, 1, 2),
        models=(Model(name="a"), Model(name="b")),
        datasets=(Data(name="d"),),
        parent=Schedule(epochs=1),
        finetune=Schedule(epochs=1),
    )
    cells = expand(suite, ("uniform", "taylor"), {"taylor": {"batches": 3}})
    assert len({c.key for c in cells}) == len(cells) == 2 * 2 * 3 * 2
    assert len({c.parent_key for c in cells}) == 2 * 3
    assert {c.settings.get("batches") for c in cells if c.method == "taylor"} == {3}
    assert all(c.settings == {} for c in cells if c.method == "uniform")


def test_cells_carry_the_device():
    suite = Suite(
        title="t",
        budgets=(0.5,),
        models=(Model(name="tiny_net"),),
        datasets=(Data(name="digits"),),
        parent=Schedule(epochs=3),
        finetune=Schedule(epochs=2),
        latency=cell().latency,
    )
    assert expand(suite, ("uniform",), {}) == [cell()]
    (on_gpu,) = expand(suite, ("uniform",), {}, "cuda")
    assert on_gpu.device == "cuda" and on_gpu.key != cell().key

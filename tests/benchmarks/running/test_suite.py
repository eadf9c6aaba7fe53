from pathlib import Path

import pytest

from benchmarks.records.cell import PARENT, Cell, Data, Model, Schedule, network_name
from benchmarks.records.contrast import Contrast
from benchmarks.records.files import read_folder
from benchmarks.records.record import Record
from benchmarks.running.costs import rules_of
from benchmarks.running.plan import plan_suite
from benchmarks.running.precheck import check_cells
from benchmarks.running.suite import Suite, Variant, expand, expand_ranking, list_suites, load_suite
from tests.benchmarks.fabricate import cell
from zoo.core.channels.config import WidthRules
from zoo.core.method.discovery import list_pruners

RESULTS = Path(__file__).parents[3] / "results"

MINIMAL = """
title = "t"
budgets = [0.5]
models = [{name = "resnet18"}]
datasets = [{name = "digits"}]
parent = {epochs = 1}
finetune = {epochs = 1}
controls = false
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
    assert {*list_pruners("method"), "uniform", "taylor"} <= {*quick.methods}
    assert quick.budgets == (0.5, 0.25)
    assert quick.seeds == (0,)
    assert quick.models[0].name == "resnet20_cifar" and len(quick.models) == 2


@pytest.mark.parametrize(
    ("name", "folder"), [("quick", "quick"), ("fashion", "fashion"), ("smoke", "smoke")]
)
def test_published_suites_run_the_methods_that_were_published(name, folder):
    """Networks and seeds apart, which are run in parts, and data, whose files are not here."""

    def asked(cells):
        fields = ("method", "settings", "budget", "parent", "finetune", "scratch", "rules")
        return {repr([getattr(cell, field) for field in fields]) for cell in cells}

    published = read_folder(RESULTS / folder / "records", Record).records
    done = asked(each.cell for each in published if not each.cell.longer)
    assert asked(plan_suite(name, load_suite(name)).cells) == done


@pytest.mark.parametrize("name", ["fashion-peers", "fashion-field"])
def test_suites_beside_fashion_share_its_parents(name):
    parents = [{cell.parent_key for cell in plan_suite("x", load_suite(each)).cells}
               for each in (name, "fashion")]  # fmt: skip
    assert parents[0] < parents[1] and len(parents[0]) == 5


def test_peers_at_quick_strength_share_the_parents_of_quick():
    parents = [{cell.parent_key for cell in plan_suite("x", load_suite(each)).cells}
               for each in ("peers", "quick")]  # fmt: skip
    assert parents[0] == parents[1]


def test_peers_run_only_where_a_suite_names_them(tmp_path):
    plan = plan_suite("mine", read(tmp_path, MINIMAL + 'methods = "all"'))
    assert {cell.method for cell in plan.cells} == {
        *list_pruners("method"),
        *list_pruners("baseline"),
    }


def test_a_file_is_read_by_its_path(tmp_path):
    suite = read(tmp_path, MINIMAL)
    assert suite.models == (Model(name="resnet18"),)
    assert suite.parent == Schedule(epochs=1)
    assert read(tmp_path, "\ufeff" + MINIMAL) == suite  # as editors on Windows begin a file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budgetss = [1]", "unknown key 'budgetss'; did you mean budgets"),
        ("[rules]\ndivisr = 8", "rules: unknown key 'divisr'; did you mean divisor"),
        ("[[variants]]\nsettings = {}", "variants.0.method: Field required"),
        ("primary = [{method = 'bnp', budget = 0.4}]", "no budget 0.4 in .*; did you mean 0.5"),
        ("primary = [{method = 'bnp', budget = 41234567}]", "no budget 41,234,567 in "),
        ("primary = [{method = 'bnp', budgt = 0.5}]", "unknown key 'budgt'; did you mean budget"),
        (
            f"primary = [{', '.join(2 * ['{method = 1}'])}]".replace("1", "'bnp', budget = 0.5"),
            "stands twice",
        ),
        ("[ranking.sample]\nlow = 0.6\nhigh = 0.5", "low, 0.6, is above high, 0.5"),
        ("image_sizes = {resnet81 = 16}", "no network 'resnet81'; did you mean resnet18"),
        ("image_sizes = {resnet18 = 4}", "image_sizes.resnet18: .*4 is below 8"),
        ("seeds = []", "seeds: .*is too short, at least 1"),
        ("seeds = [-1]", "seeds.0: .*-1 is below 0"),
        ('metric = "flops"', "metric: .*'macs', 'params', 'latency' or 'latency_ms'"),
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
        controls=False,
    )
    jobs = [Variant(method="uniform"), Variant(method="taylor", settings={"batches": 3})]
    cells = expand(suite, jobs)
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
        controls=False,
    )
    assert expand(suite, [Variant(method="uniform")]) == [cell(protocol=2)]
    (on_gpu,) = expand(suite, [Variant(method="uniform")], "cuda")
    assert on_gpu.device == "cuda" and on_gpu.key != cell().key


def test_a_network_with_images_of_its_own_size_shares_no_parent_with_the_data_sets(tmp_path):
    two = MINIMAL.replace('[{name = "resnet18"}]', '[{name = "resnet18"}, {name = "resnet10t"}]')
    plain, own = (
        expand(read(tmp_path, two + extra), [Variant(method="uniform")])
        for extra in ("", "image_sizes = {resnet10t = 48}")
    )
    assert [c.data.image_size for c in own] == [None, 48]
    assert own[0] == plain[0] and own[1].parent_key != plain[1].parent_key
    moved = read(tmp_path, two + "image_sizes = {resnet10t = 48}").on_dataset("cifar10")
    assert {c.data for c in expand(moved, [Variant(method="uniform")])} == {Data(name="cifar10")}


def test_other_seeds_change_nothing_else(tmp_path):
    suite = read(tmp_path, MINIMAL)
    jobs = [Variant(method="uniform")]
    assert [c.seed for c in expand(suite.with_seeds(3), jobs)] == [0, 1, 2]
    assert expand(suite.with_seeds(3), jobs)[0] == expand(suite, jobs)[0]


def test_networks_can_be_run_one_at_a_time(tmp_path):
    two = MINIMAL.replace('[{name = "resnet18"}]', '[{name = "resnet18"}, {name = "resnet10t"}]')
    suite, jobs = read(tmp_path, two), [Variant(method="uniform")]
    parts = [expand(suite.changed(models=[name]), jobs) for name in ("resnet18", "resnet10t")]
    assert [*parts[0], *parts[1]] == expand(suite, jobs)
    with pytest.raises(ValueError, match="runs no network 'resnet10'; did you mean resnet10t"):
        suite.changed(models=["resnet18", "resnet10"])


def test_options_change_no_cell(tmp_path):
    plain, told = (read(tmp_path, MINIMAL + extra) for extra in ("", 'options = "--workers 2"'))
    assert plan_suite("mine", plain).cells == plan_suite("mine", told).cells


CONTRAST = """
seeds = [0, 1]
variants = [{method = "bnp", settings = {steps = 5, solver = "chain"}}]
[[primary]]
method = "bnp"
settings = {steps = 5}
against = "bnp"
budget = 0.5
[settings.bnp]
kd = 0.25
"""


def test_a_primary_contrast_changes_no_cell_and_is_planned_with_the_settings_of_the_cells(tmp_path):
    named = read(tmp_path, MINIMAL + CONTRAST)
    plain = named.model_copy(update={"primary": ()})
    plans = [plan_suite("mine", suite) for suite in (plain, named)]
    assert plans[0].cells == plans[1].cells and plans[0].primary == ()
    (primary,) = plans[1].primary
    assert primary.seeds == (0, 1) and primary.metric == "macs"
    # `chain` is the default solver and `kd` the suite's: both sides are the cells' own settings.
    assert primary.contrast.settings == {"kd": 0.25, "steps": 5}
    assert primary.contrast.against_settings == {"kd": 0.25}
    for arm in primary.contrast.arms:
        assert [cell.seed for cell in plans[1].cells if arm.holds(cell)] == [0, 1]


def test_a_contrast_is_planned_on_all_networks_whichever_are_run_now(tmp_path):
    models = MINIMAL.replace('[{name = "resnet18"}]', '[{name = "resnet18"}, {name = "resnet10t"}]')
    sized = "image_sizes = {resnet10t = 16}\n"
    suite = read(tmp_path, sized + models + CONTRAST)
    whole, part = (plan_suite("mine", suite, models=names) for names in ((), ["resnet10t"]))
    assert {cell.model.name for cell in part.cells} == {"resnet10t"}
    assert part.cells == tuple(cell for cell in whole.cells if cell.model.name == "resnet10t")
    (primary,) = part.primary
    assert part.primary == whole.primary and len(primary.networks) == 2
    assert {*primary.networks} == {network_name(each.model, each.data) for each in whole.cells}
    with pytest.raises(ValueError, match="runs no network 'resnet10'; did you mean resnet10t"):
        plan_suite("mine", suite, models=["resnet10"])


def test_a_side_of_a_contrast_is_neither_a_longer_control_nor_a_network_from_scratch():
    (arm, control) = Contrast(method="bnp", budget=0.5).arms
    assert control.holds(cell("uniform")) and arm.holds(cell("bnp"))
    assert not control.holds(cell("uniform", longer=9))
    assert not arm.holds(cell("bnp", scratch=Schedule(epochs=1)))
    assert not arm.holds(cell("bnp", settings={"steps": 5}))


@pytest.mark.parametrize("name", [name for name in list_suites() if load_suite(name).primary])
def test_contrasts_of_the_suites_that_come_along_are_run(name):
    plan = plan_suite(name, load_suite(name))
    for primary in plan.primary:
        for arm in primary.contrast.arms:
            seeds = {cell.seed for cell in plan.cells if arm.holds(cell)}
            assert seeds == {*primary.seeds} and len(seeds) >= 3


def test_the_reference_suites_are_as_announced():
    at_cifar_size, small = load_suite("clutter32"), load_suite("fashion")
    assert at_cifar_size.budgets == (0.75, 0.5, 0.25, 0.125)
    assert at_cifar_size.datasets[0].train_size == 50_000
    families = ["resnet56_cifar", "mobilenetv2", "mobilenetv3", "efficientnet"]
    for model, family in zip(at_cifar_size.models, families, strict=True):
        assert model.name.startswith(family)
    for suite in (at_cifar_size, small):
        assert {*load_suite("quick").methods} == {*suite.methods} and len(suite.seeds) >= 3
    headline = load_suite("cifar10")
    assert {model.name for model in headline.models} == {"resnet56_cifar", "resnet110_cifar"}
    assert load_suite("imagenet").budgets == (2_000_000_000, 1_000_000_000)
    assert load_suite("imagenet-mobile").budgets == (300_000_000,)


RANKING = """
seeds = [0, 1]
[ranking]
train = {epochs = 2}
start = "scratch"
scorers = [{method = "macs"}, {method = "bnp", settings = {steps = 0}}]
[ranking.sample]
count = 3
low = 0.4
high = 0.5
"""


def test_a_ranking_is_a_cell_for_each_scorer_and_for_each_member(tmp_path):
    suite = read(tmp_path, MINIMAL + RANKING)
    cells = expand_ranking(suite, suite.ranking.scorers)
    assert len({c.key for c in cells}) == len(cells) == 2 * (2 + 3)
    assert len({c.ranking for c in cells}) == 1
    members = [c for c in cells if c.member is not None]
    assert [c.member for c in members if c.seed == 1] == [0, 1, 2]
    assert all(c.finetune == Schedule(epochs=2) and c.start == "scratch" for c in members)
    assert [c.method for c in cells if c.member is None and c.seed == 0] == ["macs", "bnp"]


def test_a_suite_of_a_ranking_alone_needs_no_budget(tmp_path):
    suite = read(tmp_path, MINIMAL.replace("budgets = [0.5]", "") + RANKING)
    assert expand(suite, [Variant(method="uniform")]) == []
    with pytest.raises(ValueError, match="at least 1 item, or add a "):
        read(tmp_path, MINIMAL.replace("budgets = [0.5]", ""))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('[[variants]]\nmethod = "taylr"', "unknown pruner 'taylr'.*taylor"),
        ('[[variants]]\nmethod = "taylor"\nsettings = {batch = 3}', "unknown setting of taylor"),
        ('[[variants]]\nmethod = "taylor"', "'taylor' stands twice in the suite"),
        ("[settings.bnq]", "settings for 'bnq', which the suite does not run"),
        ("primary = [{method = 'bnq', budget = 0.5}]", "does not run 'bnq'; did you mean bnp"),
        ("primary = [{method = 'bnp', against = 'unifrm', budget = 0.5}]", "mean uniform"),
        ("primary = [{method = 'uniform', budget = 0.5}]", "'uniform' is compared with itself"),
        ("primary = [{method = 'bnp', settings = {kd = 0.0}, budget = 0.5}]", "add them as one of"),
        (RANKING.replace("bnp", "taylor").replace("steps", "batches"), "'taylor' scores no"),
        (RANKING.replace("bnp", "params"), "the proxy 'params' has no settings"),
    ],
)
def test_what_a_suite_cannot_run_is_refused_before_anything_runs(tmp_path, change, message):
    suite = read(tmp_path, MINIMAL + change)
    with pytest.raises(ValueError, match=message):
        plan_suite("mine", suite, tmp_path)


def test_variants_take_the_settings_of_the_suite_for_their_method(tmp_path):
    text = """
    methods = ["uniform"]
    variants = [{method = "bnp"}, {method = "bnp", settings = {solver = "exact", steps = 5}}]
    [settings.bnp]
    steps = 7
    """
    plan = plan_suite("mine", read(tmp_path, MINIMAL + text), tmp_path)
    found = [(c.method, c.settings) for c in plan.cells]
    exact = {"solver": "exact", "steps": 5}
    assert found == [("uniform", {}), ("bnp", {"steps": 7}), ("bnp", exact)]


FIRST = '[settings.uniform]\nchannels = "first"\n'
FIRST_ONES = {"channels": "first"}


@pytest.mark.parametrize("methods", ["['taylor']", "['uniform', 'taylor']"])
def test_settings_never_replace_the_control_that_gains_are_against(tmp_path, methods):
    text = MINIMAL.replace("controls = false", f"methods = {methods}\n")
    refused = r"settings\.uniform: .*control.*\[\[variants\]\].*controls = false"
    with pytest.raises(ValueError, match=refused):
        plan_suite("mine", read(tmp_path, text + FIRST), tmp_path)
    unchanged = read(tmp_path, text + FIRST.replace("first", "l1"))
    beside = '[[variants]]\nmethod = "uniform"\nsettings = {channels = "first"}\n'
    for suite, settings in ((unchanged, [{}]), (read(tmp_path, text + beside), [{}, FIRST_ONES])):
        cells = plan_suite("mine", suite, tmp_path).cells
        found = [cell.settings for cell in cells if cell.method == "uniform"]
        assert sorted(found, key=len) == settings


def test_where_no_control_is_planned_uniform_takes_settings_or_has_none(tmp_path):
    alone = read(tmp_path, MINIMAL + "methods = ['uniform']\n" + FIRST)
    (cell,) = plan_suite("mine", alone, tmp_path).cells
    assert cell.settings == FIRST_ONES
    for text in (
        MINIMAL + "methods = ['taylor']\n" + FIRST,
        MINIMAL.replace("budgets = [0.5]", "methods = []").replace("false", "true")
        + RANKING
        + FIRST,
    ):
        with pytest.raises(ValueError, match="settings for 'uniform', which the suite does not"):
            plan_suite("mine", read(tmp_path, text), tmp_path)


def test_a_suite_runs_on_another_data_set_whole(tmp_path):
    suite = load_suite("bnp-headline").on_dataset("digits")
    cells = plan_suite("mine", suite, tmp_path).cells
    assert {c.data for c in cells} == {Data(name="digits")}
    assert {c.budget for c in cells if c.method != PARENT} == {0.3876}
    with pytest.raises(ValueError, match="unknown dataset 'cifar11'; did you mean cifar10"):
        plan_suite("mine", suite.on_dataset("cifar11"), tmp_path)


def test_a_variant_trained_from_scratch_stands_beside_the_fine_tuned_ones() -> None:
    suite = load_suite("ranking")
    plain, *_ = cells = expand(suite, [Variant(method="stagewise"), *suite.variants])
    anew = [cell for cell in cells if cell.scratch is not None]
    assert {cell.method for cell in anew} == {"stagewise", "uniform"}
    assert {cell.comparison for cell in cells} == {plain.comparison}
    assert all(cell.is_redrawn and cell.last_training == cell.scratch for cell in anew)
    assert not plain.is_redrawn and plain.last_training == plain.finetune
    assert len({cell.key for cell in cells}) == len(cells)


BOUNDS = """[rules]
keep = ["layer4.*"]
[rules.ratios]
"layer1.*" = [0.5, 1.0]
stem = 0.8
"""


def test_a_suite_bounds_what_is_kept_by_pattern(tmp_path):
    rules = read(tmp_path, MINIMAL + BOUNDS).rules
    assert rules.keep == ("layer4.*",)
    assert rules.ratios == {"layer1.*": (0.5, 1.0), "stem": 0.8}
    assert rules_of(rules) == WidthRules(
        keep=("layer4.*",), ratios={"layer1.*": (0.5, 1.0), "stem": 0.8}
    )


def test_bounds_change_the_keys_of_cells_and_supernets_and_survive_a_record(tmp_path):
    plain, bounded = (
        expand(read(tmp_path, MINIMAL + text), [Variant(method="uniform")])[0]
        for text in ("", BOUNDS)
    )
    assert plain.key != bounded.key and plain.supernet_key != bounded.supernet_key
    assert repr(plain.rules) == "Rules(min_keep=0.1, divisor=1)"  # of which names are made
    assert Cell.model_validate_json(bounded.model_dump_json()) == bounded


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("ratios = {layer1 = [0.9, 0.5]}", r"rules: \(0\.9, 0\.5\) is no ratio"),
        ("ratios = {layer1 = 0.05}", r"rules: ratio 'layer1' = 0\.05 is below min_keep"),
        ("ratios = {layr1 = 0.5}", r"resnet18 on .*: unknown .*'layr1'; did you mean 'layer1'"),
        ("keep = ['layer1']\nratios = {'*' = 0.5}", r"keep 'layer1' and ratio '\*' = 0\.5 leave"),
    ],
)
def test_bounds_that_cannot_be_are_refused_before_anything_is_trained(tmp_path, rules, message):
    suite = read(tmp_path, f"{MINIMAL}[rules]\n{rules}")
    with pytest.raises(ValueError, match=message):
        check_cells(plan_suite("mine", suite, None, "cpu").cells)


@pytest.mark.parametrize("ratio", ["2.0", "[0.5]", "[0.5, 0.6, 0.7]", "'a'", "[0.5, 1.5]"])
def test_a_ratio_in_a_file_is_a_share_or_a_pair_of_them(tmp_path, ratio):
    with pytest.raises(ValueError, match=r"rules\.ratios\.layer1"):
        read(tmp_path, f"{MINIMAL}[rules]\nratios = {{layer1 = {ratio}}}")

"""`zoo list`, `zoo new-method`, and the help of every command at every width."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from benchmarks import cli
from benchmarks.records.plain import first_sentence
from benchmarks.running import listing
from tests.benchmarks.test_cli import COMMANDS, run  # noqa: F401  (a fixture)
from tests.core.method.test_outside import no_module_left  # noqa: F401  (a fixture for all)
from tests.installed import install, site, template  # noqa: F401  (site is a fixture)
from zoo.core.data.datasets import list_datasets
from zoo.core.method.card import card
from zoo.core.method.discovery import get_pruner, list_pruners

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("package", "kind"), [("zoo", "method"), ("baselines", "baseline")])
def test_what_is_listed_is_what_there_is(package, kind):
    listed = listing.listed_pruners(package)
    assert tuple(listed) == list_pruners(kind)
    for name, paper in listed.items():
        assert paper == first_sentence(card(get_pruner(name))["Paper"]) != ""


def test_listed_data_sets_and_networks_are_those_that_there_are():
    assert tuple(listing.listed_datasets()) == list_datasets()
    models = listing.listed_models()
    assert set(models) - {"..."} == set(timm.list_models("*_cifar"))
    assert f"timm {timm.__version__}" in models["..."]


def spent_by(*arguments, **environment):
    """Seconds of a processor that the program takes, and what it prints."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=True,
    )
    after = os.times()
    spent = after.children_user - before.children_user
    return spent + after.children_system - before.children_system, done.stdout


def test_a_list_takes_two_seconds_of_a_processor_at_most():
    seconds, out = spent_by("list", COLUMNS="80")
    assert seconds < 2, seconds
    for name in ("knapsack", "taylor", "imagefolder", "smoke", "resnet20_cifar"):
        assert name in out
    assert "could be read" not in out  # what papers leave open is told in the cards
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines())


def test_a_list_shows_methods_of_packages_and_why_one_cannot_be_used(run, site, tmp_path):  # noqa: F811
    text = template(tmp_path, "least")
    install(site, "own_pruners", "1.2", {"least": "own_pruners.least:Least"}, {"least": text})
    broken = {"most": "other_pruners.most:Most"}
    install(site, "other_pruners", "0.1", broken, {"most": "import no_such_thing"})
    status, out, err = run("list", columns=200)
    assert status == 0, err
    assert re.search(r"least +from own_pruners 1\.2", out)
    assert re.search(r"most +cannot be used: .*other_pruners 0\.1.*No module named 'no_such", out)
    assert "knapsack" in out and "smoke" in out


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)], ids=str)
@pytest.mark.parametrize("columns", [50, 72, 80, 120])
def test_help_breaks_no_word_and_cuts_no_option(command, columns):
    _, out = spent_by(*command, "--help", COLUMNS=str(columns), NO_COLOR="1")
    assert all(len(line.rstrip()) <= columns for line in out.splitlines())
    assert "…" not in out and "..." not in out.replace("[ARGS]...", "").replace("]...", "")
    words = set(re.sub(r"[│╭╮╰╯─]", " ", out).replace("`", "").split())
    for option in asked_by(command):
        assert option in words, (option, out)
    for word in help_words(command):
        halves = re.findall(r"[^-]+-?", word)  # as in fine-tuning; options have no such break
        is_parted = word[0] != "-" and all(half in words for half in halves)
        assert word in words or is_parted, (word, out)


def asked_by(command):
    """All options of a command."""
    found = cli.typer.main.get_command(cli.app)
    found = found.commands[command[0]] if command else found
    return [name for each in found.params for name in each.opts if name.startswith("--")]


def help_words(command):
    """The words of all that a command says of its options."""
    found = cli.typer.main.get_command(cli.app)
    if not command:
        return []
    texts = [each.help or "" for each in found.commands[command[0]].params]
    return [word for text in texts for word in text.replace("`", "").split()]


def test_a_new_method_is_two_files_that_work(run, tmp_path):  # noqa: F811
    status, out, err = run("new-method", "my_pruner", columns=200)
    assert status == 0, err
    assert "zoo check my_pruner.py" in out and "my_pruner.py:MyPruner" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_pruner.py", "test_my_pruner.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_pruner.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow  # the contract again, as `zoo check` runs it
def test_a_new_method_passes_the_check(run, tmp_path):  # noqa: F811
    assert run("new-method", "my_pruner")[0] == 0
    # The process that checks prints by itself, past what `run` reads.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", "check", "my_pruner.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "failed" not in done.stdout, done.stderr
    assert "skipped 16 beats_uniform_where_uniform_is_bad: asked of" in done.stdout
    assert re.search(r"^MyPruner: \d+ passed, \d+ skipped$", done.stdout, re.MULTILINE)


def test_new_files_are_formatted_as_the_house_is(tmp_path):
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is installed for `tox -e lint` alone")
    template(tmp_path, "my_pruner")
    for words in (("check", "--select", "E,F,I,W,UP,B"), ("format", "--check")):
        done = subprocess.run(
            [ruff, *words, "--isolated", "--line-length", "100", "."],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("present", ["my_pruner.py", "test_my_pruner.py"])
def test_nothing_is_written_over(run, tmp_path, present):  # noqa: F811
    (tmp_path / present).write_text("mine")
    status, _, err = run("new-method", "my_pruner", columns=200)
    assert status == 2 and f"{present} exists; choose another name" in err
    assert [path.name for path in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "mine"


@pytest.mark.parametrize("name", ["My", "1st", "a-b", "a.b", "../a", "class", "", "a b"])
def test_a_name_that_is_none_for_a_module_is_refused(run, tmp_path, name):  # noqa: F811
    status, _, err = run("new-method", name, columns=200)
    assert status == 2 and "is no name for a module" in err and not list(tmp_path.iterdir())


def test_the_helpers_of_a_method_are_public_and_documented():
    import zoo

    scores = ("channel_scores", "channel_rows", "magnitude_scores", "weight_gradient_products")
    widths = ("global_widths", "uniform_widths", "keep_best", "conclude", "unpruned")
    for name in (*scores, *widths):
        assert name in zoo.__all__ and inspect.getdoc(getattr(zoo, name))
        assert f"`{name}`" in (ROOT / "docs" / "own_method.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "what"),
    [("taylor", "pruner already"), ("bnp", "pruner already"), ("json", "module of Python's")],
)
def test_a_name_that_is_taken_is_refused(run, tmp_path, name, what):  # noqa: F811
    status, _, err = run("new-method", name, "--out", str(tmp_path / "new"), columns=200)
    assert status == 2 and what in err and f"such as my_{name}" in err
    assert not (tmp_path / "new").exists()

"""The page on methods of one's own: what it shows is what happens."""

import re
import tomllib
from pathlib import Path

import pytest

import zoo
from benchmarks.running.new_method import write_method
from benchmarks.running.plan import plan_suite
from benchmarks.running.suite import load_suite
from tests.core.method.test_outside import no_module_left  # noqa: F401  (a fixture for all)
from tests.installed import install, site, template  # noqa: F401  (site is a fixture)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_method.md").read_text("utf-8")
SUITE, ENTRY_POINTS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_suite_of_the_page_is_planned_with_the_written_method(tmp_path: Path) -> None:
    write_method("my_pruner", tmp_path)
    (tmp_path / "mine.toml").write_text(SUITE)
    cells = plan_suite("mine", load_suite(str(tmp_path / "mine.toml"))).cells
    methods = {cell.method for cell in cells}
    assert methods == {"my_pruner.py:MyPruner", "taylor", "l1_norm", "uniform", "parent"}
    (mine,) = (cell for cell in cells if cell.method == "my_pruner.py:MyPruner")
    assert mine.settings == {"power": 1.0} and mine.origin is not None


def test_the_score_of_the_page_decides() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    problem = zoo.create_pruner("l1_norm").golden().problem
    names = {"problem": problem}
    exec(compile(snippet, "own_method.md", "exec"), names)
    problem.check_decision(names["subnet"].config)  # type: ignore[attr-defined]


def test_the_entry_points_of_the_page_are_found(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    given = tomllib.loads(ENTRY_POINTS)["project"]["entry-points"]["pruning_zoo.pruners"]
    text = template(tmp_path, "my_pruner")
    install(site, "my_package", "1.0", given, {"my_pruner": text})
    assert zoo.create_pruner("my_pruner").golden() and "my_pruner" in zoo.list_pruners()


@pytest.mark.parametrize("command", re.findall(r"^zoo .*", PAGE, flags=re.MULTILINE))
def test_commands_of_the_page_exist(command: str) -> None:
    import typer

    from benchmarks import cli

    group = typer.main.get_command(cli.app)
    name, *words = command.partition("#")[0].split()[1:]
    options = {opt for each in group.commands[name].params for opt in each.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= options

"""Pruners of other packages and of files: found, named by what they are, and never by chance."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from tests.installed import install, site, template  # noqa: F401  (site is a fixture)
from zoo.core.method.discovery import get_pruner, kind_of, list_pruners, method_name, origin_of


@pytest.fixture(autouse=True)
def no_module_left() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "other_", "_pruner_")):
            del sys.modules[name]


def test_a_pruner_of_an_installed_package_is_found_with_its_version(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    text = template(tmp_path, "least")
    install(site, "own_pruners", "1.2", {"least": "own_pruners.least:Least"}, {"least": text})
    assert list_pruners("outside") == ("least",) == list_pruners()[-1:]
    pruner = zoo.create_pruner("least", power=1.0)
    assert type(pruner).__module__ == "own_pruners.least" and pruner.power == 1.0  # type: ignore[attr-defined]
    assert kind_of(type(pruner)) == "outside"
    assert str(origin_of("least")) == "own_pruners 1.2"
    with pytest.raises(ValueError, match="unknown pruner 'leest'; did you mean 'least'"):
        get_pruner("leest")


def test_pruners_of_this_package_come_from_nowhere_else() -> None:
    assert list_pruners("outside") == ()
    assert origin_of("knapsack") is None and method_name("knapsack") == "knapsack"


@pytest.mark.parametrize(
    ("value", "text", "message"),
    [
        ("own_pruners.gone:Least", "", "No module named 'own_pruners.gone'"),
        ("own_pruners.least:Gone", "x = 1", "has no attribute 'Gone'"),
        ("own_pruners.least:Least", "1 / 0", "ZeroDivisionError: division by zero"),
        ("own_pruners.least:Least", "import sys; sys.exit(0)", "SystemExit: 0"),
        ("own_pruners.least:Least", "Least = 3", "is no pruner"),
        ("own_pruners.least:Least", "from zoo import Pruner as Least", "is no pruner"),
    ],
)
def test_a_broken_entry_point_is_told_with_its_package_and_harms_no_other(
    site: Path,  # noqa: F811
    value: str,
    text: str,
    message: str,
) -> None:
    install(site, "own_pruners", "0.3", {"least": value}, {"least": text})
    with pytest.raises(ValueError, match=r"'least' of own_pruners 0\.3") as caught:
        get_pruner("least")
    assert message in str(caught.value)
    assert "least" in list_pruners() and get_pruner("taylor")


def test_two_pruners_of_one_name_are_refused_with_both_origins(
    site: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    text = template(tmp_path, "least")
    pruners = {"least": "own_pruners.least:Least", "taylor": "own_pruners.least:Least"}
    install(site, "own_pruners", "1.2", pruners, {"least": text})
    other = {"least": "other_pruners.least:Least"}
    install(site, "other_pruners", "2.0", other, {"least": text})
    with pytest.raises(ValueError, match="two pruners are called 'least'") as caught:
        get_pruner("least")
    assert "own_pruners 1.2" in str(caught.value) and "other_pruners 2.0" in str(caught.value)
    with pytest.raises(ValueError, match="'taylor'") as caught:
        zoo.create_pruner("taylor")
    assert "baselines.taylor:Taylor of this package" in str(caught.value)
    assert "own_pruners 1.2" in str(caught.value)
    assert list_pruners().count("taylor") == 1


def test_a_file_is_named_by_its_name_and_content(tmp_path: Path) -> None:
    content = template(tmp_path, "least").encode()
    asked = f"{tmp_path / 'least.py'}:Least"
    origin = origin_of(asked)
    assert origin is not None and origin.is_file
    assert origin.source == "least.py"
    assert origin.version == hashlib.sha256(content).hexdigest()[:16]
    assert method_name(asked) == "least.py:Least"
    assert get_pruner(asked) is get_pruner(asked)  # run once
    (tmp_path / "least.py").write_bytes(content + b"\n# changed\n")
    changed = origin_of(asked)
    assert changed is not None and changed.version != origin.version


def test_a_file_is_compiled_as_it_stands_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from dataclasses import dataclass\n"
        "from zoo import Pruner\n"
        "@dataclass(frozen=True)\n"
        "class Plain(Pruner):\n"
        "    share: float = 0.5\n"
        "    def search(self, problem): return None\n"
    )
    cls = get_pruner(f"{tmp_path / 'plain.py'}:Plain")
    assert cls.__annotations__ == {"share": float}  # no text, as with a future import of ours
    assert [path.name for path in tmp_path.iterdir()] == ["plain.py"]


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("1 / 0", "mine.py:Mine", "mine.py cannot be run: ZeroDivisionError"),
        ("def (", "mine.py:Mine", "mine.py cannot be run: SyntaxError"),
        ("raise SystemExit(0)", "mine.py:Mine", "mine.py cannot be run: SystemExit"),
        ("from baselines.taylor import Taylor", "mine.py:Tailor", "did you mean 'Taylor'"),
        ("Mine = 3", "mine.py:Mine", "Mine in mine.py is no pruner"),
        ("", "gone.py:Mine", "does not exist"),
    ],
)
def test_a_file_that_gives_no_pruner_is_told(
    tmp_path: Path, text: str, asked: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    before = set(sys.modules)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        get_pruner(str(tmp_path / asked))
    assert message in str(caught.value)
    assert not [name for name in set(sys.modules) - before if "ine" in name and text == "1 / 0"]

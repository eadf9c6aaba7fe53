"""Modules, functions and files that a text names exist; what moves is renamed in the texts, too."""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [p for name in ("zoo", "baselines", "benchmarks") for p in (ROOT / name).rglob("*.py")]
PAGES = [*ROOT.glob("docs/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
SET_UP = [ROOT / "tox.ini", ROOT / "pyproject.toml", *(ROOT / ".ci").iterdir()]
TEXTS = sorted([*CODE, *PAGES, *SET_UP])

FOLDERS = "zoo|baselines|benchmarks|tests"
DOTTED = re.compile(rf"(?<![\w./-])(?:{FOLDERS})(?:\.[A-Za-z_]\w*)+")
FILES = re.compile(rf"(?<![\w./<-])(?:{FOLDERS}|docs|results)/[\w./-]*\w\.(?:py|md|toml|json)\b")

MADE_WHEN_RUN = {
    "benchmarks._whole_file",  # a module of no package
    "zoo.py",  # what a user may call a file
}


def missing_names(text: str) -> Iterator[str]:
    for name in sorted(set(DOTTED.findall(text)) - MADE_WHEN_RUN):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            yield name


def missing_files(text: str) -> list[str]:
    return [name for name in sorted(set(FILES.findall(text))) if not (ROOT / name).exists()]


def test_what_texts_name_exists() -> None:
    assert len(TEXTS) > 150
    found = {str(p.relative_to(ROOT)): [] for p in TEXTS}  # type: dict[str, list[str]]
    for path in TEXTS:
        text = path.read_text("utf-8")
        found[str(path.relative_to(ROOT))] = [*missing_names(text), *missing_files(text)]
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see `zoo.core.prune.prune` and ``zoo.prune(model)``", []),
        ("see `zoo.core.protocol.run`", ["zoo.core.protocol.run"]),
        ("`zoo.core.prune.prunes`.", ["zoo.core.prune.prunes"]),
        ("in tests/test_names.py and docs/nowhere.md", ["docs/nowhere.md"]),
        ("`path/to/zoo/x.py`, zoo/<name>.py", []),
    ],
)
def test_a_name_that_is_not_there_is_found(text: str, missing: list[str]) -> None:
    assert [*missing_names(text), *missing_files(text)] == missing

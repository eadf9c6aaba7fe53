"""The docs site: no page is forgotten, links lead somewhere, and it says what the code says."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zoo
from benchmarks.running.suite import Suite
from benchmarks.studies.site import (
    FIRST,
    SECTIONS,
    STUDIES,
    _made,
    _moved,
    _targets,
    api_page,
    methods_page,
    navigation,
)
from benchmarks.studies.suite_reference import suite_reference
from zoo.core.method.card import CARD_HEADINGS
from zoo.core.method.discovery import list_pruners

ROOT = Path(__file__).parents[3]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_page_stands_in_the_navigation_once_and_a_new_one_is_a_study():
    names = {Path(name).stem for name in (*PAGES, *FIRST, *_made(), "brand_new.md")}
    found = navigation(names)
    pages = [page for section in found for page in next(iter(section.values()))]
    assert sorted(pages) == sorted(f"{name}.md" for name in names)
    assert "brand_new.md" in found[-1][STUDIES]
    assert pages[0] == "index.md"


def test_sections_name_no_page_twice():
    names = [name for section in SECTIONS.values() for name in section]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("source", [*FIRST.values(), *(f"docs/{name}" for name in PAGES)])
def test_what_a_page_links_to_is_there(source):
    made = {f"docs/{name}" for name in _made()}
    missing = [each for each in _targets(source) if not (ROOT / each).exists() and each not in made]
    assert not missing


@pytest.mark.parametrize(
    ("text", "source", "uri", "wanted"),
    [
        ("[a](docs/suites.md#x)", "README.md", "index.md", "[a](suites.md#x)"),
        ("![a](results/b/c.png)", "README.md", "index.md", "![a](results/b/c.png)"),
        ("[a](../zoo/bnp.py)", "docs/bnp.md", "bnp.md", "[a](zoo/bnp.py)"),
        ("[a](../README.md)", "docs/bnp.md", "bnp.md", "[a](index.md)"),
        ("[a](../CONTRIBUTING.md#x)", "docs/faq.md", "faq.md", "[a](contributing.md#x)"),
        ("[a](../docs/suites.md)", "results/README.md", "results/README.md", "[a](../suites.md)"),
        ("[results](../results)", "docs/bnp.md", "bnp.md", "results"),
        ("[a](https://x.org/b.md)", "docs/bnp.md", "bnp.md", "[a](https://x.org/b.md)"),
    ],
)
def test_a_link_is_moved_to_where_the_site_has_its_target(text, source, uri, wanted):
    from benchmarks.studies.site import _LINK

    assert _LINK.sub(lambda found: _moved(found, source, uri), text) == wanted


def test_the_reference_of_suites_has_every_field_with_its_default_and_limits():
    text = suite_reference()
    section = text.split("## Suite\n")[1].split("\n## ")[0]
    fields = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert fields == list(Suite.model_fields)
    assert "| `title` | text | required |  |" in section
    assert "| `recalibration_batches` | integer | `10` | at least 1 |" in section.replace(
        f"`{Suite.model_fields['recalibration_batches'].default}`", "`10`"
    )
    assert '| `metric` | `"macs"`, `"params"`' in section
    for name in re.findall(r"\(#(\w+)\)", text):
        assert f"\n## {name}\n" in text.lower()


def test_every_method_has_its_card_and_every_public_name_its_reference():
    text = methods_page()
    for name in (*list_pruners("method"), *list_pruners("baseline")):
        section = text.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert all(f"**{heading}.** " in section for heading in CARD_HEADINGS), name
    found = [line.rpartition(".")[2] for line in api_page().splitlines() if line[:3] == ":::"]
    assert sorted(found) == sorted(zoo.__all__)


def test_the_public_workflow_tests_every_python_that_the_package_is_for():
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    (matrix,) = re.findall(r"  test:.*?python: \[([^]]*)\]", text, flags=re.DOTALL)
    named = [each.rpartition(" :: ")[2] for each in PROJECT["classifiers"]
             if re.search(r":: 3\.\d+$", each)]  # fmt: skip
    assert re.findall(r"[\d.]+", matrix) == named
    environments = set(re.findall(r"tox -e (\w+)", text)) - {"py"}
    tox = (ROOT / "tox.ini").read_text("utf-8")
    assert environments == {"browser", "lint", "docs", "wheel"}
    assert all(f"[testenv:{name}]" in tox for name in environments)


def test_the_version_is_the_same_wherever_it_stands():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None,
    reason="needs the extra docs: pip install -e .[docs]",
)
def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in ("", "api", "methods", "suite_file", "faq"):
        text = (tmp_path / page / "index.html").read_text("utf-8")
        fetched = re.findall(
            r'(?:<script[^>]* src|<link[^>]* rel="stylesheet" href)="([^"]*)"', text
        )
        assert fetched and not [each for each in fetched if ":" in each]
    assert "Raises:" in (tmp_path / "api" / "index.html").read_text("utf-8")

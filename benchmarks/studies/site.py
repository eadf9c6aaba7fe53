"""Pages of the docs site that are made when it is built; a hook of mkdocs, see mkdocs.yml.

The README is the first page, every page of `docs` stands in the navigation by itself, and what a
page links to outside of `docs` is taken along. Made from the code are the reference of suite files,
the cards of the methods and the reference of the library.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from benchmarks.records.plain import in_markdown
from benchmarks.studies.suite_reference import suite_reference
from zoo.core.method.card import card
from zoo.core.method.discovery import get_pruner, list_pruners

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

__all__ = ["api_page", "methods_page", "navigation", "on_config", "on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[2]
FIRST = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages that are files of the top folder."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Use": ("index", "your_network", "tasks", "training", "deployment", "use_elsewhere", "export",
            "own_method", "which_method", "troubleshooting", "faq"),
    "Benchmark": ("suites", "suite_file", "protocol", "statistics", "comparing", "latency", "scale",
                  "runtime", "speed", "data"),
    "Reference": ("api", "methods", "channels", "coverage", "changelog", "contributing"),
}  # fmt: skip
"""Pages by their names, as far as they are there; all others are studies."""
STUDIES = "Studies"

_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)]*)?\)")
_IMAGE_LINK = re.compile(r"^[a-z]+:|^/")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page into the navigation."""
    names = {path.stem for path in Path(config.docs_dir).glob("*.md")}
    config.nav = navigation(names | {Path(name).stem for name in (*FIRST, *_made())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made and the files that pages link to."""
    from mkdocs.structure.files import File

    texts = {name: (ROOT / source).read_text("utf-8") for name, source in FIRST.items()}
    for name, text in {**texts, **_made()}.items():
        files.append(File.generated(config, name, content=text))
    seen: set[str] = set()
    queue = [
        *FIRST.values(),
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ]
    while queue:
        source = queue.pop()
        for target in _targets(source):
            if target in seen or target in FIRST.values() or target.startswith("docs/"):
                continue
            seen.add(target)
            if (ROOT / target).is_file():
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
                queue += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has their targets; a folder, which it has not, is a text."""
    uri = page.file.src_uri
    source = FIRST.get(uri) or (uri if (ROOT / uri).is_file() else f"docs/{uri}")
    moved = _LINK.sub(lambda found: _moved(found, source, uri), markdown)
    return moved.replace("<details>", '<details markdown="1">')  # or a table inside stays text


def navigation(names: set[str]) -> list[dict[str, list[str]]]:
    """Sections of pages; a page that no section names is a study, so that none is forgotten."""
    named = {name for section in SECTIONS.values() for name in section}
    sections = {title: [n for n in pages if n in names] for title, pages in SECTIONS.items()}
    sections[STUDIES] = sorted(names - named)
    return [{title: [f"{name}.md" for name in pages]} for title, pages in sections.items() if pages]


def methods_page() -> str:
    """The cards of all methods and baselines, from the docstrings of their modules."""
    parts = [
        "# Cards of the methods\n\nEach is the docstring of a module: what the paper says, what "
        "had to be decided without it, and what it costs.\n"
    ]
    for kind, title in (("method", "Methods"), ("baseline", "Baselines")):
        parts.append(f"## {title}\n")
        for name in list_pruners(kind):  # type: ignore[arg-type]
            sections = card(get_pruner(name))
            parts.append(f"### {name}\n")
            parts += [f"**{heading}.** {_prose(text)}\n" for heading, text in sections.items()]
    return "\n".join(parts)


def api_page() -> str:
    """What the library offers, from its docstrings."""
    parts = ["# The library\n\n`import zoo` brings these; all else may change without notice.\n"]
    for name in sorted(zoo.__all__, key=str.lower):
        home = getattr(zoo, name).__module__
        parts.append(f"::: {home}.{name}\n")
    return "\n".join(parts)


def _made() -> dict[str, str]:
    return {"suite_file.md": suite_reference(), "methods.md": methods_page(), "api.md": api_page()}


def _prose(text: str) -> str:
    """A section of a card as Markdown: paragraphs and lists, with what code it quotes."""
    lines: list[str] = []
    for line in text.splitlines():
        is_item = re.match(r"(\d+\.|-) ", line)
        lines.append(f"\n{_quoted(line)}" if is_item else _quoted(line.strip()))
    joined = "\n".join(lines)
    return f"\n{joined}" if joined.startswith("\n") else joined


def _quoted(line: str) -> str:
    """Backquoted parts as they are, the rest without any sign that means something."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else in_markdown(part) for part in parts)


def _targets(source: str) -> list[str]:
    """Paths below the top folder that a page links to."""
    text = (ROOT / source).read_text("utf-8")
    links = [found[2] for found in _LINK.finditer(text) if not _IMAGE_LINK.match(found[2])]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links]


def _moved(found: re.Match[str], source: str, uri: str) -> str:
    """A link, written in a file of the repository, as the site's page needs it."""
    opening, link, anchor = found[1], found[2], found[3] or ""
    if _IMAGE_LINK.match(link):
        return found[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / target).is_dir():
        return opening.removesuffix("](").lstrip("!").removeprefix("[")
    known = {path: page for page, path in FIRST.items()}
    place = known.get(target) or target.removeprefix("docs/")
    return f"{opening}{os.path.relpath(place, posixpath.dirname(uri) or '.')}{anchor})"

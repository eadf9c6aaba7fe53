"""What there is to choose from, read off the sources, since to import torch takes seconds.

Only packages of others have to be imported to know what they hold.
"""

import ast
import re
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.records.plain import first_sentence

__all__ = [
    "listed_datasets",
    "listed_models",
    "listed_outside",
    "listed_pruners",
    "listed_suites",
]

GROUP = "pruning_zoo.pruners"
"""Of entry points, see `zoo.core.method.outside`, which needs torch."""

_PAPER = re.compile(r"^Paper:(.*?)(?=^\w+:)", re.MULTILINE | re.DOTALL)


def listed_pruners(package: str) -> dict[str, str]:
    """The pruners of `zoo`, `baselines` or `baselines.peers`, each with its card's paper."""
    found = {}
    for path in sorted(_folder(package).glob("*.py")):
        card = ast.get_docstring(_parsed(path)) or ""
        paper = _PAPER.search(card)
        if paper is not None:
            found[path.stem] = first_sentence(paper[1])
    return found


def listed_outside() -> dict[str, str]:
    """The pruners of other installed packages, each with its package or why it cannot be used."""
    names = sorted({each.name for each in entry_points(group=GROUP)})
    if not names:
        return {}
    from zoo.core.method.discovery import origin_of

    found = {}
    for name in names:
        try:
            found[name] = f"from {origin_of(name)}"
        except ValueError as error:
            found[name] = f"cannot be used: {error}"
    return found


def listed_datasets() -> list[str]:
    """Names of the data sets."""
    for node in _parsed(_folder("zoo") / "core" / "data" / "datasets.py").body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_LOADERS":
            assert isinstance(node.value, ast.Dict)
            return sorted(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise AssertionError("no table of data sets")


def listed_models() -> dict[str, str]:
    """The networks that this package adds to timm's, and where the others are."""
    path = _folder("zoo") / "core" / "networks" / "cifar_resnet.py"
    functions = [each for each in _parsed(path).body if isinstance(each, ast.FunctionDef)]
    added = [each.name for each in functions if _is_registered(each)]
    rest = f"and all of timm {version('timm')}, by the names of timm.list_models()"
    return {**dict.fromkeys(added, ""), "...": rest}


def listed_suites() -> dict[str, str]:
    """The suites that come with the package, each with its title."""
    from benchmarks.running.suite import list_suites, load_suite

    return {name: load_suite(name).title for name in list_suites()}


def _is_registered(function: ast.FunctionDef) -> bool:
    return "register_model" in map(ast.unparse, function.decorator_list)


def _folder(package: str) -> Path:
    """Where a package lies; it is not imported."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))

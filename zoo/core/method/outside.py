"""Pruners that come from elsewhere: from installed packages, and from files.

A package names its pruners as entry points of the group `pruning_zoo.pruners`:

    [project.entry-points."pruning_zoo.pruners"]
    my_pruner = "my_package.my_module:MyPruner"

A file is named by its path and the class in it, `path/to/file.py:MyPruner`. It is run as it is read
once, so that its digest is that of what ran; what it imports has to be installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from zoo.core.errors import unknown_name
from zoo.core.method.pruner import Pruner

__all__ = [
    "GROUP",
    "Origin",
    "file_pruner",
    "installed",
    "load_entry_point",
    "load_file",
    "package_origin",
    "split_file_method",
]

GROUP = "pruning_zoo.pruners"
"""Of the entry points."""

_FILE_METHOD = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
_DIGITS = 16  # of a digest, as for weights and data


@dataclass(frozen=True)
class Origin:
    """Where a pruner comes from: a package with its version, or a file with its digest.

    Attributes:
        source: name of the package, or of the file, without its folder.
        version: of the package; of a file, 16 hexadecimal digits of its content.
        is_file: which of the two.
    """

    source: str
    version: str
    is_file: bool = False

    def __str__(self) -> str:
        return f"{self.source} {self.version}"


def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages by the pruner's name; nothing is imported."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for each in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        found[each.name] = (*found.get(each.name, ()), each)
    return found


def package_origin(entry_point: EntryPoint) -> Origin:
    """The package of an entry point, and its version."""
    package = entry_point.dist
    if package is None:
        return Origin("unknown package", "unknown")
    return Origin(package.name, package.version)


def load_entry_point(entry_point: EntryPoint) -> type[Pruner]:
    """The pruner that an entry point names, imported.

    Raises:
        ValueError: if it cannot be imported or is no pruner, with package, version and reason.
    """
    where = f"pruner {entry_point.name!r} of {package_origin(entry_point)}"
    try:
        found = entry_point.load()
    # A stranger's module may raise anything when it is imported, and even end the program.
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(f"{where} cannot be loaded from {entry_point.value}: {told}") from error
    return _pruner_class(found, f"{where}, {entry_point.value},")


def split_file_method(name: str) -> tuple[Path, str] | None:
    """The file and the class of `path/to/file.py:Name`; None for any other name of a method."""
    found = _FILE_METHOD.fullmatch(name)
    return None if found is None else (Path(found[1]).expanduser(), found[2])


def file_pruner(path: Path, name: str) -> tuple[type[Pruner], Origin]:
    """A pruner in a file, and the file's name and digest. This runs the file.

    Args:
        path: of a `.py` file.
        name: of the class.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be run, or has no such pruner, with the nearest names.
    """
    try:
        module, digest = load_file(path)
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(f"{path.name} cannot be run: {told}") from error
    found = vars(module).get(name)
    if found is None:
        names = [each for each, value in vars(module).items() if _is_pruner(value)]
        raise unknown_name(f"pruner in {path.name}", name, names)
    return _pruner_class(found, f"{name} in {path.name}"), Origin(path.name, digest, is_file=True)


def load_file(path: Path) -> tuple[ModuleType, str]:
    """A file as a module of its own, run once for each content, and the digest of its content.

    Its name is its own, too, so that a file called numpy.py takes no other module's place;
    dataclasses, inspect and pickle look a class's module up by that name.

    Raises:
        FileNotFoundError: if there is no such file.
        BaseException: whatever the file raises.
    """
    if not path.is_file():
        why = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {why}; give the path of a .py file")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    stem = "".join(c if c.isalnum() else "_" for c in path.stem)
    name = f"_pruner_{stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name], digest
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the file's name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module, digest


def _is_pruner(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, Pruner) and not inspect.isabstract(found)


def _pruner_class(found: object, what: str) -> type[Pruner]:
    if not (inspect.isclass(found) and issubclass(found, Pruner)) or inspect.isabstract(found):
        raise ValueError(f"{what} is no pruner; derive a frozen dataclass with search from Pruner")
    return found

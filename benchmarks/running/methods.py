"""Methods from outside: cells name their package or file, and never where a file lies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.records.cell import Cell, Origin

if TYPE_CHECKING:
    from zoo.core.method import outside

__all__ = ["MethodFiles", "Named", "asked_method", "method_files", "named_methods"]

MethodFiles = tuple[tuple[str, Path], ...]
"""The digest of a file's content, and where the file lies."""


@dataclass(frozen=True)
class Named:
    """What cells call a method, and where it comes from; None if from this package."""

    method: str
    origin: Origin | None = None


def named_methods(methods: Iterable[str]) -> dict[str, Named]:
    """What cells call the methods that a suite or a command asks for, by how they are asked for.

    Args:
        methods: names, and files as `path/to/file.py:Name`, which are run.

    Raises:
        ValueError: for a method that does not exist or cannot be loaded; for two files whose
            methods would have one name, with the digests of both.
        FileNotFoundError: if there is no such file.
    """
    from zoo.core.method.discovery import method_name, origin_of

    named: dict[str, Named] = {}
    for asked in dict.fromkeys(methods):
        found = origin_of(asked)
        new = Named(method_name(asked), None if found is None else _recorded(found))
        for other, known in named.items():
            if known.method == new.method:
                raise ValueError(
                    f"two methods would be called {new.method!r}: {_told(other, known)} and "
                    f"{_told(asked, new)}; rename one of the files"
                )
        named[asked] = new
    return named


def method_files(methods: Iterable[str]) -> MethodFiles:
    """The files among the methods that a suite or a command asks for.

    Raises:
        ValueError: as `named_methods`.
        FileNotFoundError: the same.
    """
    from zoo.core.method.outside import file_pruner, split_file_method

    found = [split_file_method(asked) for asked in dict.fromkeys(methods)]
    return tuple((file_pruner(*each)[1].version, each[0]) for each in found if each is not None)


def asked_method(cell: Cell, files: MethodFiles) -> str:
    """What `zoo.create_pruner` makes the method of a cell from: its name, or its file.

    Args:
        cell: says which method, and where it comes from.
        files: those at hand.

    Raises:
        ValueError: if it is not the one that the run was planned with.
        OSError: if its file cannot be read.
    """
    from zoo.core.method.discovery import origin_of

    if cell.origin is None:
        return cell.method
    asked = cell.method
    if cell.origin.file is not None:
        path = next((path for digest, path in files if digest == cell.origin.digest), None)
        asked = f"{path}:{cell.method.rpartition(':')[2]}"
        if path is None or not path.is_file():
            raise ValueError(f"{cell.origin.file} of {cell.method!r} is not at hand; run again")
    found = origin_of(asked)
    if found is None or _recorded(found) != cell.origin:
        raise ValueError(
            f"{cell.method!r} changed since the run was planned: it was of "
            f"{cell.origin.edition} and is of {found.version if found else 'this package'}; run "
            "again"
        )
    return asked


def _recorded(origin: "outside.Origin") -> Origin:
    if origin.is_file:
        return Origin(file=origin.source, digest=origin.version)
    return Origin(package=origin.source, version=origin.version)


def _told(asked: str, named: Named) -> str:
    edition = "of this package" if named.origin is None else named.origin.edition
    return f"{asked} ({edition})"

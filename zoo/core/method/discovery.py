"""Find pruners by walking the packages, by the entry points of others, and in files.

Nothing is registered. A name that stands for two pruners stands for none.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Literal

from zoo.core.arguments import check_argument, checked
from zoo.core.errors import unknown_name
from zoo.core.method.outside import (
    Origin,
    file_pruner,
    installed,
    load_entry_point,
    package_origin,
    split_file_method,
)
from zoo.core.method.pruner import Pruner

__all__ = [
    "PACKAGES",
    "Kind",
    "create_pruner",
    "get_pruner",
    "kind_of",
    "list_pruners",
    "method_name",
    "origin_of",
    "pruners_of",
]


Kind = Literal["method", "baseline", "peer", "outside"]


PACKAGES: Mapping[str, Kind] = {
    "zoo": "method",
    "baselines": "baseline",
    "baselines.peers": "peer",
}
"""Where pruners are found, and what they are there."""


@cache
def _discovered() -> dict[str, type[Pruner]]:
    """Pruner classes by name: the one public Pruner that each module of the folders defines."""
    found: dict[str, type[Pruner]] = {}
    for package_name in PACKAGES:
        package = importlib.import_module(package_name)
        for info in pkgutil.iter_modules(package.__path__):
            if info.ispkg or info.name.startswith("_"):
                continue
            classes = pruners_of(importlib.import_module(f"{package_name}.{info.name}"))
            if len(classes) > 1 or (classes and info.name in found):
                raise ImportError(f"more than one pruner is named {info.name!r}; split the module")
            if classes:
                found[info.name] = classes[0]
    return found


def pruners_of(module: ModuleType) -> tuple[type[Pruner], ...]:
    """The public pruner classes that a module itself defines."""
    return tuple(
        cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls)
        and issubclass(cls, Pruner)
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
        and not name.startswith("_")
    )


@checked()
def list_pruners(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of all pruners: methods, baselines, peers, then those of other installed packages.

    Those of packages are listed by their metadata, whether or not they can be imported.

    Args:
        kind: of those to list; None for all.
    """
    own = _discovered()
    kinds: dict[str, Kind] = {name: kind_of(own[name]) for name in sorted(own)}
    kinds |= {name: "outside" for name in installed() if name not in own}
    order: tuple[Kind, ...] = (*PACKAGES.values(), "outside")
    wanted = order if kind is None else (kind,)
    return tuple(name for each in wanted for name, found in kinds.items() if found == each)


def get_pruner(name: str) -> type[Pruner]:
    """The class of a pruner.

    Args:
        name: of one that is listed, or `path/to/file.py:Name`, which runs the file.

    Raises:
        ValueError: for an unknown name, with the nearest ones; for a name that two pruners have,
            with the origins of both; for a pruner from outside that cannot be loaded.
        FileNotFoundError: if there is no such file.
    """
    return _found(name)[0]


def origin_of(name: str) -> Origin | None:
    """The package or file that a pruner comes from; None for one of this package.

    Args:
        name: as `get_pruner` takes it.

    Raises:
        ValueError: as `get_pruner`.
        FileNotFoundError: the same.
    """
    return _found(name)[1]


def method_name(name: str) -> str:
    """What records and seeds call a pruner: its name; of a file without the folder."""
    in_file = split_file_method(name)
    return name if in_file is None else f"{in_file[0].name}:{in_file[1]}"


def _found(name: str) -> tuple[type[Pruner], Origin | None]:
    in_file = split_file_method(name)
    if in_file is not None:
        return file_pruner(*in_file)
    own, outside = _discovered(), installed()
    given = outside.get(name, ())
    origins = [f"{each.value} of {package_origin(each)}" for each in given]
    if name in own:
        origins.insert(0, f"{own[name].__module__}:{own[name].__name__} of this package")
    if len(origins) > 1:
        raise ValueError(
            f"two pruners are called {name!r}: {' and '.join(origins)}; rename an entry point, or "
            "uninstall its package"
        )
    if name in own:
        return own[name], None
    if not given:
        raise unknown_name("pruner", name, {*own, *outside})
    return load_entry_point(given[0]), package_origin(given[0])


def kind_of(cls: type[Pruner]) -> Kind:
    """A method of `zoo/`, a baseline of `baselines/`, a peer of its `peers/`, or from outside."""
    return PACKAGES.get(cls.__module__.rpartition(".")[0], "outside")


def create_pruner(name: str, **settings: object) -> Pruner:
    """A pruner with some hyperparameters changed from their defaults.

    Args:
        name: as `get_pruner` takes it.
        settings: the hyperparameters, by name.

    Raises:
        TypeError: if the name is no text.
        ValueError: as `get_pruner`; for an unknown setting, with the nearest ones, or a setting
            that cannot work.
        FileNotFoundError: if there is no such file.
    """
    check_argument("name", name, str)
    cls, shown = get_pruner(name), method_name(name)
    known = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise unknown_name(f"setting of {shown}", setting, known)
    try:
        return cls(**settings)
    except ValueError as error:
        raise ValueError(f"settings of {shown}: {error}") from error

"""Find pruners by walking the packages; nothing is registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Literal

from zoo.core.errors import unknown_name
from zoo.core.method.pruner import Pruner

__all__ = [
    "PACKAGES",
    "Kind",
    "create_pruner",
    "get_pruner",
    "kind_of",
    "list_pruners",
    "pruners_of",
]


Kind = Literal["method", "baseline", "peer"]


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


def list_pruners(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of all pruners: methods, baselines, peers, each by name; of one `kind` if given."""
    order = [*PACKAGES.values()]
    names = sorted(_discovered(), key=lambda name: (order.index(kind_of(get_pruner(name))), name))
    return tuple(name for name in names if kind in (None, kind_of(get_pruner(name))))


def get_pruner(name: str) -> type[Pruner]:
    """The class of a pruner.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    found = _discovered()
    if name not in found:
        raise unknown_name("pruner", name, found)
    return found[name]


def kind_of(cls: type[Pruner]) -> Kind:
    """A method, in `zoo/`, a peer, in `baselines/peers/`, or a baseline, anywhere else."""
    return PACKAGES.get(cls.__module__.rpartition(".")[0], "baseline")


def create_pruner(name: str, **settings: object) -> Pruner:
    """A pruner with some hyperparameters changed from their defaults.

    Raises:
        ValueError: for an unknown name or setting, with the nearest ones, or a setting that
            cannot work.
    """
    cls = get_pruner(name)
    known = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise unknown_name(f"setting of {name}", setting, known)
    try:
        return cls(**settings)
    except ValueError as error:
        raise ValueError(f"settings of {name}: {error}") from error

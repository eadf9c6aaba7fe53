"""What methods and their settings are called, alone and beside each other."""

from collections.abc import Iterable, Mapping

from benchmarks.records.cell import PARENT, Cell, Schedule
from benchmarks.records.plain import counted

__all__ = [
    "method_name",
    "plain_name",
    "settings_of",
    "short_name",
    "shown_names",
    "told_epochs",
    "told_settings",
]


def method_name(cell: Cell) -> str:
    """Name of a method with the settings that differ from its defaults."""
    settings = told_settings(settings_of(cell))
    return f"{_full_name(cell)} ({settings})" if settings else _full_name(cell)


def short_name(cell: Cell, beside: Iterable[Cell]) -> str:
    """Name of a method with only the settings that vary among its cells.

    A method in a file is named by its class, where no other method beside it is.

    Args:
        cell: to be named.
        beside: the cells that its name must differ from, itself among them or not.
    """
    beside = list(beside)
    mine, name = settings_of(cell), plain_name(cell, beside)
    others = [settings_of(other) for other in beside if other.method == cell.method]
    told = {
        key: value
        for key, value in mine.items()
        if any(key not in other or other[key] != value for other in others)
    }
    return f"{name} ({told_settings(told)})" if told else name


def plain_name(cell: Cell, beside: Iterable[Cell]) -> str:
    """The same without any settings; see `short_name`."""
    names = shown_names([cell.method, *(other.method for other in beside)])
    return _full_name(cell) if cell.method == PARENT else names[cell.method]


def shown_names(methods: Iterable[str]) -> dict[str, str]:
    """What methods are called beside each other: one in a file by its class, if nothing else is."""
    classes = {method: method.partition(".py:")[2] or method for method in methods}
    taken = [*classes.values(), *(name for name in classes if name != classes[name])]
    return {m: name if taken.count(name) == 1 else m for m, name in classes.items()}


def _full_name(cell: Cell) -> str:
    """Tells the control from the parent that everything starts from."""
    return "parent, fine-tuned" if cell.method == PARENT else cell.method


def settings_of(cell: Cell) -> dict[str, object]:
    """Settings that differ from the method's defaults, edition, and how networks are trained."""
    named: dict[str, object] = dict(cell.settings)
    if cell.scratch is not None:
        named["from scratch"] = told_epochs(cell.scratch)
    if cell.longer is not None:
        named["fine-tuned"] = "longer"  # by how much differs with the budget
    if cell.origin is not None:
        named["edition"] = cell.origin.edition
    return named


def told_settings(settings: Mapping[str, object]) -> str:
    """Settings in words, by name."""
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))


def told_epochs(schedule: Schedule) -> str:
    """How long a training is, in words."""
    return counted(schedule.epochs, "epoch")

"""Names and settings in a suite that do not exist, all at once, whatever else is wrong in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from benchmarks.records.cell import REFERENCE, Model
from benchmarks.records.strict import suggest

__all__ = ["SuiteFaults", "name_faults"]

Given = Mapping[str, Any]  # Any: what a TOML file says


class SuiteFaults(ValueError):
    """What is wrong in a suite.

    Attributes:
        faults: one line each, without those that another one says.
    """

    def __init__(self, name: str, faults: list[str]) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        super().__init__(f"suite {name!r}: " * bool(name) + "; ".join(self.faults))


def name_faults(given: Given) -> list[str]:
    """Methods, settings, networks and data sets that do not exist, with the nearest names.

    Args:
        given: what the file says, which need not be a suite; what has another form is passed over.
    """
    return [*_method_faults(given), *_settings_faults(given), *_network_faults(given)]


def _method_faults(given: Given) -> Iterator[str]:
    from benchmarks.running.sample import PROXIES
    from zoo.core.method.discovery import get_pruner, list_pruners

    scorers = {name for name, _ in _variants(given.get("ranking"), "scorers")}
    for name in dict.fromkeys([*_methods(given), *scorers]):
        if name in PROXIES and name in scorers:
            continue
        try:
            can_score = get_pruner(name).can_score()
        except (ValueError, OSError) as error:
            yield str(error)
            continue
        if name in scorers and not can_score:
            own = (*list_pruners("method"), *list_pruners("baseline"))
            able = [each for each in own if get_pruner(each).can_score()]
            yield (
                f"{name!r} scores no configurations; those that do: {', '.join((*able, *PROXIES))}"
            )


def _settings_faults(given: Given) -> Iterator[str]:
    """Settings that do not exist or hold what they cannot, and those of methods that do not run."""
    from benchmarks.running.sample import PROXIES
    from zoo.core.method.discovery import list_pruners

    shared = given.get("settings")
    shared = shared if isinstance(shared, Mapping) else {}
    run = set(_methods(given))
    variants = [*_variants(given, "variants"), *_variants(given.get("ranking"), "scorers")]
    run |= {name for name, _ in variants}
    if given.get("budgets") and given.get("controls", True):
        run.add(REFERENCE)  # which is planned unasked
    known = run & {*list_pruners(), *PROXIES}
    for name in shared:
        if name not in run:
            yield f"settings for {name!r}, which the suite does not run; {suggest(name, known)}"
    asked = [(name, own) for name, own in shared.items() if isinstance(own, Mapping)]
    for name, own in [*asked, *variants]:
        if name not in PROXIES:
            yield from _faults_of_settings(name, own)
        elif own:
            yield f"the proxy {name!r} has no settings"


def _faults_of_settings(name: str, own: Given) -> Iterator[str]:
    """What is wrong with some settings of a method, each taken alone."""
    from zoo.core.method.discovery import create_pruner, get_pruner

    try:
        known = {field.name for field in fields(get_pruner(name))}  # type: ignore[arg-type]
    except (ValueError, OSError):
        return  # the method itself is at fault
    for setting, value in own.items():
        try:
            create_pruner(name, **{setting: value})
        except ValueError as error:
            # What a setting may be can depend on others, which are held against it when a run is
            # planned.
            if setting not in known or len(own) == 1 or _names(error, setting):
                yield str(error)


def _names(error: ValueError, setting: str) -> bool:
    return f": {setting} is " in str(error) or f"unknown {setting} " in str(error)


def _network_faults(given: Given) -> Iterator[str]:
    from benchmarks.running.network import model_args
    from zoo.core.data.datasets import list_datasets

    for each in _tables(given, "models"):
        name = each.get("name")
        args = each.get("args", {})
        if not isinstance(name, str) or not isinstance(args, dict):
            continue
        try:
            model_args(Model(name=name, args=args))
        except ValidationError:
            continue  # the suite's own form says so
        except ValueError as error:
            yield str(error)
    for each in _tables(given, "datasets"):
        name = each.get("name")
        if isinstance(name, str) and name not in list_datasets():
            yield f"unknown dataset {name!r}; {suggest(name, list_datasets())}"


def _methods(given: Given) -> list[str]:
    """All methods that are to be run at budgets."""
    from zoo.core.method.discovery import list_pruners

    methods = given.get("methods", "all")
    if methods == "all":
        found = [*list_pruners("method"), *list_pruners("baseline")]
    else:
        found = [name for name in _items(methods) if isinstance(name, str)]
    return [*found, *(name for name, _ in _variants(given, "variants"))]


def _variants(given: object, key: str) -> list[tuple[str, Given]]:
    """The methods of tables below a key, each with its settings."""
    tables = _tables(given, key) if isinstance(given, Mapping) else []
    return [
        (each["method"], settings if isinstance(settings := each.get("settings"), Mapping) else {})
        for each in tables
        if isinstance(each.get("method"), str)
    ]


def _tables(given: Given, key: str) -> list[Given]:
    return [each for each in _items(given.get(key)) if isinstance(each, Mapping)]


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()

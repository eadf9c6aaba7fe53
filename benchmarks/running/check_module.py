"""Put every pruner of a module through the contract, in a process of its own.

A module may end its process, with whatever status; only an answer of that process is a verdict.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks.records.plain import in_markup, visible
from benchmarks.running.protocol import describe
from zoo.core.child_process import WorkerDied, Workers
from zoo.core.contract.checks import Outcome, contract
from zoo.core.method.discovery import PACKAGES, pruners_of
from zoo.core.method.pruner import Pruner

__all__ = ["COLOURS", "check_apart", "check_module"]


COLOURS = {"passed": "green", "failed": "red", "expected": "yellow", "skipped": "dim"}


def check_apart(target: str, console: Console) -> bool:
    """As `check_module`, in another process; if that dies, nothing has passed.

    Raises:
        ValueError: as `check_module`.
    """
    pool = Workers(1)
    try:
        passed: bool = pool.submit(check_module, target).result()
    except WorkerDied as error:
        console.print(f"[red]failed[/] {in_markup(target, 200)}: {error}", soft_wrap=True)
        return False
    finally:
        pool.shutdown()
    return passed


def check_module(target: str) -> bool:
    """Put every pruner of a module through the contract; tell whether all passed.

    One line is printed for each check that did not simply pass, and a count. The module runs here,
    with all rights of whoever asks. What it prints goes to standard error.

    Args:
        target: path of a `.py` file, or name of a module that can be imported.

    Raises:
        ValueError: if there is no such module, it cannot be imported, or it has no pruner.
    """
    with contextlib.redirect_stdout(sys.stderr):
        classes = pruners_of(_module(target))
    if not classes:
        raise ValueError(
            f"{visible(target, 200)} defines no pruner; derive a frozen dataclass from Pruner"
        )
    console = Console(emoji=False)
    passed = [_check_class(cls, console) for cls in classes]
    return all(passed)


def _check_class(cls: type[Pruner], console: Console) -> bool:
    counts: Counter[str] = Counter()
    outcomes = contract(cls)
    try:
        while outcome := _next_outcome(outcomes):
            counts[outcome.status] += 1
            if outcome.status in ("failed", "expected"):
                console.print(_outcome_line(outcome), soft_wrap=True)
    # A stranger's class may raise anything outside of its checks, too; and one that ends the
    # program, perhaps with the status 0, has not passed.
    except BaseException as error:
        counts["failed"] += 1
        console.print(f"[red]failed[/] {in_markup(describe(error), 500)}", soft_wrap=True)
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    console.print(f"{in_markup(cls.__name__)}: {told}")
    return counts["passed"] > 0 and not counts["failed"]


def _next_outcome(outcomes: Iterator[Outcome]) -> Outcome | None:
    """The next one, while what the pruner prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        return next(outcomes, None)


def _module(target: str) -> ModuleType:
    """The module that is asked for, imported.

    Raises:
        ValueError: if there is none, or it raises or ends the program when it is imported.
    """
    shown = visible(target, 200)
    path = Path(target)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        why = "is no file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{shown} {why}; give the path of a .py file, or a name to import")
    if not is_file and not all(part.isidentifier() for part in target.split(".")):
        raise ValueError(
            f"{shown!r} is no module; give the path of a .py file, or a name to import"
        )
    try:
        return _load_file(path) if is_file else importlib.import_module(target)
    except ModuleNotFoundError as error:
        if not is_file and error.name and f"{target}.".startswith(f"{error.name}."):
            raise ValueError(
                f"no module {visible(error.name)!r}; give the path of a .py file, or a name to "
                "import"
            ) from error
        raise ValueError(f"{shown} cannot be imported: {describe(error)}") from error
    # A stranger's module may raise anything, and one that ends the program has not passed. Ctrl-C
    # is the main process's, so an interruption here is the module's own.
    except BaseException as error:
        raise ValueError(f"{shown} cannot be imported: {describe(error)}") from error


def _load_file(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    for package in PACKAGES:
        if folder in importlib.import_module(package).__path__:
            return importlib.import_module(f"{package}.{path.stem}")
    # Under a name of its own, so that a file named numpy.py takes no other module's place;
    # dataclasses, inspect and pickle look a class's module up by that name.
    name = f"_checked_{''.join(c if c.isalnum() else '_' for c in path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _outcome_line(outcome: Outcome) -> str:
    colour = COLOURS[outcome.status]
    where = f" on {outcome.network}" if outcome.network else ""
    name = f"{outcome.number:2d} {outcome.name}{where}"
    return f"[{colour}]{outcome.status}[/] {in_markup(name)}: {in_markup(outcome.reason, 500)}"

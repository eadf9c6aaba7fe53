"""Put every pruner of a module through the contract, in a process of its own.

A module may end its process, with whatever status; only an answer of that process is a verdict.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks.records.plain import in_markup, visible
from benchmarks.running.protocol import describe
from zoo.core.child_process import WorkerDied, Workers
from zoo.core.contract.checks import Outcome, contract
from zoo.core.method.discovery import PACKAGES, pruners_of
from zoo.core.method.outside import load_file
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

    A line is printed for each fault, however many checks on however many networks meet it, for each
    check that was skipped or is expected to fail, and a count. The module runs here, with all
    rights of whoever asks. What it prints goes to standard error.

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
    again: dict[tuple[object, ...], list[Outcome]] = {}
    outcomes = contract(cls)
    try:
        while outcome := _next_outcome(outcomes):
            counts[outcome.status] += 1
            same = again.setdefault(_fault(outcome), [])
            if outcome.status != "passed" and not same:
                console.print(_outcome_line(outcome), soft_wrap=True)
            same.append(outcome)
    # A stranger's class may raise anything outside of its checks, too; and one that ends the
    # program, perhaps with the status 0, has not passed.
    except BaseException as error:
        counts["failed"] += 1
        console.print(f"[red]failed[/] {in_markup(describe(error), 500)}", soft_wrap=True)
    for met in again.values():
        if met[0].status == "failed" and len(met) > 1:
            console.print(_repeated_line(met), soft_wrap=True)
    faults = sum(met[0].status == "failed" for met in again.values())
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    told += f"; faults: {faults}" if faults else ""
    console.print(f"{in_markup(cls.__name__)}: {told}")
    return counts["passed"] > 0 and not counts["failed"]


def _fault(outcome: Outcome) -> tuple[object, ...]:
    """Equal for outcomes that say the same: one error at one place, or one check on any network."""
    if outcome.raised:
        return outcome.place, outcome.raised
    return outcome.number, outcome.status


def _repeated_line(met: Sequence[Outcome]) -> str:
    """Where else a fault was met that has its line already."""
    first = met[0]
    others = dict.fromkeys(f"{each.number} {each.name}" for each in met[1:])
    count = "once more" if len(met) == 2 else f"{len(met) - 1} more times"
    name = f"{first.place or first.name}: met {count}, by {', '.join(others)}"
    return f"[dim]{in_markup(name, 2000)}[/]"


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
    return load_file(path)[0]


def _outcome_line(outcome: Outcome) -> str:
    colour = COLOURS[outcome.status]
    is_everywhere = outcome.status == "skipped" or not outcome.network
    where = "" if is_everywhere else f" on {outcome.network}"
    name = f"{outcome.number:2d} {outcome.name}{where}"
    told = ": ".join(part for part in (name, outcome.place) if part)
    return f"[{colour}]{outcome.status}[/] {in_markup(told)}: {in_markup(outcome.reason, 500)}"

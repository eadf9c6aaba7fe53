"""Commands of `zoo` on methods: list, check and new-method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.records.plain import in_markup

__all__ = ["check", "list_all", "new_method"]


def list_all() -> None:
    """List methods, baselines, data sets, suites and models.

    Methods of other installed packages are imported to see whether they work.
    """
    from benchmarks.running import listing

    console = Console(emoji=False)
    _print_names(console, "Methods", listing.listed_pruners("zoo"))
    _print_names(console, "Baselines", listing.listed_pruners("baselines"))
    _print_names(console, "Peers", listing.listed_pruners("baselines.peers"))
    _print_names(console, "Data sets", dict.fromkeys(listing.listed_datasets(), ""))
    _print_names(console, "Suites", listing.listed_suites())
    _print_names(console, "Models", listing.listed_models())
    if outside := listing.listed_outside():
        _print_names(console, "Methods of other packages", outside)


def check(
    module: Annotated[str, typer.Argument(help="Path of a .py file, or name of a module.")],
) -> None:
    """Put a pruner that you wrote through the contract.

    This runs the file, with all your rights: check no file that you would not run.

    Exit status: 0 if every check passed, 1 if one failed, 2 if there is no pruner to check.
    """
    from benchmarks.running.check_module import check_apart

    if not check_apart(module, Console(emoji=False)):
        raise typer.Exit(1)


def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method and its file, e.g. my_pruner.")],
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a pruner that works, to be changed into yours, and its test.

    Then: `zoo check NAME.py`, `pytest test_NAME.py`, `zoo prune MODEL --method NAME.py:NAME`.

    Exit status: 2 if one of the files exists, or the name is taken or none for a module.
    """
    from benchmarks.running.new_method import write_method

    console = Console(emoji=False)
    for line in write_method(name, out):
        console.print(in_markup(line, 1000), soft_wrap=True)


def _print_names(console: Console, title: str, names: Mapping[str, str]) -> None:
    console.print(f"[bold]{title}[/]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, note in names.items():
        table.add_row(in_markup(name), in_markup(note, 500))
    console.print(table)

"""The `zoo` command.

Heavy imports wait inside the commands, so that `zoo --help` answers at once. An error that the user
can mend is one red line with the way out and exit status 2; set ZOO_TRACEBACK=1 to see where it
came from.
"""

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.options import (
    BatchSize,
    DataPath,
    Device,
    Epochs,
    Export,
    Fold,
    ImageSize,
    LatencyMs,
    LatencyRatio,
    Macs,
    Minutes,
    Params,
    ParentEpochs,
    Results,
    Seed,
    Seeds,
    TrainSize,
    Width,
    Workers,
    finite,
)

if TYPE_CHECKING:
    from benchmarks.record import BudgetMetric, Record
    from benchmarks.report import Comparison
    from benchmarks.run import Plan

__all__ = ["app", "main", "special_tables"]

app = typer.Typer(
    name="zoo",
    help="Compare structured channel-pruning methods under one protocol.\n\n"
    "Start with [bold]zoo run[/bold]: it trains small networks on embedded images, prunes them "
    "with every method at the same budgets, fine-tunes, measures, and prints the comparison.",
    epilog="Each command explains itself: zoo run --help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

INTERRUPTED = 130
WRONG_USE = 2


def main() -> None:
    """Runs the command line."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that CUDA is not there
    try:
        app()
    except Exception as error:  # whatever happens, a user reads one line
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        Console(stderr=True).print(f"[red]error:[/] {escape(_told(error))}", soft_wrap=True)
        sys.exit(WRONG_USE)


def _told(error: Exception) -> str:
    """What went wrong, in one line; of what we did not foresee, also where."""
    from pydantic import ValidationError

    from benchmarks.strict import explain

    if isinstance(error, ValidationError):
        return explain(error)
    line = " ".join(str(error).split())
    if isinstance(error, OSError | ValueError) and line:
        return line
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {line} ({Path(frame.filename).name}, line {frame.lineno}); set "
        "ZOO_TRACEBACK=1 to see where it came from"
    )


@app.command()
def run(
    suite: Annotated[
        str, typer.Argument(help="Name of a suite, or path of a .toml file.")
    ] = "quick",
    workers: Workers = 0,
    results: Results = Path("results"),
    dataset: Annotated[
        str | None,
        typer.Option(help="Another data set in place of the suite's, whole; see zoo list."),
    ] = None,
    data: DataPath = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch data that is missing.")
    ] = False,
    seeds: Seeds = None,
    minutes: Minutes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is left to do, and its cost.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Run a suite, resume what is missing, then report.

    One record is written for each method, network, data set, budget and seed.

    Stop it at any time: the next run takes up what is missing or failed. With --minutes a suite is
    run in parts; each is reported.
    """
    from benchmarks.planning import check_cells
    from benchmarks.run import Job, plan_suite, run_plan
    from benchmarks.suite import load_suite

    _require_device(device, is_used=not dry_run)
    console = Console()
    until = math.inf if minutes is None else time.time() + 60 * minutes
    job = Job(results, data, download, workers or _default_workers(device), until)
    asked = load_suite(suite).changed(dataset=dataset, seeds=seeds)
    plan = plan_suite(suite, asked, job.records, device, data)
    check_cells(plan.missing, None if dry_run else job)
    done = len(plan.cells) - len(plan.missing)
    console.print(f"{suite}: {len(plan.cells)} cells, {done} done, {len(plan.missing)} to run")
    if dry_run:
        from benchmarks.forecast import show_forecast

        show_forecast(console, plan.missing, job)
        return
    try:
        outcomes = run_plan(plan, job, console)
    except KeyboardInterrupt:
        console.print("[yellow]stopped; what was finished is recorded, run again to resume[/]")
        raise typer.Exit(INTERRUPTED) from None
    if left := len(plan.missing) - outcomes.total():
        console.print(f"time is up: {left} cells left, run again for them")
    if len(plan.missing) < len(plan.cells) or outcomes:
        _report(console, results, plan)
    if outcomes["failed"]:
        console.print(
            f"[red]{outcomes['failed']} cells failed; their records say why, "
            "the next run tries them again[/]"
        )
        raise typer.Exit(1)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="Name of a timm model, e.g. resnet20_cifar.")],
    method: Annotated[str, typer.Option(help="A pruner; see zoo list.")] = "knapsack",
    macs: Macs = None,
    params: Params = None,
    latency: LatencyRatio = None,
    latency_ms: LatencyMs = None,
    dataset: Annotated[str, typer.Option(help="A data set; see zoo list.")] = "cluttered_digits",
    data: DataPath = None,
    out: Annotated[Path, typer.Option(help="New folder for the smaller network.")] = Path("pruned"),
    epochs: Epochs = 5,
    parent_epochs: ParentEpochs = 10,
    batch_size: BatchSize = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from timm's published weights.")
    ] = False,
    width: Width = 1.0,
    image_size: ImageSize = None,
    train_size: TrainSize = None,
    seed: Seed = 0,
    export: Export = None,
    fold_batch_norm: Fold = False,
    results: Results = Path("results"),
    device: Device = "cpu",
) -> None:
    """Prune one network with one method to one budget and save the smaller network."""
    from benchmarks.run import Job
    from benchmarks.single import Request, prune_one

    _require_device(device)
    budget, metric = _budget(macs=macs, params=params, latency=latency, latency_ms=latency_ms)
    request = Request(
        model=model,
        width=width,
        method=method,
        budget=budget,
        metric=metric,
        dataset=dataset,
        image_size=image_size,
        train_size=train_size,
        epochs=epochs,
        parent_epochs=parent_epochs,
        batch_size=batch_size,
        is_pretrained=pretrained,
        seed=seed,
        device=device,
        export=export,
        is_folded=fold_batch_norm,
    )
    cache = Job(results).cache
    prune_one(request, out=out, cache=cache, data=data, console=Console())


@app.command(name="list")
def list_all() -> None:
    """List methods, baselines, data sets, suites and models."""
    import timm

    from benchmarks.suite import list_suites, load_suite
    from zoo.core import cifar_resnet  # noqa: F401  (registers its networks with timm)
    from zoo.core.data import list_datasets
    from zoo.core.pruner import list_pruners

    console = Console()
    _print_names(console, "Methods", {name: _paper(name) for name in list_pruners("method")})
    _print_names(console, "Baselines", {name: _paper(name) for name in list_pruners("baseline")})
    _print_names(console, "Data sets", dict.fromkeys(list_datasets(), ""))
    _print_names(console, "Suites", {name: load_suite(name).title for name in list_suites()})
    cifar = timm.list_models("*_cifar")
    rest = f"and {len(timm.list_models()) - len(cifar)} more of timm's, by name"
    _print_names(console, "Models", {**dict.fromkeys(cifar, ""), "...": rest})


@app.command()
def report(
    results: Results = Path("results"),
    readme: Annotated[
        Path | None,
        typer.Option(
            help="A text with marked blocks to renew, such as README.md or a page in docs."
        ),
    ] = None,
) -> None:
    """Make tables (Markdown, CSV, LaTeX), figures (PNG, PDF) and one page (HTML) from records."""
    console = Console()
    _report(console, results, None)
    if readme is not None:
        names = _replace_blocks(readme, results)
        console.print(f"replaced in {readme}: {', '.join(names)}")


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Folder of results to hold on to.")],
    new: Annotated[Path, typer.Argument(help="Folder of results to judge.")],
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this; repeat for more: accuracy, recalibrated, macs, cost, "
            "latency, config. Default: all but config."
        ),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK=SIZE",
            help="Changes up to this size are never worse, e.g. accuracy=0.02 for two points.",
        ),
    ] = None,
    level: Annotated[
        float,
        typer.Option(
            min=1e-9, max=0.5, callback=finite, help="Chance of a false alarm, each check."
        ),
    ] = 0.001,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept that cells of BASE are missing in NEW.")
    ] = False,
) -> None:
    """Say what got better or worse between two sets of records.

    Records are paired by cell and seed. A change is worse if it is larger than its tolerance and
    than noise: what two runs with different seeds would differ by.

    Exit status: 1 if something got worse, 0 if not, 2 if the sets cannot be compared.
    """
    from benchmarks.changes import read_checks, read_tolerances, show_verdict
    from benchmarks.gate import judge, pair_up

    checks, tolerances = read_checks(check or []), read_tolerances(tolerance or [])
    pairs = pair_up(_records(base), _records(new), partial=partial)
    verdict = judge(pairs, checks, tolerances=tolerances, level=level)
    console = Console()
    console.print(f"{len(pairs)} cells paired: {escape(str(base))} -> {escape(str(new))}")
    show_verdict(verdict, console)
    if verdict.is_worse:
        raise typer.Exit(1)


@app.command()
def check(
    module: Annotated[str, typer.Argument(help="Path of a .py file, or name of a module.")],
) -> None:
    """Put a pruner that you wrote through the contract."""
    from benchmarks.single import check_module

    if not check_module(module, Console()):
        raise typer.Exit(1)


def _report(console: Console, results: Path, plan: "Plan | None") -> None:
    """Writes tables and figures of all records; prints those of a plan, or all."""
    from benchmarks.page import write_page
    from benchmarks.plots import draw_figures
    from benchmarks.report import compare
    from benchmarks.tables import write_tables

    records = _records(results)
    keys = {cell.key for cell in plan.cells} if plan else {record.cell.key for record in records}
    for comparison in compare(record for record in records if record.cell.key in keys):
        console.print(_table(comparison))
    write_tables(records, results / "tables")
    for name, table in special_tables(records).items():
        if text := table():
            (results / "tables" / f"{name}.md").write_text(text, "utf-8")
    figures = draw_figures(records, results / "figures")
    title = f"Pruning results: {results.resolve().name}"
    page = write_page(records, results / "page.html", title=title, figures=figures)
    console.print(
        f"tables in {results / 'tables'}, figures in {results / 'figures'}, page: {page}",
        soft_wrap=True,
    )


def special_tables(records: "list[Record]") -> "dict[str, Callable[[], str]]":
    """Tables that answer one question, by name; empty where the records say nothing on it."""
    from benchmarks.ablation import ablation_table
    from benchmarks.ranking import collect_rankings, ranking_table
    from benchmarks.report import compare
    from benchmarks.standing import standing_table
    from benchmarks.supernets import reach_table, sharing_table, supernet_table

    return {
        "standing": lambda: standing_table(compare(records)),
        "ablation": lambda: ablation_table(compare(records)),
        "ranking": lambda: ranking_table(collect_rankings(records)),
        "supernets": lambda: supernet_table(collect_rankings(records)),
        "supernet-reach": lambda: reach_table(collect_rankings(records)),
        "supernet-sharing": lambda: sharing_table(compare(records)),
    }


def _replace_blocks(path: Path, results: Path) -> list[str]:
    """Writes anew whatever blocks a text has markers for and the records have something to say on.

    A page can so be made from the records of several folders, one after the other.

    Returns:
        The names of the blocks that were written.

    Raises:
        ValueError: if it has no markers.
    """
    from benchmarks.cards import methods_table
    from benchmarks.marked import has_block, replace_block
    from benchmarks.record import load_records
    from benchmarks.report import compare
    from benchmarks.tables import to_markdown, to_short_markdown

    records = load_records(results / "records")
    blocks = {
        "report": lambda: to_short_markdown(compare(records)),
        "results": lambda: to_markdown(compare(records)),
        **special_tables(records),
        "pruners": methods_table,
    }
    text = path.read_text("utf-8")
    names = [name for name in blocks if has_block(text, name)]
    if not names:
        raise ValueError(
            f"{path} has no block to renew; put markers in: <!-- zoo NAME: begin --> and "
            f"<!-- zoo NAME: end -->, NAME one of {', '.join(blocks)}"
        )
    written = {name: block for name in names if (block := blocks[name]())}
    for name, block in written.items():
        text = replace_block(text, block, name)
    path.write_text(text, "utf-8")
    return list(written)


def _table(comparison: "Comparison") -> Table:
    """The columns that fit a narrow terminal; the written tables have them all."""
    from benchmarks.report import share, shown, speedup

    table = Table(title=comparison.title, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    table.add_column("budget", justify="right")
    table.add_column("method", overflow="fold")
    for heading in ("MACs", "top-1", "Δ unif.", "speed"):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        if not row.ok:
            table.add_row(row.budget, escape(comparison.label(row)), f"[red]{row.seeds}[/]")
            continue
        top1 = row.mean(lambda record: record.top1.finetuned)
        macs = row.mean(lambda record: share(record, "macs"))
        speed = row.mean(lambda record: speedup(record, smallest=False))
        cells = (
            macs.shown(".0f", 100) + " %" if macs else "",
            top1.shown(".1f", 100) if top1 else "",
            row.gain.shown("+.1f", 100) if row.gain else "",
            speed.shown(".2f") + "x" if speed else "",
        )
        table.add_row(row.budget, escape(comparison.noted(row)), *cells)
    if control := comparison.control(smallest=False):
        parent = shown(comparison.parent_top1, ".1f", 100)
        table.add_row("", "A/A", "100 %", parent, "", control.shown(".2f") + "x")
    return table


def _records(results: Path) -> "list[Record]":
    """Records of a results folder, or of a folder of records.

    Raises:
        ValueError: if there are none.
    """
    from benchmarks.record import load_records

    folder = results / "records" if (results / "records").is_dir() else results
    records = load_records(folder)
    if not records:
        raise ValueError(f"no records in {folder}; make some with: zoo run SUITE --results PATH")
    return records


def _print_names(console: Console, title: str, names: Mapping[str, str]) -> None:
    console.print(f"[bold]{title}[/]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, note in names.items():
        table.add_row(name, escape(note))
    console.print(table)


def _paper(method: str) -> str:
    """The paper that a method's card names, in one line."""
    from zoo.core.pruner import card, get_pruner

    return " ".join(card(get_pruner(method))["Paper"].split())


def _budget(**given: float | None) -> "tuple[float, BudgetMetric]":
    """The budget that was given, and what it limits; half the MACs if none was."""
    found = [(value, name) for name, value in given.items() if value is not None]
    if len(found) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for _, name in found)
        raise ValueError(f"{options} are {len(found)} budgets; give one")
    value, name = found[0] if found else (0.5, "macs")
    return value, cast("BudgetMetric", name)


def _require_device(device: str, *, is_used: bool = True) -> None:
    """Refuses a device that does not exist or, if it is to be used, is not there."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    if kind == "cuda" and is_used:
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is not there: torch sees no GPU; use --device cpu")
        if int(index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device {device!r} is not there; {torch.cuda.device_count()} GPUs are"
            )


def _default_workers(device: str) -> int:
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()

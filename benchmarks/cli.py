"""The `zoo` command.

Heavy imports wait inside the commands, so that `zoo --help` answers at once. An error that the user
can mend is one red line with the way out and exit status 2; set ZOO_TRACEBACK=1 to see where it
came from.
"""

import inspect
import logging
import math
import os
import shutil
import sys
import time as clock
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from benchmarks.method_commands import check, list_all, new_method
from benchmarks.options import (
    BatchSize,
    DataPath,
    Dataset,
    Device,
    Distill,
    Divisor,
    Download,
    DryRun,
    EngineOption,
    Epochs,
    Export,
    Fold,
    Gpus,
    ImageSize,
    Keep,
    LatencyMs,
    LatencyRatio,
    Loaders,
    Macs,
    Methods,
    MinKeep,
    Minutes,
    ModelName,
    Models,
    OtherDataset,
    Paper,
    Params,
    ParentEpochs,
    PerGpu,
    Pretrained,
    QuietCore,
    Ratio,
    Results,
    Seed,
    Seeds,
    SuiteMethods,
    SuiteName,
    Track,
    TrainSize,
    Weights,
    Width,
    Workers,
    finite,
)
from benchmarks.page.renew import loaded_records, marked_blocks, renew_blocks
from benchmarks.page.report import (
    refuse_beside_folders,
    report_leaderboard,
    show_faults,
    write_report,
)
from benchmarks.records.plain import counted, in_markup
from benchmarks.running.torchrun import RankFailed, check_device, is_launched, run_in_ranks

__all__ = ["app", "main"]

BOXED_HELP = 72
"""Columns of a terminal below which help stands in plain lines: boxes would cut options short."""

app = typer.Typer(
    name="zoo",
    help="Compare structured channel-pruning methods under one protocol.\n\n"
    "Start with `zoo run`: it trains small networks on embedded images, prunes them "
    "with every method at the same budgets, fine-tunes, measures, and prints the comparison.",
    epilog="Each command explains itself: zoo run --help",
    no_args_is_help=True,
    rich_markup_mode="markdown" if shutil.get_terminal_size().columns >= BOXED_HELP else None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

LONGEST_ERROR = 4000
"""Characters of an error that are shown."""
WRONG_USE = 2

Done = TypeVar("Done")


def main() -> None:
    """Run the command line."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that CUDA is not there
    for command in app.registered_commands:  # a line that is made of the whole text is cut short
        text = inspect.getdoc(command.callback) or ""
        command.short_help = text.partition("\n\n")[0]
    if is_launched():
        run_in_ranks(_run_app)
    _run_app()


def _run_app() -> None:
    """Run what the command line says; whatever is wrong is told in a line."""
    try:
        app()
    except Exception as error:  # whatever happens, a user reads one line
        if os.environ.get("ZOO_TRACEBACK"):
            raise
        for line in _lines(error):
            Console(stderr=True, emoji=False).print(line, soft_wrap=True)
        sys.exit(WRONG_USE)


def _lines(error: Exception) -> list[str]:
    """What went wrong: a line, or one for each of several faults of a suite."""
    from benchmarks.running.suite_names import SuiteFaults

    if isinstance(error, SuiteFaults) and len(error.faults) > 1:
        faults = [f"  {in_markup(fault, LONGEST_ERROR)}" for fault in error.faults]
        return [f"[red]error:[/] the suite has {len(faults)} faults", *faults]
    return [f"[red]error:[/] {in_markup(_told(error), LONGEST_ERROR)}"]


def _told(error: Exception) -> str:
    """What went wrong, in one line; for unexpected errors also where."""
    from pydantic import ValidationError

    from benchmarks.records.strict import explain

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
    suite: SuiteName = "quick",
    workers: Workers = 0,
    results: Results = Path("results"),
    dataset: OtherDataset = None,
    data: DataPath = None,
    download: Download = False,
    seeds: Seeds = None,
    model: Models = None,
    method: SuiteMethods = None,
    minutes: Minutes = None,
    dry_run: DryRun = False,
    device: Device = "cpu",
    is_timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Measure the runtime after all training.")
    ] = True,
    engine: EngineOption = "local",
    gpus: Gpus = None,
    per_gpu: PerGpu = 1,
    track: Track = None,
    loaders: Loaders = None,
) -> None:
    """Run a suite, resume what is missing, time the networks, then report.

    One record is written for each method, network, data set, budget and seed. Stop it at any time:
    the next run takes up what is missing or failed. --minutes runs a suite in parts, and so do
    --model, --method and --seeds; all cells of a network and seed belong on one machine.

    A cell whose process dies is tried once more alone at the end, and named.

    Exit status: 1 if cells failed or were cancelled by their last try, or could not be recorded;
    130 after Ctrl-C, 143 after SIGTERM, 2 if the request cannot be met.
    """
    from benchmarks.running.endings import tell_left, tell_unsettled
    from benchmarks.running.engine import machines
    from benchmarks.running.forecast import show_forecast
    from benchmarks.running.plan import Job, plan_suite
    from benchmarks.running.precheck import check_cells
    from benchmarks.running.run_suite import run_suite
    from benchmarks.running.suite import load_suite
    from benchmarks.running.weights import tell_weights
    from benchmarks.tables.unread import show_unread

    _require_device(device, is_used=not dry_run and engine == "local", count=gpus or 1)
    console = Console(emoji=False)
    whole, models = load_suite(suite).changed(dataset=dataset, seeds=seeds), model or ()
    asked = whole.changed(models=models)
    job = Job(results, data, download, until=_until(minutes), track=track)
    chosen = machines(engine, device, job.cache, gpus=gpus, per_gpu=per_gpu, workers=workers)
    kind = device.partition(":")[0]  # which GPU, is told to the worker alone
    plan_now = partial(plan_suite, methods=method or (), models=models)
    planned = partial(plan_now, suite, whole, job.records, kind, data)
    plan = planned()
    job = job.with_weights(asked.models).with_methods(asked.named_methods)
    show_unread(console, plan.unread)
    tell_weights(check_cells(plan.missing, None if dry_run else job), console)
    console.print(f"{suite}: {plan.summary}")
    job = job.on(chosen, loaders)
    if dry_run:
        show_forecast(console, plan.missing, job)
        return
    timed = device if is_timed else None
    work = partial(run_suite, plan, planned, job, console, device=timed, machines=chosen)
    done = _until_stopped(work, console)
    tell_left(done, console)
    if done.plan.done or done.outcomes:
        write_report(console, results, {cell.key for cell in done.plan.cells})
    raise typer.Exit(tell_unsettled(done.outcomes, console))


@app.command()
def time(
    results: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("results"),
    device: Device = "cpu",
    quiet_core: QuietCore = None,
    minutes: Minutes = None,
    engine: EngineOption = "local",
) -> None:
    """Measure the runtime of networks that have been trained, on this device.

    Networks are made again from their records, without data or weights. What the device was timed
    with already is left out. Let nothing else run.

    Exit status: 1 if networks could not be timed or the time was up, 130 after Ctrl-C.
    """
    from benchmarks.running.engine import LocalMachine, check_core, machines
    from benchmarks.running.plan import Job
    from benchmarks.running.time_networks import time_networks

    _require_device(device, is_used=engine == "local")
    if quiet_core is not None:
        check_core(quiet_core)
    console = Console(emoji=False)
    job = Job(results, until=_until(minutes))
    if engine == "ray" and quiet_core is not None:
        raise ValueError("--quiet-core is of this machine; leave it out with --engine ray")
    local = LocalMachine(core=quiet_core)
    chosen = local if engine == "local" else machines(engine, device, job.cache)
    loaded_records(job.records)  # a folder without any is refused
    left = _until_stopped(partial(time_networks, job, console, chosen, device=device), console)
    write_report(console, results)
    if left:
        console.print(f"[yellow]not timed: {counted(left, 'network')}[/]; run again for the rest")
        raise typer.Exit(1)


@app.command()
def prune(
    model: ModelName,
    method: Annotated[str, typer.Option(help="A pruner; see zoo list.")] = "uniform",
    macs: Macs = None,
    params: Params = None,
    latency: LatencyRatio = None,
    latency_ms: LatencyMs = None,
    dataset: Dataset = "cluttered_digits",
    data: DataPath = None,
    out: Annotated[Path, typer.Option(help="New folder for the smaller network.")] = Path("pruned"),
    epochs: Epochs = 5,
    parent_epochs: ParentEpochs = 10,
    batch_size: BatchSize = None,
    pretrained: Pretrained = False,
    weights: Weights = None,
    width: Width = 1.0,
    image_size: ImageSize = None,
    train_size: TrainSize = None,
    seed: Seed = 0,
    export: Export = None,
    fold_batch_norm: Fold = False,
    distill: Distill = None,
    keep: Keep = None,
    ratio: Ratio = None,
    min_keep: MinKeep = 0.1,
    divisor: Divisor = 1,
    results: Results = Path("results"),
    device: Device = "cpu",
    track: Track = None,
    loaders: Loaders = None,
) -> None:
    """Prune one network with one method to one budget and save the smaller network.

    What may go, by globs over channel groups and modules:
    `--keep 'layer4.*' --keep stem --ratio 'layer1.*=0.8' --ratio 'layer2.*=0.5:1'`

    Exit status: 0 if it is saved, 130 after Ctrl-C, 2 if the request cannot be met.
    """
    from benchmarks.running.prune_one import Request, asked_budget, asked_rules, prune_one

    _require_device(device)
    rules = asked_rules(keep or (), ratio or (), min_keep, divisor)
    budget, metric = asked_budget(rules, macs, params, latency, latency_ms)
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
        distill=distill,
        rules=rules,
        weights=weights,
        loaders=loaders,
    )
    console = Console(emoji=False)
    prune_one(request, out=out, results=results, data=data, console=console, track=track)


@app.command()
def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Two or more folders of results: one leaderboard of all of them is written to "
            "--results, each row with the folder that it comes from.",
            show_default=False,
        ),
    ] = None,
    results: Results = Path("results"),
    readme: Annotated[
        Path | None,
        typer.Option(
            help="A text with marked blocks to renew, such as README.md or a page in docs."
        ),
    ] = None,
    paper: Paper = False,
    methods: Methods = None,
    track: Track = None,
) -> None:
    """Make tables (Markdown, CSV, LaTeX), figures (PNG, PDF) and one page (HTML) from records."""
    console = Console(emoji=False)
    if folders:
        refuse_beside_folders(readme=readme, paper=paper, methods=methods, track=track)
        report_leaderboard(console, folders, results)
        return
    if readme is not None:
        marked_blocks(readme)  # a page without any is refused before the report is made
    findings = write_report(console, results, is_for_paper=paper, methods=methods)
    if track is not None:
        from benchmarks.tracking.runs import export_records

        count = export_records(track, results, loaded_records(results).records)
        console.print(f"{counted(count, 'record')} told to {track}")
    if readme is not None:
        names = renew_blocks(readme, findings)
        console.print(f"replaced in {readme}: {', '.join(names)}")


@app.command()
def submit(
    folder: Annotated[Path, typer.Argument(help="Folder of results that you want to hand in.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing or off.")
    ] = False,
) -> None:
    """Look for what is missing or off in records, and say how to hand them in.

    Costs are counted again from the kept channels, training from images and epochs, and every row
    needs the seeds of uniform width beside it.

    Exit status: 0 if the folder can be handed in, 1 if something is missing or off.
    """
    from benchmarks.running.submission import check_submission

    count, faults = check_submission(folder)
    console = Console(emoji=False)
    show_faults(console, folder, count, faults)
    if faults:
        raise typer.Exit(1)
    if not check:
        told = f"copy it to results/community/NAME and open a pull request with it: {folder}"
        console.print(in_markup(told), soft_wrap=True)


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

    Exit status: 0 if nothing got worse; 1 if something did, or cannot be judged: a number is
    missing or not finite, a cell of BASE has no record in NEW, a file is no whole record; 2 if the
    sets cannot be compared.
    """
    from benchmarks.analysis.regression import compare_sets
    from benchmarks.tables.verdict import read_checks, read_tolerances, show_verdict

    checks, tolerances = read_checks(check or []), read_tolerances(tolerance or [])
    verdict, count = compare_sets(
        loaded_records(base),
        loaded_records(new),
        checks,
        tolerances=tolerances,
        level=level,
        partial=partial,
    )
    console = Console(emoji=False)
    console.print(
        f"{counted(count, 'cell')} paired: {in_markup(str(base))} -> {in_markup(str(new))}"
    )
    show_verdict(verdict, console)
    if verdict.fails:
        raise typer.Exit(1)


app.command(name="list")(list_all)
app.command()(check)
app.command(name="new-method")(new_method)


def _until_stopped(work: Callable[[], Done], console: Console) -> Done:
    """What some work returns; if it is stopped, say so and exit with the status of that."""
    from benchmarks.running.endings import tell_stop
    from benchmarks.running.run_cells import Unrecorded

    try:
        return work()
    except KeyboardInterrupt as stop:
        raise typer.Exit(tell_stop(stop, console)) from None
    except (Unrecorded, RankFailed) as error:
        console.print(f"[red]stopped:[/] {in_markup(str(error), LONGEST_ERROR)}", soft_wrap=True)
        raise typer.Exit(1) from None


def _until(minutes: float | None) -> float:
    """When nothing new is begun, in seconds as `time.time` counts."""
    return math.inf if minutes is None else clock.time() + 60 * minutes


def _require_device(device: str, *, is_used: bool = True, count: int = 1) -> None:
    """Refuse an unknown device, and GPUs that are not there unless they are not used."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    if kind == "cuda" and is_used:
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is not there: torch sees no GPU; use --device cpu")
        check_device(device)
        if int(index or 0) + count > torch.cuda.device_count():
            raise ValueError(
                f"{count} of device {device!r} are not there; {torch.cuda.device_count()} GPUs are"
            )


if __name__ == "__main__":
    main()

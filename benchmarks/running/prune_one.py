"""Prune one network and save it with its record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console

from benchmarks.records.cell import BudgetMetric, Cell, Data, Model, Rules, Schedule
from benchmarks.records.files import write_record
from benchmarks.records.latency_lines import latency_lines
from benchmarks.records.plain import in_markup
from benchmarks.records.rates import training_macs
from benchmarks.records.record import Record
from benchmarks.records.runtime import Latency
from benchmarks.records.whole_file import require_writable
from benchmarks.running.costs import cost_model, rules_of
from benchmarks.running.engine import LocalMachine
from benchmarks.running.exports import export_as
from benchmarks.running.kept import settle
from benchmarks.running.live import watching
from benchmarks.running.methods import asked_method, method_files, named_methods
from benchmarks.running.network import unloaded, untrained
from benchmarks.running.out_folder import claimed
from benchmarks.running.parent import Places, parent_for, splits_of
from benchmarks.running.plan import Job
from benchmarks.running.precheck import check_cells, check_data, named, outlined
from benchmarks.running.protocol import Findings, build_problem, run_cell
from benchmarks.running.suite import PROTOCOL
from benchmarks.running.torchrun import together
from benchmarks.running.weights import digested, tell_weights, weight_files
from benchmarks.tracking.runs import begin, finish
from zoo.core.channels.config import WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.width_bounds import Ratio, parse_ratio
from zoo.core.cost.budget import Budget
from zoo.core.meter import Meter
from zoo.core.method.discovery import create_pruner, get_pruner
from zoo.core.method.effort import share_of_budget, told_effort
from zoo.core.method.pruner import Pruner, require_packages
from zoo.core.networks.export import require
from zoo.core.networks.save import save_pruned
from zoo.core.progress import show_progress
from zoo.core.training.events import Watch
from zoo.core.training.train import FINETUNE

__all__ = ["Request", "asked_budget", "asked_rules", "prune_one"]

_NOBODY = Watch()


@dataclass(frozen=True)
class Request:
    """What `zoo prune` is asked for."""

    model: str
    width: float
    method: str
    budget: float
    metric: BudgetMetric
    dataset: str
    image_size: int | None
    train_size: int | None
    epochs: int
    parent_epochs: int
    batch_size: int | None
    is_pretrained: bool
    seed: int
    device: str
    export: str | None = None
    is_folded: bool = False
    distill: float | None = None
    rules: Rules = field(default_factory=Rules)
    weights: Path | None = None
    loaders: int | None = None

    @property
    def asked_model(self) -> Model:
        """The network as a suite would name it, weights by their path."""
        return Model(
            name=self.model,
            args={"pretrained": True} if self.is_pretrained else {},
            width=self.width,
            weights=None if self.weights is None else str(self.weights),
        )

    def cell(self, places: Places) -> Cell:
        """The cell that answers the request.

        Without a batch size it takes that of all recipes, or all training images if they are fewer.

        Raises:
            ValueError: if the budget is not positive, or the data set unknown.
            FileNotFoundError: if the files of the data set, or that of weights, are not there.
        """
        asked = Data(name=self.dataset, image_size=self.image_size, train_size=self.train_size)
        known = outlined(asked, places)
        assert known is not None  # with places, files are read where the name tells nothing
        method = named_methods([self.method])[self.method]
        batch_size = self.batch_size or min(Schedule(epochs=0).batch_size, known.num_train)
        return Cell(
            protocol=PROTOCOL,
            model=digested(self.asked_model),
            data=named(asked, places.data),
            method=method.method,
            origin=method.origin,
            metric=self.metric,
            budget=self.budget,
            seed=self.seed,
            parent=Schedule(epochs=self.parent_epochs, batch_size=batch_size),
            finetune=Schedule(epochs=self.epochs, batch_size=batch_size, lr=FINETUNE.lr),
            latency=Latency(fold_batch_norm=self.is_folded),
            rules=self.rules,
            device=self.device,
            finishes=("own",) if self.distill is None else ("common",),
            distill=self.distill or 0.0,
        )


def asked_budget(
    rules: Rules,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    latency_ms: float | None = None,
) -> tuple[float, BudgetMetric]:
    """The budget that options give, and what it limits.

    Without any it is half the MACs, or none where ratios below 1 decide alone.

    Args:
        rules: as `asked_rules` returns them.
        macs: budget in multiply-adds.
        params: budget in parameters.
        latency: budget as a keep ratio of the latency.
        latency_ms: budget in milliseconds a pass.

    Raises:
        ValueError: if there are several.
    """
    given = {"macs": macs, "params": params, "latency": latency, "latency_ms": latency_ms}
    found = [(value, name) for name, value in given.items() if value is not None]
    if len(found) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for _, name in found)
        raise ValueError(f"{options} are {len(found)} budgets; give one")
    alone = 1.0 if rules_of(rules).narrow else 0.5
    value, name = found[0] if found else (alone, "macs")
    return value, cast(BudgetMetric, name)


def asked_rules(keep: Sequence[str], ratios: Sequence[str], min_keep: float, divisor: int) -> Rules:
    """The legal widths that options of `zoo prune` ask for.

    Args:
        keep: patterns of what is never pruned.
        ratios: texts `PATTERN=SHARE`, see `zoo.core.channels.width_bounds.parse_ratio`.
        min_keep: least share that any group keeps.
        divisor: of all widths.

    Raises:
        ValueError: if a pattern has no ratio, or two, or its ratio is none.
    """
    found: dict[str, Ratio] = {}
    for text in ratios:
        pattern, _, ratio = text.rpartition("=")
        if not pattern:
            raise ValueError(f"--ratio {text} names no share; give GLOB=SHARE, 'layer1.*=0.8'")
        if pattern in found:
            raise ValueError(f"--ratio {pattern!r} stands twice; give its bounds once, 0.5:0.9")
        found[pattern] = parse_ratio(ratio)
    WidthRules(min_keep, divisor, tuple(keep), found)  # refuses what cannot be, in a line
    return Rules(min_keep=min_keep, divisor=divisor, keep=tuple(keep), ratios=found)


def prune_one(
    request: Request,
    *,
    out: Path,
    results: Path,
    data: Path | None,
    console: Console,
    track: str | None = None,
) -> Record:
    """Train, prune, fine-tune and measure one network, and save it with its record.

    Args:
        request: what to prune and how.
        out: folder that is new, empty, or left over by a run that was stopped; an exported file
            lies there, too.
        results: folder of results, where trained parents are kept.
        data: folder of a data set that is read from files.
        console: where progress is told.
        track: name of the tracker that is told, see `benchmarks.tracking`.

    Raises:
        ValueError: if the request cannot be met, or the exported file is not the network.
        OSError: if the folder holds a finished network or anything else, or cannot be written, or
            the data are not there.
        KeyboardInterrupt: after Ctrl-C.
    """
    job = Job(results).on(LocalMachine(1), request.loaders)
    places = Places(
        cache=job.cache,
        data=data,
        weights=weight_files([request.asked_model]),
        methods=method_files([request.method]),
        loaders=job.loaders,
    )
    check_data([Data(name=request.dataset)], data)
    require_packages(type(create_pruner(request.method)))
    form = None if request.export is None else require(request.export)
    cell = request.cell(places)
    with claimed(out):  # before operators are timed, where latency is limited
        told = check_cells([cell], places)
        _require_pruning(cell, places)
        cell = _fit_to_data(cell, places, console)
        require_writable(job.cache, "--results")
        tell_weights(told, console)
        tracker = track and begin(track, results, "", cell.label, cell)
        with show_progress(console=console) as (tell, _):
            watch = watching(tracker or None, tell)
            record, findings = together(_run, cell, places, watch=watch)
        if findings.error is not None:
            raise findings.error
        if record.status == "cancelled":
            raise KeyboardInterrupt
        _save(cell, findings, out)
        line, quantized = "", None
        try:
            if form is not None:
                with console.status(f"exporting as {form}"):
                    line, quantized = export_as(form, cell, findings, places, out)
        finally:  # the network is there, whatever becomes of its other form
            record = write_record(out, record.model_copy(update={"quantized": quantized}))
            settle(cell, record.status, places)
            if track and tracker:
                finish(tracker, record, track, results)
            _tell(record, out, console)
    if line:
        console.print(line, soft_wrap=True)
    return record


def _run(cell: Cell, places: Places, watch: Watch = _NOBODY) -> tuple[Record, Findings]:
    """In every rank: train the parent, where what fails is no cell's failure, and run the cell."""
    parent_for(cell, places, watch)
    return run_cell(cell, suite="", places=places, is_timed=True, watch=watch)


def _require_pruning(cell: Cell, places: Places) -> None:
    """Refuse a budget that prunes nothing before a parent is trained.

    Raises:
        ValueError: if the budget is that of the whole network, or above.
        UnsupportedModel: if the network cannot be traced.
    """
    known = outlined(cell.data, places)
    assert known is not None
    model = untrained(unloaded(cell), known).to(cell.device)
    space = ChannelSpace.trace(model, known.input_size)
    cost = cost_model(cell, model, space, places.cache / "latency")
    if rules_of(cell.rules).allow_whole(space):
        Budget.parse(cell.budget, cost, metric=cell.metric).require_pruning(cost)


def _fit_to_data(cell: Cell, places: Places, console: Console) -> Cell:
    """The cell with as long a search as the data ask for, which is told if it is worth telling."""
    method = asked_method(cell, places.methods)
    pruner, kind = create_pruner(method), get_pruner(method)
    if kind.scaled is Pruner.scaled and kind.effort is Pruner.effort:
        return cell
    splits = splits_of(cell.data, cell.seed, places)
    model = untrained(unloaded(cell), splits).to(cell.device)
    problem = build_problem(cell, model, splits, Meter(cell.device), places.cache)
    scaled = pruner.scaled(problem, ())
    settings = {n: value for n, value in vars(scaled).items() if value != vars(pruner)[n]}
    images = cell.finetune.epochs * problem.data.num_train
    tuning = training_macs(round(problem.cost.full_macs * share_of_budget(problem)), images)
    console.print(told_effort(cell.method, scaled.effort(problem), tuning), highlight=False)
    return cell.model_copy(update={"settings": settings})


def _save(cell: Cell, findings: Findings, out: Path) -> None:
    problem = findings.problem
    assert findings.network is not None and findings.config is not None and problem is not None
    args = {name: value for name, value in cell.model.args.items() if name != "pretrained"}
    save_pruned(findings.network, out, space=problem.space, config=findings.config, model_args=args)


def _tell(record: Record, out: Path, console: Console) -> None:
    """Three lines: size, accuracy, speed."""
    size, top1 = record.size, record.top1
    assert size is not None and size.macs is not None and size.params is not None
    console.print(
        f"MACs {size.full_macs:,} -> {size.macs:,} ({size.macs / size.full_macs:.1%}), "
        f"parameters {size.full_params:,} -> {size.params:,}"
    )
    reached = top1.own if top1.finetuned is None else top1.finetuned
    if top1.parent is not None and reached is not None:
        console.print(f"test top-1 {top1.parent:.1%} -> {reached:.1%}")
    for measured in record.latency:
        console.print(
            f"batch {measured.batch}: {measured.parent_ms.median:.2f} ms -> "
            f"{measured.pruned_ms.median:.2f} ms"
        )
    predicted = record.predicted_latency
    if predicted is not None and (error := predicted.error) is not None:
        console.print(
            f"predicted for batch {predicted.batch}: {predicted.parent_ms:.2f} ms -> "
            f"{predicted.pruned_ms:.2f} ms, the budget being {predicted.limit_ms:.2f} ms; that is "
            f"{abs(error):.1%} {'above' if error > 0 else 'below'} measured"
        )
    for told in latency_lines([record]):
        console.print(f"[yellow]{in_markup(told, 1000)}[/]", soft_wrap=True)
    console.print(f"saved in {out}")

"""Prune one network and save it with its record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console
from torch import nn

from benchmarks.records.cell import BudgetMetric, Cell, Data, Model, Rules, Schedule
from benchmarks.records.files import write_record
from benchmarks.records.record import Record
from benchmarks.records.runtime import Latency
from benchmarks.records.whole_file import require_writable
from benchmarks.running.costs import cost_model, rules_of
from benchmarks.running.network import unloaded, untrained
from benchmarks.running.out_folder import claimed
from benchmarks.running.parent import Places, parent_for
from benchmarks.running.precheck import check_cells, check_data, named, outlined
from benchmarks.running.protocol import Findings, run_cell
from benchmarks.running.suite import PROTOCOL
from benchmarks.running.weights import digested, tell_weights, weight_files
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.width_bounds import Ratio, parse_ratio
from zoo.core.cost.budget import Budget
from zoo.core.method.discovery import create_pruner
from zoo.core.method.problem import require_feasible
from zoo.core.method.pruner import require_packages
from zoo.core.networks.architecture import Architecture
from zoo.core.networks.export import SUFFIXES, Exported, ExportFormat, export_network, require
from zoo.core.networks.save import save_pruned
from zoo.core.training.train import FINETUNE

__all__ = ["Request", "asked_budget", "asked_rules", "prune_one"]


@dataclass(frozen=True)
class _Pruned:
    """What `zoo.save_pruned` needs to know of a network."""

    model: nn.Module
    config: SubnetConfig
    space: ChannelSpace
    architecture: Architecture


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
        batch_size = self.batch_size or min(Schedule(epochs=0).batch_size, known.num_train)
        return Cell(
            protocol=PROTOCOL,
            model=digested(self.asked_model),
            data=named(asked, places.data),
            method=self.method,
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


def asked_budget(**given: float | None) -> tuple[float, BudgetMetric]:
    """The budget that options give, and what it limits; half the MACs if there is none.

    Raises:
        ValueError: if there are several.
    """
    found = [(value, name) for name, value in given.items() if value is not None]
    if len(found) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for _, name in found)
        raise ValueError(f"{options} are {len(found)} budgets; give one")
    value, name = found[0] if found else (0.5, "macs")
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
    request: Request, *, out: Path, cache: Path, data: Path | None, console: Console
) -> Record:
    """Train, prune, fine-tune and measure one network, and save it with its record.

    Args:
        request: what to prune and how.
        out: folder that is new, empty, or left over by a run that was stopped; an exported file
            lies there, too.
        cache: where trained parents are kept.
        data: folder of a data set that is read from files.
        console: where progress is told.

    Raises:
        ValueError: if the request cannot be met, or the exported file is not the network.
        OSError: if the folder holds a finished network or anything else, or cannot be written, or
            the data are not there.
        KeyboardInterrupt: after Ctrl-C.
    """
    places = Places(cache=cache, data=data, weights=weight_files([request.asked_model]))
    check_data([Data(name=request.dataset)], data)
    require_packages(type(create_pruner(request.method)))
    form = None if request.export is None else require(request.export)
    cell = request.cell(places)
    told = check_cells([cell], places)
    _check_budget(cell, places)
    require_writable(cache, "--results")
    tell_weights(told, console)
    with claimed(out):
        with console.status(f"training {cell.model.title} on {cell.data.name}"):
            parent_for(cell, places)
        with console.status(f"pruning with {cell.method}, fine-tuning"):
            record, findings = run_cell(cell, suite="", places=places, is_timed=True)
        if findings.error is not None:
            raise findings.error
        if record.status == "cancelled":
            raise KeyboardInterrupt
        save_pruned(_saveable(cell, findings), out)
        record = write_record(out, record)
    _tell(record, out, console)
    if form is not None:
        with console.status(f"exporting as {form}"):
            exported = _exported(findings, out, form, request.is_folded)
        console.print(
            f"exported {exported.path} ({exported.size_bytes:,} bytes); loaded again, its logits "
            f"differ from the network's by {exported.difference:.1g} at most",
            soft_wrap=True,
        )
    return record


def _check_budget(cell: Cell, places: Places) -> None:
    """Refuse a budget that prunes nothing or that no subnet meets, before a parent is trained.

    Raises:
        ValueError: if the budget is that of the whole network, or above.
        InfeasibleBudget: if it is below the smallest legal subnet.
        UnsupportedModel: if the network cannot be traced.
    """
    known = outlined(cell.data, places)
    assert known is not None
    model = untrained(unloaded(cell), known).to(cell.device)
    space = ChannelSpace.trace(model, known.input_size)
    cost = cost_model(cell, model, space, places.cache / "latency")
    budget = Budget.parse(cell.budget, cost, metric=cell.metric)
    rules = rules_of(cell.rules)
    if rules.allow_whole(space):
        budget.require_pruning(cell.budget, cost)
    require_feasible(budget, cost, rules)


def _saveable(cell: Cell, findings: Findings) -> _Pruned:
    problem = findings.problem
    assert findings.network is not None and findings.config is not None and problem is not None
    args = {name: value for name, value in cell.model.args.items() if name != "pretrained"}
    architecture = Architecture.of(problem.model, **args)
    return _Pruned(findings.network, findings.config, problem.space, architecture)


def _exported(findings: Findings, out: Path, form: ExportFormat, is_folded: bool) -> Exported:
    """Export the fine-tuned network beside its tensors, which are saved already."""
    assert findings.network is not None and findings.problem is not None
    path = out / f"network{SUFFIXES[form]}"
    input_size = findings.problem.space.input_size
    return export_network(findings.network, input_size, path, form=form, fold=is_folded)


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
    console.print(f"saved in {out}")

"""prune: one call from a trained network and two loaders to a smaller, fine-tuned network."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.width_bounds import Ratio
from zoo.core.cost.budget import Budget, BudgetUnit
from zoo.core.cost.cost_model import NS_PER_MS, CostModel
from zoo.core.cost.latency_table import LatencyTable
from zoo.core.cost.measure_latency import Timing, measure_latency, pass_ns
from zoo.core.errors import UnsupportedModel
from zoo.core.meter import Meter, Spent
from zoo.core.method.discovery import create_pruner
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, require_packages
from zoo.core.networks.architecture import Architecture
from zoo.core.networks.rebuild import rebuild
from zoo.core.preflight import Preflight, preflight
from zoo.core.supernet.supernet import RECALIBRATION_BATCHES, recalibrate
from zoo.core.training.logits import reading
from zoo.core.training.train import FINETUNE, Recipe, TrainingLoss, train

__all__ = ["LatencyCheck", "PruneResult", "prune"]

Tell = Callable[[str, int, int | None], None]  # what is being done, steps done, steps in all

_LOGGER = logging.getLogger(__name__)

_RULES = WidthRules()
_TIMING = Timing()


@dataclass(frozen=True)
class LatencyCheck:
    """Latency of a network and its pruned form, as predicted from the table and as measured whole.

    Attributes:
        predicted_ms, measured_ms: of the pruned network, in milliseconds a pass.
        parent_predicted_ms, parent_measured_ms: of the given network.
    """

    predicted_ms: float
    measured_ms: float
    parent_predicted_ms: float
    parent_measured_ms: float


@dataclass(frozen=True)
class PruneResult:
    """A smaller network and how it came about.

    Attributes:
        model: the pruned, fine-tuned network, in eval mode.
        config: the channels it kept.
        spent: cost by phase: "scoring", "search", ... and "finetune".
        trace: what the search reported, JSON rows in order.
        macs, params: cost of ``model`` for one image.
        parent_macs, parent_params: the same of the given network.
        val_top1, parent_val_top1: accuracy on the validation loader, as fractions. The search may
            have used these images: report accuracy on others.
        space: the channel space of the given network.
        architecture: how timm makes the given network, for ``save_pruned``.
        latency: predicted against measured latency; None unless the budget limits latency.
    """

    model: nn.Module
    config: SubnetConfig
    spent: dict[str, Spent]
    trace: tuple[dict[str, object], ...]
    macs: int
    params: int
    parent_macs: int
    parent_params: int
    val_top1: float
    parent_val_top1: float
    space: ChannelSpace = field(repr=False)
    architecture: Architecture = field(repr=False)
    latency: LatencyCheck | None = None


@torch.enable_grad()  # whatever the caller switched off
def prune(
    model: nn.Module,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    method: str | Pruner = "knapsack",
    macs: float | None = None,
    *,
    params: float | None = None,
    latency: float | None = None,
    latency_ms: float | None = None,
    timing: Timing = _TIMING,
    cache: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    recipe: Recipe = FINETUNE,
    distill: float | None = None,
    keep: str | Sequence[str] = (),
    ratios: Mapping[str, Ratio] = MappingProxyType({}),
    min_keep: float = _RULES.min_keep,
    divisor: int = _RULES.divisor,
    inexact: bool = False,
    seed: int = 0,
    progress: bool = True,
    model_args: Mapping[str, object] | None = None,
) -> PruneResult:
    """Return a smaller, fine-tuned copy of a trained classifier; ``model`` is not touched.

    Args:
        model: trained network, on the device to work on; of what it returns, logits are used. A
            batch first goes through it in both modes; half precision is worked on in single.
        train_loader: batches, anew for each epoch, of (images, labels, ...) or dicts, shapes
            (N, C, H, W) and (N,) or (N, classes); for scoring, recalibration and fine-tuning.
        val_loader: the same, held out; searches compare candidates on it.
        method: a pruner, or its name (``zoo.list_pruners()``).
        macs: budget in multiply-adds: at most 1, a share of the parent's; above 1, a number.
        params: the same in parameters.
        latency: a share of the parent's latency, from operator times that are measured first.
        latency_ms: the same in milliseconds a pass; one of the four is needed.
        timing: batch, threads and layout that latency is measured with.
        cache: folder of operator times; the user's cache folder if None.
        settings: the pruner's hyperparameters, where they differ from its defaults.
        recipe: how to fine-tune.
        distill: weight of ``model``'s logits in a common loss; None: the method's weights and loss.
        keep: patterns of what is never pruned, ``["layer4.*", "stem"]``; see `WidthRules`.
        ratios: what is kept by pattern: ``{"layer1.*": 0.8}``, or at least and most (0.5, 0.9).
        min_keep: least share that any group keeps.
        divisor: widths are multiples of it, or whole.
        inexact: also prune groups whose channels an operator mixes (see ``ChannelSpace.trace``).
        seed: of everything random.
        progress: show a bar on a terminal.
        model_args: what timm made ``model`` with beside its classes, so that it can be loaded.

    Raises:
        ValueError: if budget, method, patterns or batches cannot work, or nothing is pruned.
        InfeasibleBudget: if no allowed subnet is small enough; it names the bound in the way.
        UnsupportedModel: if the network cannot be traced or has nothing to prune.
        Diverged: if fine-tuning diverges.
    """
    value, metric = _one_budget(macs=macs, params=params, latency=latency, latency_ms=latency_ms)
    pruner = _asked_pruner(method, settings or {})
    _check_weight(distill)
    rules = WidthRules(min_keep, divisor, (keep,) if isinstance(keep, str) else tuple(keep), ratios)
    ready = preflight(model, train_loader, val_loader, epochs=recipe.epochs, seed=seed)
    architecture = Architecture.of(ready.given, **(model_args or {}))
    with _bar(progress) as tell:
        space = _prunable_space(ready, inexact, rules)
        table = _latency_table(ready.given, space, metric, timing, rules, cache, tell)
        problem = _problem(ready, pruner, CostModel(space, table), value, metric, rules, seed)
        subnet = _search(pruner, problem, ready, distill is None and recipe.epochs > 0, tell)
        small = _finished(problem, pruner, subnet, ready, recipe, distill, tell)
        return _result(problem, subnet.config, small, ready, timing, architecture)


def _problem(
    ready: Preflight,
    pruner: Pruner,
    cost: CostModel,
    value: float,
    metric: BudgetUnit,
    rules: WidthRules,
    seed: int,
) -> Problem:
    """What the pruner is asked; a budget that prunes nothing is refused."""
    meter = Meter(ready.train.device)
    name = type(pruner).__module__.rpartition(".")[2]
    data = ready.metered(meter)
    budget = Budget.parse(value, cost, metric)
    problem = Problem(ready.parent, cost.space, cost, budget, data, rules, seed, meter, name)
    problem.require_pruning(value)
    return problem


def _finished(
    problem: Problem,
    pruner: Pruner,
    subnet: Subnet,
    ready: Preflight,
    recipe: Recipe,
    distill: float | None,
    tell: Tell,
) -> nn.Module:
    """The smaller network, fine-tuned."""
    weights = subnet.weights if distill is None else None
    small = rebuild(problem.model, problem.space, subnet.config, weights)
    make_loss = partial(_loss, problem, pruner, small, subnet.config, recipe, distill)
    _finetune(small, problem, make_loss, ready, recipe, subnet.config, tell)
    tell("validating", 0, None)
    return small


def _asked_pruner(method: str | Pruner, settings: Mapping[str, object]) -> Pruner:
    """The pruner of a name, or the one that is given; refused if it needs what is not installed.

    Raises:
        ValueError: for an unknown name or setting, or packages that are missing.
    """
    pruner = create_pruner(method, **settings) if isinstance(method, str) else method
    require_packages(type(pruner))
    return pruner


def _check_weight(distill: float | None) -> None:
    if distill is not None and not 0 <= distill < math.inf:
        raise ValueError(f"distill, {distill}, is no weight; give 0 or above, such as 1")


def _search(
    pruner: Pruner, problem: Problem, ready: Preflight, is_taught: bool, tell: Tell
) -> Subnet:
    """The pruner's decision, checked; `is_taught` if its own loss is used afterwards."""
    problem.check_feasible()
    tell("searching", 0, None)
    with reading(problem.model, ready.reader):
        whole = (problem.model, problem.model, problem.space, SubnetConfig.full())
        loss = pruner.loss(*whole) if is_taught else None
        # Said beforehand: fine-tuning would diverge of it after the whole search.
        if loss is not None and (told := loss.divergence_hint(ready.train.first_images())):
            _LOGGER.warning("fine-tuning may diverge: %s", told)
        subnet = pruner.search(problem)
    problem.check_decision(subnet.config)
    return subnet


def _result(
    problem: Problem,
    config: SubnetConfig,
    small: nn.Module,
    ready: Preflight,
    timing: Timing,
    architecture: Architecture,
) -> PruneResult:
    cost = problem.cost
    top1, parent_top1 = (
        ready.accuracy(network) for network in (ready.to_given_types(small), ready.given)
    )
    return PruneResult(
        model=small.eval(),
        config=config,
        spent=dict(problem.meter.spent),
        trace=tuple(problem.trace_rows),
        macs=cost.macs(config),
        params=cost.params(config),
        parent_macs=cost.full_macs,
        parent_params=cost.full_params,
        val_top1=top1,
        parent_val_top1=parent_top1,
        space=problem.space,
        architecture=architecture,
        latency=_check_latency(problem, config, small, ready.given, timing),
    )


def _latency_table(
    parent: nn.Module,
    space: ChannelSpace,
    metric: BudgetUnit,
    timing: Timing,
    rules: WidthRules,
    cache: str | Path | None,
    tell: Tell,
) -> LatencyTable | None:
    """The operator times of the parent, where latency is what the budget limits."""
    if metric not in ("latency", "latency_ms"):
        return None
    return measure_latency(
        parent,
        space,
        timing,
        divisor=rules.divisor,
        folder=None if cache is None else Path(cache),
        tell=lambda done, total: tell("timing operators", done, total),
    )


def _check_latency(
    problem: Problem, config: SubnetConfig, small: nn.Module, given: nn.Module, timing: Timing
) -> LatencyCheck | None:
    """Predicted against measured latency, both networks timed side by side."""
    if problem.budget.metric != "latency":
        return None
    predicted = problem.cost_of_config(config)
    measured, parent_measured = pass_ns([small, given], problem.space, timing)
    return LatencyCheck(
        predicted_ms=predicted / NS_PER_MS,
        measured_ms=measured / NS_PER_MS,
        parent_predicted_ms=problem.full_cost / NS_PER_MS,
        parent_measured_ms=parent_measured / NS_PER_MS,
    )


def _loss(
    problem: Problem,
    pruner: Pruner,
    small: nn.Module,
    config: SubnetConfig,
    recipe: Recipe,
    distill: float | None,
) -> TrainingLoss | None:
    """The loss to fine-tune with; None for cross-entropy."""
    if distill is None:
        return pruner.loss(problem.model, small, problem.space, config)
    return problem.common_loss(distill, recipe.label_smoothing)


def _finetune(
    small: nn.Module,
    problem: Problem,
    make_loss: Callable[[], TrainingLoss | None],
    ready: Preflight,
    recipe: Recipe,
    config: SubnetConfig,
    tell: Tell,
) -> None:
    """Train the smaller network in place; without epochs, only measure its statistics anew."""
    if recipe.epochs == 0:
        first = islice(ready.train.epoch(0), RECALIBRATION_BATCHES)
        recalibrate(small, (images for images, _ in first))
        return
    with (
        problem.meter.phase("finetune"),
        reading(problem.model, ready.reader),
        reading(small, ready.reader),
    ):
        train(
            small,
            ready.train,
            recipe,
            loss=make_loss(),
            meter=problem.meter,
            macs_per_image=problem.cost.macs(config),
            on_step=lambda done, total, loss: tell(f"fine-tuning, loss {loss:.3f}", done, total),
        )


def _prunable_space(ready: Preflight, inexact: bool, rules: WidthRules) -> ChannelSpace:
    """The groups of the parent; patterns are held against them before anything is timed."""
    parent = ready.parent
    space = ChannelSpace.trace(parent, ready.input_size, inexact=inexact)
    if not space.groups:
        reasons = "; ".join(f"{p.where}: {p.reason}" for p in space.pinned[:3])
        computed = [path for path, m in parent.named_modules() if is_parametrized(m)]
        remedy = (
            f"; {computed[0]} computes its weight anew in every pass: make it plain with "
            "torch.nn.utils.parametrize.remove_parametrizations"
            if computed
            else ""
        )
        raise UnsupportedModel(
            f"{type(parent).__name__} has no prunable channels ({reasons}){remedy}"
        )
    ready.check_smaller(space)
    rules.legal(space)
    return space


def _one_budget(**given: float | None) -> tuple[float, BudgetUnit]:
    """The number that was given, and what it limits."""
    found = [(value, name) for name, value in given.items() if value is not None]
    if len(found) != 1:
        names = " and ".join(name for _, name in found) or "none"
        raise ValueError(
            "give one budget: macs=0.5 for half the multiply-adds, or params=..., latency=... or "
            f"latency_ms=...; given: {names}"
        )
    value, name = found[0]
    return value, cast(BudgetUnit, name)


@contextmanager
def _bar(is_shown: bool) -> Iterator[Tell]:
    """Show what is going on if standard error is a terminal or a notebook."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays out of the terminal
        disable=not (is_shown and (console.is_terminal or console.is_jupyter)),
    ) as bar:
        bar.add_task("tracing", total=None)

        def tell(text: str, done: int, total: int | None) -> None:
            (task,) = bar.tasks
            if total == task.total:
                bar.update(task.id, description=text, completed=done)
                return
            bar.remove_task(task.id)  # a new step: a bar that was full stays full
            bar.add_task(text, completed=done, total=total)

        yield tell

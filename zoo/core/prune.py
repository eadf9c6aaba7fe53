"""prune: one call from a trained network and two loaders to a smaller, fine-tuned network."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack, cast, get_args, get_type_hints

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from zoo.core.arguments import check_argument, checked
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.width_bounds import Ratio
from zoo.core.cost.budget import Budget, BudgetUnit
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.measure_latency import Timing
from zoo.core.data.metered import MeteredBatches
from zoo.core.errors import UnsupportedModel, unknown_name
from zoo.core.latency_check import LatencyCheck, check_latency, latency_table
from zoo.core.meter import Meter, Spent
from zoo.core.method.discovery import create_pruner, method_name
from zoo.core.method.effort import share_of_budget, told_effort, watched
from zoo.core.method.own_tasks import TaskArguments, check_served, check_task_arguments, own_loss
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, require_packages
from zoo.core.method.shared_search import largest_peaks, searched
from zoo.core.method.work import WorkArguments, set_up
from zoo.core.networks.architecture import Architecture
from zoo.core.networks.rebuild import rebuild
from zoo.core.preflight import Preflight, preflight
from zoo.core.progress import Tell, show_progress
from zoo.core.supernet.supernet import RECALIBRATION_BATCHES, recalibrate
from zoo.core.training.captured import check_capture
from zoo.core.training.checkpoint import Checkpoints, digest
from zoo.core.training.early_stopping import Validation
from zoo.core.training.ranks import decided, rank, require_alike, world
from zoo.core.training.task import TOP1
from zoo.core.training.train import FINETUNE, Recipe, TrainingLoss, train
from zoo.core.whole_file import require_place

__all__ = ["LatencyCheck", "PruneResult", "prune"]

_LOGGER = logging.getLogger(__name__)

_RULES = WidthRules()
_TIMING = Timing()


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
        val_score, parent_val_score: the metric on the validation loader. The search may have used
            these images: report it on others.
        val_top1, parent_val_top1: the same where the metric is top-1, as fractions; else None.
        space: the channel space of the given network.
        architecture: how timm makes the given network, for ``save_pruned``.
        latency: predicted against measured latency, and whether they agree; None unless the budget
            limits latency.
        metric: name of the metric.
    """

    model: nn.Module = field(repr=False)
    config: SubnetConfig = field(repr=False)
    spent: dict[str, Spent] = field(repr=False)
    trace: tuple[dict[str, object], ...] = field(repr=False)
    macs: int
    params: int
    parent_macs: int
    parent_params: int
    val_score: float
    parent_val_score: float
    val_top1: float | None
    parent_val_top1: float | None
    space: ChannelSpace = field(repr=False)
    architecture: Architecture = field(repr=False)
    latency: LatencyCheck | None = None
    metric: str = TOP1.name


@checked("model", "train_loader", "val_loader", "ratios")
@torch.enable_grad()  # whatever the caller switched off
def prune(
    model: nn.Module,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    method: str | Pruner = "uniform",
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
    **further: Unpack[FurtherArguments],
) -> PruneResult:
    """Return a smaller, fine-tuned copy of a trained network; ``model`` is not touched.

    Args:
        model: trained network, on the device to work on; half precision is worked on in single.
        train_loader: batches, anew each epoch, of (images, labels) or dicts, (N, C, H, W) and (N,).
        val_loader: the same, held out; searches compare candidates on it.
        method: a pruner, its name (``zoo.list_pruners()``), or a file, ``"mine.py:Mine"``.
        macs: budget in multiply-adds: at most 1, a share of the parent's; above 1, a number.
        params: the same in parameters.
        latency: a share of the parent's latency, from operator times that are measured first.
        latency_ms: the same in milliseconds a pass; one of the four, or ``ratios`` below 1.
        timing: batch, threads and layout that latency is measured with.
        cache: folder of operator times; the user's cache folder if None.
        settings: the pruner's hyperparameters, where they differ from its defaults. How long a
            supernet is trained and searched is scaled to the data where that is not given.
        recipe: how to fine-tune.
        distill: weight of ``model``'s logits in a common loss; None: the method's weights and loss.
        keep: patterns of what is never pruned, ``["layer4.*", "stem"]``; see `WidthRules`.
        ratios: what is kept by pattern: ``{"layer1.*": 0.8}``, or at least and most (0.5, 0.9).
        min_keep: least share that any group keeps.
        divisor: widths are multiples of it, or whole.
        inexact: also prune groups whose channels an operator mixes (see ``ChannelSpace.trace``).
        seed: of everything random.
        progress: show a bar on a terminal, else a line every 30 seconds, on standard error.
        model_args: what timm made ``model`` with beside its classes, so that it can be loaded.
        **further: ``device``, ``on_step``, ``on_epoch``, ``checkpoint`` (see `WorkArguments`);
            ``loss``, ``metric``, ``batch``, ``part`` of other tasks (see `TaskArguments`).

    Raises:
        ValueError: if budget, method, patterns or batches cannot work, or nothing is pruned.
        InfeasibleBudget: if no allowed subnet is small enough; it names the bound in the way.
        UnsupportedModel: if the network cannot be traced or has nothing to prune.
        Diverged: if fine-tuning diverges.
    """
    pruner, name = _named_pruner(method, settings or {})
    rules = WidthRules(min_keep, divisor, (keep,) if isinstance(keep, str) else tuple(keep), ratios)
    value, unit = _one_budget(rules, macs, params, latency, latency_ms)
    work, task = _parted(further)
    _require_places(work, cache)
    check_task_arguments(recipe, distill, task)
    device = work.get("device")
    ready = preflight(
        model, train_loader, val_loader, epochs=recipe.epochs, seed=seed, device=device, **task
    )
    if world() > 1:
        require_alike({"networks": digest(model.state_dict()), "batches": ready.labels_digest()})
    if recipe.cuda_graph and recipe.epochs > 0:
        check_capture(ready.train.device, ready.task.is_classification, "your loss")
    architecture = Architecture.of(ready.given, **(model_args or {}))
    with show_progress(is_shown=progress and rank() == 0) as (tell, say):
        space = _prunable_space(ready, inexact, rules)
        check_served(pruner, ready.task, space, distill, is_tuned=recipe.epochs > 0)
        table = decided(lambda: latency_table(ready.given, space, unit, timing, rules, cache, tell))
        problem = _problem(ready, name, CostModel(space, table), value, unit, rules, seed)
        with ready.read(problem.model):  # a supernet, if one is made here, is made to return logits
            if isinstance(method, str):
                pruner = _scaled(pruner, problem, settings or {})
            _say_effort(problem, pruner, recipe, say)
        tell("validating the given network", 0, None)
        given_value = ready.given_value()  # what the held-out set hides is told before the work
        set_up(problem, pruner, work, tell, ready.first_batches(), distill, inexact, task)
        config, small = _decided(pruner, problem, ready, recipe, distill, tell)
        result = _result(problem, config, small, ready, (timing, unit), architecture, given_value)
    if problem.checkpoints is not None and rank() == 0:
        problem.checkpoints.remove()
    return result


class FurtherArguments(WorkArguments, TaskArguments, total=False):
    """Arguments of `prune` that few calls need: how it works, and what the network is for."""


def _parted(given: FurtherArguments) -> tuple[WorkArguments, TaskArguments]:
    """The arguments of each kind.

    Raises:
        ValueError: for one that is there in neither, with the nearest names.
    """
    further = {*WorkArguments.__annotations__, *TaskArguments.__annotations__}
    for name in given:
        if name not in further:
            raise unknown_name("argument", name, {*further, *inspect.signature(prune).parameters})
    work = {n: value for n, value in given.items() if n in WorkArguments.__annotations__}
    for name, hint in get_type_hints(WorkArguments).items():
        check_argument(name, work.get(name), hint)
    check_argument("part", given.get("part", ""), str)
    task = {n: value for n, value in given.items() if n in TaskArguments.__annotations__}
    return cast(WorkArguments, work), cast(TaskArguments, task)


def _require_places(work: WorkArguments, cache: str | Path | None) -> None:
    """Refuse folders that cannot be written into, before the first batch.

    Raises:
        OSError: naming what is in the way.
    """
    kept = work.get("checkpoint")
    for folder in (kept.folder if isinstance(kept, Checkpoints) else kept, cache):
        if folder is not None:
            require_place(Path(folder) / "new")


def _named_pruner(method: str | Pruner, settings: Mapping[str, object]) -> tuple[Pruner, str]:
    """The pruner that is asked for, and its name, which its random streams depend on.

    Raises:
        ValueError: for an unknown name or setting, or packages that are missing.
    """
    if isinstance(method, str):
        pruner, name = create_pruner(method, **settings), method_name(method)
    elif settings:
        raise ValueError(
            f"settings belong to a pruner that is named; {type(method).__name__} has its own "
            "already: leave them out, or give them to it where it is made"
        )
    else:
        pruner, name = method, type(method).__module__.rpartition(".")[2]
    require_packages(type(pruner))
    return pruner, name


def _problem(
    ready: Preflight,
    name: str,
    cost: CostModel,
    value: float,
    unit: BudgetUnit,
    rules: WidthRules,
    seed: int,
) -> Problem:
    """What the pruner is asked; a budget that prunes nothing, or that nothing meets, is refused."""
    meter = Meter(ready.train.device)
    data = ready.metered(meter)
    budget = Budget.parse(value, cost, unit)
    problem = Problem(
        ready.parent, cost.space, cost, budget, data, rules, seed, meter, name, task=ready.task
    )
    problem.require_pruning()
    problem.check_feasible()
    return problem


def _scaled(pruner: Pruner, problem: Problem, given: Mapping[str, object]) -> Pruner:
    """The pruner with as much effort as the data ask for; what that changed is traced."""
    scaled = pruner.scaled(problem, given.keys())
    was, now = vars(pruner), vars(scaled)
    changed = {name: value for name, value in now.items() if value != was[name]}
    if changed:
        problem.trace("scaled_to_data", **changed)
    return scaled


def _say_effort(
    problem: Problem, pruner: Pruner, recipe: Recipe, say: Callable[[str], None]
) -> None:
    """Say what a search will cost, of methods for which that is worth telling."""
    efforts = pruner.effort(problem)
    if efforts:
        share = share_of_budget(problem)
        images = recipe.epochs * problem.data.num_train
        finetune = round(3 * images * share * problem.cost.full_macs)
        say(told_effort(problem.method, efforts, finetune))


def _decided(
    pruner: Pruner,
    problem: Problem,
    ready: Preflight,
    recipe: Recipe,
    distill: float | None,
    tell: Tell,
) -> tuple[SubnetConfig, nn.Module]:
    """The pruner's decision, and the smaller network that comes of it."""
    is_taught = distill is None and recipe.epochs > 0

    search = partial(_search, pruner, problem, ready, is_taught, tell)
    subnet = searched(problem, pruner, search, partial(ready.read, problem.model))
    problem.check_decision(subnet.config)
    return subnet.config, _finished(problem, pruner, subnet, ready, recipe, distill, tell)


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


def _search(
    pruner: Pruner, problem: Problem, ready: Preflight, is_taught: bool, tell: Tell
) -> Subnet:
    """The pruner's decision; `is_taught` if its own loss is used afterwards."""
    tell("searching", 0, None)
    efforts = pruner.effort(problem)
    with watched(problem.meter, efforts, tell), ready.read(problem.model):
        loss = None
        if is_taught:
            loss = own_loss(pruner, problem, problem.model, SubnetConfig.full())
        # Said beforehand: fine-tuning would diverge of it after the whole search.
        if loss is not None and (told := loss.divergence_hint(ready.train.first_images())):
            _LOGGER.warning("fine-tuning may diverge: %s", told)
        return pruner.search(problem)


def _result(
    problem: Problem,
    config: SubnetConfig,
    small: nn.Module,
    ready: Preflight,
    timed: tuple[Timing, BudgetUnit],
    architecture: Architecture,
    parent_value: float,
) -> PruneResult:
    cost = problem.cost
    largest_peaks(problem.meter)
    value = ready.value(ready.to_given_types(small))
    is_top1 = ready.task.metric.name == TOP1.name
    return PruneResult(
        model=small.eval(),
        config=config,
        spent=dict(problem.meter.spent),
        trace=tuple(problem.trace_rows),
        macs=cost.macs(config),
        params=cost.params(config),
        parent_macs=cost.full_macs,
        parent_params=cost.full_params,
        val_score=value,
        parent_val_score=parent_value,
        val_top1=value if is_top1 else None,
        parent_val_top1=parent_value if is_top1 else None,
        space=problem.space,
        architecture=architecture,
        latency=decided(lambda: check_latency(problem, config, small, ready.given, *timed)),
        metric=ready.task.metric.name,
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
        return own_loss(pruner, problem, small, config, recipe.label_smoothing)
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
    macs = problem.cost.macs(config)
    held_out = MeteredBatches(ready.validation, problem.meter, macs_per_image=macs)
    validation = Validation(lambda network: ready.task.metric.score(ready.value(network, held_out)))
    with (
        problem.phase("finetune"),
        ready.read(problem.model),
        ready.read(small),
    ):
        losses = train(
            small,
            ready.train,
            recipe,
            loss=make_loss(),
            meter=problem.meter,
            macs_per_image=macs,
            validation=validation,
            watch=problem.watch,
            checkpoints=problem.checkpoints,
        )
    if recipe.patience is not None:
        scores, best = validation.scores, validation.best_epoch
        problem.trace("finetune", losses=list(losses), scores=scores, best_epoch=best)


def _prunable_space(ready: Preflight, inexact: bool, rules: WidthRules) -> ChannelSpace:
    """The groups of the parent; patterns are held against them before anything is timed."""
    parent = ready.parent
    space = _traced(ready, inexact)
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


def _traced(ready: Preflight, inexact: bool) -> ChannelSpace:
    """The space of the parent; a network that cannot be traced is told of its parts."""
    try:
        return ChannelSpace.trace(ready.parent, ready.size, inexact=inexact)
    except UnsupportedModel as error:
        parts = [n for n, m in ready.parent.named_children() if any(True for _ in m.parameters())]
        if ready.task.is_classification or (ready.entry and ready.entry.part) or not parts:
            raise
        raise UnsupportedModel(
            f"{error} To prune a part alone, give part={parts[0]!r}, or another of its modules "
            f"({', '.join(parts)})"
        ) from error


def _one_budget(rules: WidthRules, *numbers: float | None) -> tuple[float, BudgetUnit]:
    """The number that was given, and what it limits; all multiply-adds where ratios decide."""
    given = dict(zip(get_args(BudgetUnit), numbers, strict=True))
    found = [(value, name) for name, value in given.items() if value is not None]
    if not found and rules.narrow:
        return 1.0, "macs"
    if len(found) != 1:
        names = " and ".join(name for _, name in found) or "none"
        raise ValueError(
            "give one budget: macs=0.5 for half the multiply-adds, or params=..., latency=... or "
            f"latency_ms=..., or ratios below 1 alone; given: {names}"
        )
    value, name = found[0]
    return value, cast(BudgetUnit, name)

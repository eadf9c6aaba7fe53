"""The one place that calls everything, in order.

    data -> trained parent -> channel space, cost, budget -> problem -> search -> surgery
         -> recalibrate | fine-tune, in each way -> test, opened once -> record

Every method sees the same parent, split, batches and order of batches. Its decision is finished in
the common way: the parent's weights at the kept channels, the same recipe and the same loss for
every method. What a method hands on beside its decision, trained weights or a loss, makes its own
finish, which is told beside the common one. The test split is opened after the last decision and
scores all networks in one go: the parent, the pruned one as surgery leaves it, the recalibrated one
and the fine-tuned ones. Where several processes train, all take these steps; rank 0 alone decides,
tests and times. Runtime is measured later, when nothing runs beside it; see
`benchmarks.running.time_networks`.
"""

import copy
import json
import math
import time
import traceback
from collections.abc import Sized
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import JsonValue, ValidationError
from torch import nn

from benchmarks.measuring.environment import capture
from benchmarks.measuring.measure import Runtimes, measure_pair
from benchmarks.records.cell import PARENT, Cell, Sample
from benchmarks.records.plain import counted, visible, without_folders
from benchmarks.records.record import (
    PHASES,
    Group,
    HandedOn,
    Phase,
    PhaseCost,
    Record,
    Size,
    Status,
    Top1,
)
from benchmarks.records.runtime import Environment, PredictedLatency, fingerprint
from benchmarks.records.strict import explain
from benchmarks.running.costs import cost_model, predicted_latency, rules_of, size_of
from benchmarks.running.finetune import fine_tuned
from benchmarks.running.kept import cell_checkpoints
from benchmarks.running.methods import asked_method
from benchmarks.running.network import untrained
from benchmarks.running.parent import (
    Places,
    fixed_batches,
    laid_out,
    look_ahead,
    parent_for,
    splits_for_all,
    train_batches,
)
from benchmarks.running.sample import PROXIES, draw_sample
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.data.batches import Batches
from zoo.core.data.datasets import Splits
from zoo.core.data.metered import MeteredData, TestSplit
from zoo.core.errors import InfeasibleBudget
from zoo.core.meter import Meter
from zoo.core.method.discovery import create_pruner
from zoo.core.method.guard import left_alone
from zoo.core.method.own_tasks import own_loss
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.method.shared_search import answered_by_rank_0, largest_peaks, searched
from zoo.core.networks.rebuild import rebuild
from zoo.core.supernet.supernet import recalibrate
from zoo.core.supernet.trained_store import SupernetStore
from zoo.core.training.events import Watch
from zoo.core.training.ranks import decided
from zoo.core.training.train import evaluate

__all__ = ["Findings", "build_problem", "describe", "refuse", "run_cell"]

_NOBODY = Watch()

LONGEST_REASON = 4000
"""Characters of a reason that a record holds."""


@dataclass
class Findings:
    """Filled step by step, so that the record of a failed run still says what it spent."""

    meter: Meter
    method: str = ""  # as `create_pruner` takes it
    size: Size | None = None
    top1: Top1 = field(default_factory=Top1)
    handed_on: tuple[HandedOn, ...] = ()
    baseline: PhaseCost | None = None
    runtimes: Runtimes = field(default_factory=Runtimes)
    predicted_latency: PredictedLatency | None = None
    groups: tuple[Group, ...] = ()
    images: dict[Literal["train", "search", "test"], int] = field(default_factory=dict)
    input_size: tuple[int, int, int] | None = None
    num_classes: int | None = None
    config: SubnetConfig | None = None
    problem: Problem | None = None
    pruner: Pruner | None = None
    scores: tuple[float, ...] = ()
    network: nn.Module | None = None
    error: Exception | None = None


def run_cell(
    cell: Cell,
    *,
    suite: str,
    places: Places,
    workers: int = 1,
    is_timed: bool = False,
    watch: Watch = _NOBODY,
) -> tuple[Record, Findings]:
    """Run a cell; whatever happens, the record says what, and how far it came.

    Args:
        cell: what to run.
        suite: name to record.
        places: where parents are cached and data lie.
        workers: how many cells run beside each other, to record.
        is_timed: measure the runtime, too; only where nothing runs beside it.
        watch: who is told of trainings.

    Returns:
        The record, not yet written, and all that was found, the fine-tuned network among it.
    """
    findings, started = Findings(meter=Meter(cell.device)), time.perf_counter()
    status: Status = "ok"
    reason = None
    try:
        _follow(cell, places, findings, is_timed, watch)
    except InfeasibleBudget as error:
        status, reason, findings.error = "infeasible", str(error), error
    except KeyboardInterrupt:
        status, reason = "cancelled", "interrupted"
    except Exception as error:  # a method is foreign code: whatever it raises, the others still run
        status, reason, findings.error = "failed", describe(error), error
    except SystemExit as error:  # a method that ends the program would end it for all cells
        status, reason = "failed", describe(error)
        findings.error = ValueError(f"{cell.method} ended the program; {reason}")
    seconds = time.perf_counter() - started
    environment = capture(workers, cell.device)
    try:
        record = _record(cell, suite, environment, findings, status, reason, seconds)
    except ValidationError as error:  # impossible numbers: the cell fails, the others still run
        reason = f"what came of it cannot be recorded: {explain(error)}"
        findings.error = ValueError(reason)
        nothing = Findings(findings.meter)
        record = _record(cell, suite, environment, nothing, "failed", reason, seconds)
    return record, findings


def refuse(
    cell: Cell, reason: str, *, suite: str, workers: int = 1, status: Status = "failed"
) -> Record:
    """The record of a cell that could not start, or of which nothing is left.

    Args:
        cell: what was asked.
        reason: why it could not.
        suite: name to record.
        workers: how many cells run beside each other, to record.
        status: how it ended.
    """
    environment = capture(workers, cell.device)
    return _record(cell, suite, environment, Findings(Meter(cell.device)), status, reason, 0.0)


def build_problem(
    cell: Cell, model: nn.Module, splits: Splits, meter: Meter, cache: Path | None = None
) -> Problem:
    """What the method of a cell is given.

    Args:
        cell: says budget, rules and seed.
        model: the trained parent.
        splits: of the data; the test split is not handed on.
        meter: that counts what the method spends.
        cache: folder of supernets and operator times; if None, no supernet is kept and times lie
            in the user's cache folder.

    Raises:
        ValueError: if the budget is above the parent's cost.
        InfeasibleBudget: if it is below the smallest legal subnet.
    """
    space = ChannelSpace.trace(model, splits.input_size)
    cost = cost_model(cell, model, space, None if cache is None else cache / "latency")
    return Problem(
        model=model,
        space=space,
        cost=cost,
        budget=Budget.parse(cell.budget, cost, metric=cell.metric),
        data=_metered(cell, splits, meter),
        # The control is the whole parent, whatever the bounds of the methods beside it.
        rules=WidthRules() if cell.method == PARENT else rules_of(cell.rules),
        seed=cell.seed,
        meter=meter,
        method=cell.method,
        store=None if cache is None else SupernetStore(cache / "supernets", cell.supernet_key),
    )


def _follow(cell: Cell, places: Places, findings: Findings, is_timed: bool, watch: Watch) -> None:
    """The steps of the protocol; what each one finds goes into `findings` at once."""
    findings.method = asked_method(cell, places.methods)
    splits = splits_for_all(cell, places)
    findings.images = _image_counts(splits)
    findings.input_size, findings.num_classes = splits.input_size, splits.num_classes
    parent = parent_for(cell, places, watch)
    findings.baseline = parent.cost
    look_ahead(cell, cell.finetune, parent.model, splits)
    problem = build_problem(cell, parent.model, splits, findings.meter, places.cache)
    problem.watch, problem.checkpoints = watch, cell_checkpoints(cell, places)
    findings.problem = problem
    findings.size = size_of(problem, None)
    problem.check_feasible()
    if cell.sample is None:
        _prune(cell, problem, splits, findings)
        if is_timed:
            decided(lambda: _time(cell, problem, findings))
    elif cell.member is None:
        _score(cell, problem, cell.sample, findings)
    else:
        _train_member(cell, problem, cell.sample, cell.member, splits, findings)
    largest_peaks(findings.meter)


def _prune(cell: Cell, problem: Problem, splits: Splits, findings: Findings) -> None:
    """Search, surgery, fine-tuning, then the test split."""
    parent, test_split = problem.model, TestSplit(splits.test)
    subnet = _decision(cell, problem, findings)
    _accept(problem, subnet, findings)

    pruned = laid_out(rebuild(parent, problem.space, subnet.config), cell.finetune)
    recalibrated = _recalibrated(pruned, cell, splits)
    common = _finished_commonly(cell, problem, pruned, subnet.config, splits, findings)
    own = _finished_its_own_way(cell, problem, subnet, splits, findings)
    network = common or own
    assert network is not None

    test = fixed_batches(cell, splits, test_split.open())
    findings.top1 = decided(
        lambda: Top1(
            parent=_parent_top1(cell, parent, test),
            pruned=evaluate(pruned, test),
            recalibrated=evaluate(recalibrated, test),
            finetuned=evaluate(common, test) if common else None,
            own=evaluate(own, test) if own else None,
        )
    )
    findings.predicted_latency = predicted_latency(cell, problem, subnet.config, ())
    findings.network = network


def _time(cell: Cell, problem: Problem, findings: Findings) -> None:
    """Measure the runtime of parent and pruned network."""
    assert findings.network is not None and findings.config is not None
    findings.runtimes = measure_pair(
        problem.model,
        findings.network,
        problem.space.input_size,
        latency=cell.latency,
        device=cell.device,
    )
    findings.predicted_latency = predicted_latency(
        cell, problem, findings.config, findings.runtimes.latency
    )


def _decision(cell: Cell, problem: Problem, findings: Findings) -> Subnet:
    """What the method decides; of the fine-tuned parent, to keep everything."""
    if cell.method == PARENT:
        return Subnet(SubnetConfig.full())
    findings.pruner = pruner = create_pruner(findings.method, **cell.settings)
    return searched(problem, pruner, lambda: pruner.search(problem))


def _finished_commonly(
    cell: Cell,
    problem: Problem,
    pruned: nn.Module,
    config: SubnetConfig,
    splits: Splits,
    findings: Findings,
) -> nn.Module | None:
    """The network after the finish that is the same for every method, if it is wanted."""
    if "common" not in cell.finishes:
        return None
    student = _starting(cell, problem, pruned, config, splits)
    loss = problem.common_loss(cell.distill, cell.last_training.label_smoothing)
    return fine_tuned(cell, problem, student, config, splits, loss)


def _finished_its_own_way(
    cell: Cell, problem: Problem, subnet: Subnet, splits: Splits, findings: Findings
) -> nn.Module | None:
    """The network after the finish with what the method hands on; None if that is the common one.

    Where the common finish is not wanted, this one is made in any case.
    """
    if findings.pruner is None or "own" not in cell.finishes or cell.is_redrawn or cell.longer:
        return None
    student = rebuild(problem.model, problem.space, subnet.config, subnet.weights)
    student = laid_out(student, cell.finetune)
    with left_alone(problem.model, findings.pruner):
        smoothing = cell.last_training.label_smoothing
        loss = own_loss(findings.pruner, problem, student, subnet.config, smoothing)
        handed_on: tuple[tuple[HandedOn, bool], ...] = (
            ("weights", subnet.weights is not None),
            ("loss", loss is not None),
        )
        findings.handed_on = tuple(name for name, is_given in handed_on if is_given)
        if not findings.handed_on and "common" in cell.finishes:
            return None
        return fine_tuned(cell, problem, student, subnet.config, splits, loss, phase="finetune_own")


_PARENT_TOP1: dict[str, float] = {}
"""Test accuracy by parent key; neighbouring cells share their parent, so it is tested once."""


def _parent_top1(cell: Cell, parent: nn.Module, test: Batches) -> float:
    """Test accuracy of the unpruned network, which is the same for every cell that starts there."""
    if cell.parent_key not in _PARENT_TOP1:
        _PARENT_TOP1[cell.parent_key] = evaluate(parent, test)
    return _PARENT_TOP1[cell.parent_key]


def _score(cell: Cell, problem: Problem, sample: Sample, findings: Findings) -> None:
    """Scores of every configuration of the sample, by a method or a proxy."""
    configs = draw_sample(problem, sample)
    if cell.method in PROXIES:
        scores = decided(lambda: PROXIES[cell.method](problem, configs))
    else:
        findings.pruner = pruner = create_pruner(findings.method, **cell.settings)
        scores = answered_by_rank_0(problem, pruner, lambda: pruner.scores(problem, configs))
    found = tuple(float(score) for score in scores)
    if len(found) != len(configs) or not all(map(math.isfinite, found)):
        raise ValueError(
            f"{cell.method} gave {counted(len(found), 'score')} for "
            f"{counted(len(configs), 'configuration')}, or scores that are not finite"
        )
    findings.scores = found


def _train_member(
    cell: Cell, problem: Problem, sample: Sample, member: int, splits: Splits, findings: Findings
) -> None:
    """One configuration of the sample, trained alone with cross-entropy, and tested."""
    test_split = TestSplit(splits.test)
    subnet = Subnet(draw_sample(problem, sample)[member])
    _accept(problem, subnet, findings)
    pruned = laid_out(rebuild(problem.model, problem.space, subnet.config), cell.finetune)
    student = _starting(cell, problem, pruned, subnet.config, splits)
    finetuned = fine_tuned(cell, problem, student, subnet.config, splits, None)
    test = fixed_batches(cell, splits, test_split.open())
    findings.top1 = decided(lambda: Top1(finetuned=evaluate(finetuned, test)))
    findings.network = finetuned


def _starting(
    cell: Cell, problem: Problem, pruned: nn.Module, config: SubnetConfig, splits: Splits
) -> nn.Module:
    """The network that training starts from: a copy of the pruned one, or newly drawn weights.

    New weights are cut out of a newly drawn full network, so that every architecture keeps its own
    way of drawing them; behind a batch normalisation their scale does not matter.
    """
    if not cell.is_redrawn:
        return copy.deepcopy(pruned)
    return laid_out(rebuild(untrained(cell, splits), problem.space, config), cell.last_training)


def _accept(problem: Problem, subnet: Subnet, findings: Findings) -> None:
    """Note the decision, then refuse it if it breaks the rules or the budget.

    Raises:
        ValueError: if the method returned what it must not.
    """
    config = subnet.config
    findings.config = config
    problem.rules.check(problem.space, config)
    findings.size = size_of(problem, config)
    findings.groups = tuple(
        Group(name=group.name, size=group.size, kept=len(config.indices(group)), stage=group.stage)
        for group in problem.space.groups
    )
    problem.check_decision(config)


def _recalibrated(pruned: nn.Module, cell: Cell, splits: Splits) -> nn.Module:
    """A copy whose batch-norm statistics are averages over a few training batches, weights kept."""
    model = copy.deepcopy(pruned)
    batches = train_batches(cell, cell.finetune, splits).epoch(0)
    recalibrate(model, (images for images, _ in islice(batches, cell.recalibration_batches)))
    return model.eval()


def _metered(cell: Cell, splits: Splits, meter: Meter) -> MeteredData:
    return MeteredData(
        train_batches(cell, cell.finetune, splits),
        fixed_batches(cell, splits, splits.search),
        meter,
    )


def _image_counts(splits: Splits) -> dict[Literal["train", "search", "test"], int]:
    return {
        "train": len(cast(Sized, splits.train)),
        "search": len(cast(Sized, splits.search)),
        "test": len(cast(Sized, splits.test)),
    }


def _record(
    cell: Cell,
    suite: str,
    environment: Environment,
    findings: Findings,
    status: Status,
    reason: str | None,
    seconds: float,
) -> Record:
    spent: dict[Phase, PhaseCost] = {
        phase: PhaseCost.model_validate(findings.meter.spent[phase].to_json())
        for phase in PHASES
        if phase in findings.meter.spent
    }
    if findings.baseline is not None:
        spent["baseline"] = findings.baseline
    rows = findings.problem.trace_rows if findings.problem else []
    return Record(
        id="",
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        suite=without_folders(suite),
        cell=cell,
        status=status,
        reason=None if reason is None else without_folders(reason)[:LONGEST_REASON],
        method_settings=_plain(asdict(cast(Any, findings.pruner))) if findings.pruner else {},
        images=findings.images,
        input_size=findings.input_size,
        num_classes=findings.num_classes,
        size=findings.size,
        top1=findings.top1,
        handed_on=findings.handed_on,
        spent=spent,
        seconds=seconds,
        **vars(findings.runtimes),
        predicted_latency=findings.predicted_latency,
        groups=findings.groups,
        config=_plain(findings.config.to_json()) if findings.config else None,
        trace=tuple(_plain(row) for row in rows),
        scores=findings.scores,
        environment=environment,
        fingerprint=fingerprint(environment, cell.device, cell.latency.threads),
    )


def _plain(value: object) -> dict[str, JsonValue]:
    """A mapping as JSON would give it back: tuples become lists, NaN and infinity null."""
    text = json.dumps(value)
    plain: dict[str, JsonValue] = json.loads(text, parse_constant=lambda _: None)
    return plain


def describe(error: BaseException) -> str:
    """Kind, message and the line that raised it, without the folders of this machine."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    try:
        message = explain(error) if isinstance(error, ValidationError) else str(error)
    except Exception:  # a stranger's exception, too, may fail to say what it is
        message = "its message cannot be read"
    message = visible(without_folders(message), LONGEST_REASON // 2)
    return f"{type(error).__name__}: {message}{place}"

"""The contract that every pruner passes, whoever wrote it.

`check_pruner(cls)` runs all checks on three tiny networks (residual, depthwise, squeeze-excite) and
raises `ContractViolation`, which names the check, at the first that fails. A check that the class
declares in `known_exceptions` has to fail.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from zoo.core.arguments import checked
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.contract.outcome import ContractViolation, Outcome
from zoo.core.contract.trial import (
    NETWORKS,
    Snapshot,
    Trial,
    images_and_labels,
    same_config,
)
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.count import count_macs
from zoo.core.errors import InfeasibleBudget, UnsupportedModel
from zoo.core.method.card import card, card_steps
from zoo.core.method.discovery import kind_of
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.networks.rebuild import rebuild
from zoo.core.search.widths_in_budget import uniform_widths
from zoo.core.supernet.supernet import Supernet
from zoo.core.training.gradients import backward

__all__ = [
    "CHECKS",
    "Check",
    "ContractViolation",
    "Outcome",
    "check_pruner",
    "contract",
    "run_check",
]

# A search may stay this far below its budget, or further if no channel more would fit.
SLACK = 0.1
# Above the rounding of float64 through some twenty layers, far below any real difference.
FLOAT64_TOLERANCE = 1e-9


class _Broken(AssertionError):
    """What a check found; becomes a ContractViolation with the check's number."""


class _Refused(Exception):
    """A peer does not take the network, or misses the budget, and says so."""


@dataclass(frozen=True)
class Check:
    """One check of the contract.

    Attributes:
        number: fixed, as in the documentation.
        name: what holds when it passes.
        scope: whether it looks at each network, at the class alone, or needs a GPU.
        run: raises if it does not hold.
    """

    number: int
    name: str
    scope: Literal["network", "class", "gpu"]
    run: Callable[[Trial], None]

    def skipped_for(self, cls: type[Pruner]) -> str:
        """Why the check is not meant for this class, on this machine; empty if it is."""
        if self.scope == "gpu" and not torch.cuda.is_available():
            return "torch sees no GPU"
        if self.number == 16 and kind_of(cls) != "method":
            return "asked of the published methods in zoo/ alone"
        return ""


CHECKS: list[Check] = []


def _check(
    number: int, scope: Literal["network", "class", "gpu"] = "network"
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    def add(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        CHECKS.append(Check(number, function.__name__, scope, function))
        return function

    return add


def run_check(check: Check, trial: Trial) -> Outcome:
    """Run one check.

    Raises:
        ContractViolation: if it fails and is no known exception, or is one and passes.
    """
    network = trial.network if check.scope != "class" else ""
    if reason := check.skipped_for(trial.cls):
        return Outcome(check.number, check.name, network, "skipped", reason)
    excuse = trial.cls.known_exceptions.get(check.name)
    try:
        _run(check, trial)
    except _Refused as refusal:
        return Outcome(check.number, check.name, network, "skipped", str(refusal))
    # Whatever a stranger's pruner raises is a finding of the check that called it.
    except Exception as error:
        if excuse is not None:
            return Outcome(check.number, check.name, network, "expected", excuse)
        raised = "" if isinstance(error, _Broken) else type(error).__name__
        reason = f"{raised}: {error}" if raised else str(error)
        place = (raised and _raised_at(error, trial.cls)) or _defined_at(check, trial.cls)
        raise ContractViolation(check.number, check.name, reason, place, raised) from error
    if excuse is not None:
        reason = f"passes, but is declared as a known exception ({excuse})"
        raise ContractViolation(check.number, check.name, reason)
    return Outcome(check.number, check.name, network, "passed")


def _raised_at(error: Exception, cls: type[Pruner]) -> str:
    """File and line: the last of the pruner's own file that the error came through, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(inspect.getmodule(cls), "__file__", None)
    mine = [each for each in frames if each.filename == own]
    return f"{Path(mine[-1].filename).name}, line {mine[-1].lineno}" if mine else ""


def _defined_at(check: Check, cls: type[Pruner]) -> str:
    """File and line of what a check is about: the search, the loss, or the class."""
    part: Callable[..., object] = cls if check.scope == "class" else cls.search
    if check.run is loss_depends_on_the_student:
        part = cls.loss
    try:
        path, line = inspect.getsourcefile(part), inspect.getsourcelines(part)[1]
    except (OSError, TypeError):  # of a class that was made where no source is
        return ""
    return f"{Path(path).name}, line {line}" if path else ""


def _run(check: Check, trial: Trial) -> None:
    """Run one check; a library of others may refuse a network or a budget, methods may not.

    Raises:
        _Refused: if a peer does.
    """
    try:
        check.run(trial)
    except (InfeasibleBudget, UnsupportedModel) as refusal:
        if kind_of(trial.cls) != "peer" or check.scope != "network":
            raise
        raise _Refused(str(refusal)) from refusal


def contract(
    cls: type[Pruner], networks: Sequence[str] = tuple(NETWORKS), device: str = "cpu"
) -> Iterator[Outcome]:
    """Run all checks, one after the other, and report every outcome, failures included.

    Args:
        cls: a frozen dataclass derived from `Pruner`.
        networks: keys of `NETWORKS`.
        device: where the searches run.

    Raises:
        ValueError: if the class names an exception for a check that does not exist.
    """
    unknown = cls.known_exceptions.keys() - {check.name for check in CHECKS}
    if unknown:
        raise ValueError(f"known_exceptions of {cls.__name__} names no check: {sorted(unknown)}")
    trials = [Trial(cls, network, device) for network in networks]
    for check in CHECKS:
        for trial in trials[:1] if check.scope == "class" else trials:
            try:
                yield run_check(check, trial)
            except ContractViolation as violation:
                network = "" if check.scope == "class" else trial.network
                yield Outcome(
                    check.number,
                    check.name,
                    network,
                    "failed",
                    violation.reason,
                    violation.place,
                    violation.raised,
                )


@checked()
def check_pruner(
    cls: type[Pruner], networks: Sequence[str] = tuple(NETWORKS), device: str = "cpu"
) -> tuple[Outcome, ...]:
    """The outcomes of all checks, none of them a failure.

    Args:
        cls: a frozen dataclass derived from `Pruner`.
        networks: keys of `NETWORKS`.
        device: where the searches run.

    Raises:
        ContractViolation: at the first check that fails.
    """
    outcomes = []
    for outcome in contract(cls, networks, device):
        if outcome.status == "failed":
            raise ContractViolation(
                outcome.number, outcome.name, outcome.reason, outcome.place, outcome.raised
            )
        outcomes.append(outcome)
    return tuple(outcomes)


def _require(is_met: bool, reason: str) -> None:
    if not is_met:
        raise _Broken(reason)


@_check(1, "class")
def constructor_stores_fields_only(trial: Trial) -> None:
    """Equal fields make equal objects, and the repr evaluates back."""
    cls = trial.cls
    _require(is_dataclass(cls), "is no dataclass")
    _require(cls.__dataclass_params__.frozen, "is not frozen")  # type: ignore[attr-defined]
    for pruner in (cls(), cls.tiny()):
        given = {f.name: getattr(pruner, f.name) for f in fields(pruner)}  # type: ignore[arg-type]
        _require(vars(pruner) == given, f"stores more than its fields: {sorted(vars(pruner))}")
        again = cls(**given)
        _require(vars(again) == given, f"changes what it is given: {again} from {given}")
        _require(pruner == again and hash(pruner) == hash(again), "equal fields, unequal objects")
        evaluated = eval(repr(pruner), {cls.__name__: cls})
        _require(evaluated == pruner, f"repr does not evaluate back: {pruner!r}")


@_check(2)
def config_fits_the_space(trial: Trial) -> None:
    """Sorted, unique, in range, wide enough, and multiples of a divisor where one is asked for."""
    _require_fit(trial, trial.first.subnet.config, WidthRules())
    rules = WidthRules(min_keep=0.25, divisor=4)
    _require_fit(trial, trial.run(rules=rules).subnet.config, rules)


def _require_fit(trial: Trial, config: SubnetConfig, rules: WidthRules) -> None:
    sizes = {group.name: group.size for group in trial.space.groups}
    minimums = dict(zip(sizes, rules.minimums(trial.space).tolist(), strict=True))
    for name, kept in config.keep.items():
        _require(name in sizes, f"unknown group {name}")
        size = sizes[name]
        _require(list(kept) == sorted(set(kept)), f"{name}: {kept} is not sorted and unique")
        _require(kept[0] >= 0 and kept[-1] < size, f"{name}: {kept} leaves 0 to {size - 1}")
        minimum = minimums[name]
        _require(len(kept) >= minimum, f"{name}: width {len(kept)} is below {minimum}")
        is_legal = len(kept) == size or len(kept) % rules.divisor == 0
        _require(is_legal, f"{name}: width {len(kept)} is no multiple of {rules.divisor}")


@_check(3)
def cost_meets_the_budget(trial: Trial) -> None:
    """At most the budget, and not absurdly below it."""
    problem, config = trial.first.problem, trial.first.subnet.config
    cost, limit = problem.cost_of_config(config), problem.budget.limit
    _require(cost <= limit, f"{cost:,} MACs are over the budget of {limit:,}")
    if cost >= (1 - SLACK) * limit:
        return
    for group, legal in zip(problem.space.groups, problem.legal, strict=True):
        width = len(config.indices(group))
        wider = [w for w in legal.tolist() if w > width]
        if wider:
            keep = {**config.keep, group.name: tuple(range(wider[0]))}
            more = problem.cost_of_config(SubnetConfig(keep))
            _require(more > limit, f"{cost:,} of {limit:,} MACs, and {group.name} could be wider")


@_check(4)
def impossible_budget_is_refused(trial: Trial) -> None:
    """InfeasibleBudget after a bounded number of evaluations."""
    cost = CostModel(trial.space)
    smallest = cost.macs_of_widths(WidthRules().minimums(trial.space)[None])
    try:
        trial.run(int(smallest[0]) - 1)
    except InfeasibleBudget:
        return
    raise _Broken("returned a subnet for a budget below the smallest one")


@_check(5)
def full_budget_returns_everything(trial: Trial) -> None:
    """A budget of the full cost leaves the network as it is."""
    config = trial.run(keep_ratio=1).subnet.config
    _require(same_config(trial.space, config, SubnetConfig.full()), "dropped channels for nothing")


@_check(6)
def model_is_untouched(trial: Trial) -> None:
    """Weights, buffers, modes, gradients, hooks and attributes are as before."""
    changed = trial.first.before.difference(trial.first.after)
    _require(changed is None, f"changed the caller's model: {changed}")


@_check(7)
def search_is_reproducible(trial: Trial) -> None:
    """Same seed, same answer; the global generators are left alone."""
    first, second = trial.first, trial.run()
    _require(not first.is_random_touched, "changed the state of a global random generator")
    same = same_config(trial.space, first.subnet.config, second.subnet.config)
    _require(same, "the same seed gave another configuration")
    weights, again = first.subnet.weights or {}, second.subnet.weights or {}
    _require(weights.keys() == again.keys(), "the same seed gave other weights")
    for name, tensor in weights.items():
        _require(torch.equal(tensor, again[name]), f"the same seed gave another {name}")


@_check(8)
def supernet_equals_rebuilt(trial: Trial) -> None:
    """The sliced supernet and the rebuilt network agree in eval mode and float64."""
    run = trial.first
    model = copy.deepcopy(run.problem.model).double().eval()
    given = run.subnet.weights
    weights = given and {n: t.double() if t.is_floating_point() else t for n, t in given.items()}
    images = images_and_labels(4)[0].double().to(trial.device)
    with torch.no_grad():
        rebuilt = rebuild(model, trial.space, run.subnet.config, weights).eval()(images)
        supernet = Supernet(model, trial.space)
        values = supernet.sliced(run.subnet.config, weights)
        logits = supernet.forward(images, run.subnet.config, values)
    difference = (logits - rebuilt).abs().max().item()
    bound = FLOAT64_TOLERANCE * max(1.0, rebuilt.abs().max().item())
    _require(difference <= bound, f"logits differ by {difference}")


@_check(9)
def cost_equals_independent_count(trial: Trial) -> None:
    """MACs by torch's own formulas and parameters by counting, on the rebuilt network."""
    problem, config = trial.first.problem, trial.first.subnet.config
    small = trial.rebuilt().eval()
    macs = count_macs(small, trial.space.input_size)
    params = sum(parameter.numel() for parameter in small.parameters())
    said, counted = (problem.cost.macs(config), problem.cost.params(config)), (macs, params)
    _require(said == counted, f"(MACs, parameters) are {counted}, the cost model says {said}")


@_check(10)
def rebuilt_network_trains(trial: Trial) -> None:
    """A training step reaches every parameter; state dict and deep copy work."""
    small = trial.rebuilt().train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    images, labels = images_and_labels(8)
    backward(F.cross_entropy(small(images), labels))
    for name, parameter in small.named_parameters():
        is_reached = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        _require(is_reached, f"{name} got no finite gradient")
    optimizer.step()
    small.eval()
    again = trial.rebuilt().eval()
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        logits = small(images)
        _require(torch.equal(logits, again(images)), "the state dict does not round-trip")
        _require(torch.equal(logits, copy.deepcopy(small)(images)), "a deep copy differs")


@_check(11)
def loss_depends_on_the_student(trial: Trial) -> None:
    """A finite scalar whose gradient reaches the student and not the teacher."""
    teacher = copy.deepcopy(trial.first.problem.model).cpu()
    student = trial.rebuilt().train()
    loss = trial.pruner.loss(teacher, student, trial.space, trial.first.subnet.config)
    if loss is None:
        return
    before = Snapshot.take(teacher)
    value = loss(student, *images_and_labels(8))
    _require(value.ndim == 0 and bool(value.isfinite()), f"the loss is {value}")
    _require(value.requires_grad, "the loss has no gradient")
    backward(value)
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    _require(any(bool(grad.any()) for grad in grads), "the loss does not depend on the student")
    changed = before.difference(Snapshot.take(teacher))
    _require(changed is None, f"changed the teacher: {changed}")


@_check(12)
def data_are_charged(trial: Trial) -> None:
    """Every image drawn was charged, and the test split was not opened."""
    run = trial.first
    _require(not run.is_test_opened, "opened the test split")
    charged = run.problem.meter.total().images
    _require(charged == run.images_drawn, f"drew {run.images_drawn} images, charged {charged}")


@_check(13)
def trace_ends_with_the_config(trial: Trial) -> None:
    """The trace is JSON, and its last row holds the returned configuration."""
    rows = trial.first.problem.trace_rows
    again = json.loads(json.dumps(rows, allow_nan=False))
    _require(again == rows, "the trace changes when written as JSON and read back")
    last = rows[-1].get("config") if rows else None
    config = trial.first.subnet.config.to_json()
    _require(last == config, f"the trace ends with {last}, not with the returned configuration")


@_check(14, "class")
def card_matches_the_code(trial: Trial) -> None:
    """The card parses, and every step names what computes it."""
    card(trial.cls)
    module = inspect.getmodule(trial.cls)
    tree = ast.parse(inspect.getsource(module)) if module else ast.Module([], [])
    named = {getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "attr", "name")}
    for number, step in enumerate(card_steps(trial.cls), start=1):
        names = re.findall(r"`(\w+)`", step)
        _require(bool(names), f"step {number} names nothing in the code: {step}")
        missing = [name for name in names if name not in named]
        _require(not missing, f"step {number} names {missing}, which the code does not have")


@_check(15, "class")
def golden_answer_comes_out(trial: Trial) -> None:
    """On a fixed tiny problem with one right answer, that answer comes out."""
    golden = trial.cls.golden()
    pruner = replace(trial.cls.tiny(), **golden.settings)  # type: ignore[type-var]
    config = pruner.search(golden.problem).config
    same = same_config(golden.problem.space, config, golden.expected)
    _require(same, f"got {config.to_json()}, right is {golden.expected.to_json()}: {golden.story}")


@_check(16, "class")
def beats_uniform_where_uniform_is_bad(trial: Trial) -> None:
    """Where one group carries everything, the method is better than equal widths."""
    problem = planted_problem(live_a=range(8), live_b=(), keep_ratio=0.6)
    subnet = trial.cls.tiny().search(problem)
    names = [group.name for group in problem.space.groups]
    widths = dict(zip(names, uniform_widths(problem), strict=True))
    uniform = _planted_top1(problem, Subnet(SubnetConfig.from_widths(problem.space, widths)))
    top1 = _planted_top1(problem, subnet)
    _require(top1 > uniform, f"top-1 {top1} is not better than uniform's {uniform}")


def _planted_top1(problem: Problem, subnet: Subnet) -> float:
    small = rebuild(problem.model, problem.space, subnet.config, subnet.weights).eval()
    with problem.meter.phase("search"), torch.no_grad():
        hits = [small(images).argmax(1) == labels for images, labels in problem.data.search()]
    return float(torch.cat(hits).double().mean())


@_check(17, "gpu")
def same_config_on_gpu(trial: Trial) -> None:
    """The CPU and the GPU lead to the same configuration, in float64.

    TF32 has no part in it. In float32, too, the last digits of sums differ, and a search that
    trains may rank otherwise.
    """
    runs = (Trial(trial.cls, trial.network, name, torch.float64) for name in ("cpu", "cuda"))
    cpu, gpu = (run.first.subnet.config for run in runs)
    _require(same_config(trial.space, cpu, gpu), "the GPU gave another configuration")


@_check(18)
def bounds_are_met(trial: Trial) -> None:
    """A kept group stays whole, and no group leaves its bounds, where others have to shrink."""
    groups = trial.space.groups
    whole, halved = groups[0], groups[-1]
    between = groups[1:-1]
    capped = next((group for group in between if group.residual), between[len(between) // 2])
    rules = WidthRules(
        keep=(whole.name,),
        ratios={halved.name: 0.5, capped.name: (0.0, 0.75), "*": (0.25, 1.0)},
    )
    config = trial.run(_tight_budget(trial, rules), rules).subnet.config
    for group in groups:
        width = len(config.indices(group))
        share = f"{group.name} keeps {width} of {group.size} channels"
        _require(4 * width >= group.size, f"{share}, less than a quarter")
        _require(group != whole or width == group.size, f"{share}, and is to stay whole")
        _require(group != capped or 4 * width <= 3 * group.size, f"{share}, at most 3/4 may stay")
        is_half = abs(2 * width - group.size) <= 1
        _require(group != halved or is_half, f"{share}, half are to stay")


def _tight_budget(trial: Trial, rules: WidthRules) -> int:
    """Multiply-adds below those of the widest legal network, and above those of the smallest."""
    legal = rules.legal(trial.space)
    ends = [[widths[at] for widths in legal] for at in (0, -1)]
    smallest, widest = CostModel(trial.space).macs_of_widths(ends).tolist()
    return int((smallest + 3 * widest) // 4)

"""Problem: everything a search may see, and the only way in which it may spend anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.inputs import Inputs, call, count_images
from zoo.core.data.metered import MeteredData
from zoo.core.errors import InfeasibleBudget
from zoo.core.meter import Meter, Phase, Spent
from zoo.core.randomness import fixed_random, search_seeds
from zoo.core.supernet.supernet import CANDIDATE_BATCHES, Supernet
from zoo.core.supernet.trained_store import SupernetStore
from zoo.core.training.checkpoint import Checkpoints
from zoo.core.training.distill import BlockDistillation
from zoo.core.training.events import Watch
from zoo.core.training.task import CLASSIFICATION, Task
from zoo.core.training.train import TaskLoss, TrainingLoss

__all__ = ["Problem", "require_feasible", "smallest_cost"]

_JSON = (str, int, float, bool, type(None), list, dict)


@dataclass
class Problem:
    """One search: a trained parent, what it costs, what it may cost, and data that is metered.

    Attributes:
        model: the trained parent in eval mode; read-only.
        space: its channel groups.
        cost: exact cost of any configuration.
        budget: upper limit of the cost.
        data: training and search batches; each batch drawn is charged.
        rules: legal widths.
        seed: seed of the run; every random stream follows from it and the stream's name.
        meter: what was spent; must be the meter that `data` charges.
        method: name of the method, which only the "search" stream depends on.
        trace_rows: what the search reported, JSON rows in order.
        store: where trained supernets are kept for other budgets; None to train each anew.
        watch: who is told of the trainings of the search.
        checkpoints: where these trainings go on from if they were cut; None to keep none.
        task: the loss that the network learns from, and the metric that decisions are made by.
    """

    model: nn.Module
    space: ChannelSpace
    cost: CostModel
    budget: Budget
    data: MeteredData
    rules: WidthRules = field(default_factory=WidthRules)
    seed: int = 0
    meter: Meter = field(default_factory=Meter)
    method: str = ""
    trace_rows: list[dict[str, object]] = field(default_factory=list)
    store: SupernetStore | None = None
    watch: Watch = field(default_factory=Watch)
    checkpoints: Checkpoints | None = None
    task: Task = CLASSIFICATION
    _legal: dict[WidthRules, tuple[np.ndarray, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def legal(self) -> tuple[np.ndarray, ...]:
        """The legal widths of every group, ascending: all that a search may choose from."""
        if self.rules not in self._legal:
            found = self.rules.legal(self.space)
            self._legal[self.rules] = tuple(np.array(each, dtype=np.int64) for each in found)
        return self._legal[self.rules]

    @property
    def narrowest(self) -> np.ndarray:
        """The smallest legal width of every group, shape (G,)."""
        return np.array([widths[0] for widths in self.legal], dtype=np.int64)

    @property
    def widest(self) -> np.ndarray:
        """The largest legal width of every group, shape (G,); its size unless a bound is lower."""
        return np.array([widths[-1] for widths in self.legal], dtype=np.int64)

    def common_loss(self, distill: float, label_smoothing: float) -> TrainingLoss | None:
        """A loss that any decision can be fine-tuned with, whatever the method hands on.

        Args:
            distill: weight of the error against the parent's answer, beside the task's loss.
            label_smoothing: share of the cross-entropy's target spread over all classes.

        Returns:
            None for cross-entropy alone, which is the training loop's own.
        """
        if not distill:
            return None if self.task.is_classification else TaskLoss(label_smoothing, self.task)
        return BlockDistillation(
            self.model,
            (),
            macs=self.cost.full_macs,
            beta=0.0,
            kd=distill,
            task=self.task.smoothed(label_smoothing),
            part=self.space.part,
        )

    @cached_property
    def supernet(self) -> Supernet:
        """Runs any configuration on the parent's weights; its passes have to be charged."""
        return Supernet(self.model, self.space)

    def rng(self, stream: str) -> np.random.Generator:
        """A fresh generator for a named stream; the same name starts the same stream again."""
        return np.random.default_rng(self._seeds(stream))

    def generator(self, stream: str) -> torch.Generator:
        """A fresh torch generator, on the CPU, for a named stream."""
        seed = int(self._seeds(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator().manual_seed(seed)

    def _seeds(self, stream: str) -> np.random.SeedSequence:
        name = f"{self.method}/{stream}" if stream == "search" else stream
        return search_seeds(self.seed, name)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[Spent]:
        """A phase of the meter, in which what draws from global generators is seeded.

        Dropout and stochastic depth do, wherever a network runs in training mode: each phase starts
        from the seed and its name, whatever ran before, and puts the generators back.

        Args:
            name: what is charged.
        """
        with (
            fixed_random("phase", name, self.seed, device=self.meter.device),
            self.meter.phase(name) as spent,
        ):
            yield spent

    def trace(self, step: str, **values: object) -> None:
        """Report one row; numpy scalars and arrays become plain numbers and lists."""
        self.trace_rows.append({"step": step} | {k: _plain(v) for k, v in values.items()})

    def forward(
        self,
        images: Inputs,
        config: SubnetConfig | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Logits of the parent, or of the subnet `config` sliced out of it; charged.

        Args:
            images: shape (N, C, H, W), or other inputs, on the model's device.
            config: kept channels; None for the full parent.
            weights: full-size tensors to use instead of the parent's, by state-dict name.

        Returns:
            Logits, shape (N, classes), or what else the network returns; gradients reach `weights`.
        """
        macs = self.cost.full_macs if config is None else self.cost.macs(config)
        self.meter.passes(count_images(images), macs, backward=torch.is_grad_enabled())
        if config is None:
            is_named = isinstance(images, Mapping)
            args = images if isinstance(images, tuple) else () if is_named else (images,)
            named = dict(images) if is_named else {}
            return functional_call(self.model, dict(weights or {}), args, named)
        return self.supernet.forward(images, config, self.supernet.sliced(config, weights))

    def parent_loss(
        self, inputs: Inputs, targets: Any, weights: Mapping[str, Tensor], batch: int
    ) -> Tensor:
        """The task's loss of the parent, which computes as in eval mode; charged.

        A network with a loss of its own returns what it does in training mode, which that loss is
        of; what it draws, as detectors draw boxes, is the same for the same batch.

        Args:
            inputs: images, shape (N, C, H, W), or other inputs.
            targets: labels, shape (N,), or other targets.
            weights: full-size tensors to use instead of the parent's, by state-dict name.
            batch: number of the batch.

        Returns:
            A scalar; gradients reach `weights`.
        """
        with self.task.teaching(self.model):
            if self.task.is_classification:
                return self.task.loss_of(self.forward(inputs, weights=weights), targets)
            with fixed_random("parent_loss", self.seed, batch):
                return self.task.loss_of(self.forward(inputs, weights=weights), targets)

    def accuracy(
        self,
        config: SubnetConfig,
        weights: Mapping[str, Tensor] | None = None,
        *,
        recalibration_batches: int = CANDIDATE_BATCHES,
        search_batches: int | None = None,
    ) -> float:
        """Score of a subnet on the search split, higher is better: top-1, as a fraction.

        With another metric it is that metric's value, times -1 where lower is better. BatchNorm
        statistics are first re-estimated on training batches, the same ones for every
        configuration. A subnet whose logits are NaN answers nothing right; another metric that is
        no finite number counts as `WORST`.

        Args:
            config: kept channels.
            weights: full-size tensors to use instead of the parent's, by state-dict name.
            recalibration_batches: training batches for the statistics; 0 keeps those there are.
            search_batches: batches of the search split, the same ones each time; None for all.
        """
        macs = self.cost.macs(config)
        with torch.no_grad():
            if recalibration_batches:
                batches = [images for images, _ in self.data.train(recalibration_batches)]
                self.meter.passes(sum(map(count_images, batches)), macs, backward=False)
                values = self.supernet.recalibrated(config, batches, weights)
            else:
                values = self.supernet.sliced(config, weights)
            with self.supernet.running(config, values) as network:
                return self.task.score_of(self._answers(network, macs, search_batches))

    def _answers(
        self, network: nn.Module, macs: int, search_batches: int | None
    ) -> Iterator[tuple[Any, Any]]:
        """Outputs and targets on the search split, charged."""
        for images, labels in islice(self.data.search(), search_batches):
            self.meter.passes(count_images(images), macs, backward=False)
            yield call(network, images), labels

    def cost_of(self, widths: np.ndarray) -> np.ndarray:
        """Return the costs of widths (n, G) in the budget's unit, int64, shape (n,)."""
        return self.budget.cost_of_widths(self.cost, widths)

    def cost_of_config(self, config: SubnetConfig) -> int:
        """Return the cost of one configuration in the budget's unit."""
        return self.budget.cost(self.cost, config)

    @property
    def full_cost(self) -> int:
        """Cost of the parent, in the budget's unit."""
        return self.budget.full(self.cost)

    @property
    def widest_cost(self) -> int:
        """Cost of the largest legal subnet, in the budget's unit."""
        return int(self.cost_of(self.widest[None])[0])

    @property
    def is_full(self) -> bool:
        """Whether budget and bounds allow the parent as it is."""
        is_cheap = self.full_cost <= self.budget.limit
        return is_cheap and bool((self.widest == self.space.sizes).all())

    def smallest_cost(self) -> int:
        """Cost of the smallest legal subnet, in the budget's unit."""
        return smallest_cost(self.budget, self.cost, self.rules)

    def require_pruning(self) -> None:
        """Refuse a budget that the whole network meets, unless bounds narrow it all the same.

        Raises:
            ValueError: if nothing would be pruned.
        """
        if self.is_full:
            self.budget.require_pruning(self.cost)

    def check_decision(self, config: SubnetConfig) -> None:
        """Refuse what a foreign pruner may return: an illegal or too costly subnet.

        Raises:
            ValueError: if a width breaks the rules, or the cost is above the budget.
        """
        self.rules.check(self.space, config)
        reached = self.cost_of_config(config)
        if reached > self.budget.limit:
            raise ValueError(
                f"the method returned {self.budget.format_cost(reached)}, above its budget of "
                f"{self.budget}"
            )

    def check_feasible(self) -> None:
        """Raise if even the smallest legal subnet is over budget.

        Raises:
            InfeasibleBudget: with both numbers and the way out.
        """
        require_feasible(self.budget, self.cost, self.rules)


def smallest_cost(budget: Budget, cost: CostModel, rules: WidthRules) -> int:
    """Cost of the smallest legal subnet.

    Args:
        budget: gives the metric.
        cost: of the network.
        rules: legal widths.
    """
    return int(budget.cost_of_widths(cost, rules.minimums(cost.space)[None])[0])


def require_feasible(budget: Budget, cost: CostModel, rules: WidthRules) -> None:
    """Raise if even the smallest legal subnet is over budget.

    Args:
        budget: what is asked.
        cost: of the network.
        rules: legal widths.

    Raises:
        InfeasibleBudget: with both numbers and the way out.
    """
    smallest = smallest_cost(budget, cost, rules)
    if smallest <= budget.limit:
        return
    if rules.bounds:
        raise InfeasibleBudget(_told_bounds(budget, cost, rules) + budget.hint)
    raise InfeasibleBudget(
        f"budget {budget} is below the smallest subnet, {budget.format_cost(smallest)} or "
        f"{smallest / budget.full(cost):.3g} of all; {_remedy(budget, cost, rules)}{budget.hint}"
    )


def _remedy(budget: Budget, cost: CostModel, rules: WidthRules) -> str:
    """What makes a budget feasible: raise it, or lower those rules that hold up the least cost."""
    smallest = smallest_cost(budget, cost, rules)

    def is_less(looser: WidthRules) -> bool:
        return smallest_cost(budget, cost, looser) < smallest

    wide = replace(rules, min_keep=min(rules.min_keep, float(1 / cost.space.sizes.max())))
    min_keep, divisor = f"min_keep ({rules.min_keep})", f"divisor ({rules.divisor})"
    alone = [min_keep] * is_less(wide) + [divisor] * is_less(replace(rules, divisor=1))
    if alone:
        return f"raise it or lower {' or '.join(alone)}"
    are_both = is_less(replace(wide, divisor=1))
    return f"raise it{f' or lower {min_keep} and {divisor}' if are_both else ''}"


def _told_bounds(budget: Budget, cost: CostModel, rules: WidthRules) -> str:
    """Which bound is in the way of a budget: the one without which the least cost falls most."""

    def least(rules: WidthRules) -> int:
        return smallest_cost(budget, cost, rules)

    unbound = replace(rules, keep=(), ratios={})
    smallest, free = least(rules), least(unbound)
    alone = {bound: least(rules.without(bound)) for bound in rules.bounds}
    blamed = min(alone, key=lambda bound: alone[bound])
    if alone[blamed] < smallest:
        remedy = (
            f"{blamed.told} is most in the way, without it the smallest costs "
            f"{budget.format_cost(alone[blamed])}: loosen it or raise the budget"
        )
    else:
        told = ", ".join(bound.told for bound in rules.bounds)
        remedy = f"no bound is in the way alone: loosen several of {told}, or raise the budget"
    if free > budget.limit:
        remedy += f"; that alone is not enough: {_remedy(budget, cost, unbound)}"
    return (
        f"budget {budget} is below the smallest subnet within the bounds, "
        f"{budget.format_cost(smallest)}; without them it is {budget.format_cost(free)}; {remedy}"
    )


def _plain(value: object) -> object:
    """`value` as a JSON value; numpy and torch values become numbers and lists."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    if isinstance(value, _JSON):
        return value
    raise TypeError(f"a trace row holds JSON values, not {type(value).__name__}")

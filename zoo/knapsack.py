"""Knapsack pruning with inner distillation.

Paper: Aflalo, Noy, Lin, Friedman, Zelnik: Knapsack Pruning with Inner Distillation, 2020,
    arXiv 2002.08258. Of the paper itself only the abstract could be read; everything below that
    is not marked [paper] comes from the authors' repository ([README], [official code]) or is
    listed under Deviations and Unknowns.

Idea: Channel pruning is a knapsack that trades the importance of channels against their compute
    cost [paper]. Coupled structures, such as skips and depthwise convolutions, are pruned as
    groups [paper]. The pruned network is fine-tuned under the unpruned parent, which teaches it
    with its inner features [paper].

Steps:
    1. `calibration_batches`: draw training images for one calibration pass.
    2. `taylor_values`: value of each channel from weights times gradients, network in eval mode.
    3. `make_items`: one item per (group, channel), weighing its cost at unpruned input width.
    4. `greedy_widths` or `exact_widths`: solve the knapsack, for every capacity at once.
    5. `best_within`: take the largest capacity whose recounted network meets the budget.
    6. `fill_up`: spend what is left, channel by channel.
    7. `InnerDistillation`: fine-tune with cross-entropy plus the error against the teacher's
       features.

Deviations:
    - The budget is met by the recounted network. [official code] sets the capacity to
      floor((1 - rho) * cost of all items) and lets the result fall where it falls: rho = 0.27
      removed 40.74 % [README]; equal budgets need the recount. Expected effect: none on the
      ranking of items.
    - A group keeps a minimum width, and widths may be held to a divisor; [official code] can
      empty a group. Expected effect: small, the cheapest failure is excluded.
    - `fill_up` after the solver; [official code] has no fill-in. It adds the channels of highest
      value per cost that still fit, at most about one item. Expected effect: negligible.
    - The exact solver chooses widths per group (channels of a group weigh the same, so its best
      channels always go first) on costs divided by their gcd and, beyond `resolution` units,
      rounded up per width, which keeps every solution feasible; [official code] divides by the
      gcd only, which is out of reach for real networks.
    - Calibration batches are shuffled; [official code] reads files sorted by class.
    - Distillation terms are divided by the teacher's variance at each position
      (`normalisation`), so that `gamma` transfers between networks; [official code] compares raw
      activations and needs gamma from 0.2 to 30. Expected effect: shifts weight to late stages.
    - Distillation positions are the stage outputs and the logits; [official code] takes every
      top-level module, which an arbitrary network does not have as a sequence.

Unknowns:
    - The importance score of the paper's body. [README] says that it is not the repository's
      default; that it is our `per_filter` is inferred from the repository's options.
    - Which positions, weighting and gamma the paper distils with. Our gamma of 1 belongs to the
      normalised terms and is our choice.
    - Start of the learned maps: our choice is Gaussian with variance 1 / C of the student.
    - How squeeze-excite reductions and networks outside ResNet and EfficientNet are grouped: we
      take whatever the network's connections tie together. As in [official code], a group's value
      sums over the convolutions that make its channels, depthwise ones included.

Cost: one forward and backward pass over about 16 % of the training images ([official code]: four
    validation sets of ImageNet); the solver runs in seconds; fine-tuning adds one teacher forward
    pass per image.

Names: v_{g,i} -> `values`; c_g -> `weights`; b_{g,i} -> kept or not, here widths per group;
    C -> `capacity`; rho -> the problem's budget; gamma -> `gamma`; A_k -> `maps`; s_k, t_k ->
    student's and teacher's features; P -> `positions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_scores, producers, weight_gradient_products
from zoo.core.search.widths_in_budget import fill_up, keep_best
from zoo.core.training.distill import (
    Taps,
    explain_flat_features,
    feature_error,
    relative_feature_error,
)
from zoo.core.training.train import TrainingLoss, eval_mode

__all__ = [
    "InnerDistillation",
    "Items",
    "Knapsack",
    "best_within",
    "exact_widths",
    "greedy_widths",
    "lp_bound",
    "make_items",
    "taylor_values",
]


@dataclass(frozen=True)
class Knapsack(Pruner):
    """Knapsack over tied channels, then inner distillation.

    Attributes:
        importance: "per_weight" takes absolute values per weight after averaging the gradient
            ([official code], default); "per_filter" per filter and batch (`--taylor_abs`).
        solver: "greedy" ([official code], default) or "exact" dynamic programming.
        calibration: share of the training images scored ([official code]: four validation sets of
            ImageNet, 200,000 of 1,281,167 images).
        resolution: units in which the exact solver counts the cost of the whole network.
        gamma: weight of the distillation terms; for `normalisation="none"` [README] uses 20 for
            ResNet-50 and 30 for ECA-ResNet-50D.
        positions: module names whose outputs are distilled; "stages" stands for the network's
            stage outputs, "logits" for its output.
        normalisation: what a distillation term is divided by: the teacher's variance at the
            position, or nothing ([official code]).
    """

    importance: Literal["per_weight", "per_filter"] = "per_weight"
    solver: Literal["greedy", "exact"] = "greedy"
    calibration: Annotated[float, Field(gt=0)] = 0.16
    resolution: Annotated[int, Field(ge=1)] = 20_000
    gamma: Annotated[float, Field(ge=0)] = 1.0
    positions: tuple[str, ...] = ("stages", "logits")
    normalisation: Literal["teacher", "none"] = "teacher"

    def search(self, problem: Problem) -> Subnet:
        """Solve the knapsack so that the recounted network meets the budget."""
        if whole := unpruned(problem):
            return whole
        with problem.meter.phase("scoring"):
            batches = calibration_batches(problem, self.calibration)
            values = taylor_values(problem, batches, self.importance)
        with problem.meter.phase("search"):
            items = make_items(problem, values)
            exact = self.solver == "exact"
            candidates = exact_widths(items, self.resolution) if exact else greedy_widths(items)
            widths = best_within(problem, items, candidates)
            widths = fill_up(problem, widths, items.next_densities)
            self._report_gap(problem, items, widths)
        return conclude(problem, keep_best(problem.space, values, widths))

    def _report_gap(self, problem: Problem, items: Items, widths: np.ndarray) -> None:
        """Trace how far the returned widths are from the bound at the capacity that they use."""
        capacity = int(items.cost(widths))
        value, bound = float(items.value(widths)), lp_bound(items, capacity)
        problem.trace(
            "solve",
            solver=self.solver,
            capacity=capacity,
            value=value,
            bound=bound,
            gap=max(0.0, 1 - value / bound) if bound > 0 else 0.0,  # below 0 by rounding only
        )

    def loss(
        self, teacher: nn.Module, student: nn.Module, space: ChannelSpace
    ) -> InnerDistillation:
        """Cross-entropy plus the mean distance to the teacher's features."""
        names = [
            name
            for position in self.positions
            for name in (space.stages if position == "stages" else (position,))
        ]
        return InnerDistillation(
            teacher,
            student,
            space,
            positions=tuple(dict.fromkeys(names)),
            gamma=self.gamma,
            error=relative_feature_error if self.normalisation == "teacher" else feature_error,
        )

    @classmethod
    def tiny(cls) -> Self:
        """One calibration batch, exact solver."""
        return cls(calibration=0.01, solver="exact", resolution=2_000)


def calibration_batches(problem: Problem, share: float) -> Iterable[tuple[Tensor, Tensor]]:
    """Shuffled batches with a share of the training images, at least one: (N, C, H, W), (N,)."""
    data = problem.data
    return data.train(max(1, math.ceil(share * data.num_train / data.batch_size)))


def taylor_values(
    problem: Problem,
    batches: Iterable[tuple[Tensor, Tensor]],
    importance: Literal["per_weight", "per_filter"],
) -> dict[str, np.ndarray]:
    """Value of every channel: first-order change of the loss when its filters vanish.

    With W a filter's weights and G_b the gradient of the cross-entropy on batch b, the network in
    eval mode: "per_weight" is the sum over weights of |W * mean_b G_b|; "per_filter" the sum over
    batches of |sum over weights of W * G_b|. In train mode the latter vanishes before a BatchNorm.

    Args:
        problem: the parent, used in eval mode, and its groups.
        batches: images (N, C, H, W) and labels (N,).
        importance: which of the two.

    Returns:
        By group name, shape (size,), float64, not negative; sums over the tied convolutions.
    """
    products = weight_gradient_products(problem, batches)
    if importance == "per_filter":
        values = {group.name: np.zeros(group.size) for group in problem.space.groups}
        for product in products:
            scores = channel_scores(problem.space, product, lambda rows: rows.sum(1).abs())
            values = {name: value + scores[name] for name, value in values.items()}
        return values
    total: dict[str, Tensor] = {}
    n_batches = 0
    for product in products:
        total = {name: total.get(name, 0) + tensor for name, tensor in product.items()}
        n_batches += 1
    return channel_scores(problem.space, total, lambda rows: rows.abs().sum(1) / n_batches)


@dataclass(frozen=True)
class Items:
    """The knapsack: one item per (group, channel), the channels of a group best first.

    Attributes:
        values: per group, values in descending order, shape (size,).
        weights: cost of one channel of each group, int64, shape (G,).
        legal: legal widths of each group, ascending; the first is kept in any case.
    """

    values: tuple[np.ndarray, ...]
    weights: np.ndarray
    legal: tuple[tuple[int, ...], ...]

    def value(self, widths: np.ndarray) -> np.ndarray:
        """Total value of the kept items, for widths of shape (..., G)."""
        total = np.zeros(widths.shape[:-1])
        for values, column in zip(self.values, np.moveaxis(widths, -1, 0), strict=True):
            total = total + np.append(0.0, np.cumsum(values))[column]
        return total

    def cost(self, widths: np.ndarray) -> np.ndarray:
        """Total weight of the kept items, for widths of shape (..., G)."""
        return np.asarray(widths @ self.weights)

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All widenings from one legal width to the next, group by group.

        Returns:
            Group index, value gained and cost added, each of shape (steps,).
        """
        owners, gains, costs = [], [], []
        for g, (values, legal) in enumerate(zip(self.values, self.legal, strict=True)):
            totals = np.concatenate([[0.0], np.cumsum(values)])[list(legal)]
            owners.append(np.full(len(legal) - 1, g))
            gains.append(np.diff(totals))
            costs.append(np.diff(legal) * self.weights[g])
        return np.concatenate(owners), np.concatenate(gains), np.concatenate(costs)

    def next_densities(self, widths: np.ndarray) -> np.ndarray:
        """Value per cost of the next channel of every group, shape (G,); 0 where all are kept."""
        following = [np.append(v, 0.0)[w] for v, w in zip(self.values, widths, strict=True)]
        return np.asarray(np.array(following) / np.maximum(self.weights, 1))


def make_items(problem: Problem, values: Mapping[str, np.ndarray]) -> Items:
    """One item per (group, channel), its weight the cost of making that channel.

    The cost is taken at unpruned input width and leaves out what the next layers save
    [official code]; only the recount sees that.

    Args:
        problem: gives groups, costs and legal widths.
        values: by group name, shape (size,).
    """
    groups = problem.space.groups
    return Items(
        tuple(np.sort(values[group.name])[::-1] for group in groups),
        channel_costs(problem),
        tuple(problem.rules.legal(group.size) for group in groups),
    )


def channel_costs(problem: Problem) -> np.ndarray:
    """Cost of making one channel of each group at unpruned input width, int64, shape (G,).

    MACs of the tied layers divided by their output channels (m_l), their weights, or nanoseconds.
    """
    space, table = problem.space, problem.space.table
    if problem.budget.metric == "latency":
        return problem.cost.latency.making_costs(space.sizes, problem.rules.minimums(space))
    costs: dict[str, int] = {}
    if problem.budget.metric == "params":
        costs = {name: math.prod(shape) for name, shape in table.shapes.items()}
    else:
        for module, factor, axes in table.products:
            macs = factor * math.prod(len(table.axes[axis].group) for axis in axes)
            name = f"{module}.weight"
            costs[name] = costs.get(name, 0) + macs
    return np.array(
        [
            sum(
                costs.get(member.tensor, 0)
                * member.index.shape[1]
                // table.shapes[member.tensor][member.dim]
                for member in producers(group)
            )
            for group in space.groups
        ],
        dtype=np.int64,
    )


def greedy_widths(items: Items) -> np.ndarray:
    """Drop items from the full network, lowest value per cost first [official code].

    Returns:
        The solutions for all capacities, from the full network down, shape (n, G).
    """
    owners, gains, costs = items.steps()
    densities = np.divide(gains, costs, out=np.full(len(gains), np.inf), where=costs > 0)
    dropped = np.zeros((len(owners) + 1, len(items.legal)), dtype=np.int64)
    dropped[np.arange(1, len(owners) + 1), owners[np.argsort(densities, kind="stable")]] = 1
    left = np.array([len(legal) - 1 for legal in items.legal]) - dropped.cumsum(axis=0)
    return _widths_at(items, left)


def exact_widths(items: Items, resolution: int) -> np.ndarray:
    """Solve the knapsack for every capacity by dynamic programming over groups.

    The table of all capacities is dense: keeping the undominated partial sums instead, as
    `best_combinations` does, takes fifty times as long with 20,000 units on ResNet-50.

    Costs are divided by their gcd; if the whole network is still more than `resolution` units,
    the unit grows and each width's cost is rounded up, so that no solution exceeds its capacity.

    Returns:
        The solution for each capacity in units, from the smallest network up, shape (n, G).
    """
    costs = [
        (np.array(legal) - legal[0]) * int(weight)
        for legal, weight in zip(items.legal, items.weights, strict=True)
    ]
    common = int(np.gcd.reduce(np.concatenate(costs))) or 1
    most = sum(int(cost[-1]) for cost in costs) // common
    unit = common * max(1, -(-most // resolution))
    units = [-(-cost // unit) for cost in costs]
    capacity = sum(int(cost[-1]) for cost in units)

    best = np.zeros(capacity + 1)
    choices = []
    for values, legal, steps in zip(items.values, items.legal, units, strict=True):
        totals = np.concatenate([[0.0], np.cumsum(values)])
        choice = np.zeros(capacity + 1, dtype=np.int32)
        improved = best.copy()  # `best` stays without this group, which gets one width alone
        for j, step in enumerate(steps[1:].tolist(), start=1):
            candidate = best[: capacity + 1 - step] + (totals[legal[j]] - totals[legal[0]])
            is_better = candidate > improved[step:]
            improved[step:][is_better] = candidate[is_better]
            choice[step:][is_better] = j
        best = improved
        choices.append(choice)

    left = np.arange(capacity + 1)
    chosen = np.zeros((capacity + 1, len(units)), dtype=np.int64)
    for g in reversed(range(len(units))):
        chosen[:, g] = choices[g][left]
        left = left - units[g][chosen[:, g]]
    return _widths_at(items, chosen)


def _widths_at(items: Items, positions: np.ndarray) -> np.ndarray:
    """Legal widths at positions, shape (n, G), in each group's list of them."""
    columns = zip(items.legal, positions.T, strict=True)
    return np.stack([np.array(legal)[column] for legal, column in columns], axis=1)


def lp_bound(items: Items, capacity: int) -> float:
    """Most value that fits a capacity if items could be split: no solution is worth more.

    Raises:
        ValueError: if the smallest widths already exceed the capacity.
    """
    smallest = np.array([legal[0] for legal in items.legal])
    left = capacity - int(items.cost(smallest))
    if left < 0:
        raise ValueError(f"capacity {capacity} is below the smallest network, {capacity - left}")
    _, gains, costs = items.steps()
    densities = np.divide(gains, costs, out=np.full(len(gains), np.inf), where=costs > 0)
    order = np.argsort(-densities, kind="stable")
    before = np.concatenate([[0], np.cumsum(costs[order])[:-1]])
    shares = np.clip((left - before) / np.maximum(costs[order], 1), 0.0, 1.0)
    shares[costs[order] == 0] = 1.0
    return float(items.value(smallest) + shares @ gains[order])


def best_within(problem: Problem, items: Items, candidates: np.ndarray) -> np.ndarray:
    """The most valuable candidate whose recounted network meets the budget.

    Candidates are the solutions of all capacities, and value grows with capacity: this is the
    largest capacity C that the recount allows.

    Args:
        problem: gives cost and budget.
        items: give the value.
        candidates: shape (n, G); at least one must fit.

    Returns:
        Widths, shape (G,).
    """
    costs = problem.cost_of(candidates)
    feasible = candidates[costs <= problem.budget.limit]
    return np.asarray(feasible[np.argmax(items.value(feasible))])


class InnerDistillation(TrainingLoss):
    """Cross-entropy + gamma * mean over positions k of the error of A_k s_k against t_k.

    A_k is the identity where widths agree, else a learned 1 x 1 map. The teacher sees the same
    images, in eval mode and without gradients.

    Args:
        teacher: the unpruned parent.
        student: the pruned network; both run once on a blank image to learn the widths.
        space: the parent's channel groups; gives the image size and the teacher's cost.
        positions: module names; "logits" is the output.
        gamma: weight of the distillation terms.
        error: of a student's features against the teacher's, two tensors of one shape.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        space: ChannelSpace,
        *,
        positions: Sequence[str],
        gamma: float,
        error: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # a tuple, so that the teacher is no submodule of the loss
        self.positions = tuple(positions)
        self.gamma = gamma
        self.error = error
        self.macs_per_image = CostModel(space).full_macs
        self.maps = nn.ParameterDict()
        anchor = next(student.parameters())
        image = anchor.new_zeros(1, *space.input_size)
        with torch.no_grad(), eval_mode(student):
            _, narrow = self._features(student, image)
            _, wide = self._features(teacher, image)
        # A generator of its own: the maps are the same whatever was drawn before.
        generator = torch.Generator().manual_seed(0)
        for name, s, t in zip(self.positions, narrow, wide, strict=True):
            if s.shape[1] != t.shape[1]:
                start = torch.randn(t.shape[1], s.shape[1], generator=generator) / s.shape[1] ** 0.5
                self.maps[_key(name)] = nn.Parameter(start.to(anchor))

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: images (N, C, H, W), labels (N,), a scalar in nats."""
        with torch.no_grad():
            _, wide = self._features(self._teacher[0], images)
        logits, narrow = self._features(student, images)
        errors = []
        for name, s, t in zip(self.positions, narrow, wide, strict=True):
            if _key(name) in self.maps:
                s = torch.einsum("tc,nc...->nt...", self.maps[_key(name)], s)  # A_k s_k
            errors.append(self.error(s, t))
        loss = F.cross_entropy(logits, labels)
        return loss + self.gamma * torch.stack(errors).mean() if errors else loss

    def divergence_hint(self, images: Tensor) -> str:
        """A hint if the teacher's features hardly vary over images, shape (N, C, H, W)."""
        if not self.gamma or self.error is not relative_feature_error:
            return ""
        with torch.no_grad():
            wide = zip(self.positions, self._features(self._teacher[0], images)[1], strict=True)
        return explain_flat_features(dict(wide), "set gamma to 0 or normalisation to 'none'")

    def _features(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and the features at every position."""
        with Taps(model, [name for name in self.positions if name != "logits"]) as taps:
            logits = model(images)
            features = {**taps.features, "logits": logits}
        return logits, [features[position] for position in self.positions]


def _key(position: str) -> str:
    """`position` as a parameter may be named."""
    return position.replace(".", "/")

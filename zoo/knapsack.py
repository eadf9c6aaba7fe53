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
    4. `greedy_widths` or `exact_widths`: solve the knapsack, for whole ranges of capacities.
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
      channels always go first) and adds up those near the greedy solution, where [official code]
      fills a table over costs divided by their gcd. Expected effect: none, both are optimal at
      every capacity; ours does not depend on the number of units, 326,000 for ResNet-50 and
      hundreds of millions for networks with squeeze-excite gates.
    - Calibration batches are shuffled; [official code] reads files sorted by class.
    - Distillation terms are divided by the teacher's variance at each position
      (`normalisation`), so that `gamma` transfers between networks; [official code] compares raw
      activations and needs gamma from 0.2 to 30. Expected effect: shifts weight to late stages.
    - Distillation positions are the stage outputs and the logits; [official code] takes every
      module at the top of the network, stages one by one, and leaves the pooled features out once
      their width changes. `positions` = ("modules",) does so.

Unknowns:
    - The importance score of the paper's body. [README] says that it is not the repository's
      default; that it is our `per_filter` is inferred from the repository's options.
    - Which positions, weighting and gamma the paper distils with. Our gamma of 1 belongs to the
      normalised terms and is our choice.
    - Start of the learned maps: our choice (`maps`) puts each kept channel where it was in the
      parent, so that a student that still makes the parent's features starts without error;
      "random" is Gaussian with variance 1 / C of the student.
    - Tasks other than classification: values are taken from the task's own loss, and "logits" are
      the network's outputs, or those of its part where that alone is pruned, each tensor compared
      as features are.
    - Whether stem and skips are pruned. [official code] leaves both whole unless it is told
      otherwise, and keeps 7 % of the first stage's stream in its published ECA networks. Ours
      prunes all groups, since small budgets cannot be met otherwise; see `protect`.
    - Value per cost falls on early stages by nature: a channel there costs many positions, so the
      knapsack cuts a narrow early stream first, down to its minimum width. `scope` "isomorphic"
      ranks groups of equal topology among themselves (Fang et al. 2024) and is no part of the
      paper.
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

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.width_bounds import found_groups
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batch
from zoo.core.data.inputs import Inputs, mapped
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_knapsack import Items, exact_widths, greedy_widths, lp_bound
from zoo.core.search.channel_scores import (
    channel_costs,
    channel_scores,
    ranks_in_topology,
    weight_gradient_products,
)
from zoo.core.search.widths_in_budget import fill_up, keep_best
from zoo.core.tracing.entry import enter, random_inputs
from zoo.core.training.distill import (
    Taps,
    explain_flat_features,
    feature_error,
    output_error,
    relative_feature_error,
)
from zoo.core.training.task import CLASSIFICATION, Task, answer, outputs_in
from zoo.core.training.train import TrainingLoss, eval_mode

__all__ = [
    "InnerDistillation",
    "Knapsack",
    "best_within",
    "embeddings",
    "isomorphic_values",
    "make_items",
    "taylor_values",
]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Knapsack(Pruner):
    """Knapsack over tied channels, then inner distillation.

    Attributes:
        importance: "per_weight" takes absolute values per weight after averaging the gradient
            ([official code], default); "per_filter" per filter and batch (`--taylor_abs`).
        solver: "greedy" ([official code], default) or "exact", the optimum of its capacity; where
            nearly every choice is one, it may lose a little, which a warning tells.
        calibration: share of the training images scored ([official code]: four validation sets of
            ImageNet, 200,000 of 1,281,167 images).
        gamma: weight of the distillation terms; for `normalisation="none"` [README] uses 20 for
            ResNet-50 and 30 for ECA-ResNet-50D.
        positions: module names whose outputs are distilled; "stages" stands for the network's
            stage outputs, "logits" for its output, "modules" for those of [official code].
        normalisation: what a distillation term is divided by: the teacher's variance at the
            position, or nothing ([official code]).
        maps: where the learned maps start: at the embedding of the kept channels, or random.
        protect: groups that stay whole, in the words of the rules' `keep`: the "stem" and the
            streams that "skips" join; without effect where a network has none.
        scope: whether all channels of the "network" compete, or those of "isomorphic" groups, of
            which every class then loses the same share.
    """

    importance: Literal["per_weight", "per_filter"] = "per_weight"
    solver: Literal["greedy", "exact"] = "greedy"
    calibration: Annotated[float, Field(gt=0)] = 0.16
    gamma: Annotated[float, Field(ge=0)] = 1.0
    positions: tuple[str, ...] = ("stages", "logits")
    normalisation: Literal["teacher", "none"] = "teacher"
    maps: Literal["kept", "random"] = "kept"
    protect: tuple[Literal["stem", "skips"], ...] = ()
    scope: Literal["network", "isomorphic"] = "network"

    def search(self, problem: Problem) -> Subnet:
        """Solve the knapsack so that the recounted network meets the budget."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("scoring"):
            batches = calibration_batches(problem, self.calibration)
            values = taylor_values(problem, batches, self.importance)
        with problem.phase("search"):
            if self.scope == "isomorphic":
                values = isomorphic_values(problem, values)
            items = make_items(problem, values, self.protect)
            if self.solver == "exact":
                candidates = exact_widths(items, problem.cost_of, problem.budget.limit)
            else:
                candidates = greedy_widths(items)
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
        self,
        teacher: nn.Module,
        student: nn.Module,
        space: ChannelSpace,
        config: SubnetConfig,
        task: Task = CLASSIFICATION,
    ) -> InnerDistillation | None:
        """The task's loss plus the mean distance to the teacher's features."""
        if not (self.gamma or task.is_classification):
            return None
        stands_for = {"stages": space.stages, "modules": top_modules(teacher, space)}
        named = [stands_for.get(position, (position,)) for position in self.positions]
        names = tuple(dict.fromkeys(name for group in named for name in group))
        return InnerDistillation(
            teacher,
            student,
            space,
            positions=names,
            gamma=self.gamma,
            error=relative_feature_error if self.normalisation == "teacher" else feature_error,
            starts=embeddings(space, config, names) if self.maps == "kept" else {},
            task=task,
        )

    def comparing(self) -> str:
        """Outputs are distilled as the position "logits"."""
        is_used = self.gamma and "logits" in self.positions
        return "set positions=('stages',), or gamma=0" if is_used else ""

    @classmethod
    def tiny(cls) -> Self:
        """One calibration batch, exact solver."""
        return cls(calibration=0.01, solver="exact")


def calibration_batches(problem: Problem, share: float) -> Iterable[Batch]:
    """Shuffled batches with a share of the training images, at least one: (N, C, H, W), (N,)."""
    data = problem.data
    return data.train(max(1, math.ceil(share * data.num_train / data.batch_size)))


def taylor_values(
    problem: Problem,
    batches: Iterable[Batch],
    importance: Literal["per_weight", "per_filter"],
) -> dict[str, np.ndarray]:
    """Value of every channel: first-order change of the loss when its filters vanish.

    With W a filter's weights and G_b the gradient of the task's loss on batch b, the network in
    eval mode: "per_weight" is the sum over weights of |W * mean_b G_b|; "per_filter" the sum over
    batches of |sum over weights of W * G_b|. In train mode the latter vanishes before a BatchNorm.

    Args:
        problem: the parent, used in eval mode, and its groups.
        batches: images (N, C, H, W) and labels (N,), or other inputs and targets.
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


def make_items(
    problem: Problem, values: Mapping[str, np.ndarray], protect: Collection[str] = ()
) -> Items:
    """One item per (group, channel), its weight the cost of making that channel.

    The cost is taken at unpruned input width and leaves out what the next layers save
    [official code]; only the recount sees that.

    Args:
        problem: gives groups, costs and legal widths.
        values: by group name, shape (size,).
        protect: "stem" and "skips" stay whole, or as wide as bounds allow.
    """
    groups = problem.space.groups
    found = {word: found_groups(word, groups) for word in protect}
    for word, ordinals in found.items():
        if not ordinals:
            _LOGGER.warning("protect %r changes nothing: the network has no such groups", word)
    protected = {ordinal for ordinals in found.values() for ordinal in ordinals}
    return Items(
        tuple(np.sort(values[group.name])[::-1] for group in groups),
        channel_costs(problem),
        tuple(
            tuple(widths[-1:].tolist() if ordinal in protected else widths.tolist())
            for ordinal, widths in enumerate(problem.legal)
        ),
    )


def isomorphic_values(problem: Problem, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values whose density is the channel's rank among the groups of the same topology.

    So the solver drops the same share of every class, those of lowest value per cost first. Groups
    are of one topology if the same kinds of layers make and read them, widths and depth apart.

    Args:
        problem: gives groups and costs.
        values: by group name, shape (size,).

    Returns:
        The same shapes; the order within a group stays, ties apart.
    """
    groups, costs = problem.space.groups, np.maximum(channel_costs(problem), 1)
    densities = {
        group.name: values[group.name] / cost for group, cost in zip(groups, costs, strict=True)
    }
    ranks = ranks_in_topology(problem.space, densities)
    return {group.name: ranks[group.name] * cost for group, cost in zip(groups, costs, strict=True)}


def best_within(problem: Problem, items: Items, candidates: np.ndarray) -> np.ndarray:
    """The most valuable candidate whose recounted network meets the budget.

    Among the solutions of all capacities value grows with capacity: this is that of the largest
    capacity C that the recount allows. The recount is no function of C, so solutions of smaller
    capacities may exceed the budget.

    Args:
        problem: gives cost and budget.
        items: give the value.
        candidates: solutions of all capacities, or of as many as hold that one, shape (n, G).

    Returns:
        Widths, shape (G,).

    Raises:
        InfeasibleBudget: if none fits.
    """
    costs = problem.cost_of(candidates)
    feasible = candidates[costs <= problem.budget.limit]
    if not len(feasible):
        raise InfeasibleBudget(
            f"the smallest network with the protected groups whole costs {int(costs.min()):,}, the "
            f"budget is {problem.budget.limit:,}; raise it or protect less"
        )
    return np.asarray(feasible[np.argmax(items.value(feasible))])


def embeddings(
    space: ChannelSpace, config: SubnetConfig, positions: Sequence[str]
) -> dict[str, Tensor]:
    """Maps that put each kept channel where it was, for the positions that lose channels.

    Args:
        space: the parent's channel groups.
        config: what is kept of them.
        positions: module names; those whose output is not known are left out.

    Returns:
        By position, shape (channels, kept), zeros and ones.
    """
    kept = space.table.kept_positions(config)
    found = {}
    for position in positions:
        width, axis = space.table.outputs.get(position, (0, None))
        if axis is not None and (chosen := kept[axis]) is not None:
            found[position] = torch.eye(width)[:, torch.as_tensor(chosen)]
    return found


def top_modules(model: nn.Module, space: ChannelSpace) -> tuple[str, ...]:
    """The modules at the top of a network in their order, the last of them as its "logits".

    A sequence that holds the stages counts by its members, as in [official code]. An output that
    the next module overwrites is left out; there it is that module's, counted twice.

    Args:
        model: the network that was traced.
        space: says which modules end a stage, and which put out one tensor.
    """
    found = []
    for name, child in model.named_children():
        members = [f"{name}.{key}" for key, _ in child.named_children()]
        ends = [stage for stage in space.stages if stage.startswith(f"{name}.")]
        found += members if ends and name not in space.stages else [name]
    modules = [model.get_submodule(name) for name in found]
    kept = [
        name
        for name, behind in zip(found, modules[1:], strict=False)
        if name in space.table.outputs and not getattr(behind, "inplace", False)
    ]
    return (*kept, "logits")


class InnerDistillation(TrainingLoss):
    """The task's loss + gamma * mean over positions k of the error of A_k s_k against t_k.

    A_k is the identity where widths agree, else a learned 1 x 1 map; pooled features whose width
    changes are left out, as in [official code]. The teacher sees the same images, in eval mode and
    without gradients.

    Args:
        teacher: the unpruned parent.
        student: the pruned network; both run once on a blank image to learn the widths.
        space: the parent's channel groups; gives the image size and the teacher's cost.
        positions: module names; "logits" is the output, of a part where that alone is pruned.
        gamma: weight of the distillation terms.
        error: of a student's features against the teacher's, two tensors of one shape.
        starts: of the maps, by position, shape (wide, narrow); others start random.
        task: gives the loss, and its label smoothing.
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
        starts: Mapping[str, Tensor] = MappingProxyType({}),
        task: Task = CLASSIFICATION,
    ) -> None:
        super().__init__()
        self._teacher = (teacher,)  # a tuple, so that the teacher is no submodule of the loss
        self.positions = tuple(positions)
        self.gamma = gamma
        self.error = error
        self.macs_per_image = CostModel(space).full_macs
        self.task, self.part = task, space.part
        self.is_capturable = task.is_classification
        self.maps = nn.ParameterDict()
        anchor = next(student.parameters())
        with torch.no_grad(), eval_mode(student):
            narrow, wide = (self._blank_features(each, space) for each in (student, teacher))
        # A generator of its own: the maps are the same whatever was drawn before.
        generator = torch.Generator().manual_seed(0)
        pairs = list(zip(positions, narrow, wide, strict=True))
        self.positions = tuple(
            name for name, s, t in pairs if name == "logits" or s.dim() > 2 or s.shape == t.shape
        )
        for name, s, t in pairs:
            if name in self.positions and name != "logits" and s.shape[1] != t.shape[1]:
                start = torch.randn(t.shape[1], s.shape[1], generator=generator) / s.shape[1] ** 0.5
                given = starts.get(name)
                if given is not None and given.shape == start.shape:
                    start = given
                self.maps[_key(name)] = nn.Parameter(start.to(anchor))
                self.trained_macs_per_image += start.numel() * math.prod(s.shape[2:])

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """The loss of a batch of inputs and targets, a scalar."""
        with torch.no_grad(), self.task.teaching(self._teacher[0]) as teacher:
            _, wide = self._features(teacher, images)
        outputs, narrow = self._features(student, images)
        errors = []
        for name, s, t in zip(self.positions, narrow, wide, strict=True):
            if _key(name) in self.maps:
                s = torch.einsum("tc,nc...->nt...", self.maps[_key(name)], s)  # A_k s_k
            errors.append(output_error(s, t, self.error))
        loss = self.task.loss_of(outputs, labels)
        return loss + self.gamma * torch.stack(errors).mean() if errors else loss

    def divergence_hint(self, images: Inputs) -> str:
        """A hint if the teacher's features hardly vary over the images of a batch."""
        if not self.gamma or self.error is not relative_feature_error:
            return ""
        with torch.no_grad(), self.task.teaching(self._teacher[0]) as teacher:
            wide = dict(zip(self.positions, self._features(teacher, images)[1], strict=True))
        if not self.task.is_classification and "logits" in wide:
            wide["outputs"] = wide.pop("logits")
        return explain_flat_features(wide, "set gamma to 0 or normalisation to 'none'")

    def _features(self, model: nn.Module, images: Inputs) -> tuple[Any, list[Any]]:
        """Logits, or other outputs, and the features at every position."""
        with Taps(model, [name for name in self.positions if name != "logits"]) as taps:
            found = answer(model, images, self.part)
            compared = outputs_in(found) if self.task.is_classification else found.compared
            features = {**taps.features, "logits": compared}
        return found.outputs, [features[position] for position in self.positions]

    def _blank_features(self, model: nn.Module, space: ChannelSpace) -> list[Any]:
        """The features at every position of what was traced, for one blank image."""
        blank = mapped(random_inputs(model, space.size, 1), torch.zeros_like)
        with Taps(model, [name for name in self.positions if name != "logits"]) as taps:
            features = {"logits": enter(model, space.size, blank)} | taps.features
        return [features[position] for position in self.positions]


def _key(position: str) -> str:
    """`position` as a parameter may be named."""
    return position.replace(".", "/")

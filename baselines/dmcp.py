"""DMCP: the width of each group is the length of a Markov chain, learnt by gradient descent.

Paper: Guo, Wang, Li, Yan: DMCP: Differentiable Markov Channel Pruning for Neural Networks, CVPR
    2020, arXiv 2005.03354. Read: abstract and the caption of the figure of the pipeline [paper],
    notes of a third party on the method [notes], the code of Zx55/dmcp [official code] and that of
    open-mmlab/mmrazor [mmrazor]; not the article itself.

Idea: Pruning is a Markov process: each state retains a channel, and transitions lead to the next.
    So says [paper]. A channel is kept with the product of all transition probabilities up to its
    own, and its features are multiplied by that product [notes]; so the loss of the task and a loss
    of the expected cost reach the transitions by gradients.

Steps:
    1. `list_widths`: list the candidate widths of every group; from each to the next is one
       transition, of probability sigmoid(alpha) [official code].
    2. `equal_logits`: start all chains alike, at the expected cost that is the target.
    3. `train_markov`: on each batch update weights by `sandwich_losses` of the full, the smallest
       and two random networks [paper]; after `warm_up` also update alpha on the same batch, by
       `architecture_loss` of the whole network with gates and by `budget_loss` of the
       `ExpectedCost`.
    4. `expected_widths`: take the expected width of each group; or `draw_only`: draw networks from
       the chains and take the best on the search split.
    5. `fill_closely`: add channels up to the budget, where groups are narrowest.

Deviations:
    - The supernet starts from the trained parent, and leading channels are those of largest L1 norm
      in it; [official code] trains from scratch. Expected effect: useful gradients far sooner.
    - Alpha starts where the expected cost is the target and the last candidates of all groups are
      equally likely; [official code] starts at 0, where few channels are likely. Expected effect:
      no updates are spent on the way to the target, which ours would not suffice for.
    - A gate multiplies what layers read, once on every way, so that with gates of 0 and 1 the pass
      is exactly that of the subnet; [official code] multiplies what norms put out, in a block of
      MobileNetV2 on both sides of the depthwise layer. Expected effect: small, since norms take
      the scale before a depthwise layer away. In groups that are inexact, which are free only if
      asked for, the pass is not exactly the subnet's.
    - The expected cost is exact also where a layer reads and makes the same group; [official code]
      multiplies expected widths. With a budget of latency, whose table is no polynomial, the cost
      is taken as linear around the expected widths. Expected effect: small.
    - Expected widths are those of chains whose alphas are moved by one common shift, the largest
      that fits, then rounded to legal widths; [official code] rounds, and lets the cost differ.
      Expected effect: none but that the budget holds.
    - A drawn network over the budget loses random steps, and the search split decides among 50;
      [official code] draws until five are within 1 % of the target, and trains each. Expected
      effect: better widths where scores of the supernet rank well.
    - Other losses than cross-entropy: subnets learn the full network's outputs, as `autoslim`.
    - The network that comes out keeps the supernet's weights and is fine-tuned; [official code]
      trains it from scratch (a suite's `start` = "scratch").

Unknowns:
    - The article's own budget loss, groups of channels that share alpha, and settings. Ten
      candidates of a group and the defaults of `warm_up`, `architecture_lr`, its fall to a fifth,
      `budget_weight` and `tolerance` are those of [official code], where 40 epochs of ImageNet make
      many more updates than here.
    - Random networks: drawn by the Markov process in [paper]. In [official code] uniformly until
      the warm-up ends, then from the chains with a probability that grows from 0; how far depends
      on the number of GPUs, which it does not state: our `uniform_share` is what follows for eight.
      [mmrazor] draws one of the two from the chains at once.
    - How often alpha is updated: after each update of the weights in [official code] and here;
      after one of 500 in the configurations of [mmrazor].
    - Batch statistics of the gated pass: those of the batch in [official code] and here; [mmrazor]
      uses running ones.

Cost: `steps` batches, each with forward and backward passes of the full, the smallest and
    `random_subnets` random subnets, after the warm-up one more of the full network; anew for each
    budget. Expected widths cost nothing; each of `evaluations` drawn networks passes four training
    batches and the search split, forward only.

Names: alpha -> `logits`; marginal probability -> `marginals`; E(FLOPs) -> `ExpectedCost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import Inputs, count_images
from zoo.core.errors import Diverged
from zoo.core.method.planted import Golden, planted_problem
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, unpruned
from zoo.core.one_shot.one_shot import OneShot, RankedWidths, conclude_trained, list_widths
from zoo.core.one_shot.sandwich import sandwich_losses, sandwich_macs, sandwich_states
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.search.evolution import Evaluated, draw_only
from zoo.core.search.expected_cost import ExpectedCost
from zoo.core.search.prior import Prior
from zoo.core.search.width_grid import WidthGrid, independent_states
from zoo.core.search.widths_in_budget import fill_closely, largest_feasible, legal_widths
from zoo.core.supernet.gates import gated_weights, require_gates
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import State, Stateful
from zoo.core.training.course import GeneratorState, TensorState, Values
from zoo.core.training.gradients import gradients

__all__ = [
    "DMCP",
    "Architecture",
    "Chains",
    "Gating",
    "architecture_loss",
    "budget_loss",
    "equal_logits",
    "expected_widths",
    "train_markov",
]

_BISECTIONS = 60
_LEAST, _MOST = -60.0, -1e-9  # logarithms of marginals between which chains start
_SHIFTS = np.linspace(-20.0, 20.0, 2001)  # of all alphas; legal widths are coarser than its steps


@dataclass(frozen=True)
class DMCP(OneShot):
    """Markov chains over widths, learnt beside the weights of a supernet.

    Attributes:
        random_subnets: random networks between the full and the smallest in each update.
        warm_up: share of the updates before alpha is updated, too.
        architecture_lr: learning rate of alpha, which falls to a fifth by a cosine.
        budget_weight: weight of the budget's loss beside that of the task.
        tolerance: share of the target that the expected cost may lie below it without loss.
        uniform_share: probability, after the last update, that a random network is drawn uniformly
            and not from the chains; it falls to it geometrically from 1 at the end of the warm-up.
        sampling: "expected" takes expected widths, "direct" the best of some drawn networks.
        evaluations: drawn networks that are scored.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset({"sampling", "evaluations"})
    serves_every_budget: ClassVar[bool] = False

    random_subnets: Annotated[int, Field(ge=0)] = 2
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.5
    architecture_lr: Annotated[float, Field(gt=0)] = 0.5
    budget_weight: Annotated[float, Field(ge=0)] = 0.1
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    uniform_share: Annotated[float, Field(ge=0, le=1)] = 0.37
    sampling: Literal["expected", "direct"] = "expected"
    evaluations: Annotated[int, Field(ge=1)] = 50

    def search(self, problem: Problem) -> Subnet:
        """Learn weights and chains, then take expected or drawn widths."""
        if whole := unpruned(problem):
            return whole
        widths = list_widths(problem, self)
        trained = self.train(widths)
        chains = Chains.of(widths.grid)
        logits = torch.from_numpy(trained.records["logits"])
        with problem.phase("search"):
            if self.sampling == "expected":
                chosen = expected_widths(problem, chains, logits)
            else:
                chosen = self.drawn_widths(widths, trained, chains.prior(logits))
        chosen = fill_closely(problem, chosen, widths.narrowest_first, slack=self.slack)
        return conclude_trained(widths, chosen, trained)

    def drawn_widths(self, widths: RankedWidths, trained: Trained, prior: Prior) -> np.ndarray:
        """The widths of the best of the networks drawn from the chains, shape (G,)."""
        problem = widths.problem
        evaluated = Evaluated(
            lambda states: self.accuracies(
                widths, list(map(widths.config, states)), trained.weights
            )
        )
        draw_only(
            widths.candidates(self.slack),
            evaluated,
            problem.rng("search").spawn(2)[1],
            prior=prior,
            evaluations=self.evaluations,
        )
        problem.trace("draw_only", scores=list(evaluated.scores.values()))
        return widths.widths_of(np.array(evaluated.best(1)[0]))

    def update_macs(self, problem: Problem) -> int:
        """The sandwich on each image, and after the warm-up the full network once more."""
        gated = round((1 - self.warm_up) * problem.cost.full_macs)
        return sandwich_macs(problem, self.random_subnets) + gated

    def candidates(self, problem: Problem) -> int:
        """None where expected widths are taken."""
        return super().candidates(problem) if self.sampling == "direct" else 0

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train by the sandwich rule, and the chains beside."""
        return train_markov(widths, self)

    def comparing(self) -> str:
        """Subnets learn the full network's outputs."""
        return "take another method, such as bcnet"

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and a coarse grid."""
        return cls(steps=4, lr=1e-4, ratios=4, evaluations=4)

    @classmethod
    def golden(cls) -> Golden:
        """Six live channels in one branch and two in the other; chains start at equal widths."""
        live_a, live_b = (0, 1, 3, 4, 6, 7), (2, 5)
        problem = planted_problem(live_a, live_b, keep_ratio=0.5)
        names = {group.members[0].tensor: group.name for group in problem.space.groups}
        expected = SubnetConfig({names["conv_a.weight"]: live_a, names["conv_b.weight"]: live_b})
        story = "By hand: of all pairs of widths that fit, only (6, 2) keeps all eight classes."
        settings = {"steps": 120, "ratios": 8, "warm_up": 0.0}
        return Golden(problem, expected, story, settings)


@dataclass(frozen=True, eq=False)
class Chains:
    """One Markov chain for each group, over its candidate widths.

    Attributes:
        widths: candidates of each group, ascending, float64, shape (G, K); the last one is repeated
            up to the most that a group has.
        exists: whether there is a transition to each candidate but the first, bool, shape
            (G, K - 1).
    """

    widths: Tensor
    exists: Tensor

    @classmethod
    def of(cls, grid: WidthGrid) -> Chains:
        """The chains of a grid."""
        most = int(grid.sizes.max(initial=1))
        rows = [np.pad(each, (0, most - len(each)), mode="edge") for each in grid.widths]
        exists = np.arange(1, most) < grid.sizes[:, None]
        return cls(torch.from_numpy(np.stack(rows)).double(), torch.from_numpy(exists))

    def marginals(self, logits: Tensor) -> Tensor:
        """Probability that the channels up to each candidate but the first are kept.

        Args:
            logits: alpha of every transition, shape (..., G, K - 1).

        Returns:
            Same shape: the product of sigmoid(alpha) up to there; 0 beyond a group's own.
        """
        # Sums of logarithms: as products, but a probability that rounds to 0 has a gradient, too.
        return F.logsigmoid(logits).cumsum(-1).exp() * self.exists

    def moments(self, marginals: Tensor, power: int = 1) -> Tensor:
        """Expected powers of the widths, shape (..., G), for marginals of shape (..., G, K - 1)."""
        powers = self.widths**power
        # E f(w) = f(w_0) + sum over k of (f(w_k) - f(w_{k-1})) P(w >= w_k).
        return powers[:, 0] + (powers.diff(dim=1) * marginals).sum(-1)

    def prior(self, logits: Tensor) -> Prior:
        """The distribution of the widths, for alphas of shape (G, K - 1)."""
        marginals = self.marginals(logits.detach()).numpy()
        edges = np.pad(marginals, ((0, 0), (1, 0)), constant_values=1.0)
        return Prior(edges - np.pad(marginals, ((0, 0), (0, 1))))

    def cost(self, cost: ExpectedCost, marginals: Tensor) -> Tensor:
        """Expected cost of networks drawn from the chains, a scalar."""
        return cost(lambda power: self.moments(marginals, power))


def budget_loss(expected: Tensor, target: float, tolerance: float) -> Tensor:
    """Logarithm of how far the expected cost is from the target, 0 where it is just below.

    Args:
        expected: cost, a scalar.
        target: in the same unit.
        tolerance: share of the target that the cost may lie below it; 0 is the plain logarithm of
            the difference.

    Returns:
        A scalar; unit: nats. Above the target the difference is taken from the lower end of the
        tolerance, so that it is never 0.

    Source: [official code], its piecewise `log_l1`.
    """
    low = (1 - tolerance) * target
    if low <= float(expected.detach()) <= target:
        return expected * 0
    nearest = target if float(expected.detach()) < low else low
    return (expected - nearest).abs().log()


def equal_logits(chains: Chains, cost: ExpectedCost, target: float) -> Tensor:
    """Alphas of chains that expect the target's cost, their last marginals all the same.

    Args:
        chains: of all groups.
        cost: of the network.
        target: in the budget's unit.

    Returns:
        Shape (G, K - 1), float64.
    """
    transitions = chains.exists.sum(1, keepdim=True).clamp(min=1).double()

    def at(logarithm: float) -> Tensor:
        each = (logarithm / transitions).expand(chains.exists.shape)
        return each - torch.log(-torch.expm1(each))  # the logit of a probability exp(each)

    low, high = _LEAST, _MOST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(chains.cost(cost, chains.marginals(at(middle)))) > target:
            high = middle
        else:
            low = middle
    return at((low + high) / 2)


class Gating:
    """Multiplies weights by the probability that what they read is kept.

    Args:
        widths: candidate widths, and which channels lead.

    Raises:
        UnsupportedModel: if a weight that reads channels cannot be gated.
    """

    def __init__(self, widths: RankedWidths) -> None:
        self._space = widths.problem.space
        require_gates(self._space)
        self._device = widths.problem.meter.device
        # Of every channel of every group: how many transitions lead to it; one more than there are
        # for those that bounds exclude.
        self._transitions = [
            torch.from_numpy(_transitions(widths.order[group.name], candidates))
            for group, candidates in zip(self._space.groups, widths.grid.widths, strict=True)
        ]

    def __call__(self, weights: Mapping[str, Tensor], marginals: Tensor) -> dict[str, Tensor]:
        """All weights, gated where they read, for marginals of shape (G, K - 1)."""
        kept = F.pad(F.pad(marginals, (1, 0), value=1.0), (0, 1))
        gates = {
            group.name: row[at].to(self._device)
            for group, row, at in zip(self._space.groups, kept, self._transitions, strict=True)
        }
        return gated_weights(self._space, weights, gates)


def _transitions(scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Transitions before each channel is kept, shape (size,), for candidate widths ascending."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    found: np.ndarray = np.searchsorted(candidates, ranks, side="right")
    return found


def architecture_loss(
    engine: Engine, gating: Gating, marginals: Tensor, inputs: Inputs, targets: Any
) -> Tensor:
    """The task's loss of the whole network with gates, a scalar; charged.

    Args:
        engine: gives the weights, which get no gradient.
        gating: multiplies them.
        marginals: shape (G, K - 1), what the gradient flows to.
        inputs: of a batch, such as images (N, C, H, W).
        targets: of the same.
    """
    problem, full, n_images = engine.problem, SubnetConfig.full(), count_images(inputs)
    problem.meter.passes(n_images, problem.cost.full_macs, backward=torch.is_grad_enabled())
    engine.pairs += n_images
    supernet = problem.supernet
    weights = supernet.sliced(full, engine.trained(), with_statistics=False)
    values = gating(weights, marginals)
    outputs = supernet.answer(inputs, full, values, training=True).outputs
    return problem.task.loss_of(outputs, targets)


class Architecture:
    """Alphas and what updates them: a part of a checkpoint.

    Args:
        logits: alphas, shape (G, K - 1), a leaf.
        lr: the first learning rate.
        steps: updates in all.
    """

    def __init__(self, logits: Tensor, lr: float, steps: int) -> None:
        self.logits = logits.requires_grad_()
        self._optimizer = torch.optim.SGD([self.logits], lr=lr, momentum=0.9, nesterov=True)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, max(1, steps), eta_min=lr / 5
        )

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar.

        Raises:
            Diverged: if the gradient is not finite.
        """
        (self.logits.grad,) = gradients(loss, [self.logits], zeros=True)
        if not bool(self.logits.grad.isfinite().all()):
            raise Diverged(
                f"the loss of the gated network is {float(loss.detach())}, its gradient is not "
                "finite; lower lr or, where channels of the parent are dead, start the supernet "
                "from scratch"
            )
        self._optimizer.step()
        self._schedule.step()

    def state_dict(self) -> State:
        """Alphas, optimizer and schedule."""
        return {
            "logits": self.logits,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Put them back."""
        TensorState({"logits": self.logits}).load_state_dict({"logits": state_dict["logits"]})
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._schedule.load_state_dict(state_dict["schedule"])


def train_markov(widths: RankedWidths, settings: DMCP) -> Trained:
    """Train weights by the sandwich rule and, after the warm-up, alphas beside them.

    Returns:
        The weights, and under "logits" alpha of every transition, shape (G, K - 1).
    """
    problem, grid = widths.problem, widths.grid
    rng = problem.rng("search").spawn(2)[0]
    engine, chains = settings.engine(problem), Chains.of(grid)
    cost, gating = ExpectedCost(problem), Gating(widths)
    target = float(min(problem.budget.limit, problem.widest_cost))
    first = round(settings.warm_up * settings.steps)
    left = settings.steps - first
    architecture = Architecture(equal_logits(chains, cost, target), settings.architecture_lr, left)
    told = Values(losses=[], gated_losses=[], expected_costs=[])
    parts: dict[str, Stateful] = {
        "rng": GeneratorState(rng), "architecture": architecture, "told": told
    }  # fmt: skip
    facts = settings.training_settings | {"budget": [problem.budget.metric, target]}
    updates = engine.updates(facts, parts)
    for images, labels in updates:
        progress = max(0, updates.done - first) / max(1, left)
        is_uniform = rng.random(settings.random_subnets) < settings.uniform_share**progress
        between = np.where(
            is_uniform[:, None],
            independent_states(grid, settings.random_subnets, rng),
            chains.prior(architecture.logits).draw(settings.random_subnets, rng),
        )
        configs = [widths.config(state) for state in sandwich_states(grid, between)]
        losses = sandwich_losses(engine, images, labels, configs)
        losses = engine.update(losses.sum(), losses)
        told["losses"].append(float(losses.mean()))
        if updates.done < first:
            continue
        marginals = chains.marginals(architecture.logits)
        expected = chains.cost(cost, marginals)
        task_loss = architecture_loss(engine, gating, marginals, images, labels)
        over = budget_loss(expected, target, settings.tolerance)
        architecture.update(task_loss.cpu() + settings.budget_weight * over)
        told["gated_losses"].append(float(task_loss.detach()))
        told["expected_costs"].append(float(expected.detach()))
    logits = architecture.logits.detach()
    means = chains.moments(chains.marginals(logits))
    problem.trace("train_markov", pairs=engine.pairs, expected_widths=means, **told)
    return Trained(engine.trained(), {"logits": logits.numpy()})


def expected_widths(problem: Problem, chains: Chains, logits: Tensor) -> np.ndarray:
    """Expected widths within the budget: all alphas are moved by the largest shift that fits.

    Args:
        problem: gives budget, costs and legal widths.
        chains: of all groups.
        logits: alpha of every transition, shape (G, K - 1).

    Returns:
        Legal widths, shape (G,): the expected ones rounded to the nearest channel, then down to a
        legal width.
    """
    moved = logits.detach() + torch.from_numpy(_SHIFTS)[:, None, None]
    means = chains.moments(chains.marginals(moved)).numpy()
    candidates = legal_widths(problem, np.rint(means))
    return largest_feasible(problem, np.vstack([problem.narrowest, candidates]))

"""PSE-Net: a supernet trained at several widths in parallel, and a search led by its losses.

Paper: Wang, Xie, Liu, Zhang, Cheng: PSE-Net: Channel Pruning for Convolutional Neural Networks with
    Parallel-subnets Estimator, Neural Networks 174, 2024, arXiv 2408.16233. Only front matter,
    abstract and short summaries could be read ([paper]); method section, tables and settings were
    not seen, and no official code was found.

Idea: Peers train a supernet serially, one subnet for each pass, which is slow. Here one forward and
    backward pass trains several subnets, by discarding superfluous features along the batch
    dimension [paper]. Losses seen in training give a prior from which the evolutionary search
    samples, against the long tail of configurations that miss the budget [paper].

Steps:
    1. `list_widths`: list the candidate widths of every group.
    2. `train_parallel`: each batch is divided among random subnets, one update for all.
    3. `fit_prior`: how often each width occurs among the best subnets of about the target's cost.
    4. `evolve_widths`: search widths drawn and mutated from the prior, scored on the search split.
    5. `fill_closely`: add channels up to the budget, where groups are narrowest.

Deviations:
    - The supernet starts from the trained parent, and "leading" channels are those of largest L1
      norm in it. The paper trains a supernet from scratch; `start` = "scratch" does, with channels
      in their own order. Expected effect: useful scores after far fewer updates.
    - The network that comes out keeps the supernet's weights and is fine-tuned; the paper trains
      the winner on its own (a suite's `start` = "scratch").

Unknowns:
    - Batch normalisation in the parallel pass: ours takes statistics for each subnet, which gives
      the gradients of serial training exactly; `norm` = "joint" is the other reading, and traces
      how far its gradient is from theirs on the first batch.
    - Number of subnets, and whether an image is seen by one of them: 4, one each. Losses other than
      cross-entropy are taken one subnet after the other, each on its part of the batch.
    - How widths are drawn: ours cover the range of costs evenly; `sampling` = "independent" draws
      each group on its own, which leaves out networks far from the middle.
    - The statistic behind the prior: ours counts widths among the subnets of lowest loss, after
      what time and cost lead to expect is taken away, in the range of the target's cost.
    - Granularity, schedule, search settings, recalibration: see the attributes, and the defaults of
      `fit_prior` and `evolve`.

Cost: `steps` batches, forward and backward, once for all budgets: at full width if masked, at the
    subnets' widths if sliced. For each evaluation four training batches and one pass over the
    search split, forward only, with the subnet.

Names: None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import count_images
from zoo.core.errors import UnsupportedModel
from zoo.core.method.planted import BY_ACCURACY, Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, unpruned
from zoo.core.one_shot.effort import middle_macs
from zoo.core.one_shot.one_shot import OneShot, RankedWidths, conclude_trained, list_widths
from zoo.core.one_shot.supernet_training import Engine, Execution, Norm
from zoo.core.search.evolution import Evaluated, draw_only, evolve, random_candidates
from zoo.core.search.prior import LossRecords, Prior, SeenSubnets, fit_prior, uniform_prior
from zoo.core.search.width_grid import covering_states, independent_states
from zoo.core.search.widths_in_budget import fill_closely
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState, Values
from zoo.core.training.task import Task

__all__ = ["PSENet", "evolve_widths", "explore", "train_parallel"]

Source = Literal["prior", "uniform"]


@dataclass(frozen=True)
class PSENet(OneShot):
    """Parallel-subnets training, then evolution led by a prior. All defaults are ours.

    Attributes:
        subnets: subnets trained in each update, each on its part of the batch; 1 is single-path
            one-shot training.
        execution: "masked", "sliced" or "auto", see `zoo.core.one_shot.supernet_training.Engine`.
        norm: batch statistics, "separate" for each subnet or "joint".
        sampling: how training draws widths, "covering" or "independent".
        kind: of search, "evolution" or "random", which only draws.
        init: first generation drawn from the "prior" or "uniform".
        redraw: mutated widths drawn from the "prior" or "uniform".
        evaluations: subnets scored.
        population: children of a generation, and size of the first one.
        parents: best subnets that have children.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset(
        {"kind", "init", "redraw", "evaluations", "population", "parents"}
    )

    subnets: Annotated[int, Field(ge=1)] = 4
    execution: Execution = "auto"
    norm: Norm = "separate"
    sampling: Literal["covering", "independent"] = "covering"
    kind: Literal["evolution", "random"] = "evolution"
    init: Source = "prior"
    redraw: Source = "prior"
    evaluations: Annotated[int, Field(ge=1)] = 200
    population: Annotated[int, Field(ge=1)] = 40
    parents: Annotated[int, Field(ge=1)] = 10

    def search(self, problem: Problem) -> Subnet:
        """Train several subnets at once, then search widths led by the losses of that training."""
        if whole := unpruned(problem):
            return whole
        widths = list_widths(problem, self)
        trained = self.train(widths)
        with problem.phase("search"):
            prior = fit_prior(widths.grid, LossRecords(**trained.records), problem.budget.limit)
            state = evolve_widths(widths, trained.weights, prior, self)
        chosen = fill_closely(
            problem, widths.widths_of(state), widths.narrowest_first, slack=self.slack
        )
        return conclude_trained(widths, chosen, trained)

    def update_macs(self, problem: Problem) -> int:
        """One pass in which each image meets one subnet: of full width, or of the subnet's own."""
        part = problem.data.batch_size // self.subnets
        engine = self.engine(problem, execution=self.execution, norm=self.norm)
        is_sliced = engine.chosen(part) == "sliced"
        return middle_macs(problem)[1] if is_sliced else problem.cost.full_macs

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train several subnets in each pass."""
        return train_parallel(widths, self)

    def check_task(self, task: Task, space: ChannelSpace) -> None:
        """Refuse a batch that cannot be divided among subnets, and to run subnets at once.

        Raises:
            UnsupportedModel: with the way out.
        """
        if task.is_classification:
            return
        if self.norm == "joint" or self.execution == "masked":
            raise UnsupportedModel(
                "subnets run at once with the cross-entropy of logits only; leave out "
                "norm='joint' and execution='masked'"
            )
        if self.subnets > 1 and not task.is_divisible:
            raise UnsupportedModel(
                f"{task.indivisible} pse_net's {self.subnets} subnets: set subnets=1"
            )

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and a small population."""
        return cls(steps=3, lr=1e-4, ratios=5, evaluations=8, population=4, parents=2)

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is the best of all feasible width pairs; the parent's weights do."""
        return planted_golden(BY_ACCURACY, steps=0, ratios=8, evaluations=40, population=20)


def train_parallel(widths: RankedWidths, settings: PSENet) -> Trained:
    """Train one set of weights at many widths, several for each batch.

    Returns:
        The weights, and state, loss and step of every subnet trained.
    """
    problem, grid = widths.problem, widths.grid
    rng = problem.rng("search").spawn(2)[0]
    draw = covering_states if settings.sampling == "covering" else independent_states
    engine = settings.engine(problem, execution=settings.execution, norm=settings.norm)
    seen = SeenSubnets(len(grid.sizes))
    last = Values(execution="")
    parts: dict[str, Stateful] = {"rng": GeneratorState(rng), "seen": seen, "last": last}
    for images, labels in engine.updates(settings.training_settings, parts):
        n_images = count_images(images)
        # Norms behind a global pooling need two images, which cross-entropy here has never asked.
        most = n_images if problem.task.is_classification else max(1, n_images // 2)
        count = min(settings.subnets, most)
        used = n_images - n_images % count
        states = draw(grid, count, rng)
        configs = [widths.config(state) for state in states]
        if settings.norm == "joint" and not last["execution"]:
            _trace_norm_error(problem, engine, images[:used], labels[:used], configs)
        last["execution"] = engine.chosen(used // count)
        losses = engine.part_losses(images, labels, configs)
        seen.add(states, engine.update(losses.mean(), losses))
    problem.trace(
        "train_parallel",
        execution=last["execution"],
        pairs=engine.pairs,
        losses=seen.means(),
        costs=grid.costs(seen.records["states"]),
    )
    return Trained(engine.trained(), seen.records)


def _trace_norm_error(
    problem: Problem,
    engine: Engine,
    images: Tensor,
    labels: Tensor,
    configs: Sequence[SubnetConfig],
) -> None:
    """Trace how far joint batch statistics change the gradient of the first batch."""
    error = engine.joint_norm_error(images, configs, lambda logits: F.cross_entropy(logits, labels))
    problem.trace("joint_norm", gradient_error=error)


def evolve_widths(
    widths: RankedWidths, weights: Mapping[str, Tensor], prior: Prior, settings: PSENet
) -> np.ndarray:
    """Search widths on the supernet, led by a prior.

    Args:
        widths: candidate widths, and the problem.
        weights: of the trained supernet, full-size, by state-dict name.
        prior: probabilities of the widths.
        settings: which draws follow the prior, and how many there are.

    Returns:
        The state of highest score within the budget, shape (G,).
    """
    problem = widths.problem
    evaluated = Evaluated(
        lambda states: settings.accuracies(widths, list(map(widths.config, states)), weights)
    )
    explore(widths, evaluated, prior, settings, problem.rng("search").spawn(2)[1])
    problem.trace(
        "search_widths",
        scores=list(evaluated.scores.values()),
        prior_means=(prior.probabilities * np.arange(prior.probabilities.shape[1])).sum(1),
    )
    return np.array(evaluated.best(1)[0])


def explore(
    widths: RankedWidths,
    evaluated: Evaluated,
    prior: Prior,
    settings: PSENet,
    rng: np.random.Generator,
) -> None:
    """Score states within the budget, by evolution or, as its control, by drawing alone.

    Args:
        widths: candidate widths, and the problem.
        evaluated: scores states and remembers them.
        prior: probabilities of the widths.
        settings: kind of search, what follows the prior, and sizes of the search.
        rng: all that is drawn comes from here.
    """
    candidates, flat = widths.candidates(settings.slack), uniform_prior(widths.grid.sizes)
    initial = prior if settings.init == "prior" else flat
    if settings.kind == "random":
        draw_only(candidates, evaluated, rng, prior=initial, evaluations=settings.evaluations)
        return
    evolve(
        candidates,
        evaluated,
        rng,
        initial=random_candidates(candidates, initial, settings.population, rng),
        redraw=prior if settings.redraw == "prior" else flat,
        evaluations=settings.evaluations,
        population=settings.population,
        parents=settings.parents,
    )

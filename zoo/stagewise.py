"""Stage-wise pruning: stages trained and searched alone, against the full network's features.

Paper: Zhang, Yu, Rong, Ou: Effective Model Compression via Stage-wise Pruning, 2020, arXiv
    2011.04908 v2; Machine Intelligence Research 20(6), 2023. Only the abstracts, the first lines of
    the introduction ([paper]) and a third party's summary of the journal version ([digest]) could
    be read; method section, tables and settings were not seen, and no official code was found.

Idea: A whole-network supernet holds too many subnets to train any of them fully, and samples its
    channels with unequal probability [paper]. Cut into stages, it holds few; each stage is
    supervised by in-place distillation, and the fullnet and the tinynet are trained in every
    iteration, so that every channel is trained sufficiently [paper]. The fullnet supervises both
    the training and the searching of subnets [paper].

Steps:
    1. `list_widths` and `cut_stages`: list the candidate widths of every group, and cut the network
       where timm's feature_info ends a stage.
    2. `train_stagewise`: in each iteration the fullnet on labels, and for every stage the tinynet
       and random subnets, fed with the fullnet's detached features and compared with its detached
       output; gradients are summed, one step.
    3. `search_stages`: evolve the trade-offs between error and cost of each stage, on its own.
    4. `combine`: the combinations of least summed error within the budget, exactly.
    5. `best_assembled`: re-rank them as assembled networks, BatchNorm recalibrated.
    6. `fill_up`: add channels up to the budget, where groups are narrowest.

Deviations:
    - The supernet starts from the trained parent, and leading channels are those of largest L1 norm
      in it; `start` = "scratch" does without. Expected effect: useful errors after far fewer
      updates.
    - The network that comes out keeps the supernet's weights and is fine-tuned; the paper trains
      final networks from scratch [digest] (a suite's or a variant's `start` = "scratch").

Unknowns:
    - Stages: one for each resolution that feature_info names, at most four; `stages` sets another
      number, and 1 is the whole-network supernet.
    - Widths at the junctions of stages, where a feature loss needs as many channels as the fullnet
      has. `junctions` = "full" keeps them: the error is exact and stages are independent, but with
      many stages little is left to prune, and small budgets are out of reach. "leading" prunes them
      and compares the kept channels alone: every budget is in reach, but a narrow junction is
      easier to match, so errors are not comparable between junction widths. The search then fixes
      the junctions first, at `JUNCTION_WIDTHS` widths each, and the assembled networks decide;
      where the network evolves as a whole, errors are compared all the same.
    - Loss of a stage: squared error over the detached variance, so that all stages count alike and
      a fullnet gains nothing by shrinking its features; for the logits, which end the last stage,
      the divergence from the fullnet's classes. Where a task has another loss than cross-entropy,
      its outputs are compared as maps are. Weights of the stages: equal.
    - Number of random subnets: 1. Whether the fullnet is trained along (here it is) or frozen.
    - Batch normalisation: every pass normalises by its own batch, so fullnet, tinynet and random
      subnets never share statistics; scoring recalibrates those of each candidate.
    - What "distributed" means: here the searches of the stages, which share nothing and can run in
      `workers` processes, with the same answer for any number of them.
    - Ratio grid, smallest ratio, schedule, search settings: see the attributes.

Cost: `steps` batches, each with forward and backward passes of the fullnet, the tinynet and
    `random_subnets` subnets, once for all budgets. Each evaluation passes four training batches and
    the search split through one stage, forward only, on features kept from one pass of the fullnet.
    Re-ranking: for each of the `pool` four training batches and the search split. Features that
    take more than 4 GiB in all are not kept: the fullnet makes them anew up to the stage, once for
    each generation (at most 32 candidates), which is charged.

Names: F_k -> `features`; G_k -> `StageRunner.output`; c^k -> states of `PartialGrid`;
    K -> `stages`; M -> `random_subnets`; l_k -> `stage_error`; w_k -> 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import count_images
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.planted import BY_ACCURACY, Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, unpruned
from zoo.core.one_shot.effort import middle_macs
from zoo.core.one_shot.fullnet import fullnet_pass
from zoo.core.one_shot.label_supervision import label_losses
from zoo.core.one_shot.network_search import evolve_network
from zoo.core.one_shot.one_shot import (
    OneShot,
    RankedWidths,
    conclude_trained,
    list_widths,
    on_device,
)
from zoo.core.one_shot.shared_terms import Term
from zoo.core.one_shot.stage_search import (
    JunctionWidths,
    StageArchives,
    StagedGrid,
    StageScorer,
    StageSearch,
    check_processes,
    report_search,
    searched_stages,
    stage_error,
    stage_scorers,
    summed_errors,
)
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.search.multiple_choice import best_combinations
from zoo.core.search.width_grid import independent_states
from zoo.core.search.widths_in_budget import fill_up
from zoo.core.supernet.blocks import check_interfaces
from zoo.core.supernet.stages import StageRunner, cut_stages, free_names
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState, Values
from zoo.core.training.distill import explain_flat_features
from zoo.core.training.ranks import summoned

__all__ = [
    "Stagewise",
    "best_assembled",
    "combine",
    "search_stages",
    "stage_error",
    "stage_losses",
    "train_stagewise",
]

JUNCTION_WIDTHS = 3  # that the search tries at each junction, where junctions are pruned


@dataclass(frozen=True)
class Stagewise(OneShot):
    """Stage-wise supernets and searches. All defaults are ours.

    Attributes:
        stages: number of stages; None for those of feature_info, at most four; 1 for a
            whole-network supernet.
        junctions: "full" keeps the width of what passes from stage to stage, "leading" prunes it
            and compares the channels that are kept.
        random_subnets: random subnets of each stage in each iteration.
        fullnet: train the fullnet on labels in each iteration; it teaches either way.
        tinynet: train the narrowest subnet in each iteration.
        supervision: "features" compares a stage's output with the fullnet's; "labels" hands it on
            through the stages behind it at full width and takes the task's loss.
        evolution: "stages" searches each stage alone, "network" all widths at once.
        evaluations: subnets scored: of each stage, or of the network.
        population: children of a generation, and size of the first one.
        parents: best subnets that have children, where the network evolves; in a stage, those that
            none beats in both error and cost have.
        mutation: probability with which a group's width mutates.
        slack: share of the budget that may stay unused where the network evolves; stages are filled
            up as far as single steps go.
        pool: best combinations that are assembled and compared, at least one for each choice of
            junction widths.
        workers: processes among which the searches of the stages are divided, each with as many
            threads as this one and a copy of its features, which have to fit (see Cost). A script
            that asks for several needs the guard `if __name__ == "__main__"`. What they hold in
            memory is not metered.
        score: what `scores` returns: minus the summed errors of the "stages", or the accuracy of
            the "assembled" network.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset(
        {"evolution", "evaluations", "population", "parents", "mutation"}
        | {"pool", "workers", "score"}
    )

    stages: Annotated[int, Field(ge=1)] | None = None
    junctions: Literal["full", "leading"] = "full"
    random_subnets: Annotated[int, Field(ge=0)] = 1
    fullnet: bool = True
    tinynet: bool = True
    supervision: Literal["features", "labels"] = "features"
    evolution: Literal["stages", "network"] = "stages"
    evaluations: Annotated[int, Field(ge=1)] = 100
    population: Annotated[int, Field(ge=1)] = 20
    parents: Annotated[int, Field(ge=1)] = 10
    mutation: Annotated[float, Field(ge=0, le=1)] = 0.1
    pool: Annotated[int, Field(ge=1)] = 8
    workers: Annotated[int, Field(ge=1)] = 1
    score: Literal["stages", "assembled"] = "stages"

    def validate(self) -> None:
        """Refuse a variant that contradicts itself, or that trains nothing.

        Raises:
            ValueError: with the settings that do not go together.
        """
        super().validate()
        if self.supervision == "labels" and self.junctions == "leading":
            raise ValueError(
                "supervision 'labels' hands narrow features to full stages; use junctions 'full'"
            )
        if not (self.fullnet or self.tinynet or self.random_subnets):
            raise ValueError("no network is trained; switch one of fullnet and tinynet on")

    def search(self, problem: Problem) -> Subnet:
        """Train and search the stages alone, combine what was found, take the best assembled."""
        if whole := unpruned(problem):
            return whole
        check_processes(self.workers)
        widths = list_widths(problem, self)
        staged = self.cut(widths)
        trained = self.train(widths)
        with problem.phase("search"):
            staged.check_reach(problem.budget)
            if self.evolution == "stages":
                with summoned(self, "search_along", on=trained.weights):
                    scorers = stage_scorers(problem, staged.stages, trained.weights)
                    found = search_stages(widths, staged, scorers, self)
                states = combine(widths, found, self)
            else:
                scorers = stage_scorers(problem, staged.stages, trained.weights)
                states = self.search_as_network(widths, staged, scorers)
            state = best_assembled(widths, states, trained.weights, self)
        # As far as single steps go: exchanging channels would narrow junctions.
        chosen = fill_up(problem, widths.widths_of(state), widths.narrowest_first)
        return conclude_trained(widths, chosen, trained)

    def search_along(self, problem: Problem, weights: Mapping[str, Tensor]) -> None:
        """Search some of the stages, where rank 0 has come to them; it has what was found.

        Args:
            problem: this rank's own, equal to that of rank 0.
            weights: of the supernet that rank 0 has, full-size, by state-dict name.
        """
        widths = list_widths(problem, self)
        staged = self.cut(widths)
        with problem.phase("search"):
            scorers = stage_scorers(problem, staged.stages, on_device(problem, weights))
            search_stages(widths, staged, scorers, self)

    def cut(self, widths: RankedWidths) -> StagedGrid:
        """Cut the network into stages."""
        stages = cut_stages(widths.problem.model, widths.problem.space, self.stages)
        return StagedGrid(widths.grid, stages, self.junctions == "leading")

    def update_macs(self, problem: Problem) -> int:
        """Fullnet, tinynet and random subnets on each image; a frozen fullnet counts a third."""
        least, middle = middle_macs(problem)
        full = problem.cost.full_macs // (1 if self.fullnet else 3)
        return full + self.tinynet * least + self.random_subnets * middle

    def candidates(self, problem: Problem) -> int:
        """As many of each stage, which together cost one of the network; and what is assembled."""
        return self.evaluations + self.pool

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train all stages at once."""
        return train_stagewise(widths, self.cut(widths), self)

    def search_as_network(
        self, widths: RankedWidths, staged: StagedGrid, scorers: Sequence[StageScorer]
    ) -> list[np.ndarray]:
        """The control: evolve all widths at once.

        Args:
            widths: candidate widths, and the problem.
            staged: the same, cut into stages.
            scorers: one for each stage.

        Returns:
            The best states, each of shape (G,).
        """
        return evolve_network(
            widths,
            staged.free,
            scorers,
            evaluations=self.evaluations,
            population=self.population,
            parents=self.parents,
            mutation=self.mutation,
            slack=self.slack,
            count=self.pool,
        )

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """Minus the summed errors of a configuration's stages, or its assembled accuracy.

        Raises:
            ValueError: if a configuration narrows what the stages hold at full width.
        """
        stages = cut_stages(problem.model, problem.space, self.stages)
        check_interfaces(problem.space, free_names(stages, self.junctions == "leading"), configs)
        check_processes(self.workers)
        widths = list_widths(problem, self)
        trained = self.train(widths)
        ranked = [widths.leading(config.widths(problem.space)) for config in configs]
        with problem.phase("search"):
            if self.score == "assembled":
                return self.accuracies(widths, ranked, trained.weights)
            scorers = stage_scorers(problem, stages, trained.weights)
            errors = summed_errors(scorers, ranked)
            for scorer in scorers:
                scorer.charge(problem, np.stack([c.widths(problem.space) for c in ranked]))
            return [-error for error in errors]

    def comparing(self) -> str:
        """Stages are compared by their outputs, the last by the network's."""
        return "take another method, such as bcnet"

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and small populations."""
        return cls(steps=2, lr=1e-4, ratios=5, evaluations=12, population=6, mutation=0.3, pool=3)

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is the best of all feasible width pairs; the parent's weights do."""
        return planted_golden(BY_ACCURACY, steps=0, ratios=8, stages=1, evaluations=64, pool=8)


# Step 2: training


def train_stagewise(widths: RankedWidths, staged: StagedGrid, settings: Stagewise) -> Trained:
    """Train fullnet, tinynet and random subnets of every stage, one update for all.

    Args:
        widths: candidate widths, and the problem.
        staged: the same, cut into stages.
        settings: which networks are trained, and what supervises them.

    Returns:
        The weights, without records.
    """
    problem = widths.problem
    runner, part = StageRunner(problem.supernet, staged.stages), staged.free
    rng = problem.rng("search").spawn(2)[0]
    engine = settings.engine(problem)
    tiny = [np.zeros((1, len(part.free)), dtype=np.int64)] if settings.tinynet else []
    by_labels = settings.supervision == "labels"  # the control, which compares no features
    # A single stage that learns from labels has no use for what the fullnet answers.
    is_fullnet_needed = settings.fullnet or not by_labels or len(staged.stages) > 1
    seen = Values(losses=[])
    parts: dict[str, Stateful] = {"rng": GeneratorState(rng), "seen": seen}
    for images, labels in engine.updates(settings.training_settings, parts):
        drawn = independent_states(part, settings.random_subnets, rng)
        features, first = [images], list[Tensor]()
        if is_fullnet_needed:
            features, first = fullnet_pass(
                engine, runner, images, labels, is_trained=settings.fullnet
            )
        terms = []
        for state in part.whole(np.concatenate([*tiny, drawn])):
            config = widths.config(state)
            run = partial(stage_losses, engine, runner, features, config)
            if by_labels:
                run = partial(label_losses, engine, runner, features, labels, config)
            terms.append(Term(problem.cost.macs(config), run, count=len(staged.stages)))
        losses = engine.losses(terms, first)
        outputs = zip(staged.stages, features[1:], strict=False)
        maps = {stage.output: x for stage, x in outputs if isinstance(x, Tensor) and x.ndim == 4}
        engine.divergence_hint = partial(explain_flat_features, maps, "set supervision to 'labels'")
        seen["losses"].append(engine.update(losses.sum(), losses).tolist())
    stages = [stage.output for stage in staged.stages]
    problem.trace("train_stagewise", stages=stages, pairs=engine.pairs, losses=seen["losses"])
    return Trained(engine.trained(), {})


def stage_losses(
    engine: Engine, runner: StageRunner, features: Sequence[Any], config: SubnetConfig
) -> list[Tensor]:
    """l_k of every stage of a subnet, each fed with the fullnet's features; charged.

    Args:
        engine: gives weights and meter.
        runner: of the stages.
        features: F_0 to F_K, detached.
        config: what the subnet keeps.

    Returns:
        K scalars; gradients reach the weights of each one's stage and nothing else.
    """
    values = engine.sliced(config)
    losses = []
    for k in range(len(runner.stages)):
        student = runner.output(k, features[k], config, values, training=True)
        target = runner.narrowed(k + 1, features[k + 1], config)
        losses.append(stage_error(student, target, engine.problem.task))
    count = count_images(features[0])
    engine.problem.meter.passes(count, engine.problem.cost.macs(config), backward=True)
    engine.pairs += count
    return losses


# Step 3: searching


def search_stages(
    widths: RankedWidths, staged: StagedGrid, scorers: Sequence[StageScorer], settings: Stagewise
) -> list[StageArchives]:
    """Search every stage at every choice of junction widths that is tried.

    The junctions before and behind a stage are all that its search depends on, so choices that
    agree in these two share one search.

    Args:
        widths: candidate widths, and the problem.
        staged: the same, cut into stages.
        scorers: one for each stage.
        settings: sizes of the searches, and the number of processes.

    Returns:
        What was found, for each choice of junction widths.
    """
    problem, stages = widths.problem, staged.stages
    choices = staged.junction_choices(JUNCTION_WIDTHS)
    source = problem.rng("search").spawn(2)[1]
    tasks: dict[tuple[int, JunctionWidths], StageSearch] = {}
    for junctions, base in choices.items():
        for stage, scorer in enumerate(scorers):
            key = _search_key(stage, junctions)
            if key not in tasks:
                tasks[key] = StageSearch(
                    scorer,
                    staged.inner(stage, base),
                    widths.order,
                    settings.evaluations,
                    settings.population,
                    settings.mutation,
                    source.spawn(1)[0],
                )
    archives = dict(zip(tasks, searched_stages(problem, tasks, settings.workers), strict=True))
    for key, (archive, images) in archives.items():
        report_search(problem, stages[key[0]], tasks[key], archive, images)
    found = []
    for junctions, base in choices.items():
        keys = [_search_key(stage, junctions) for stage in range(len(stages))]
        parts = tuple(tasks[key].part for key in keys)
        found.append(StageArchives(base, parts, tuple(archives[key][0] for key in keys)))
    return found


def _search_key(stage: int, junctions: JunctionWidths) -> tuple[int, JunctionWidths]:
    """A stage and the widths of the junctions before and behind it; the ends have one only."""
    return stage, junctions[max(0, stage - 1) : stage + 1]


# Steps 4 and 5: putting together


def combine(
    widths: RankedWidths, found: Sequence[StageArchives], settings: Stagewise
) -> list[np.ndarray]:
    """States, shape (G,), of the combinations of least summed error, for each junction widths.

    Errors between different junctions are not comparable, so each of them sends at least one.

    Args:
        widths: candidate widths, and the problem.
        found: what the searches found, for each choice of junction widths.
        settings: how many combinations to return.

    Raises:
        InfeasibleBudget: if no combination fits.
    """
    budget = widths.problem.budget
    count = max(1, settings.pool // len(found))
    states, errors = [], []
    for each in found:
        losses = [archive.losses for archive in each.archives]
        limit = budget.limit - int(widths.grid.costs(each.base[None])[0])
        for picked in best_combinations(losses, each.added_costs(), limit, count):
            states.append(each.assembled(picked))
            errors.append(each.error(picked))
    if not states:
        raise InfeasibleBudget(
            f"no combination of what the stages found is within {budget}; "
            "raise the budget or evaluations, or use fewer stages"
        )
    widths.problem.trace("combine", errors=errors, costs=widths.grid.costs(np.stack(states)))
    return states


def best_assembled(
    widths: RankedWidths,
    states: Sequence[np.ndarray],
    weights: Mapping[str, Tensor],
    settings: Stagewise,
) -> np.ndarray:
    """The state whose network scores best on the search split, BatchNorm recalibrated.

    Args:
        widths: candidate widths, and the problem.
        states: each of shape (G,).
        weights: of the trained supernet, full-size, by state-dict name.
        settings: score them.
    """
    scores = settings.accuracies(widths, list(map(widths.config, states)), weights)
    widths.problem.trace("best_assembled", scores=scores)
    return states[int(np.argmax(scores))]

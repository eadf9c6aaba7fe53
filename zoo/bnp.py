"""Block-wise pruning: distilled block scores, and a Markov chain over block widths.

Paper: Liu, Du, Song, Yu: Block-Wisely Supervised Network Pruning with Knowledge Distillation and
    Markov Chain Monte Carlo, Applied Sciences 2022, 12(21), 10952. Only the abstract could be
    read ([paper]); no formula, setting or table of the article was seen and no code was found.
    What follows is in its style and must not be called its reproduction.

Idea: The baseline is divided into small blocks, and each block is shrunk independently and in the
    same manner [paper]. The baseline's representations supervise the search: each student block
    imitates the baseline's block, and its score measures both accuracy and efficiency [paper].
    Blocks are searched with Markov chain Monte Carlo, which samples them from a posterior [paper].

Steps:
    1. `cut_blocks`: divide the network into blocks whose interfaces keep their widths.
    2. `make_block_grid`: list the candidate widths of every block, nested by importance.
    3. `distil_blocks`: train all student blocks at random widths against the teacher's outputs.
    4. `score_blocks`: energy and cost of every candidate of every block.
    5. `finalists`: sample block widths from the posterior, and solve the same table exactly.
    6. `best_finalist`: re-rank the best states by accuracy on the search split.
    7. `BlockDistillation`: fine-tune with cross-entropy, block features and logits.

Deviations:
    - Cannot be listed: the paper's formulas are unknown, see below.

Unknowns:
    - Blocks: the paper says "small blocks". Ours are residual units, inverted residuals and plain
      runs, from the network's own modules and timm's grouping. Groups that reach beyond a block
      keep all channels, so a budget can be out of reach that other methods meet. A stem or head
      joins in where whole groups lie in its run of layers. Where bounds narrow such a group, blocks
      are scored between interfaces of all channels, and the network keeps the most important ones.
    - Shrinkage: channels inside a block at the rates 0.1, 0.2, ..., 1. A block with many widths
      gets fewer rates for each, at most `candidates` combinations. A squeeze-excite reduction
      shrinks with the channels that it gates. The largest L1 norms stay, once for all rates.
    - Block distillation: the mean squared error over the variance of the teacher's output, the
      teacher in eval mode, the student fed with the teacher's input and normalised by the
      teacher's statistics, Adam with a cosine, random widths in each step. Whether candidates are
      trained before they are scored, and for how long, is open: "off" scores sliced weights.
    - Score: minus the error, minus `lambda_cost` times the share of the whole cost.
    - Posterior: proportional to exp(score / tau) on states within the budget ("hard"), or without
      a budget and with the efficiency weight at which the expected cost meets it ("soft").
    - Proposals: grid steps, fresh values and paired moves; the temperature accepts a set share of
      the feasible proposals; number and length of the chains, burn-in. Chains start from random
      feasible states.
    - Final choice: the best distinct states, filled up to the budget, re-ranked on held-out
      training images after BatchNorm is recalibrated.
    - Fine-tuning: all three terms, their weights and the temperature. Where a task has another loss
      than cross-entropy, that is the first term, and the third is the squared error of the outputs
      over their variance. A block that returns several tensors counts their mean error.

Cost: `steps` training batches, each with one teacher pass and one pass forward and backward over
    all student blocks together, not one pass per block; every candidate of every block once on
    one batch; each finalist once over the search split. Fine-tuning adds a teacher pass for each
    image.

Names: D_b -> error in `score_blocks`; theta_b -> positions on the grid; F_b -> `costs`; s_b ->
    minus `energies`; lambda -> `lambda_cost`; tau -> `tau`; beta -> `beta`; X_b -> features of
    `BlockRunner`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.inputs import Inputs, count_images
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.method.updates import Updates
from zoo.core.search.block_grid import BlockGrid, filled_widths, make_block_grid
from zoo.core.search.choice_table import (
    ChoiceTable,
    State,
    balanced_price,
    greedy_state,
    optimal_state,
    random_state,
)
from zoo.core.search.markov_chain import (
    ChainRun,
    Moves,
    effective_sample_size,
    sample_chain,
    split_r_hat,
    tuned_tau,
)
from zoo.core.search.widths_in_budget import keep_best
from zoo.core.supernet.blocks import BlockRunner, block_macs, check_interfaces, cut_blocks
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState, TensorState, Values
from zoo.core.training.distill import (
    BlockDistillation,
    check_errors,
    feature_error,
    output_error,
    relative_feature_error,
)
from zoo.core.training.gradients import backward
from zoo.core.training.task import CLASSIFICATION, Task

__all__ = ["BNP", "block_errors", "distil_blocks", "finalists", "prepare_blocks", "score_blocks"]

# Ours, see Unknowns.
ACCEPTANCE = 0.3  # share of the feasible proposals accepted, which sets the chains' temperature
BURN_IN = 0.2  # share of a chain that is left out
KD_TEMPERATURE = 4.0  # of the distillation of the logits


@dataclass(frozen=True)
class BNP(Pruner):
    """Distilled block scores, then a Markov chain over block widths. All defaults are ours.

    Attributes:
        steps: training batches of the block distillation; 0 scores sliced weights.
        lr: highest rate of its cosine.
        error: what a block's score measures: the error over the variance of the teacher's output,
            or the raw mean squared error.
        feed: whose features enter a student block: the teacher's, or those of the student so far.
        candidates: most candidate widths of a block.
        lambda_cost: efficiency weight of the score under a hard budget, in units of the error.
        posterior: "hard" or "soft", see the card.
        solver: "chain", or for comparison at the same scores "exact", "greedy" or "random".
        chains: number of chains.
        chain_steps: proposals of each chain.
        cooling: factor by which the temperature falls along a chain; 1 samples the posterior.
        pool: best distinct states that are re-ranked.
        beta: weight of the mean of the block terms in fine-tuning; 0 switches them off.
        kd: weight of the distillation of the logits; 0 switches it off.
    """

    steps: Annotated[int, Field(ge=0)] = 25
    lr: Annotated[float, Field(gt=0)] = 1e-3
    error: Literal["relative", "raw"] = "relative"
    feed: Literal["teacher", "student"] = "teacher"
    candidates: Annotated[int, Field(ge=1)] = 100
    lambda_cost: Annotated[float, Field(ge=0)] = 0.0
    posterior: Literal["hard", "soft"] = "hard"
    solver: Literal["chain", "exact", "greedy", "random"] = "chain"
    chains: Annotated[int, Field(ge=1)] = 4
    chain_steps: Annotated[int, Field(ge=1)] = 20_000
    cooling: Annotated[float, Field(gt=0)] = 1.0
    pool: Annotated[int, Field(ge=1)] = 4
    beta: Annotated[float, Field(ge=0)] = 1.0
    kd: Annotated[float, Field(ge=0)] = 0.5

    def search(self, problem: Problem) -> Subnet:
        """Score blocks against the teacher's, sample their widths, keep the best sample."""
        if whole := unpruned(problem):
            return whole
        grid, runner = prepare_blocks(problem, self.candidates)
        with problem.phase("supernet"):
            weights = distil_blocks(problem, grid, runner, self)
        with problem.phase("scoring"):
            table = score_blocks(problem, grid, runner, weights, self)
        with problem.phase("search"):
            states = finalists(problem, table, self)
            config = best_finalist(problem, grid, table, states, weights)
        return conclude(problem, config, {**problem.model.state_dict(), **weights})

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """Minus the summed block errors and the price of the cost, that is, minus the energy.

        Raises:
            ValueError: if a configuration narrows an interface between blocks.
        """
        grid, runner = prepare_blocks(problem, self.candidates)
        inner = {name for block in grid.blocks for name in block.groups}
        check_interfaces(problem.space, inner, configs)
        with problem.phase("supernet"):
            weights = distil_blocks(problem, grid, runner, self)
        with problem.phase("scoring"):
            rounds = [(config, range(len(grid.blocks))) for config in configs]
            errors = block_errors(problem, runner, weights, rounds, self).sum(axis=1)
        full = problem.full_cost
        costs = np.array([problem.cost_of_config(config) for config in configs])
        return [float(s) for s in -errors - self.lambda_cost * (costs - full) / full]

    def loss(
        self,
        teacher: nn.Module,
        student: nn.Module,
        space: ChannelSpace,
        config: SubnetConfig,
        task: Task = CLASSIFICATION,
    ) -> BlockDistillation | None:
        """The task's loss plus block features and answer of the teacher, as far as switched on."""
        if not (self.beta or self.kd):
            return None
        outputs = [block.output for block in cut_blocks(teacher, space)]
        return BlockDistillation(
            teacher,
            outputs,
            macs=CostModel(space).full_macs,
            beta=self.beta,
            kd=self.kd,
            temperature=KD_TEMPERATURE,
            task=task,
            part=space.part,
        )

    def comparing(self) -> str:
        """Outputs are distilled with weight `kd`."""
        return "set kd=0" if self.kd else ""

    @classmethod
    def tiny(cls) -> Self:
        """One small training step, few candidates and short chains."""
        return cls(steps=2, lr=1e-4, candidates=16, chains=2, chain_steps=400, pool=2)


def prepare_blocks(problem: Problem, candidates: int) -> tuple[BlockGrid, BlockRunner]:
    """Cut the network into blocks; return their candidate widths and what runs each alone.

    Raises:
        InfeasibleBudget: if the narrowest blocks are over budget.
    """
    blocks = cut_blocks(problem.model, problem.space)
    grid = make_block_grid(problem, blocks, candidates)
    return grid, BlockRunner(problem.model, problem.space, blocks)


def distil_blocks(
    problem: Problem, grid: BlockGrid, runner: BlockRunner, settings: BNP
) -> dict[str, Tensor]:
    """Train the student blocks, all widths in one set of weights, all blocks in one pass.

    Each step draws a batch and one random candidate of every block. The teacher runs once; its
    features feed all blocks. Blocks share no weights, so the sum of their errors trains each alone.

    Args:
        problem: gives teacher, batches and meter.
        grid: candidate widths of the blocks.
        runner: runs single blocks.
        settings: steps, learning rate, and whose features feed the blocks.

    Returns:
        Full-size weights of the blocks, by state-dict name; frozen ones are left out.
    """
    own = dict(problem.model.named_parameters())
    trained = [name for name in runner.parameters() if own[name].requires_grad]
    if settings.steps == 0 or not grid.blocks or not trained:
        return {}
    weights = {name: own[name].detach().clone().requires_grad_() for name in trained}
    optimizer = torch.optim.Adam(weights.values(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    rng = problem.rng("search")
    # Of the whole blocks, less those of the whole network: what lies outside never changes.
    rest = sum(block_macs(problem.space, b) for b in grid.blocks) - problem.cost.full_macs
    seen = Values(student_macs=0, images=0, errors=[])
    parts: dict[str, Stateful] = {"weights": TensorState(weights), "optimizer": optimizer}
    parts |= {"schedule": schedule, "rng": GeneratorState(rng), "seen": seen}
    updates = Updates(problem, settings.steps, parts, settings=asdict(settings))
    for images, _ in updates:
        state = [int(rng.integers(len(rows))) for rows in grid.rates]
        config = grid.config(problem.space, state)
        inputs, targets = _features(problem, runner, images, config, weights, settings)
        outputs = runner.run(dict(enumerate(inputs)), config, weights)
        macs = rest + problem.cost.macs(config)
        count = count_images(images)
        problem.meter.passes(count, macs, backward=True)
        # D_b: the relative error whatever the score, so that one learning rate suits all blocks.
        losses = [output_error(outputs[b], x) for b, x in enumerate(targets)]
        values = check_errors(losses, [block.output for block in runner.blocks], targets)
        optimizer.zero_grad(set_to_none=True)
        backward(torch.stack(losses).sum())
        optimizer.step()
        schedule.step()
        error = values.mean()
        updates.tell(error)
        seen["student_macs"] += count * macs
        seen["images"] += count
        seen["errors"].append(float(error))
    teacher_macs = seen["images"] * problem.cost.full_macs
    problem.trace(
        "distil_blocks",
        blocks=len(grid.blocks),
        errors=seen["errors"],
        macs_one_pass=teacher_macs + 3 * seen["student_macs"],  # backward counts twice
        macs_pass_per_block=len(grid.blocks) * teacher_macs + 3 * seen["student_macs"],
        images_one_pass=seen["images"],
        images_pass_per_block=len(grid.blocks) * seen["images"],
    )
    return {name: weight.detach() for name, weight in weights.items()}


def _features(
    problem: Problem,
    runner: BlockRunner,
    images: Inputs,
    config: SubnetConfig,
    weights: Mapping[str, Tensor],
    settings: BNP,
) -> tuple[list[Any], list[Any]]:
    """Inputs of the student blocks, and the teacher's outputs X_b, one for each; charged."""
    (inputs, targets), count = runner.features(images), count_images(images)
    problem.meter.passes(count, problem.cost.full_macs, backward=False)
    if settings.feed == "student":
        inputs, _ = runner.features(images, config, weights)
        problem.meter.passes(count, problem.cost.macs(config), backward=False)
    return inputs, targets


def score_blocks(
    problem: Problem,
    grid: BlockGrid,
    runner: BlockRunner,
    weights: Mapping[str, Tensor],
    settings: BNP,
) -> ChoiceTable:
    """Energy, which is minus the score s_b, and cost of every candidate of every block.

    A candidate's cost is what it adds to the network with the widest blocks, so it is never
    positive, and costs add up to the exact cost of the network.

    Args:
        problem: gives teacher, batch, cost and budget.
        grid: candidate widths of the blocks.
        runner: runs single blocks.
        weights: full-size weights of the student blocks, by state-dict name.
        settings: which error is measured, and the price of the cost.
    """
    states = [grid.block_states(b) for b in range(len(grid.blocks))]
    rounds = []  # one candidate of each block at a time, of those that have so many
    for at in range(max(map(len, states), default=0)):
        active = [b for b, each in enumerate(states) if at < len(each)]
        joint = np.min([states[b][at] for b in active], axis=0)  # each state is full elsewhere
        rounds.append((grid.config(problem.space, joint.tolist()), active))
    errors = block_errors(problem, runner, weights, rounds, settings)
    full_cost, widest_cost = problem.full_cost, problem.widest_cost
    lengths = dict(zip(grid.coordinates, map(len, grid.rates), strict=True))
    energies, costs = [], []
    for b, (block, each) in enumerate(zip(grid.blocks, states, strict=True)):
        shape = tuple(lengths[names] for names in block.coordinates)
        widths = np.stack([grid.widths(problem.space, state) for state in each])
        added = problem.cost_of(widths) - widest_cost
        share = settings.lambda_cost * added / full_cost
        energies.append((errors[: len(each), b] + share).reshape(shape))
        costs.append(added.reshape(shape))
    return ChoiceTable(tuple(energies), tuple(costs), problem.budget.limit - widest_cost)


def block_errors(
    problem: Problem,
    runner: BlockRunner,
    weights: Mapping[str, Tensor],
    rounds: Sequence[tuple[SubnetConfig, Sequence[int]]],
    settings: BNP,
) -> np.ndarray:
    """Error of student blocks against the teacher's outputs, on one training batch, charged.

    Args:
        problem: gives the teacher and the batches.
        runner: runs single blocks.
        weights: full-size weights of the student blocks, by state-dict name.
        rounds: configurations, each with the ordinals of the blocks to run at its widths.
        settings: what is measured.

    Returns:
        Shape (rounds, blocks), float64; zero for a block that was not run.

    Raises:
        Diverged: if an error is no finite number.
    """
    distance = relative_feature_error if settings.error == "relative" else feature_error
    errors = np.zeros((len(rounds), len(runner.blocks)))
    full = [block_macs(problem.space, block) for block in runner.blocks]
    with torch.no_grad():
        ((images, _),) = problem.data.train(1)
        inputs, targets = _features(problem, runner, images, SubnetConfig.full(), weights, settings)
        for at, (config, active) in enumerate(rounds):
            outputs = runner.run({b: inputs[b] for b in active}, config, weights)
            saved = problem.cost.full_macs - problem.cost.macs(config)
            macs = sum(full[b] for b in active) - saved
            problem.meter.passes(count_images(images), macs, backward=False)
            if active:
                found = [output_error(outputs[b], targets[b], distance) for b in active]
                paths = [runner.blocks[b].output for b in active]
                values = check_errors(found, paths, [targets[b] for b in active])
                errors[at, list(active)] = values.numpy()
    return errors


def finalists(problem: Problem, table: ChoiceTable, settings: BNP) -> list[State]:
    """Solve the table within its limit; trace how far the exact optimum is.

    Args:
        problem: gives the random stream, and takes the trace.
        table: energy and cost of every candidate, as `score_blocks` returns it.
        settings: the solver and its length.

    Returns:
        The states to re-rank, best first.
    """
    optimum = table.energy(optimal_state(table))
    if settings.solver == "chain":
        states = _sampled(problem, table, settings)
    elif settings.solver == "random":
        rng = problem.rng("search")
        drawn = {random_state(table, rng) for _ in range(settings.pool)}
        states = sorted(drawn, key=lambda state: (table.energy(state), state))
    else:
        states = [optimal_state(table) if settings.solver == "exact" else greedy_state(table)]
    energy = table.energy(states[0])
    problem.trace(
        "solve",
        table=table.digest(),
        solver=settings.solver,
        energy=energy,
        optimum=optimum,
        gap=energy - optimum,
        greedy_gap=table.energy(greedy_state(table)) - optimum,
        cost=table.cost(states[0]) + problem.widest_cost,
        limit=problem.budget.limit,
    )
    return states


def _sampled(problem: Problem, table: ChoiceTable, settings: BNP) -> list[State]:
    """Best distinct feasible states of several chains; traces how well the chains mixed."""
    moves = Moves(table.sizes)
    tuning, *rngs = problem.rng("search").spawn(1 + settings.chains)
    start = greedy_state(table)
    tau = tuned_tau(table, start, tuning, acceptance=ACCEPTANCE, moves=moves)
    price, target = 0.0, table
    if settings.posterior == "soft":
        price = balanced_price(table, tau)
        target = table.priced(price)
    runs = [
        sample_chain(
            target,
            random_state(table, rng),
            steps=settings.chain_steps,
            tau=tau,
            rng=rng,
            moves=moves,
            cooling=settings.cooling,
        ).after(BURN_IN)
        for rng in rngs
    ]
    energies = np.stack([run.energies for run in runs])
    r_hat = split_r_hat(energies)
    problem.trace(
        "chains",
        tau=tau,
        price=price * problem.full_cost,
        accepted=[run.accepted for run in runs],
        accepted_feasible=[run.accepted_feasible for run in runs],
        effective_samples=effective_sample_size(energies),
        split_r_hat=r_hat if math.isfinite(r_hat) else None,
    )
    return _best_feasible(table, runs, settings.pool) or [start]


def _best_feasible(table: ChoiceTable, runs: Sequence[ChainRun], count: int) -> list[State]:
    """The distinct states within the budget of lowest energy, over all chains."""
    reach = count if table.limit is None else max(count, len(runs[0].energies))
    found = {state for run in runs for state in run.best(reach) if table.fits(state)}
    return sorted(found, key=lambda state: (table.energy(state), state))[:count]


def best_finalist(
    problem: Problem,
    grid: BlockGrid,
    table: ChoiceTable,
    states: Sequence[State],
    weights: Mapping[str, Tensor],
) -> SubnetConfig:
    """The finalist of highest score, each first filled up to the budget; ties go to the first.

    BatchNorm is recalibrated for each on training images; accuracy is taken on the search split.

    Args:
        problem: gives batches, cost and budget.
        grid: candidate widths of the blocks.
        table: says where channels that are filled up help most per cost.
        states: the finalists, best first.
        weights: full-size weights of the student blocks, by state-dict name.
    """
    configs = [
        keep_best(problem.space, grid.scores, filled_widths(problem, grid, table, state))
        for state in states
    ]
    configs = list(dict.fromkeys(configs))
    if len(configs) == 1:
        return configs[0]
    accuracies = [problem.accuracy(config, weights) for config in configs]
    problem.trace(
        "finalists", accuracies=accuracies, energies=[table.energy(state) for state in states]
    )
    return configs[int(np.argmax(accuracies))]

"""The table of all widths, and the searches that are run on it; see `tabular`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from baselines.bcnet import mean_losses, population_prior
from benchmarks.analysis.uncertainty import mean_accuracies
from benchmarks.studies.width_table_file import Trainings, read_trainings
from zoo.core.search.choice_table import ChoiceTable, greedy_state, random_state
from zoo.core.search.evolution import (
    Candidates,
    Evaluated,
    evolve,
    one_by_one,
    random_candidates,
)
from zoo.core.search.markov_chain import Moves, sample_chain
from zoo.core.search.prior import LossRecords, Prior, SeenSubnets, fit_prior, uniform_prior
from zoo.core.search.width_grid import covering_states

__all__ = [
    "CONTROL",
    "EVERYTHING",
    "FLOOR",
    "SCORES",
    "SEARCHES",
    "Scoring",
    "Search",
    "WidthTable",
    "everything",
    "read_table",
    "trained_table",
    "true_scores",
]

POPULATION, PARENTS, MUTATION = 20, 8, 0.15
FLOOR = 0.9  # share of the budget that what is drawn is brought up to
TRAINED = 400  # subnets whose losses the priors have seen
STUCK = 20  # runs of 50 steps without anything new after which a chain ends
LOSS_NOISE = 1.0  # spread of a training loss about its expectation, in spreads of the table


@dataclass(frozen=True, eq=False)
class WidthTable:
    """Accuracy and cost of every configuration; it is a state space like a network's.

    Attributes:
        accuracies: what a search is judged by, fractions, one dimension for each group.
        macs: multiply-adds, int64, the same shape; they grow with every coordinate.
        seen: scores that a search sees, the same shape; None for the accuracies themselves.
        runs: accuracy of each training, one dimension more, in front; None if not known.
    """

    accuracies: np.ndarray
    macs: np.ndarray
    seen: np.ndarray | None = None
    runs: np.ndarray | None = None

    @property
    def scores(self) -> np.ndarray:
        """What a search goes by."""
        return self.accuracies if self.seen is None else self.seen

    @property
    def sizes(self) -> np.ndarray:
        """Candidates of each group, int64, shape (G,)."""
        return np.array(self.macs.shape, dtype=np.int64)

    @property
    def full(self) -> np.ndarray:
        """The state of the widest network, shape (G,)."""
        return self.sizes - 1

    def costs(self, states: np.ndarray) -> np.ndarray:
        """Multiply-adds of some states, int64, shape (n,)."""
        found: np.ndarray = self.macs[tuple(states.T)]
        return found

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the accuracies."""
        return float(self.accuracies.std())

    def best_within(self, limit: int) -> float:
        """The highest accuracy that fits."""
        return float(self.accuracies[self.macs <= limit].max())


def read_table(path: Path) -> WidthTable:
    """Read a table: our own, or the file `Results_ResNet.json` of Channel-Bench-Macro.

    Raises:
        ValueError: if the file does not hold every configuration.
    """
    if path.suffix == ".json":
        return _channel_bench(path)
    return trained_table(read_trainings(path))


def trained_table(trainings: Trainings) -> WidthTable:
    """The table of some trainings, the mean over seeds of each configuration.

    Groups that differ in no configuration are left out.

    Raises:
        ValueError: if they are not every configuration of some widths with every seed, once.
    """
    rows = sorted(trainings.rows, key=lambda row: (row.widths, row.seed))
    steps = [sorted(set(widths)) for widths in zip(*(row.widths for row in rows), strict=True)]
    seeds = sorted({row.seed for row in rows})
    every = list(product(product(*steps), seeds))
    if [(row.widths, row.seed) for row in rows] != every:
        raise ValueError(
            f"the table lists {len(rows)} trainings and its widths and seeds have {len(every)} "
            "combinations; a search needs each of them once"
        )
    # A group that has the same width everywhere is no dimension.
    shape = (*(len(step) for step in steps if len(step) > 1), len(seeds))
    runs = np.array([row.right / row.images for row in rows]).reshape(shape)
    macs = np.array([row.macs for row in rows], dtype=np.int64).reshape(shape)[..., 0]
    # Sums of whole numbers, so that networks with as many right answers tie.
    right = np.array([row.right for row in rows]).reshape(shape).sum(-1)
    images = np.array([row.images for row in rows]).reshape(shape).sum(-1)
    return WidthTable(right / images, macs, runs=np.moveaxis(runs, -1, 0))


def _channel_bench(path: Path) -> WidthTable:
    """By digits of widths, accuracies in per cent and multiply-adds."""
    found = json.loads(path.read_text("utf-8"))
    keys = sorted(found)
    groups, choices = len(keys[0]), int(max(max(key) for key in keys))
    if len(keys) != choices**groups:
        raise ValueError(
            f"{path} lists {len(keys)} of {choices**groups} configurations; a search needs them all"
        )
    shape = (choices,) * groups
    accuracies = np.array([found[key]["mean"] for key in keys]).reshape(shape) / 100
    macs = np.array([found[key]["flops"] for key in keys], dtype=np.int64).reshape(shape)
    runs = np.array([found[key]["acc"] for key in keys]).T.reshape(-1, *shape) / 100
    return WidthTable(accuracies, macs, runs=runs)


Search = Callable[[WidthTable, int, int, np.random.Generator], list[tuple[int, ...]]]
"""Takes table, limit, evaluations and generator; returns the states looked at, in order."""

Scoring = Callable[[WidthTable, int], WidthTable]
"""Takes a table and a seed; returns the table with the scores that a search of that seed sees."""


def true_scores(table: WidthTable, seed: int) -> WidthTable:
    """The accuracies themselves are the scores."""
    del seed  # there is nothing to draw
    return table


def _one_training(table: WidthTable, seed: int) -> WidthTable:
    """One training, each in its turn, is the score, and the mean of the others the truth."""
    if table.runs is None:
        raise ValueError("the table holds no single trainings; read one that does")
    chosen = seed % len(table.runs)
    others = mean_accuracies(np.delete(table.runs, chosen, axis=0), axis=0)
    return replace(table, accuracies=others, seen=table.runs[chosen])


def _noisy_scores(table: WidthTable, seed: int) -> WidthTable:
    """Noise of a stream of its own, so that every search of a seed sees the same."""
    noise = np.random.default_rng([seed, 1]).normal(0, table.spread, table.accuracies.shape)
    return replace(table, seen=table.accuracies + noise)


SCORES: Mapping[str, Scoring] = {
    "True scores": true_scores,
    "One training": _one_training,
    "Noisy scores": _noisy_scores,
}


def _candidates(table: WidthTable, limit: int) -> Candidates:
    return Candidates(table.sizes, table.costs, limit, int(FLOOR * limit))


def _evaluated(table: WidthTable) -> Evaluated:
    return Evaluated(one_by_one(lambda state: float(table.scores[state])))


def _records(table: WidthTable, rng: np.random.Generator) -> LossRecords:
    """Losses as a supernet's training would show them: noisy, and falling with time."""
    seen = SeenSubnets(len(table.sizes))
    for states in np.split(covering_states(table, TRAINED, rng), TRAINED // 4):
        errors = 1 - table.scores[tuple(states.T)]
        noise = rng.normal(0, LOSS_NOISE * table.spread, len(states))
        trend = 4 * table.spread * (1 - len(seen.means()) / (TRAINED // 4))
        seen.add(states, torch.from_numpy(errors + noise + trend))
    return LossRecords(**seen.records)


def _random(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    evaluated = _evaluated(table)
    drawn = random_candidates(
        _candidates(table, limit), uniform_prior(table.sizes), 4 * evaluations, rng
    )
    evaluated.take(drawn, evaluations)
    return list(evaluated.scores)


def _evolution(
    table: WidthTable,
    limit: int,
    evaluations: int,
    rng: np.random.Generator,
    *,
    prior: Callable[[WidthTable, int, np.random.Generator], Prior] | None,
) -> list[tuple[int, ...]]:
    candidates, evaluated = _candidates(table, limit), _evaluated(table)
    leading = uniform_prior(table.sizes) if prior is None else prior(table, limit, rng)
    evolve(
        candidates,
        evaluated,
        rng,
        initial=random_candidates(candidates, leading, POPULATION, rng),
        redraw=leading,
        evaluations=evaluations,
        population=POPULATION,
        parents=PARENTS,
        mutation=MUTATION,
    )
    return list(evaluated.scores)


def _pse_net_prior(table: WidthTable, limit: int, rng: np.random.Generator) -> Prior:
    records = _records(table, rng)
    return fit_prior(table, records, limit, bins=20, best=20, smoothing=1.0, warm_up=0.3)


def _bcnet_prior(table: WidthTable, limit: int, rng: np.random.Generator) -> Prior:
    losses = mean_losses(table, _records(table, rng), best=100)
    return population_prior(table, losses, limit, temperature=table.spread / 2)


class _Looked:
    """An array of errors that remembers, in order, which entries were asked for."""

    def __init__(self, errors: np.ndarray) -> None:
        self.errors = errors
        self.shape, self.ndim = errors.shape, errors.ndim
        self.order: dict[tuple[int, ...], None] = {}

    def __getitem__(self, state: tuple[int, ...]) -> float:
        self.order[tuple(int(at) for at in state)] = None
        return float(self.errors[state])


def _joint(table: WidthTable, limit: int) -> tuple[ChoiceTable, _Looked]:
    """The whole table as one block of a choice table."""
    looked = _Looked(1 - table.scores)
    return ChoiceTable((looked,), (table.macs,), limit), looked  # type: ignore[arg-type]


def _chain(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    joint, looked = _joint(table, limit)
    state, stale = random_state(joint, rng), 0
    while len(_fitting(table, limit, looked)) < evaluations and stale < STUCK:
        before = len(looked.order)
        run = sample_chain(
            joint, state, steps=50, tau=0.3 * table.spread, rng=rng, moves=Moves(joint.sizes)
        )
        state = tuple(int(at) for at in run.states[-1])
        stale = stale + 1 if len(looked.order) == before else 0
    return _fitting(table, limit, looked)[:evaluations]


def _greedy(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    del rng  # it draws nothing
    joint, looked = _joint(table, limit)
    greedy_state(joint)
    return _fitting(table, limit, looked)[:evaluations]


def _slimming(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Greedy slimming from the widest network: it looks at networks over the limit on its way."""
    del rng  # it draws nothing
    state, looked = table.full, dict[tuple[int, ...], None]()
    while table.costs(state[None])[0] > limit and len(looked) < evaluations:
        narrower = state - np.eye(len(state), dtype=np.int64)[state > 0]
        looked |= dict.fromkeys(map(tuple, narrower.tolist()))
        scores = table.scores[tuple(narrower.T)]
        # Of equal scores the step that saves most.
        state = narrower[np.lexsort((table.costs(narrower), -scores))[0]]
    return list(looked)[:evaluations]


def everything(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """The network of highest score that fits, as if all had been looked at."""
    del evaluations, rng  # it counts and draws nothing
    scores = np.where(table.macs <= limit, table.scores, -np.inf)
    return [tuple(int(at) for at in np.unravel_index(scores.argmax(), scores.shape))]


def _fitting(table: WidthTable, limit: int, looked: _Looked) -> list[tuple[int, ...]]:
    """The states looked at that are within the limit: the others are refused by cost alone."""
    return [state for state in looked.order if table.macs[state] <= limit]


CONTROL = "evolution, no prior"
"""What a prior has to beat."""

EVERYTHING = "all of them"
"""Looking at all networks that fit."""

SEARCHES: Mapping[str, Search] = {
    "random": _random,
    CONTROL: partial(_evolution, prior=None),
    "PSE-Net": partial(_evolution, prior=_pse_net_prior),
    "BCNet": partial(_evolution, prior=_bcnet_prior),
    "AutoSlim": _slimming,
    "BNP's chain": _chain,
    "greedy": _greedy,
}

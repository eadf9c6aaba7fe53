"""Searches compared on a table of accuracies: ``python -m benchmarks.studies.tabular``.

A table that lists every configuration stands in for the network, so each search can be run with
many seeds and judged by its regret: how much accuracy the best configuration within the budget has
over the best one found after k evaluations. Written for the ResNet space of Channel-Bench-Macro
(16,384 networks, each trained three times on CIFAR-10), which is read from a path and is not part
of this repository.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from baselines.bcnet import mean_losses, population_prior
from benchmarks.tables.markdown import markdown_table
from zoo.core.search.choice_table import ChoiceTable, greedy_state, random_state
from zoo.core.search.evolution import Candidates, Evaluated, evolve, random_candidates
from zoo.core.search.markov_chain import Moves, sample_chain
from zoo.core.search.prior import LossRecords, Prior, SeenSubnets, fit_prior, uniform_prior
from zoo.core.search.width_grid import covering_states

__all__ = ["SEARCHES", "WidthTable", "main", "read_table", "regrets"]

POPULATION, PARENTS, MUTATION = 20, 8, 0.15
TRAINED = 400  # subnets whose losses the priors have seen
LOSS_NOISE = 1.0  # spread of a training loss about its expectation, in spreads of the table


@dataclass(frozen=True, eq=False)
class WidthTable:
    """Accuracy and cost of every configuration; it is a state space like a network's.

    Attributes:
        accuracies: fractions, one dimension for each group.
        macs: multiply-adds, int64, the same shape; they grow with every coordinate.
    """

    accuracies: np.ndarray
    macs: np.ndarray

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
    """Read a file of Channel-Bench-Macro: by digits of widths, mean accuracy and multiply-adds.

    Raises:
        ValueError: if the file does not hold every configuration.
    """
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
    return WidthTable(accuracies, macs)


Search = Callable[[WidthTable, int, int, np.random.Generator], list[tuple[int, ...]]]
"""Takes table, limit, evaluations and generator; returns the states looked at, in order."""


def _candidates(table: WidthTable, limit: int) -> Candidates:
    return Candidates(table.sizes, table.costs, limit, int(0.9 * limit))


def _evaluated(table: WidthTable) -> Evaluated:
    return Evaluated(lambda state: float(table.accuracies[state]))


def _records(table: WidthTable, rng: np.random.Generator) -> LossRecords:
    """Losses as a supernet's training would show them: noisy, and falling with time."""
    seen = SeenSubnets(len(table.sizes))
    for states in np.split(covering_states(table, TRAINED, rng), TRAINED // 4):
        errors = 1 - table.accuracies[tuple(states.T)]
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
    looked = _Looked(1 - table.accuracies)
    return ChoiceTable((looked,), (table.macs,), limit), looked  # type: ignore[arg-type]


def _chain(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    joint, looked = _joint(table, limit)
    state = random_state(joint, rng)
    while len(_fitting(table, limit, looked)) < evaluations:
        run = sample_chain(
            joint, state, steps=50, tau=0.3 * table.spread, rng=rng, moves=Moves(joint.sizes)
        )
        state = tuple(int(at) for at in run.states[-1])
    return _fitting(table, limit, looked)[:evaluations]


def _greedy(
    table: WidthTable, limit: int, evaluations: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    del rng  # it draws nothing
    joint, looked = _joint(table, limit)
    greedy_state(joint)
    return _fitting(table, limit, looked)[:evaluations]


def _fitting(table: WidthTable, limit: int, looked: _Looked) -> list[tuple[int, ...]]:
    """The states looked at that are within the limit: the others are refused by cost alone."""
    return [state for state in looked.order if table.macs[state] <= limit]


SEARCHES: Mapping[str, Search] = {
    "random": _random,
    "evolution, no prior": partial(_evolution, prior=None),
    "PSE-Net": partial(_evolution, prior=_pse_net_prior),
    "BCNet": partial(_evolution, prior=_bcnet_prior),
    "BNP's chain": _chain,
    "greedy": _greedy,
}


def regrets(
    table: WidthTable, search: Search, limit: int, evaluations: int, seeds: int
) -> np.ndarray:
    """Regret of the best state found after each evaluation, shape (seeds, evaluations).

    A search that ends early keeps what it has.

    Args:
        table: to search.
        search: how.
        limit: multiply-adds of the budget.
        evaluations: states that it may look at.
        seeds: runs, each with a generator of its own.
    """
    rows = np.empty((seeds, evaluations))
    for seed, row in enumerate(rows):
        states = search(table, limit, evaluations, np.random.default_rng(seed))
        found = np.array([table.accuracies[state] for state in states])
        best = np.maximum.accumulate(found)
        row[: len(best)], row[len(best) :] = best[:evaluations], best[-1]
    return table.best_within(limit) - rows


def to_markdown(
    table: WidthTable, limits: Mapping[float, int], evaluations: int, seeds: int
) -> str:
    """Mean regret in points after some numbers of evaluations, with standard errors.

    Args:
        table: to search.
        limits: multiply-adds of each budget, by its share of the widest network's.
        evaluations: states that each search may look at.
        seeds: runs of each search.
    """
    shown = [k for k in (10, 30, 100, 300, 1000) if k <= evaluations]
    headings = ("MACs", "Search", *(f"after {k}" for k in shown))
    rows = []
    for ratio, limit in limits.items():
        for name, search in SEARCHES.items():
            found = 100 * regrets(table, search, limit, evaluations, seeds)
            means, errors = found.mean(0), found.std(0, ddof=1) / np.sqrt(seeds)
            cells = [f"{means[k - 1]:.2f} ± {errors[k - 1]:.2f}" for k in shown]
            rows.append([f"{100 * ratio:g} %", name, *cells])
    return markdown_table(headings, "rl" + "r" * len(shown), rows)


def main() -> None:
    """Print the regrets of all searches on a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="Results_ResNet.json of Channel-Bench-Macro")
    parser.add_argument("--evaluations", type=int, default=300, help="configurations looked at")
    parser.add_argument("--seeds", type=int, default=50, help="runs of each search")
    arguments = parser.parse_args()
    table = read_table(arguments.table)
    limits = {ratio: int(ratio * table.macs.max()) for ratio in (0.25, 0.5, 0.75)}
    print(to_markdown(table, limits, arguments.evaluations, arguments.seeds), end="")  # noqa: T201


if __name__ == "__main__":
    main()

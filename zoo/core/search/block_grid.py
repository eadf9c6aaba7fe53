"""Candidate widths of blocks: a grid for each free width, nested by importance of the channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.choice_table import ChoiceTable, State
from zoo.core.search.widths_in_budget import fill_up, keep_best
from zoo.core.supernet.blocks import Block

__all__ = ["RATES", "BlockGrid", "filled_widths", "make_block_grid"]

RATES = tuple(rate / 10 for rate in range(1, 11))


@dataclass(frozen=True, eq=False)
class BlockGrid:
    """Candidate widths of every block.

    Attributes:
        blocks: the blocks.
        rates: for each coordinate, block after block, its candidate widths by inner group: a
            tuple of rows, ascending, one number for each group of the coordinate.
        scores: importance of the channels of each group, the same for all candidates.
        interfaces: width that each group outside of the blocks has in the network, by name: all of
            its channels, or as many as its bounds allow.
    """

    blocks: tuple[Block, ...]
    rates: tuple[tuple[tuple[int, ...], ...], ...]
    scores: Mapping[str, np.ndarray]
    interfaces: Mapping[str, int]

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        """Names of the groups of every coordinate, block after block."""
        return tuple(names for block in self.blocks for names in block.coordinates)

    def widths(self, space: ChannelSpace, state: Sequence[int]) -> np.ndarray:
        """Widths of all groups at a state, shape (G,), interfaces as the network has them."""
        chosen = self._inner(state) | dict(self.interfaces)
        return np.array([chosen[group.name] for group in space.groups], dtype=np.int64)

    def config(self, space: ChannelSpace, state: Sequence[int]) -> SubnetConfig:
        """The most important channels of the blocks at a state's widths: nested.

        Interfaces keep all channels, since blocks are run between those of the whole network.
        """
        chosen = {group.name: group.size for group in space.groups} | self._inner(state)
        return keep_best(space, self.scores, np.array(list(chosen.values()), dtype=np.int64))

    def _inner(self, state: Sequence[int]) -> dict[str, int]:
        """Widths of the groups inside the blocks at a state, by name."""
        widths: dict[str, int] = {}
        for names, rows, at in zip(self.coordinates, self.rates, state, strict=True):
            widths.update(zip(names, rows[at], strict=True))
        return widths

    def block_states(self, block: int) -> list[State]:
        """Every candidate of a block, with all other blocks at full width."""
        full = [len(rows) - 1 for rows in self.rates]
        ends = np.cumsum([len(each.coordinates) for each in self.blocks])
        start, end = int(ends[block]) - len(self.blocks[block].coordinates), int(ends[block])
        choices = product(*(range(len(rows)) for rows in self.rates[start:end]))
        return [(*full[:start], *choice, *full[end:]) for choice in choices]


def make_block_grid(problem: Problem, blocks: tuple[Block, ...], candidates: int) -> BlockGrid:
    """Legal widths at or next below the rates, the narrowest and the widest among them.

    Args:
        problem: gives groups, legal widths, cost and budget.
        blocks: as `cut_blocks` returns them.
        candidates: most combinations of widths of one block; with several coordinates, each gets
            fewer rates.

    Raises:
        InfeasibleBudget: if the narrowest blocks with wide interfaces are over the budget.
    """
    groups = problem.space.groups
    legal = {group.name: widths for group, widths in zip(groups, problem.legal, strict=True)}
    sizes = {group.name: group.size for group in groups}
    rates = []
    for block in blocks:
        # 1000 ** (1 / 3) is just below 10.
        count = max(2, math.floor(candidates ** (1 / len(block.coordinates)) + 1e-9))
        chosen = np.linspace(0, len(RATES) - 1, min(count, len(RATES))).round().astype(int)
        for names in block.coordinates:
            rows: set[tuple[int, ...]] = {tuple(int(legal[name][0]) for name in names)}
            for at in chosen:
                wanted = {name: math.ceil(RATES[at] * sizes[name] - 1e-9) for name in names}
                rows.add(tuple(_at_most(legal[name], wanted[name]) for name in names))
            rates.append(tuple(sorted(rows)))
    inner = {name for block in blocks for name in block.groups}
    interfaces = {name: int(widths[-1]) for name, widths in legal.items() if name not in inner}
    scores = magnitude_scores(problem.model, problem.space)
    grid = BlockGrid(blocks, tuple(rates), scores, interfaces)
    narrowest = grid.widths(problem.space, [0] * len(rates))
    smallest = int(problem.cost_of(narrowest[None])[0])
    if smallest > problem.budget.limit:
        raise InfeasibleBudget(
            f"budget {problem.budget} is below {problem.budget.format_cost(smallest)}, the "
            "narrowest blocks between interfaces that keep their widths; raise it or lower min_keep"
        )
    return grid


def _at_most(legal: np.ndarray, width: int) -> int:
    """The largest legal width at most ``width``, or the smallest if there is none."""
    position = int(np.searchsorted(legal, width, side="right"))
    return int(legal[max(0, position - 1)])


def filled_widths(
    problem: Problem, grid: BlockGrid, table: ChoiceTable, state: State
) -> np.ndarray:
    """Widths of a state, filled up where channels help most per cost, shape (G,).

    Args:
        problem: gives cost, budget and legal widths.
        grid: candidate widths of the blocks.
        table: energy and cost of every candidate.
        state: position on the grid of every coordinate.
    """
    energy, cost = table.energy(state), table.cost(state)
    density = {}
    for c, names in enumerate(grid.coordinates):
        gain, price = 0.0, 1
        if state[c] + 1 < table.sizes[c]:
            wider = [at + (c == other) for other, at in enumerate(state)]
            gain, price = energy - table.energy(wider), max(1, table.cost(wider) - cost)
        density.update(dict.fromkeys(names, gain / price))
    wanted = np.array([density.get(group.name, 0.0) for group in problem.space.groups])
    return fill_up(problem, grid.widths(problem.space, state), lambda _: wanted)

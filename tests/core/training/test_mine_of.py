"""Pieces of work shared out among ranks; `test_ranks` works with two of them."""

from __future__ import annotations

import pytest

from zoo.core.training.ranks import mine_of


def owners(monkeypatch: pytest.MonkeyPatch, ranks: int, costs: list[int], busy: int) -> list[int]:
    """Who runs each piece, as every rank says of itself."""
    monkeypatch.setattr("zoo.core.training.ranks.world", lambda: ranks)
    found: list[list[bool]] = []
    for number in range(ranks):
        monkeypatch.setattr("zoo.core.training.ranks.rank", lambda number=number: number)
        found.append(mine_of(costs, busy))
    assert all(sum(column) == 1 for column in zip(*found, strict=True))
    return [column.index(True) for column in zip(*found, strict=True)]


@pytest.mark.parametrize(
    ("ranks", "costs", "busy", "wanted"),
    [
        (2, [3, 3, 3, 3], 0, [0, 1, 0, 1]),
        (2, [1, 7, 2, 3], 0, [1, 0, 1, 1]),  # by hand: 7 against 3 + 2 + 1
        (2, [3, 6, 6], 20, [1, 1, 1]),  # rank 0 has the full network
        (3, [5, 5], 1, [1, 2]),
        (4, [5, 5], 0, [0, 1]),  # more ranks than subnets
        (1, [5, 5], 9, [0, 0]),
    ],
)
def test_the_dearest_subnet_goes_to_the_rank_with_least_to_do(
    monkeypatch: pytest.MonkeyPatch, ranks: int, costs: list[int], busy: int, wanted: list[int]
) -> None:
    assert owners(monkeypatch, ranks, costs, busy) == wanted

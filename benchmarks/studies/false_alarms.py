"""How often `zoo compare` is wrong: ``python -m benchmarks.studies.false_alarms``.

Draws pairs of sets whose accuracies differ by chance alone, or by a loss of some methods, judges
them, and writes the shares that are called worse into docs/comparing.md. Each method has a spread
over seeds of its own. Imports neither torch nor zoo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.analysis.losses import Pair
from benchmarks.analysis.regression import judge
from benchmarks.records.files import load_records
from benchmarks.records.record import Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.markdown import markdown_table
from benchmarks.tables.marked_blocks import replace_block

__all__ = ["BLOCK", "alarms", "main", "table"]

BLOCK = "false alarms"

DRAWS = 1000

SEEDS = (1, 2, 3, 5)

METHODS = (1, 2, 4, 12)
"""How many there are in a pair of sets without a change."""

FALLS = (0.03, 0.1, 0.8)
"""What is lost, as fractions."""

SPREADS = (0.002, 0.004, 0.008, 0.016)
"""Standard deviations over seeds that methods have in turn, as fractions."""

TOP1 = 0.85

TEST_IMAGES = 10_000


def main() -> None:
    """Draw and judge, then write the block; takes some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/comparing.md"))
    parser.add_argument("--records", type=Path, default=Path("results/smoke/records"),
                        help="whose first record is changed into all others")  # fmt: skip
    given = parser.parse_args()
    text = table(load_records(given.records)[0])
    write_whole(given.page, replace_block(given.page.read_text("utf-8"), text, BLOCK))


def table(like: Record) -> str:
    """Markdown: shares of pairs of sets in which something is called worse, a row for each seeds.

    Args:
        like: what all records are like but for method, seed and accuracy.
    """
    losses = [(hit, fall) for hit in (1, 2) for fall in FALLS]
    headings = ["Seeds"]
    headings += [f"no change, {count} method{'s' * (count > 1)}" for count in METHODS]
    headings += [f"{100 * fall:g} points lost by {hit} of 4" for hit, fall in losses]
    rows = []
    for seeds in SEEDS:
        shares = [_share(like, methods, seeds) for methods in METHODS]
        shares += [_share(like, 4, seeds, fall, hit) for hit, fall in losses]
        rows.append([f"{seeds}", *(f"{100 * share:.1f} %" for share in shares)])
    return markdown_table(headings, "r" * len(headings), rows)


def _share(like: Record, methods: int, seeds: int, fall: float = 0.0, hit: int = 0) -> float:
    return sum(alarms(like, DRAWS, methods, seeds, fall, hit)) / DRAWS


def alarms(
    like: Record, count: int, methods: int, seeds: int, fall: float = 0.0, hit: int = 0
) -> list[bool]:
    """Whether accuracy is called worse in each of some pairs of sets.

    Args:
        like: what all records are like but for method, seed and accuracy.
        count: of pairs of sets.
        methods: in each set.
        seeds: of each method.
        fall: what the first methods lose in the new set, as a fraction.
        hit: how many methods lose it.
    """
    rng, made = np.random.default_rng(0), [*_records(like, methods, seeds)]
    return [judge(_drawn(rng, made, seeds, fall, hit), ["accuracy"]).is_worse for _ in range(count)]


def _records(like: Record, methods: int, seeds: int) -> Iterator[Record]:
    """The seeds of the first method, then those of the next."""
    for method in range(methods):
        for seed in range(seeds):
            named = {"method": f"method-{method}", "settings": {}, "seed": seed}
            cell = like.cell.model_copy(update=named)
            images = {**like.images, "test": TEST_IMAGES}
            yield like.model_copy(update={"cell": cell, "images": images})


def _drawn(
    rng: np.random.Generator, records: list[Record], seeds: int, fall: float, hit: int
) -> list[Pair]:
    """Two runs of each record."""
    pairs = []
    for place, record in enumerate(records):
        method = place // seeds
        base, new = TOP1 + SPREADS[method % len(SPREADS)] * rng.normal(size=2)
        lost = fall if method < hit else 0.0
        pairs.append(Pair(_answered(record, base), _answered(record, new - lost)))
    return pairs


def _answered(record: Record, top1: float) -> Record:
    """With an accuracy that is a whole number of answers."""
    value = min(max(round(top1 * TEST_IMAGES) / TEST_IMAGES, 0.0), 1.0)
    return record.model_copy(update={"top1": record.top1.model_copy(update={"finetuned": value})})


if __name__ == "__main__":
    main()

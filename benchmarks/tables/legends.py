"""What the columns of the tables of comparisons mean, in words."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.comparison import Comparison

__all__ = ["LEGEND", "OF_FINISHES", "OF_SECONDS", "has_finishes", "legend"]

LEGEND = (
    "Over several seeds: mean ± sample standard deviation [bootstrap 95 % interval of the mean]; "
    "one seed has neither. Differences to uniform are paired by seed. Bold: more accurate than "
    "uniform by a paired t-test at 5 % family-wise, Holm-corrected over all differences of the "
    "table; the best of all methods is not marked. Detectable is the true difference, in points, "
    "that the first step of this correction finds with 80 % power, were the deviation the one "
    "observed. A row that lost a seed has no mean: it says how many failed. MACs ratio is the "
    "speed-up if time went with MACs, realised the share of that gain which became a gain in time, "
    "x8 the share of channel groups whose width is a multiple of 8. The A/A row times the parent "
    "against itself, ± over the networks timed: differences of that size are noise. "
    "Times are averaged over the networks that differ: seeds that gave one network share a timing "
    "and add no ±."
)

OF_FINISHES = (
    "Fine-tuned is the common finish: the parent's weights, and the same loss, recipe and epochs "
    "for every method. Own is the finish with the weights and the loss that a method hands on, "
    "where it hands on any. Total is what search and common finish cost together. Controls are the "
    "parent, fine-tuned the same way, and uniform width, fine-tuned longer: as long as the dearest "
    "method searches and fine-tunes."
)

OF_SECONDS = (
    "Multiply-adds are the measure of cost: seconds depend on what ran beside a cell, and are "
    "comparable only within a run with nothing else beside it."
)


def legend(comparisons: Sequence[Comparison], *, has_seconds: bool) -> str:
    """What stands below tables, as far as they have such columns.

    Args:
        comparisons: those of the tables.
        has_seconds: whether any column has them.
    """
    of_finishes = [OF_FINISHES] if any(map(has_finishes, comparisons)) else []
    return " ".join([LEGEND, *of_finishes, *([OF_SECONDS] if has_seconds else [])])


def has_finishes(comparison: Comparison) -> bool:
    """Whether its decisions were finished in a common way, as from protocol 2 on."""
    return comparison.cell.protocol >= 2

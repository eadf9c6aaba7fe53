"""Which scores can be told apart on a sample: ``python -m benchmarks.studies.separable``.

Differences of Kendall's tau between supernets, and to scores that cost nothing, over resampled
networks and seeds. Reads the records of the suite `ranking-shapes` and writes
docs/ranking_shapes.md. Imports neither torch nor zoo.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.analysis.ranking import (
    Ranking,
    Scorer,
    collect_rankings,
    drawn_counts,
    kendall_tau,
    kendall_taus,
)
from benchmarks.analysis.uncertainty import LEVEL
from benchmarks.records.join import read_results
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.markdown import Written, markdown_table
from benchmarks.tables.ranking_table import ranking_table

__all__ = [
    "CEILING",
    "Gap",
    "ceiling_of",
    "gap_between",
    "main",
    "separable_page",
    "taus_within",
]

FOLDER = "ranking-shapes"

FREE = ("macs", "params", "magnitude")
"""Scores that cost nothing, by name."""

RESAMPLES = 10_000

CEILING = 0.6
"""Tau of one training alone below which a sample cannot tell good rankings from bad ones."""

INTRODUCTION = """\
# Do supernets rank networks of one cost and many shapes?

Written by `python -m benchmarks.studies.separable` from the records in `results/ranking-shapes`,
which `zoo run ranking-shapes --results results/ranking-shapes` makes anew or completes.

In the suite `ranking` only widths inside blocks vary. There networks of one cost are nearly as
accurate as each other, one training alone agrees with the others at a tau of 0.30, and the number
of parameters ranks better than any supernet: such a sample tells good scores from bad ones poorly.
Here every width varies, that of the residual streams among them, inside the same narrow band of
multiply-adds. The band and a training of three epochs were chosen on twelve networks and two seeds
by how well single trainings agree, before any supernet was scored. Two other samples were tried:
half the multiply-adds, where single trainings agree less, and a wide band of widths inside blocks,
where they agree as well but multiply-adds alone rank the networks, too. On all twenty networks and
three seeds, single trainings then agreed less, so the same networks were trained again for six
epochs; no supernet was trained or scored again.

**Whose accuracy.** A seed has a parent of its own; its networks start from that parent's weights,
and so does its supernet. What differs between seeds is therefore more than the noise of a training:
a shape can suit one parent and not another. The first tables compare scores with the mean over the
seeds, as elsewhere. The later ones compare each seed's scores with the networks of the same seed,
after the longer training, which is what a supernet is asked for. This was decided when the six
epochs had not brought the seeds closer to each other, with the scores known. Two trainings of one
seed, of three epochs and of six, start from the same weights and see the same images in the same
order as far as the shorter one goes, so they agree at least as well as two trainings with noise of
their own would. A score that has less noise than a training can still rank better.

Each supernet is trained for four to ten times the multiply-adds of one network that is trained
alone for three epochs, or half as many times those of six, all four for about the same time on one
core; the table has the seconds that came out. That is little: no supernet sees more than 12,800
images. A network's score is its accuracy on the whole search split with weights of the supernet,
batch-norm statistics taken anew; `stagewise` without `score=assembled` takes the summed errors of
its stages, which are not comparable between junctions of different width (see its card), as they
have here.

"""

READING = """\
## What can be told apart

Taus within each seed, and differences of two of them, mean over the seeds, with 95 % intervals over
networks and seeds drawn anew together. Bold differences leave zero out at a level divided by the
number of differences in their table, too. Three seeds are few, and intervals over them are too
narrow.
"""


@dataclass(frozen=True, eq=False)
class Gap:
    """A difference of two taus.

    Attributes:
        mean: over the seeds, on the whole sample.
        drawn: the same on resampled networks and seeds, shape (resamples,).
    """

    mean: float
    drawn: np.ndarray

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Percentile interval at the usual level."""
        return self.interval_among(1)

    def interval_among(self, count: int) -> tuple[float, float]:
        """Percentile interval at a level divided among so many comparisons (Bonferroni)."""
        tail = (1 - LEVEL) / 2 / count
        low, high = np.nanquantile(self.drawn, [tail, 1 - tail])
        return float(low), float(high)

    def is_clear(self, count: int) -> bool:
        """Whether that interval leaves zero out."""
        low, high = self.interval_among(count)
        return low > 0 or high < 0

    def shown(self, count: int) -> str:
        """Mean and usual interval, bold if clear among so many comparisons."""
        low, high = self.interval
        text = f"{self.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        return Written(f"**{text}**") if self.is_clear(count) else text


def taus_within(ranking: Ranking, scorer: Scorer) -> dict[int, float]:
    """Tau of each seed's scores with the accuracies of networks of the same seed."""
    return {
        seed: kendall_tau(scores, ranking.truth[seed])
        for seed, scores in scorer.scores.items()
        if seed in ranking.truth
    }


def gap_between(ranking: Ranking, mine: Scorer, theirs: Scorer | None = None) -> Gap:
    """By how much one scorer's tau is above another's, over the seeds that both have.

    Each seed's scores are held against the networks of that seed, which share its parent.

    Args:
        ranking: gives the accuracies.
        mine: whose tau counts positive.
        theirs: whose tau is subtracted; None for the tau of `mine` itself.
    """
    seeds = sorted(set(taus_within(ranking, mine)) & set(taus_within(ranking, theirs or mine)))
    count = len(ranking.mean_truth)
    rng = np.random.default_rng(0)
    drawn = drawn_counts(rng.integers(count, size=(RESAMPLES, count)), count)
    counts = np.concatenate([np.ones((1, count)), drawn])  # first the sample as it is

    def taus(scorer: Scorer) -> np.ndarray:
        pairs = [(scorer.scores[seed], ranking.truth[seed]) for seed in seeds]
        return np.stack([kendall_taus(scores, truth, counts) for scores, truth in pairs])

    gaps = taus(mine) - (taus(theirs) if theirs else 0)
    chosen = rng.integers(len(seeds), size=(len(seeds), RESAMPLES))
    return Gap(
        float(gaps[:, 0].mean()), np.take_along_axis(gaps[:, 1:], chosen, axis=0).mean(axis=0)
    )


def ceiling_of(ranking: Ranking, rankings: Sequence[Ranking]) -> float | None:
    """How well a single training ranks the sample; None if nothing tells it.

    Of a sample that was trained for two lengths of time, how well the trainings of one parent
    agree, mean over the seeds. They see the same images in the same order as far as the shorter one
    goes, so it is an upper bound of how well two trainings of a parent agree, and none of what a
    score can reach. Else how well one seed agrees with the mean of the others.

    Args:
        ranking: the one of the longest training.
        rankings: those to find a shorter one among.
    """
    shorter = [
        other
        for other in rankings
        if other.cell.ranking == ranking.cell.ranking
        and other.cell.finetune.epochs < ranking.cell.finetune.epochs
        and set(other.truth) & set(ranking.truth)
    ]
    if not shorter:
        return ranking.ceiling.tau if ranking.ceiling else None
    nearest = max(shorter, key=lambda other: other.cell.finetune.epochs)
    seeds = sorted(set(nearest.truth) & set(ranking.truth))
    return statistics.fmean(kendall_tau(nearest.truth[s], ranking.truth[s]) for s in seeds)


def separable_page(results: Path) -> str:
    """The page as Markdown.

    Args:
        results: folder of results folders.

    Raises:
        ValueError: if the records of the suite are no ranking, or none of two scorers.
    """
    rankings = collect_rankings(read_results(results / FOLDER).records)
    rankings.sort(key=lambda ranking: -ranking.cell.finetune.epochs)
    if not rankings or len(rankings[0].scorers) < 2:
        raise ValueError(f"{results / FOLDER} holds no ranking of several scorers; run the suite")
    ranking = rankings[0]
    free = [scorer for scorer in ranking.scorers if scorer.name in FREE]
    trained = [scorer for scorer in ranking.scorers if scorer.name not in FREE]
    trained.sort(key=lambda scorer: -statistics.fmean(taus_within(ranking, scorer).values()))
    parts = [INTRODUCTION + ranking_table(rankings), _ceilings(rankings), READING]
    parts.append(_within(ranking, [*trained, *free]))
    return "\n".join([*parts, _to_free(ranking, trained, free), _pairs(ranking, trained)])


def _ceilings(rankings: Sequence[Ranking]) -> str:
    """Whether the sample can tell rankings apart, within a seed and between seeds."""
    between = ", ".join(
        f"{ranking.ceiling.tau:.2f} after {ranking.cell.finetune.epochs} epochs"
        for ranking in rankings
        if ranking.ceiling
    )
    within = ceiling_of(rankings[0], rankings)
    if within is None:
        return "One training alone says nothing of how well the sample tells networks apart.\n"
    said = f"One seed agrees with the mean of the others at tau {between or 'unknown'}.\n"
    bound = f"the bound of {CEILING} that was set before"
    if len(rankings) == 1:
        return f"{said}That {_reaches(within)} {bound}.\n"
    taus = [ranking.ceiling.tau for ranking in rankings if ranking.ceiling]
    return (
        f"{said}That {_reaches(max(taus, default=0.0))} {bound}.\n"
        f"The shorter and the longer training of one seed agree at tau {within:.2f}. That\n"
        f"{_reaches(within)} it, but this measure was chosen after the first was known, and is an\n"
        "upper bound of how well trainings of one seed agree. So what the tables below tell apart\n"
        "is the most that can be told apart.\n"
    )


def _reaches(tau: float) -> str:
    return "reaches" if tau >= CEILING else "misses"


def _within(ranking: Ranking, scorers: Sequence[Scorer]) -> str:
    """Tau of each scorer within each seed."""
    rows = []
    for scorer in scorers:
        taus, (low, high) = taus_within(ranking, scorer), gap_between(ranking, scorer).interval
        each = ", ".join(f"{tau:.2f}" for _, tau in sorted(taus.items()))
        rows.append(
            [scorer.name, f"{statistics.fmean(taus.values()):.2f} [{low:.2f}, {high:.2f}]", each]
        )
    return markdown_table(("Scores of", "Tau within a seed", "Each seed"), "lrr", rows)


def _to_free(ranking: Ranking, trained: Sequence[Scorer], free: Sequence[Scorer]) -> str:
    """Each supernet against each score that costs nothing."""
    gaps = {s.name: [gap_between(ranking, s, other) for other in free] for s in trained}
    count = len(trained) * len(free)
    headings = ("Scores of", *(f"to {other.name}" for other in free))
    rows = [[name, *(gap.shown(count) for gap in found)] for name, found in gaps.items()]
    among, alone = (
        [n for n, found in gaps.items() if all(g.mean > 0 and g.is_clear(c) for g in found)]
        for c in (count, 1)
    )
    said = (
        f"Clearly better than every score that costs nothing: {_listed(among)}.\n"
        f"If each difference stood alone: {_listed(alone)}.\n"
    )
    return f"{markdown_table(headings, 'l' + 'r' * len(free), rows)}\n{said}"


def _pairs(ranking: Ranking, trained: Sequence[Scorer]) -> str:
    """Each pair of supernets."""
    gaps = {(a.name, b.name): gap_between(ranking, a, b) for a, b in combinations(trained, 2)}
    if not gaps:
        return ""
    rows = [[first, second, gap.shown(len(gaps))] for (first, second), gap in gaps.items()]
    clear = [
        f"{a} above {b}" if gap.mean > 0 else f"{b} above {a}"
        for (a, b), gap in gaps.items()
        if gap.is_clear(len(gaps))
    ]
    half = statistics.median((g.interval[1] - g.interval[0]) / 2 for g in gaps.values())
    said = (
        f"Of {len(gaps)} pairs of supernets {len(clear)} can be told apart: {_listed(clear)}.\n"
        f"Half an interval is {half:.2f} in the middle of the pairs: smaller differences would\n"
        f"not be seen on {len(ranking.mean_truth)} networks.\n"
    )
    return f"{markdown_table(('First', 'Second', 'Difference of tau'), 'llr', rows)}\n{said}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/ranking_shapes.md"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    asked = parser.parse_args(arguments)
    write_whole(asked.path, separable_page(asked.results))


if __name__ == "__main__":
    main()

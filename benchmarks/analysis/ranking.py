"""How well scores rank configurations: Kendall's tau and regret against training each one alone.

The truth about a configuration is its mean test accuracy over the seeds in which it was trained
alone. A method's scores are compared with it seed by seed and averaged; the ceiling is what one
seed's training alone says of the mean of the others. Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np

from benchmarks.analysis.apart import NO_WORDS, Words, words_apart
from benchmarks.analysis.comparison import Row, spent_macs, spent_seconds
from benchmarks.analysis.names import short_name
from benchmarks.analysis.uncertainty import mean_accuracies
from benchmarks.records.bounds import moment
from benchmarks.records.cell import Cell
from benchmarks.records.files import current_records
from benchmarks.records.record import Record

__all__ = [
    "Agreement",
    "Ranking",
    "Scorer",
    "agreement",
    "collect_rankings",
    "drawn_counts",
    "interval_of",
    "kendall_tau",
    "kendall_taus",
]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Scorer:
    """How one method scores the sample.

    Attributes:
        name: of the method, with the settings in which its scorers differ.
        records: one for each seed, those that failed among them.
    """

    name: str
    records: tuple[Record, ...]

    @cached_property
    def _row(self) -> Row:
        return Row(self.records[0].cell, self.records)

    @property
    def is_lost(self) -> bool:
        """Whether a seed failed: which do depends on the method, so the others have no mean."""
        return bool(self._row.lost)

    @property
    def seeds(self) -> str:
        """How many seeds there are, and how many of them failed."""
        return self._row.seeds

    @property
    def scores(self) -> Mapping[int, np.ndarray]:
        """By seed, shape (count,)."""
        return {record.cell.seed: np.array(record.scores) for record in self.records}

    def mean(self, value: Callable[[Record], float]) -> float:
        """A number averaged over the seeds."""
        return float(np.mean([value(record) for record in self.records]))


@dataclass(frozen=True, eq=False)
class Ranking:
    """A sample, its accuracies and the scores that methods give it.

    Attributes:
        cell: one of its cells, for what they have in common.
        truth: test top-1 of every member trained alone, by seed, shape (count,); seeds in which a
            training failed are left out.
        macs: multiply-adds of every member, shape (count,).
        alone_tmacs: trillions of MACs to train every member alone once, mean over these seeds.
        alone_seconds: the same in seconds.
        scorers: methods and proxies that scored it in every seed.
        lost: those that failed in some seeds or in all.
        words: what its title says to tell it from others of the same names.
    """

    cell: Cell
    truth: Mapping[int, np.ndarray]
    macs: np.ndarray
    alone_tmacs: float
    alone_seconds: float
    scorers: tuple[Scorer, ...]
    lost: tuple[Scorer, ...] = ()
    words: Words = NO_WORDS

    @cached_property
    def agreements(self) -> Mapping[str, Agreement]:
        """How well each scorer's scores agree with the mean accuracies, by its name."""
        found = {scorer.name: list(scorer.scores.values()) for scorer in self.scorers}
        return {
            name: agreement(scores, [self.mean_truth] * len(scores))
            for name, scores in found.items()
        }

    @cached_property
    def ceiling(self) -> Agreement | None:
        """What training alone with one seed says of the mean of the others; None for one seed."""
        truths = list(self.truth.values())
        if len(truths) < 2:
            return None
        seeds = range(len(truths))
        others = [mean_accuracies(truths[:i] + truths[i + 1 :], axis=0) for i in seeds]
        return agreement(truths, others)

    @property
    def mean_truth(self) -> np.ndarray:
        """Accuracy over the seeds, shape (count,)."""
        return mean_accuracies(list(self.truth.values()), axis=0)

    @property
    def title(self) -> str:
        """Network, data and band, with what tells it from other rankings."""
        return f"{self.words.network(self.cell)}{_band(self.cell)}{self.words.recipe}"

    @property
    def short_title(self) -> str:
        """The same without the band."""
        return f"{self.words.network(self.cell)}{self.words.recipe}"


@dataclass(frozen=True)
class Agreement:
    """How well a ranking agrees with the truth.

    Attributes:
        tau: Kendall's tau-b, mean over the seeds.
        low: lower end of its 95 % interval, percentiles over resampled configurations.
        high: upper end.
        regret: accuracy lost by taking the best-scored configuration, or on average one of those
            that share the best score, mean over the seeds.
    """

    tau: float
    low: float
    high: float
    regret: float


def collect_rankings(records: Iterable[Record]) -> list[Ranking]:
    """The rankings in some records, one for each sample, recipe and device."""
    members: dict[tuple[str, str, str, str], list[Record]] = {}
    scored: dict[tuple[str, str, str], list[Record]] = {}
    for record in current_records(list(records)):
        if record.cell.sample is None:
            continue
        key = (record.cell.ranking, record.trained_on, record.timed_by)
        if record.cell.member is None:
            scored.setdefault(key, []).append(record)
        elif record.status == "ok":
            members.setdefault((*key, _recipe(record.cell)), []).append(record)
    found = [_ranking(group, scored.get(key[:3], [])) for key, group in sorted(members.items())]
    whole = [ranking for ranking in found if ranking.truth]
    words = words_apart([ranking.cell for ranking in whole], _band)
    return [replace(ranking, words=mine) for ranking, mine in zip(whole, words, strict=True)]


def agreement(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Agreement:
    """Compare rankings with the truth.

    Args:
        scores: one ranking for each seed, shape (count,); higher is better.
        truths: what each is compared with, shape (count,).
    """
    count, pairs = len(truths[0]), list(zip(scores, truths, strict=True))
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    counts = drawn_counts(drawn, count)
    taus = np.stack([kendall_taus(score, truth, counts) for score, truth in pairs], axis=1)
    low, high = interval_of(taus.mean(axis=1))
    tau = float(np.mean([kendall_tau(score, truth) for score, truth in pairs]))
    regrets = [truth.max() - truth[score == score.max()].mean() for score, truth in pairs]
    return Agreement(tau, low, high, float(np.mean(regrets)))


def interval_of(taus: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % percentile interval; NaN if every resample is all ties.

    Args:
        taus: of the resamples, shape (resamples,); NaN where one side is all ties.
    """
    if np.isnan(taus).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _band(cell: Cell) -> str:
    """The sample's size and cost, as titles tell it."""
    sample = cell.sample
    assert sample is not None
    return (
        f", {sample.count} configurations at {100 * sample.low:g} to {100 * sample.high:g} % of "
        f"{cell.metric}"
    )


def _recipe(cell: Cell) -> str:
    """Names how networks are trained after the decision."""
    return f"{cell.finetune.model_dump_json()}{cell.start} {cell.distill:g}"


def _ranking(members: Sequence[Record], scored: Sequence[Record]) -> Ranking:
    cell = members[0].cell
    assert cell.sample is not None
    by_seed: dict[int, np.ndarray] = {}
    macs = np.full(cell.sample.count, np.nan)
    trained: dict[tuple[int, int], Record] = {}
    for record in members:
        row = by_seed.setdefault(record.cell.seed, np.full(cell.sample.count, np.nan))
        assert record.cell.member is not None
        row[record.cell.member] = record.top1.finetuned
        macs[record.cell.member] = record.size.macs if record.size else np.nan
        trained[record.cell.seed, record.cell.member] = record
    whole = {seed: row for seed, row in sorted(by_seed.items()) if not np.isnan(row).any()}
    alone = [record for (seed, _), record in trained.items() if seed in whole]
    seeds = max(len(whole), 1)  # a ranking without a whole seed is left out
    named: dict[str, list[Record]] = {}
    cells = [record.cell for record in scored]
    for record in scored:
        named.setdefault(short_name(record.cell, cells), []).append(record)
    scorers = [_scorer(name, group, cell) for name, group in sorted(named.items())]
    return Ranking(
        cell=cell,
        truth=whole,
        macs=macs,
        alone_tmacs=sum(spent_macs(r, ["finetune"]) for r in alone) / seeds / 1e12,
        alone_seconds=sum(spent_seconds(r, ["finetune"]) for r in alone) / seeds,
        scorers=tuple(scorer for scorer in scorers if not scorer.is_lost),
        lost=tuple(scorer for scorer in scorers if scorer.is_lost),
    )


def _scorer(name: str, records: Sequence[Record], trained: Cell) -> Scorer:
    """One record for each seed: under the recipe of the trained networks, or else the newest.

    No recipe acts on scores, so a record that failed counts where no other of its seed ended well.

    Args:
        name: of the scorer.
        records: several of a seed where suites of different recipes scored the sample.
        trained: a cell of a network that was trained alone.
    """
    recipe = _recipe(trained)

    def worth(each: Record) -> tuple[bool, bool, datetime]:
        return each.status == "ok", _recipe(each.cell) == recipe, moment(each.utc)

    last_best = sorted(records, key=worth)
    by_seed = {record.cell.seed: record for record in last_best}
    return Scorer(name, tuple(by_seed[seed] for seed in sorted(by_seed)))


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two rankings, shape (n,); NaN where one is all ties."""
    return float(kendall_taus(first, second, np.ones((1, len(first))))[0])


def kendall_taus(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of two rankings resampled; NaN where one is all ties.

    A pair of entries i and j stands in a resample as often as the product of their counts says, and
    copies of one entry tie. So the signs of the pairs are compared once, and not in each of a
    thousand resamples, as with `scipy.stats.kendalltau`.

    Args:
        first: shape (n,).
        second: the same shape.
        counts: how often each resample holds each entry, shape (resamples, n).

    Returns:
        Shape (resamples,).
    """
    signs = [np.sign(values[:, None] - values) for values in (first, second)]

    def total(pairs: np.ndarray) -> np.ndarray:
        # Whole numbers, so exact; every pair is in it twice, above and below the line.
        found: np.ndarray = ((counts @ pairs) * counts).sum(axis=1)
        return found

    untied = total(np.abs(signs[0])) * total(np.abs(signs[1]))
    with np.errstate(invalid="ignore"):
        taus: np.ndarray = total(signs[0] * signs[1]) / np.sqrt(untied)
    return taus


def drawn_counts(drawn: np.ndarray, count: int) -> np.ndarray:
    """How often each of `count` entries is in each row of draws, shape (rows, count)."""
    counts = np.zeros((len(drawn), count))
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
    return counts

"""How well scores rank configurations: Kendall's tau and regret against training each one alone.

The truth about a configuration is its mean test accuracy over the seeds in which it was trained
alone. A method's scores are compared with it seed by seed and averaged; the ceiling is what one
seed's training alone says of the mean of the others. Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.comparison import short_name, spent_macs, spent_seconds
from benchmarks.records.cell import Cell
from benchmarks.records.files import current_records
from benchmarks.records.record import Record

__all__ = [
    "Agreement",
    "Ranking",
    "Scorer",
    "agreement",
    "ceiling",
    "collect_rankings",
    "interval_of",
    "judge",
    "kendall_tau",
]

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Scorer:
    """What one method makes of the sample.

    Attributes:
        name: of the method, with the settings in which its scorers differ.
        records: one for each seed.
    """

    name: str
    records: tuple[Record, ...]

    @property
    def scores(self) -> Mapping[int, np.ndarray]:
        """By seed, shape (count,)."""
        return {record.cell.seed: np.array(record.scores) for record in self.records}

    def mean(self, value: Callable[[Record], float]) -> float:
        """A number averaged over the seeds."""
        return float(np.mean([value(record) for record in self.records]))


@dataclass(frozen=True, eq=False)
class Ranking:
    """A sample, its accuracies and what methods make of it.

    Attributes:
        cell: one of its cells, for what they have in common.
        truth: test top-1 of every member trained alone, by seed, shape (count,); NaN where a
            training failed.
        macs: multiply-adds of every member, shape (count,).
        alone_tmacs: what it took to train one sample alone, mean over the seeds, in trillions.
        alone_seconds: the same in seconds.
        scorers: what to judge.
    """

    cell: Cell
    truth: Mapping[int, np.ndarray]
    macs: np.ndarray
    alone_tmacs: float
    alone_seconds: float
    scorers: tuple[Scorer, ...]

    @property
    def mean_truth(self) -> np.ndarray:
        """Accuracy over the seeds, shape (count,)."""
        mean: np.ndarray = np.mean(list(self.truth.values()), axis=0)
        return mean

    @property
    def title(self) -> str:
        """Network, data and band."""
        sample = self.cell.sample
        assert sample is not None
        return (
            f"{self.cell.model.title} on {self.cell.data.name}, {sample.count} configurations at "
            f"{100 * sample.low:g} to {100 * sample.high:g} % of {self.cell.metric}"
        )


@dataclass(frozen=True)
class Agreement:
    """How well a ranking agrees with the truth.

    Attributes:
        tau: Kendall's tau-b, mean over the seeds.
        low: lower end of its 95 % interval, percentiles over resampled configurations.
        high: upper end.
        regret: accuracy lost by taking the best-scored configuration, mean over the seeds.
    """

    tau: float
    low: float
    high: float
    regret: float


def collect_rankings(records: Iterable[Record]) -> list[Ranking]:
    """The rankings of some records; what was trained or run differently is kept apart."""
    members: dict[tuple[str, str, str], list[Record]] = {}
    scored: dict[tuple[str, str], list[Record]] = {}
    for record in current_records(list(records)):
        if record.cell.sample is None or record.status != "ok":
            continue
        key = (record.cell.ranking, record.runs_on)
        if record.cell.member is None:
            scored.setdefault(key, []).append(record)
        else:
            recipe = record.cell.finetune.model_dump_json() + record.cell.start
            members.setdefault((*key, recipe), []).append(record)
    found = [_ranking(group, scored.get(key[:2], [])) for key, group in sorted(members.items())]
    return [ranking for ranking in found if ranking.truth]


def agreement(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Agreement:
    """Compare rankings with the truth.

    Args:
        scores: one ranking for each seed, shape (count,); higher is better.
        truths: what each is compared with, shape (count,).
    """
    rng = np.random.default_rng(0)
    count = len(truths[0])
    drawn = [rng.integers(count, size=count) for _ in range(RESAMPLES)]
    taus = [_mean_tau([s[i] for s in scores], [t[i] for t in truths]) for i in drawn]
    low, high = interval_of(taus)
    regrets = [t.max() - t[int(np.argmax(s))] for s, t in zip(scores, truths, strict=True)]
    return Agreement(_mean_tau(scores, truths), low, high, float(np.mean(regrets)))


def interval_of(taus: Sequence[float]) -> tuple[float, float]:
    """Percentiles of resampled taus that are numbers; NaN where all of them are ties."""
    if np.isnan(taus).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ceiling(ranking: Ranking) -> Agreement | None:
    """What training alone with one seed says of the mean of the other seeds; None for one seed."""
    if len(ranking.truth) < 2:
        return None
    truths = list(ranking.truth.values())
    others = [np.mean(truths[:i] + truths[i + 1 :], axis=0) for i in range(len(truths))]
    return agreement(truths, others)


def judge(ranking: Ranking, scorer: Scorer) -> Agreement:
    """How well a method's scores agree with the mean accuracies."""
    scores = list(scorer.scores.values())
    return agreement(scores, [ranking.mean_truth] * len(scores))


def _ranking(members: Sequence[Record], scored: Sequence[Record]) -> Ranking:
    cell = members[0].cell
    assert cell.sample is not None
    by_seed: dict[int, np.ndarray] = {}
    macs = np.full(cell.sample.count, np.nan)
    for record in members:
        row = by_seed.setdefault(record.cell.seed, np.full(cell.sample.count, np.nan))
        assert record.cell.member is not None
        row[record.cell.member] = record.top1.finetuned
        macs[record.cell.member] = record.size.macs if record.size else np.nan
    whole = {seed: row for seed, row in sorted(by_seed.items()) if not np.isnan(row).any()}
    named: dict[str, list[Record]] = {}
    cells = [record.cell for record in scored]
    for record in scored:
        named.setdefault(short_name(record.cell, cells), []).append(record)
    return Ranking(
        cell=cell,
        truth=whole,
        macs=macs,
        alone_tmacs=sum(spent_macs(r, ["finetune"]) for r in members) / len(by_seed) / 1e12,
        alone_seconds=sum(spent_seconds(r, ["finetune"]) for r in members) / len(by_seed),
        scorers=tuple(_scorer(name, group) for name, group in sorted(named.items())),
    )


def _scorer(name: str, records: Sequence[Record]) -> Scorer:
    return Scorer(name, tuple(sorted(records, key=lambda record: record.cell.seed)))


def _mean_tau(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    pairs = zip(scores, truths, strict=True)
    return float(np.mean([kendall_tau(score, truth) for score, truth in pairs]))


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two rankings, shape (n,); NaN where one is all ties.

    For a few dozen configurations, resampled a thousand times, ten times faster than a general one.
    """
    upper = np.triu_indices(len(first), 1)
    signs = [np.sign(values[:, None] - values)[upper] for values in (first, second)]
    untied = np.prod([np.count_nonzero(sign) for sign in signs], dtype=float)
    return float(signs[0] @ signs[1] / np.sqrt(untied)) if untied else float("nan")

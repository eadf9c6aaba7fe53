"""Numbers over seeds: mean, sample standard deviation, intervals, and when a difference counts.

The interval is the percentile bootstrap's for the mean. With few seeds it is too narrow: with three
it is their range, which misses the true mean about one time in four. So whether a difference counts
is decided by Student's t-test of the paired differences, and over a table by Holm's correction.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = [
    "ERROR",
    "LEVEL",
    "POWER",
    "RESAMPLES",
    "ROUNDING",
    "Estimate",
    "bootstrap_interval",
    "differences",
    "estimate",
    "findable",
    "holm",
    "mean_accuracies",
    "paired",
    "shown",
]

LEVEL = 0.95
"""Coverage that all intervals aim at."""

ERROR = 1 - LEVEL
"""Chance that a family of tests without any true difference says that there is one."""

POWER = 0.8
"""Chance of being found that makes a difference a detectable one."""

WIDEST = 1.0
"""Of all true differences of two accuracies."""

ROUNDING = 1e-9
"""Standard deviations up to this are rounding: an accuracy moves in steps of an image."""

DECIMALS = 9
"""Of a mean accuracy that is ranked: further ones are rounding, and would break ties."""

EXACT = 5
"""Up to so many values every resample is taken once; above, they are drawn."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Attributes:
        values: one for each seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @cached_property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1), which one seed does not have."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean, which one seed does not have."""
        return bootstrap_interval(self.values) if len(self.values) > 1 else None

    @cached_property
    def half_width(self) -> float | None:
        """Half of Student's interval of the mean, which one seed does not have."""
        if self.sd is None:
            return None
        count = len(self.values)
        return _student_quantile(count - 1) * self.sd / math.sqrt(count)

    @property
    def spreads(self) -> bool:
        """Whether the values differ by more than rounding: alike, they say nothing of the noise."""
        return self.sd is not None and self.sd > ROUNDING

    @property
    def sign(self) -> int:
        """1 or -1 if both intervals lie above or below zero, else 0, as where there is no test."""
        if self.interval is None or self.half_width is None or not self.spreads:
            return 0
        low = min(self.interval[0], self.mean - self.half_width)
        high = max(self.interval[1], self.mean + self.half_width)
        return int(low > 0) - int(high < 0)

    @cached_property
    def p_value(self) -> float | None:
        """Of Student's t-test, both sides, that the true mean is zero.

        None for one seed, and for values that do not differ.
        """
        if self.sd is None or not self.spreads:
            return None
        from scipy.special import stdtr  # slow to import, and one seed does not need it

        count = len(self.values)
        return float(2 * stdtr(count - 1, -abs(self.mean) * math.sqrt(count) / self.sd))

    def detectable(self, level: float) -> float | None:
        """The true mean that this test finds with 80 % power, were the deviation the one observed.

        None where there is no test.

        Args:
            level: of the test, both sides.
        """
        if self.sd is None or not self.spreads:
            return None
        count = len(self.values)
        return _noncentrality(count - 1, level) * self.sd / math.sqrt(count)

    def shown(self, pattern: str, scale: float = 1.0) -> str:
        """Mean and standard deviation, each scaled and formatted with `pattern`."""
        text = format(scale * self.mean, pattern)
        if self.sd is None:
            return text
        return f"{text} ± {format(scale * self.sd, pattern.lstrip('+'))}"

    def with_interval(self, pattern: str, scale: float = 1.0) -> str:
        """The same, followed by the bootstrap interval in brackets."""
        text = self.shown(pattern, scale)
        if self.interval is None:
            return text
        low, high = (format(scale * end, pattern) for end in self.interval)
        return f"{text} [{low}, {high}]"


def estimate(values: Sequence[float]) -> Estimate:
    """An estimate from one value for each seed."""
    return Estimate(tuple(float(value) for value in values))


def paired(new: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Difference of two methods over the seeds that both have; None if they share none."""
    pairs = differences(new, base)
    return estimate([*pairs.values()]) if pairs else None


def differences(new: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """Difference of two methods in each seed that both have, in the order of seeds."""
    return {seed: new[seed] - base[seed] for seed in sorted(new) if seed in base}


def shown(found: Estimate | None, pattern: str, scale: float = 1.0) -> str:
    """Mean and standard deviation as text; a dash for None.

    Args:
        found: the estimate.
        pattern: of `format`, for example ".1f".
        scale: what both numbers are multiplied by.
    """
    return found.shown(pattern, scale) if found else "–"


def mean_accuracies(
    accuracies: Sequence[Sequence[float]] | Sequence[np.ndarray] | np.ndarray, axis: int = -1
) -> np.ndarray:
    """Means over an axis that tie where they are equal, whatever order they were summed in.

    Args:
        accuracies: as shares.
        axis: of the seeds.
    """
    return np.asarray(accuracies).mean(axis=axis).round(DECIMALS)  # type: ignore[no-any-return]


def findable(detectable: float | None) -> float | None:
    """A detectable difference of accuracies; infinite where no true difference is that large."""
    return math.inf if detectable is not None and detectable > WIDEST else detectable


@functools.cache
def _student_quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # slow to import, and one seed does not need it

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


@functools.cache
def _noncentrality(freedom: int, level: float) -> float:
    """Of the t distribution that passes the test's limit with the wanted power.

    The far side of the test adds less than the level times 1e-4 there and is left out.
    """
    from scipy.special import nctdtrinc, stdtrit  # as above

    limit = stdtrit(freedom, 1 - level / 2)
    return float(nctdtrinc(freedom, 1 - POWER, limit))


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Holm's corrected p-values: below a level, the family errs at that level at most.

    Args:
        p_values: of one family; None for what could not be tested, which counts in it as 1.

    Returns:
        One for each, in the same order.

    Source: Holm 1979.
    """
    known = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(known)
    steps = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    corrected = np.empty_like(known)
    corrected[order] = np.minimum(steps, 1.0)
    return [float(p) for p in corrected]


@functools.lru_cache(maxsize=4096)
def bootstrap_interval(values: tuple[float, ...]) -> tuple[float, float]:
    """Percentile interval of the mean over resampled values; the same in every call.

    Its ends are means of resamples, not points between two: all of three seeds' resamples are
    known, the least mean is one in 27 of them, and so the interval reaches to it.
    """
    count = len(values)
    if count <= EXACT:
        drawn = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = np.array(values)[drawn].mean(axis=1)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(means, ends, method="inverted_cdf")
    return float(low), float(high)

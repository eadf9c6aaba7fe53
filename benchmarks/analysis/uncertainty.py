"""Numbers over seeds: mean, sample standard deviation, intervals, and when a difference counts.

The interval is the percentile bootstrap's for the mean. With few seeds it is too narrow: with three
it is their range, which misses the true mean about one time in four. So a difference counts as
clear only if Student's interval leaves zero out as well.
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

__all__ = ["LEVEL", "Estimate", "bootstrap_interval", "estimate", "paired", "shown"]

LEVEL = 0.95
"""Coverage that all intervals aim at."""

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
    def sign(self) -> int:
        """1 or -1 if both intervals lie above or below zero, else 0; one seed never counts."""
        if self.interval is None or self.half_width is None:
            return 0
        low = min(self.interval[0], self.mean - self.half_width)
        high = max(self.interval[1], self.mean + self.half_width)
        return int(low > 0) - int(high < 0)

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
    pairs = [value - base[seed] for seed, value in sorted(new.items()) if seed in base]
    return estimate(pairs) if pairs else None


def shown(found: Estimate | None, pattern: str, scale: float = 1.0) -> str:
    """Mean and standard deviation as text; a dash for None.

    Args:
        found: the estimate.
        pattern: of `format`, for example ".1f".
        scale: what both numbers are multiplied by.
    """
    return found.shown(pattern, scale) if found else "–"


@functools.cache
def _student_quantile(freedom: int) -> float:
    from scipy.special import stdtrit  # slow to import, and one seed does not need it

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


@functools.lru_cache(maxsize=4096)
def bootstrap_interval(values: tuple[float, ...]) -> tuple[float, float]:
    """Percentile interval of the mean over resampled values; the same in every call."""
    count = len(values)
    if count <= EXACT:
        drawn = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = np.array(values)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

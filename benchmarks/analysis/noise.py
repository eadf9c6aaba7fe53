"""How far the changes between two sets of records would differ if nothing had changed.

What is expected comes from the base alone (see `benchmarks.analysis.losses`). The spread of the
changes over the seeds of one method counts, too, up to a limit, since one seed may have been hit by
the change that is looked for. What differs from method to method never counts: it may be that
change.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtr

from benchmarks.analysis.losses import EXPECTED, IMAGES_COUNT_AS, OF_TIMES, Check, Pair

__all__ = ["noises", "p_value", "standard_error"]

MOST_TIMES = 2.0
"""The spread of changes counts up to so many times the expected noise."""

MOST_OF_TOLERANCE = 0.5
"""It counts up to this share of the tolerance, however little noise is expected."""


def noises(
    check: Check, pairs: Sequence[Pair], losses: Sequence[float], limit: float
) -> list[float]:
    """Standard deviation of each change, if nothing changed.

    Args:
        check: which number.
        pairs: of records.
        losses: of each pair.
        limit: the tolerance, in the unit of the losses.
    """
    tasks: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(pairs):
        tasks.setdefault((pair.task, pair.base.trained_on), []).append(index)
    found = [0.0] * len(pairs)
    for members in tasks.values():
        own = [pairs[i] for i in members]
        expect = EXPECTED.get(check)
        expected = expect(own) if expect else [0.0] * len(own)
        spreads = _spreads(check, own, [losses[i] for i in members])
        for index, noise, spread in zip(members, expected, spreads, strict=True):
            most = max(MOST_TIMES * noise, MOST_OF_TOLERANCE * limit)
            found[index] = max(noise, min(spread, most))
    return found


def _spreads(check: Check, pairs: Sequence[Pair], losses: Sequence[float]) -> list[float]:
    """Spread of each row's changes over its seeds, or that pooled over rows if it is larger.

    Two seeds that share a timing have one change of times.
    """
    rows: dict[tuple[str, str], dict[object, float]] = {}
    for index, (pair, loss) in enumerate(zip(pairs, losses, strict=True)):
        one = pair.timings if check in OF_TIMES else index
        rows.setdefault(pair.row, {})[one] = loss
    own, total, repeats = {}, 0.0, 0
    for row, changes in rows.items():
        own[row] = statistics.variance(changes.values()) if len(changes) > 1 else 0.0
        total += (len(changes) - 1) * own[row]
        repeats += len(changes) - 1
    pooled = total / repeats if repeats else 0.0
    return [math.sqrt(max(pooled, own[pair.row])) for pair in pairs]


def standard_error(check: Check, changes: Sequence[tuple[Pair, float]]) -> float:
    """Standard error of a mean change, from the noise of each.

    Half the variance of a change of times is that of each of its two timings. Cells that share a
    timing share its error, so such errors add up instead of averaging out.
    """
    if check not in OF_TIMES:
        return math.sqrt(sum(noise**2 for _, noise in changes)) / len(changes)
    sums: dict[tuple[str, str], float] = {}
    for pair, noise in changes:
        for timing in pair.timings:
            sums[timing] = sums.get(timing, 0.0) + noise
    return math.sqrt(sum(each**2 for each in sums.values()) / 2) / len(changes)


def p_value(check: Check, loss: float, error: float, pairs: Sequence[Pair]) -> float:
    """One-sided, of Student's t; without noise any change is certain.

    Its degrees of freedom are the repetitions behind the noise of these pairs: in each row one less
    than its changes, and as many as the spread due to the test images counts as.

    Args:
        check: which number.
        loss: mean change, not negative.
        error: its standard error.
        pairs: whose changes it is the mean of.
    """
    if error == 0:
        return 0.0 if loss else 1.0
    changes = {pair.timings for pair in pairs} if check in OF_TIMES else pairs
    repeats = max(len(changes) - len({pair.row for pair in pairs}), 0)
    return float(stdtr(IMAGES_COUNT_AS + repeats, -loss / error))

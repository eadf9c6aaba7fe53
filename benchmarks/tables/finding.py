"""What the records show, in a few words on top of the page.

It says no more than the tests of the tables do, see docs/statistics.md: contrasts that were named
before the run, then differences to uniform width that Holm's correction over their table leaves.
Nobody is called the best of all, since nothing tests that. Reads records and nothing else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.analysis.comparison import REFERENCE, Comparison, Row
from benchmarks.analysis.contrasts import Confirmed, primary_contrasts
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.uncertainty import ERROR, findable
from benchmarks.records.plain import told_budget

__all__ = ["finding"]

MOST_NAMED = 4
"""Differences that are named one by one."""

Difference = tuple[Comparison, Row]


def finding(findings: Findings) -> list[str]:
    """What is clear and what is not, a few sentences; none without a comparison."""
    comparisons = distinct(findings.comparisons)
    compared = [(c, row) for c in comparisons for row in c.rows if row.is_compared]
    sentences = _named_before(primary_contrasts(findings.comparisons))
    if compared:
        sentences += _against_uniform(compared, len(comparisons) > 1)
    return sentences


def _named_before(contrasts: Sequence[Confirmed]) -> list[str]:
    """What came of the contrasts that are confirmatory, if there are any."""
    whole = [each for each in contrasts if not each.problem and each.gain]
    clear = [each for each in whole if each.is_clear]
    told = [_told(each) for each in clear[:MOST_NAMED]]
    if not whole:
        return []
    rest = len(whole) - len(told)
    if not told:
        which = "The contrast" if rest == 1 else f"None of the {rest} contrasts"
        verb = "shows no" if rest == 1 else "shows a"
        return [f"{which} named before the run {verb} clear difference."]
    first = f"As asked before the run: {'; '.join(told)}."
    left = len(clear) - len(told)
    return [first, f"{left} more are clear, see the table."] if left else [first]


def _told(found: Confirmed) -> str:
    new, base = found.sides
    assert found.gain is not None
    verb = "more" if found.gain.mean > 0 else "less"
    budget = told_budget(found.primary.contrast.budget, found.primary.metric)
    return (
        f"{new} is clearly {verb} accurate than {base} at {budget}, {found.title} "
        f"({_points(found.gain.mean)})"
    )


def _against_uniform(compared: Sequence[Difference], has_many: bool) -> list[str]:
    p_values = [(c, row, c.p_value(row)) for c, row in compared]
    tested = [(c, row) for c, row, p in p_values if p is not None]
    if not tested:
        return [
            f"Nothing tells a method from {REFERENCE} width here: a difference is tested over "
            "several seeds that spread, and no row has them."
        ]
    clear = [(c, row) for c, row, p in p_values if p is not None and p <= ERROR and row.gain]
    gains = [(c, row) for c, row in clear if row.gain and row.gain.mean > 0]
    losses = [(c, row) for c, row in clear if row.gain and row.gain.mean < 0]
    same = f"{REFERENCE} width at the same budget"
    if gains:
        first = f"Clearly more accurate than {same}: {_list(gains, has_many)}."
    else:
        first = f"No method is clearly more accurate than {same}."
    second = [f"Clearly less accurate: {_list(losses, has_many)}."] if losses else []
    found = [size for c, row in tested if (size := findable(c.detectable(row))) is not None]
    were = "was one difference" if len(tested) == 1 else f"were {len(tested)} differences"
    tests = f"Tested {were}, Holm-corrected at 5 % within each table."
    return [first, *second, f"{tests} {_typical(found)}" if found else tests]


def _list(found: Sequence[Difference], has_many: bool) -> str:
    """The largest first, so many by name and the number of the others."""
    ordered = sorted(found, key=lambda each: (-abs(_gain(each[1])), each[1].method))
    told = [
        f"{c.label(row)} at {c.told_budget(row)}{f' on {c.heading}' if has_many else ''} "
        f"({_points(_gain(row))})"
        for c, row in ordered[:MOST_NAMED]
    ]
    rest = len(found) - len(told)
    return ", ".join([*told, f"and {rest} more"] if rest else told)


def _gain(row: Row) -> float:
    return row.gain.mean if row.gain else 0.0


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _typical(found: Sequence[float]) -> str:
    """The median of the sizes that tests would find; infinite ones are those of no difference."""
    median = statistics.median(found)
    if math.isfinite(median):
        return f"The median difference that such a test would find is {100 * median:.1f} points."
    which = "Such a test finds" if len(found) == 1 else "At least half of such tests find"
    return f"{which} no difference with 80 % power, however large it is."

"""How a claim is held against records: what is compared with which control, and what is said of it.

A test names a method and its control. What comes of it is a number, the control, the records that
were read and a verdict, whose words follow the number of seeds. Imports neither torch nor zoo.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.analysis.comparison import Comparison, Row, compare, spent_macs, spent_seconds
from benchmarks.analysis.ranking import (
    Ranking,
    Scorer,
    collect_rankings,
)
from benchmarks.analysis.uncertainty import ROUNDING, Estimate, estimate, paired
from benchmarks.records.bounds import moment
from benchmarks.records.cell import PARENT
from benchmarks.records.files import read_folder
from benchmarks.records.join import read_results
from benchmarks.records.plain import told_budget
from benchmarks.records.reference import Reference, newest_of_pairs
from benchmarks.studies.claim_schema import Passes, Test
from benchmarks.studies.separable import CEILING, ceiling_of, gap_between, taus_within

__all__ = ["FEWEST", "MANY", "Outcome", "Verdict", "try_test"]

FEWEST = 3
"""Seeds below which nothing is said."""

MANY = 5
"""Seeds from which a verdict is a plain one; below, it is a hint."""

UNFAIR = (
    "protocol 1 finished every method with its own loss and weights, and its uniform width kept "
    "the first channels, so it holds no fair control of another method"
)
NO_PARENT = "no parent fine-tuned by the same recipe"

Verdict = Literal[
    "holds here",
    "does not hold here",
    "points that way here",
    "points the other way here",
    "not supported here",
    "cannot be tested here",
]


@dataclass(frozen=True)
class Outcome:
    """What came of a test.

    Attributes:
        setting: what was tried.
        control: what it was compared with.
        records: folder and protocol that the number comes from.
        number: what was found.
        verdict: by the rule that the page states.
        why: what the verdict rests on, or what is missing.
    """

    setting: str
    control: str
    records: str
    number: str
    verdict: Verdict
    why: str = ""


def try_test(test: Test, results: Path) -> Outcome:
    """Hold a test against records.

    Args:
        test: what to try.
        results: folder of results folders.
    """
    if test.kind == "runtime":
        return _runtime(test, results / test.folder)
    records = read_results(results / test.folder).records
    if not records:
        return _absent(test, f"no records in results/{test.folder}")
    if test.kind in ("tau", "seconds"):
        return _of_rankings(test, collect_rankings(records))
    return _of_comparisons(test, compare(records))


# Accuracies of pruned networks


def _of_comparisons(test: Test, comparisons: Sequence[Comparison]) -> Outcome:
    found = _find(test, comparisons)
    if found is None:
        return _absent(test, _no_record(test, test.method))
    if test.kind == "parent":
        return _against_parent(test, *found)
    if test.kind == "best":
        return _against_all(test, *found)
    return _against_one(test, *found)


def _against_parent(test: Test, comparison: Comparison, row: Row) -> Outcome:
    """The parent as it came from training is no control: the pruned network was trained longer."""
    parents = [other for other in comparison.rows if other.cell.method == PARENT and other.ok]
    if not parents:
        control = "the parent fine-tuned by the same recipe: not run"
        return _started(test, comparison, row, control, "–").untested(NO_PARENT)
    margin = paired(row.top1_by_seed, parents[0].top1_by_seed)
    begun = _started(
        test, comparison, row, "the parent fine-tuned by the same recipe", _points(margin)
    )
    return _judged(test, begun, margin)


def _against_one(test: Test, comparison: Comparison, row: Row) -> Outcome:
    rival = _other(test.against, comparison, row)
    if rival is None:
        return _absent(test, _no_record(test, test.against))
    margin = paired(row.top1_by_seed, rival.top1_by_seed)
    begun = _started(test, comparison, row, _named(comparison, rival), _points(margin))
    if _is_unfair(row, rival):
        return begun.untested(UNFAIR)
    if test.stronger:
        return _against_both(test, comparison, row, begun, margin)
    return _judged(test, begun, margin)


def _against_both(
    test: Test, comparison: Comparison, row: Row, begun: _Begun, weak: Estimate | None
) -> Outcome:
    """A lead over a weak control says nothing of the method if a strong one does as well."""
    rival = _other(test.stronger, comparison, row)
    if rival is None:
        return _absent(test, _no_record(test, test.stronger))
    name = _named(comparison, rival)
    strong = paired(row.top1_by_seed, rival.top1_by_seed)
    both = begun.beside(name, f"{_points(strong)} against {name}")
    judged = _judged(test, both, weak)
    if judged.verdict not in ("holds here", "points that way here"):
        return judged
    if strong is None or len(strong.values) < FEWEST or not strong.spreads or strong.sign > 0:
        return _judged(test, both, strong)
    seen = (
        "it is less accurate" if strong.sign < 0 else f"no difference is seen{_reach(test, strong)}"
    )
    why = f"more accurate than {begun.control} alone; against {name} {seen}"
    return both.ended("not supported here", why)


def _against_all(test: Test, comparison: Comparison, row: Row) -> Outcome:
    """The best leads each of the others; what lies below their mean is not the best.

    The mean is not chosen by the accuracies that it is then compared with, as the best other is.
    """
    rivals = [
        other
        for other in comparison.rows
        if _is_beside(other, row)
        and other.cell.method != row.cell.method
        and other.cell.longer is None  # trained more than the method
    ]
    if not rivals:
        return _absent(test, _no_record(test, "another method"))
    margins = {_named(comparison, r): paired(row.top1_by_seed, r.top1_by_seed) for r in rivals}
    by_method: dict[str, list[Mapping[int, float]]] = {}  # variants of one are no further methods
    for other in rivals:
        by_method.setdefault(other.cell.method, []).append(other.top1_by_seed)
    others = [_mean_by_seed(each) for each in by_method.values()]
    to_mean = paired(row.top1_by_seed, _mean_by_seed(others))
    best = _hardest(margins)
    number = f"{_points(to_mean)} to the mean, {_points(margins[best])} to {best}"
    control = f"the mean of {len(others)} other methods; the best of them, {best}"
    begun = _started(test, comparison, row, control, number)
    if any(_is_unfair(row, rival) for rival in rivals):
        return begun.untested(UNFAIR)
    if lost := [_named(comparison, rival) for rival in rivals if rival.lost]:
        return begun.untested(f"no lead over each can be told: {'; '.join(lost)}")
    judged = _judged(test, begun, to_mean)
    if to_mean is None or len(to_mean.values) < FEWEST:
        return judged
    leads = (paired(row.top1_by_seed, other) for other in others)
    better = sum(lead is not None and lead.mean < -ROUNDING for lead in leads)
    rank = f"{better} of {len(others)} others are more accurate on average"
    if all(found is not None and found.sign > 0 for found in margins.values()):
        return begun.ended(
            _verdict(1, len(to_mean.values)), f"a clear lead over each; {judged.why}"
        )
    if to_mean.sign < 0:
        why = f"clearly below the mean; {rank}; {judged.why}"
        return begun.ended(_verdict(-1, len(to_mean.values)), why)
    return begun.untested(f"no clear lead over each, not clearly below the mean; {rank}")


def _hardest(margins: Mapping[str, Estimate | None]) -> str:
    """The rival that a row leads least over the seeds that both have, of several alike the first.

    A rival without such seeds comes last.
    """

    def margin(name: str) -> float:
        found = margins[name]
        return math.inf if found is None else round(found.mean / ROUNDING)

    return min(margins, key=margin)


def _mean_by_seed(found: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Mean of some accuracies by seed, of the seeds that they all have."""
    seeds = set.intersection(*(set(each) for each in found))
    return {seed: statistics.fmean(each[seed] for each in found) for seed in seeds}


def _find(test: Test, comparisons: Sequence[Comparison]) -> tuple[Comparison, Row] | None:
    """The row of the method, from the newest protocol that has it, with the most seeds."""
    found = [
        (comparison, row)
        for comparison in comparisons
        if (comparison.cell.model.title, comparison.cell.data.name) == (test.model, test.data)
        for row in comparison.rows
        if row.asked == (test.metric, test.budget)
        and row.ok
        and test.method in _names(comparison, row)
    ]
    return max(found, key=lambda each: (each[0].cell.protocol, len(each[1].ok)), default=None)


def _other(name: str, comparison: Comparison, row: Row) -> Row | None:
    """A row at the same budget by its name."""
    for other in comparison.rows:
        if _is_beside(other, row) and name in _names(comparison, other):
            return other
    return None


def _is_beside(other: Row, row: Row) -> bool:
    """Whether another row has results at the same budget of the same quantity."""
    mine, theirs = row.cell, other.cell
    is_there = other is not row and bool(other.ok)
    return is_there and (theirs.metric, theirs.budget) == (mine.metric, mine.budget)


def _names(comparison: Comparison, row: Row) -> tuple[str, str]:
    """A row's name with all its settings, and the one that its comparison gives it."""
    return row.method, comparison.label(row)


def _named(comparison: Comparison, row: Row) -> str:
    """A control's name, and how many seeds failed; uniform width says which channels it keeps."""
    name = comparison.label(row)
    if row.cell.method == "uniform":
        name += " (L1 norm)" if row.cell.protocol > 1 else " (first channels)"
    return f"{name}, {row.seeds}" if row.lost else name


def _is_unfair(row: Row, rival: Row) -> bool:
    return row.cell.protocol < 2 and row.cell.method != rival.cell.method


# Scores and costs of supernets


def _of_rankings(test: Test, rankings: Sequence[Ranking]) -> Outcome:
    """On the ranking whose networks were trained longest: it holds least noise."""
    for ranking in sorted(rankings, key=lambda each: -each.cell.finetune.epochs):
        mine, theirs = (_scorer(ranking, name) for name in (test.method, test.against))
        if mine is None or theirs is None:
            continue
        records = f"results/{test.folder}, protocol {ranking.cell.protocol}"
        begun = _Begun(f"{mine.name}, {ranking.title}", theirs.name, records, "–")
        if lost := [f"{each.name}, {each.seeds}" for each in (mine, theirs) if each.is_lost]:
            return begun.untested("; ".join(lost))
        if test.kind == "tau":
            ceiling = ceiling_of(ranking, rankings)
            return _taus_compared(test, begun, ranking, mine, theirs, ceiling)
        third = _scorer(ranking, test.passes.beside) if test.passes else None
        return _costs_compared(test, begun, mine, theirs, third)
    return _absent(test, _no_record(test, f"{test.method} beside {test.against}"))


def _taus_compared(
    test: Test,
    begun: _Begun,
    ranking: Ranking,
    mine: Scorer,
    theirs: Scorer,
    ceiling: float | None,
) -> Outcome:
    """Two things vary: the training of the supernet with the seed, and the sample."""
    margin = paired(taus_within(ranking, mine), taus_within(ranking, theirs))
    if margin is None:
        return _judged(test, begun, None)
    low, high = gap_between(ranking, mine, theirs).interval
    number = f"{margin.with_interval('+.2f')}; over samples [{low:+.2f}, {high:+.2f}]"
    begun = begun.numbered(number)
    if ceiling is None or ceiling < CEILING:
        reached = "" if ceiling is None else f" at tau {ceiling:.2f}"
        why = f"the sample tells networks apart too poorly: one training alone ranks it{reached}"
        return begun.untested(why)
    judged = _judged(test, begun, margin)
    if judged.verdict != "cannot be tested here" and low <= 0 <= high:
        return begun.untested("another sample of networks could turn it round")
    return judged


def _costs_compared(
    test: Test, begun: _Begun, mine: Scorer, theirs: Scorer, third: Scorer | None
) -> Outcome:
    ratio = _ratio(_seconds(mine), _seconds(theirs))
    if ratio is None:
        return _judged(test, begun, None)
    number = f"here {ratio.with_interval('.2f')} in seconds"
    if macs := _ratio(_macs(mine), _macs(theirs)):
        number += f", {macs.mean:.2f} in multiply-adds"
    if test.at_most is not None:
        number = f"paper {test.at_most:.2f}, {number}"
    begun = begun.numbered(number)
    if test.passes is None:
        return _judged(test, begun, ratio)
    return begun.untested(_unit_unknown(test, test.passes, ratio, _seconds(mine), third))


def _unit_unknown(
    test: Test, passes: Passes, ratio: Estimate, mine: Mapping[int, float], third: Scorer | None
) -> str:
    """Why a figure below what the passes allow refutes nothing, with the check of the structure."""
    assert test.at_most is not None
    why = (
        f"at equal updates one full pass against {passes.against} gives "
        f"{1 / passes.against:.2f} at best, so the paper's {test.at_most:.2f} counts something "
        "that is not known"
    )
    other = _ratio(mine, _seconds(third)) if third and not third.is_lost else None
    if other is None:
        return why
    pairs = [(test.at_most, passes.stated), (ratio.mean, other.mean)]
    paper, here = (f"{max(p) / min(p):.2f}" for p in pairs)
    return (
        f"{why}; its two figures stand {paper} to 1, ours {here} to 1: the structure of the passes "
        "agrees, which is a ratio of the two others, for PSE-Net itself cancels out"
    )


def _scorer(ranking: Ranking, name: str) -> Scorer | None:
    """The scorer of that name; of a name without settings, the one with the fewest.

    One that lost seeds among them: no variant takes its place.
    """
    scorers = [*ranking.scorers, *ranking.lost]
    named = [scorer for scorer in scorers if scorer.name == name]
    plain = [scorer for scorer in scorers if scorer.records[0].cell.method == name]
    plain.sort(key=lambda scorer: len(scorer.records[0].cell.settings))
    return next(iter(named + plain), None)


def _seconds(scorer: Scorer) -> dict[int, float]:
    return {r.cell.seed: spent_seconds(r, ["supernet"]) for r in scorer.records}


def _macs(scorer: Scorer) -> dict[int, float]:
    return {r.cell.seed: float(spent_macs(r, ["supernet"])) for r in scorer.records}


def _ratio(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Seed by seed; None if no seed has both."""
    ratios = [cost / theirs[seed] for seed, cost in mine.items() if theirs.get(seed)]
    return estimate(ratios) if ratios else None


# Runtimes of fixed networks


def _runtime(test: Test, folder: Path) -> Outcome:
    """A fixed network's speed-up over another, from records of `benchmarks.studies.references`.

    The newest record of each device and its settings counts, and of these the newest that is clear.
    """
    control = f"{test.against}, and the network timed twice"
    begun = _Begun(
        f"{test.method}, asked for {test.device}", control, f"results/{test.folder}", "–"
    )
    known = [
        record
        for record in newest_of_pairs(read_folder(folder, Reference).records)
        if (record.pair.network.name, record.pair.reference.name) == (test.method, test.against)
    ]
    if not known:
        return begun.untested(f"no such record in results/{test.folder}")
    known.sort(key=lambda e: (e.device.startswith(test.device), moment(e.utc)), reverse=True)
    outcomes = [_timed(test, begun, record) for record in known]
    clear = (found for found in outcomes if found.verdict != "cannot be tested here")
    return next(clear, outcomes[0])


def _timed(test: Test, begun: _Begun, record: Reference) -> Outcome:
    """What one record says, at its largest batch."""
    measured = max(record.latency, key=lambda found: found.batch)
    device = record.environment.gpu or record.environment.cpu
    setting = f"{test.method} on {device}, batch {measured.batch}"
    number = f"speed-up {measured.speedup:.2f}"
    if interval := measured.speedup_interval:
        number += f" [{interval.low:.2f}, {interval.high:.2f}]"
    timed = _Begun(setting, begun.control, begun.records, number)
    if not record.device.startswith(test.device):
        return timed.untested(f"asked for {test.device}, timed on {record.device} only")
    if measured.verdict == "faster":
        return timed.ended("holds here")
    if measured.verdict == "slower":
        return timed.ended("does not hold here")
    return timed.untested(measured.verdict)


# Verdicts


@dataclass(frozen=True)
class _Begun:
    """An outcome that has no verdict yet."""

    setting: str
    control: str
    records: str
    number: str

    def numbered(self, number: str) -> _Begun:
        return _Begun(self.setting, self.control, self.records, number)

    def beside(self, control: str, number: str) -> _Begun:
        """The same with a second control and its number."""
        both = f"{self.number} against {self.control}; {number}"
        return _Begun(self.setting, f"{self.control}; {control}", self.records, both)

    def ended(self, verdict: Verdict, why: str = "") -> Outcome:
        return Outcome(self.setting, self.control, self.records, self.number, verdict, why)

    def untested(self, why: str) -> Outcome:
        return self.ended("cannot be tested here", why)


def _started(test: Test, comparison: Comparison, row: Row, control: str, number: str) -> _Begun:
    budget = told_budget(row.cell.budget, row.cell.metric)
    setting = f"{test.method}, {comparison.heading}, {budget}, {row.seeds}"
    return _Begun(setting, control, f"results/{test.folder}, protocol {row.cell.protocol}", number)


def _judged(test: Test, begun: _Begun, found: Estimate | None) -> Outcome:
    """The rule that the page states."""
    if found is None:
        return begun.untested("no seed has both results")
    seeds = len(found.values)
    if seeds < FEWEST:
        return begun.untested(f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, needs {FEWEST}")
    limit, way = (test.at_most, -1) if test.at_most is not None else (test.at_least or 0.0, 1)
    margin = estimate([way * (value - limit) for value in found.values])
    if not margin.spreads:
        return begun.untested(f"{seeds} seeds whose differences do not spread, so there is no test")
    if margin.sign:
        return begun.ended(_verdict(margin.sign, seeds), f"{seeds} seeds")
    return begun.untested(f"no clear difference{_reach(test, margin)}")


def _verdict(sign: int, seeds: int) -> Verdict:
    """Words of certainty by the number of seeds: three leave two degrees of freedom."""
    if seeds < MANY:
        return "points that way here" if sign > 0 else "points the other way here"
    return "holds here" if sign > 0 else "does not hold here"


def _reach(test: Test, margin: Estimate) -> str:
    """How wide Student's interval is: what so few seeds could not have shown."""
    width = margin.half_width
    if not width:
        return ""
    shown = f"{width:.2f}" if test.kind in ("tau", "seconds") else f"{100 * width:.1f} points"
    seeds = len(margin.values)
    return f"; with {seeds} seeds Student's interval reaches {shown} to either side"


def _points(found: Estimate | None) -> str:
    return f"{found.with_interval('+.1f', 100)} points" if found else "–"


def _no_record(test: Test, what: str) -> str:
    return f"no record of {what} in results/{test.folder}"


def _absent(test: Test, why: str) -> Outcome:
    controls = {"best": "every other method", "parent": "the parent fine-tuned by the same recipe"}
    control = controls.get(test.kind, test.against)
    return _Begun("none yet", control, f"results/{test.folder}", "–").untested(why)

"""How a claim is held against records: what is compared with which control, and what is said of it.

A test names a method and its control, and of accuracies as much of the setting as the claim does.
What comes of each setting is a number, the control, the records that were read and a verdict of
that row alone, see `benchmarks.studies.verdicts`. Imports neither torch nor zoo.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

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
from benchmarks.studies.verdicts import (
    FEWEST,
    UNTESTED,
    Begun,
    Outcome,
    judge,
    largest,
    reach,
    verdict_of,
)

__all__ = ["try_test"]

UNFAIR = (
    "protocol 1 finished every method with its own loss and weights, and its uniform width kept "
    "the first channels, so it holds no fair control of another method"
)
NO_PARENT = "no parent fine-tuned by the same recipe"


def try_test(test: Test, results: Path) -> list[Outcome]:
    """Hold a test against records: one outcome, of accuracies one of each setting that it asks for.

    Args:
        test: what to try.
        results: folder of results folders.
    """
    if test.kind == "runtime":
        return [_runtime(test, results / test.folder)]
    records = read_results(results / test.folder).records
    if not records:
        return [_absent(test, f"no records in results/{test.folder}")]
    if test.kind in ("tau", "seconds"):
        return [_of_rankings(test, collect_rankings(records))]
    found = _settings(test, compare(records))
    if not found:
        return [_absent(test, _no_record(test, test.method))]
    return [_of_accuracies(test, comparison, row) for comparison, row in found]


# Accuracies of pruned networks


def _settings(test: Test, comparisons: Sequence[Comparison]) -> list[tuple[Comparison, Row]]:
    """The method's row of each network with its data and each budget, larger budgets first.

    Of several rows of one setting, from other recipes or processors, the newest protocol's counts,
    and of these the one with the most seeds: not the one with the better numbers.
    """
    found: dict[Hashable, list[tuple[Comparison, Row]]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            if _is_asked(test, comparison, row):
                place = comparison.network, row.cell.budget
                found.setdefault(place, []).append((comparison, row))
    networks = list(dict.fromkeys(comparison.network for comparison in comparisons))
    one_each = [max(e, key=lambda e: (e[0].cell.protocol, len(e[1].ok))) for e in found.values()]
    return sorted(one_each, key=lambda e: (networks.index(e[0].network), -e[1].cell.budget))


def _is_asked(test: Test, comparison: Comparison, row: Row) -> bool:
    """Whether a row is of the method and has results in a setting that the test asks for."""
    cell = row.cell
    return (
        fnmatchcase(cell.model.title, test.model or "*")
        and (not test.data or cell.data.name == test.data)
        and (test.budget is None or cell.budget == test.budget)
        and cell.metric == test.metric
        and test.method in _names(comparison, row)
        and bool(row.ok)
    )


def _of_accuracies(test: Test, comparison: Comparison, row: Row) -> Outcome:
    if test.kind == "parent":
        return _against_parent(test, comparison, row)
    if test.kind == "best":
        return _against_all(test, comparison, row)
    return _against_one(test, comparison, row)


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
    return judge(test, begun, margin)


def _against_one(test: Test, comparison: Comparison, row: Row) -> Outcome:
    rival = _other(test.against, comparison, row)
    if rival is None:
        begun = _started(test, comparison, row, test.against, "–")
        return begun.untested(_no_record(test, test.against))
    margin = paired(row.top1_by_seed, rival.top1_by_seed)
    begun = _started(test, comparison, row, _named(comparison, rival), _points(margin))
    if _is_unfair(row, rival):
        return begun.untested(UNFAIR)
    if test.stronger:
        return _against_both(test, comparison, row, begun, margin)
    return judge(test, begun, margin)


def _against_both(
    test: Test, comparison: Comparison, row: Row, begun: Begun, weak: Estimate | None
) -> Outcome:
    """A lead over a weak control says nothing of the method if a strong one does as well."""
    rival = _other(test.stronger, comparison, row)
    if rival is None:
        return begun.untested(_no_record(test, test.stronger))
    name = _named(comparison, rival)
    strong = paired(row.top1_by_seed, rival.top1_by_seed)
    both = begun.beside(name, f"{_points(strong)} against {name}")
    judged = judge(test, both, weak)
    if judged.verdict not in ("holds here", "points that way here"):
        return judged
    if strong is None or len(strong.values) < FEWEST or not strong.spreads or strong.sign > 0:
        led = judge(test, both, strong)
        return replace(led, p_value=largest([judged.p_value, led.p_value]))
    seen = (
        "it is less accurate" if strong.sign < 0 else f"no difference is seen{reach(test, strong)}"
    )
    why = f"more accurate than {begun.control} alone; against {name} {seen}"
    return both.ended("not supported here", why, judged.p_value)


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
        begun = _started(test, comparison, row, "every other method", "–")
        return begun.untested(_no_record(test, "another method"))
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
    judged = judge(test, begun, to_mean)
    if to_mean is None or len(to_mean.values) < FEWEST:
        return judged
    leads = (paired(row.top1_by_seed, other) for other in others)
    better = sum(lead is not None and lead.mean < -ROUNDING for lead in leads)
    rank = f"{better} of {len(others)} others are more accurate on average"
    known = [found for found in margins.values() if found is not None]
    if len(known) == len(margins) and all(found.sign > 0 for found in known):
        why = f"a clear lead over each; {judged.why}"
        hardest = largest(found.p_value for found in known)
        return begun.ended(verdict_of(1, len(to_mean.values)), why, hardest)
    if to_mean.sign < 0:
        why = f"clearly below the mean; {rank}; {judged.why}"
        return begun.ended(verdict_of(-1, len(to_mean.values)), why, to_mean.p_value)
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
        begun = Begun(f"{mine.name}, {ranking.title}", theirs.name, records, "–")
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
    begun: Begun,
    ranking: Ranking,
    mine: Scorer,
    theirs: Scorer,
    ceiling: float | None,
) -> Outcome:
    """Two things vary: the training of the supernet with the seed, and the sample."""
    margin = paired(taus_within(ranking, mine), taus_within(ranking, theirs))
    if margin is None:
        return judge(test, begun, None)
    low, high = gap_between(ranking, mine, theirs).interval
    number = f"{margin.with_interval('+.2f')}; over samples [{low:+.2f}, {high:+.2f}]"
    begun = begun.numbered(number)
    if ceiling is None or ceiling < CEILING:
        reached = "" if ceiling is None else f" at tau {ceiling:.2f}"
        why = f"the sample tells networks apart too poorly: one training alone ranks it{reached}"
        return begun.untested(why)
    judged = judge(test, begun, margin)
    if judged.verdict != UNTESTED and low <= 0 <= high:
        return begun.untested("another sample of networks could turn it round")
    return judged


def _costs_compared(
    test: Test, begun: Begun, mine: Scorer, theirs: Scorer, third: Scorer | None
) -> Outcome:
    ratio = _ratio(_seconds(mine), _seconds(theirs))
    if ratio is None:
        return judge(test, begun, None)
    number = f"here {ratio.with_interval('.2f')} in seconds"
    if macs := _ratio(_macs(mine), _macs(theirs)):
        number += f", {macs.mean:.2f} in multiply-adds"
    if test.at_most is not None:
        number = f"paper {test.at_most:.2f}, {number}"
    begun = begun.numbered(number)
    if test.passes is None:
        return judge(test, begun, ratio)
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
        f"{why}; its two figures stand {paper} to 1, ours {here} to 1: PSE-Net itself cancels out "
        "from this ratio, so where the two agree the passes are counted alike"
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
    begun = Begun(f"{test.method}, asked for {test.device}", control, f"results/{test.folder}", "–")
    known = [
        record
        for record in newest_of_pairs(read_folder(folder, Reference).records)
        if (record.pair.network.name, record.pair.reference.name) == (test.method, test.against)
    ]
    if not known:
        return begun.untested(f"no such record in results/{test.folder}")
    known.sort(key=lambda e: (e.device.startswith(test.device), moment(e.utc)), reverse=True)
    outcomes = [_timed(test, begun, record) for record in known]
    clear = (found for found in outcomes if found.verdict != UNTESTED)
    return next(clear, outcomes[0])


def _timed(test: Test, begun: Begun, record: Reference) -> Outcome:
    """What one record says, at its largest batch."""
    measured = max(record.latency, key=lambda found: found.batch)
    device = record.environment.gpu or record.environment.cpu
    setting = f"{test.method} on {device}, batch {measured.batch}"
    number = f"speed-up {measured.speedup:.2f}"
    if interval := measured.speedup_interval:
        number += f" [{interval.low:.2f}, {interval.high:.2f}]"
    timed = Begun(setting, begun.control, begun.records, number)
    if not record.device.startswith(test.device):
        return timed.untested(f"asked for {test.device}, timed on {record.device} only")
    if measured.verdict == "faster":
        return timed.ended("holds here")
    if measured.verdict == "slower":
        return timed.ended("does not hold here")
    return timed.untested(measured.verdict)


# Words


def _started(test: Test, comparison: Comparison, row: Row, control: str, number: str) -> Begun:
    budget = told_budget(row.cell.budget, row.cell.metric)
    setting = f"{test.method}, {comparison.heading}, {budget}, {row.seeds}"
    return Begun(setting, control, f"results/{test.folder}, protocol {row.cell.protocol}", number)


def _points(found: Estimate | None) -> str:
    return f"{found.with_interval('+.1f', 100)} points" if found else "–"


def _no_record(test: Test, what: str) -> str:
    return f"no record of {what} in results/{test.folder}"


def _absent(test: Test, why: str) -> Outcome:
    controls = {"best": "every other method", "parent": "the parent fine-tuned by the same recipe"}
    control = controls.get(test.kind, test.against)
    return Begun("none yet", control, f"results/{test.folder}", "–").untested(why)

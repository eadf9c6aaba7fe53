"""The papers' claims held against our records: ``python -m benchmarks.studies.claims``.

Reads `claims.toml` beside it and the records that it names, and writes docs/claims.md. Verdicts
follow from the records by one rule, which the page states. Imports neither torch nor zoo.
"""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.analysis.comparison import Comparison, Row, compare, spent_seconds
from benchmarks.analysis.ranking import Ranking, Scorer, collect_rankings, kendall_tau
from benchmarks.analysis.uncertainty import Estimate, estimate, paired
from benchmarks.records.files import Unread, read_folder
from benchmarks.records.join import read_results
from benchmarks.records.plain import in_markdown
from benchmarks.records.rates import hours, training_macs
from benchmarks.records.record import Record
from benchmarks.records.reference import Reference
from benchmarks.records.strict import Many, Strict, explain
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.markdown import Written, markdown_table
from benchmarks.tables.unread import unread_markdown

__all__ = ["Claim", "Outcome", "claims_page", "load_claims", "main", "try_claim"]

FEWEST = 3
"""Seeds below which nothing is said."""

TITLES: Mapping[str, str] = {
    "knapsack": "Knapsack Pruning with Inner Distillation",
    "bnp": "Block-Wisely Supervised Network Pruning with Knowledge Distillation and MCMC",
    "pse_net": "PSE-Net: Channel Pruning with Parallel-subnets Estimator",
    "stagewise": "Effective Model Compression via Stage-wise Pruning",
}

INTRODUCTION = """\
# What the abstracts claim, and what came of it here

Written by `python -m benchmarks.studies.claims` from `benchmarks/studies/claims.toml` and the
records under `results/`. Of the papers little more than the abstracts could be read, and not in
their exact words: each claim below is a paraphrase of a sentence that states a result, no
quotation. Embedded images and short trainings stand in for the papers' data, so "here" means what
it says: a claim that does not hold here may hold there, and the other way round.

**Rule.** The number is a difference paired by seed, or what the claim says; in brackets stands its
bootstrap 95 % interval. *Holds here*: bootstrap and Student's interval both lie beyond the value
that the claim names (zero if it names none). *Does not hold here*: both lie on the other side.
*Cannot be tested here*: fewer than three seeds, no records, or intervals that hold the value; then
the table says what is missing.

GPU hours count three times a network's MACs for every image that passes, at two tera-MACs a second,
which small and mobile networks leave of a data-centre GPU; the commands use the short recipes of
the suites where the paper's own is not known.
"""


class Test(Strict):
    """How a claim is tried on records.

    Attributes:
        kind: `best`: final accuracy against the best other method; `difference`: against `against`;
            `parent`: against the unpruned network; `tau`: Kendall's tau against that of `against`;
            `seconds`: supernet training over that of `against`; `runtime`: time of a fixed network
            `against` over that of `method`.
        folder: under results/.
        model: that the comparison is about.
        budget: at which.
        method: with its settings, as tables name it.
        against: another, named alike.
        device: kind of device that a runtime is about.
        at_least: value that the claim names as a lower limit.
        at_most: value that it names as an upper limit.
    """

    kind: Literal["best", "difference", "parent", "tau", "seconds", "runtime"]
    folder: str
    model: str = ""
    budget: float = 0.0
    method: str
    against: str = ""
    device: str = ""
    at_least: float | None = None
    at_most: float | None = None


class Needs(Strict):
    """What a test in the paper's own setting takes.

    Attributes:
        data: which has to be at hand.
        command: that makes the records.
        images: millions that pass through networks, forward and backward; 0 if minutes on a CPU do.
        mmacs: millions of MACs of those networks.
    """

    data: str
    command: str
    images: float = Field(ge=0)
    mmacs: float = Field(gt=0)

    @property
    def gpu_hours(self) -> float:
        """A rough estimate; the page says how it is made."""
        macs = training_macs(round(self.mmacs * 1e6), round(self.images * 1e6))
        return hours(macs, "cuda")


class Claim(Strict):
    """A sentence of an abstract that states a result, paraphrased."""

    paper: Literal["knapsack", "bnp", "pse_net", "stagewise"]
    says: str
    test: Test | None = None
    needs: Needs


class _File(Strict):
    claims: Many[Claim]


@dataclass(frozen=True)
class Outcome:
    """What came of a claim: the setting tried, the number found, the verdict and why."""

    setting: str
    number: str
    verdict: Literal["holds here", "does not hold here", "cannot be tested here"]
    why: str = ""


def load_claims() -> tuple[Claim, ...]:
    """The claims of `benchmarks/studies/claims.toml`.

    Raises:
        ValueError: if the file says something that a claim has no place for.
    """
    text = resources.files("benchmarks.studies").joinpath("claims.toml").read_text("utf-8")
    try:
        return _File.model_validate(tomllib.loads(text)).claims
    except ValidationError as error:
        raise ValueError(f"claims.toml: {explain(error)}") from error


def try_claim(claim: Claim, results: Path) -> Outcome:
    """Hold a claim against records.

    Args:
        claim: what to try.
        results: folder of results folders.
    """
    test = claim.test
    if test is None:
        return Outcome("none", "–", "cannot be tested here", f"needs {claim.needs.data}")
    folder = results / test.folder
    if test.kind == "runtime":
        return _runtime(test, folder)
    records = read_results(folder).records
    if not records:
        missing = f"no records in results/{test.folder}"
        return Outcome("none yet", "–", "cannot be tested here", missing)
    if test.kind in ("tau", "seconds"):
        return _of_rankings(test, collect_rankings(records))
    return _of_comparisons(test, compare(records))


def claims_page(results: Path) -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for paper, title in TITLES.items():
        claims = [claim for claim in load_claims() if claim.paper == paper]
        head = ("Claim", "Tried here", "Our number", "Verdict", "In the paper's setting")
        rows = [_cells(claim, try_claim(claim, results)) for claim in claims]
        parts.append(f"## {title}\n\n{markdown_table(head, 'lllll', rows)}")
    return "\n".join(filter(None, [*parts, unread_markdown(_unread(results))]))


def _unread(results: Path) -> list[Unread]:
    """Files that are no records in the folders that claims name."""
    tests = [claim.test for claim in load_claims() if claim.test is not None]
    compared = sorted({test.folder for test in tests if test.kind != "runtime"})
    timed = sorted({test.folder for test in tests if test.kind == "runtime"})
    return [
        *(
            file
            for name in compared
            for file in read_folder(results / name / "records", Record).unread
        ),
        *(file for name in timed for file in read_folder(results / name, Reference).unread),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=claims_page.__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/claims.md"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    asked = parser.parse_args(arguments)
    write_whole(asked.path, claims_page(asked.results))


def _of_comparisons(test: Test, comparisons: Sequence[Comparison]) -> Outcome:
    found = _find(test, comparisons)
    if found is None:
        return _absent(test, test.method)
    comparison, row = found
    setting = f"{test.method}, {comparison.title}, {row.budget} of {row.cell.metric}, {row.seeds}"
    if test.kind == "parent":
        parents = {r.cell.seed: r.top1.parent for r in row.ok if r.top1.parent is not None}
        return _judge(test, f"{setting}, against the parent", paired(row.top1_by_seed, parents))
    others = [
        other
        for other in comparison.rows
        if other.cell.budget == row.cell.budget and other is not row and other.ok
    ]
    if test.kind == "difference":
        others = [other for other in others if test.against in _names(comparison, other)]
    if not others:
        return _absent(test, test.against or "another method")
    rival = max(others, key=_mean_top1)
    against = comparison.label(rival) + (", the best other" if test.kind == "best" else "")
    margin = paired(row.top1_by_seed, rival.top1_by_seed)
    return _judge(test, f"{setting}, against {against}", margin)


def _of_rankings(test: Test, rankings: Sequence[Ranking]) -> Outcome:
    for ranking in rankings:
        mine, theirs = (_scorer(ranking, name) for name in (test.method, test.against))
        if mine is None or theirs is None:
            continue
        setting = f"{mine.name} against {theirs.name}, {ranking.title}"
        if test.kind == "tau":
            return _judge(test, setting, paired(_taus(ranking, mine), _taus(ranking, theirs)))
        first, second = _seconds(mine), _seconds(theirs)
        ratios = [first[s] / second[s] for s in first if second.get(s)]
        return _judge(test, setting, estimate(ratios) if ratios else None)
    return _absent(test, f"{test.method} beside {test.against}")


def _runtime(test: Test, folder: Path) -> Outcome:
    """A fixed network's speed-up over another, from records of `benchmarks.studies.references`."""
    asked = f"{test.method} against {test.against} on {test.device}"
    missing = f"no such record in results/{test.folder}"
    outcome = Outcome(asked, "–", "cannot be tested here", missing)
    for record in read_folder(folder, Reference).records:
        if (record.pair.network.name, record.pair.reference.name) != (test.method, test.against):
            continue
        measured = max(record.latency, key=lambda found: found.batch)
        device = record.environment.gpu or record.environment.cpu
        setting = f"{asked}: {device}, batch {measured.batch}"
        number = f"speed-up {measured.speedup:.2f}"
        if interval := measured.speedup_interval:
            number += f" [{interval.low:.2f}, {interval.high:.2f}]"
        if not record.device.startswith(test.device):
            why = f"timed on {record.device} only"
            outcome = Outcome(setting, number, "cannot be tested here", why)
        elif measured.verdict == "faster":
            return Outcome(setting, number, "holds here")
        elif measured.verdict == "slower":
            return Outcome(setting, number, "does not hold here")
        else:
            outcome = Outcome(setting, number, "cannot be tested here", measured.verdict)
    return outcome


def _judge(test: Test, setting: str, found: Estimate | None) -> Outcome:
    """The rule that the page states."""
    if found is None:
        return Outcome(setting, "–", "cannot be tested here", "no seed has both results")
    number = _number(test, found)
    seeds = len(found.values)
    if seeds < FEWEST:
        why = f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, needs {FEWEST}"
        return Outcome(setting, number, "cannot be tested here", why)
    limit, way = (test.at_most, -1) if test.at_most is not None else (test.at_least or 0.0, 1)
    margin = estimate([way * (value - limit) for value in found.values])
    if margin.sign:
        return Outcome(setting, number, "holds here" if margin.sign > 0 else "does not hold here")
    return Outcome(setting, number, "cannot be tested here", _seeds_needed(margin))


def _number(test: Test, found: Estimate) -> str:
    if test.kind in ("tau", "seconds"):
        return found.with_interval("+.2f" if test.kind == "tau" else ".2f")
    return f"{found.with_interval('+.1f', 100)} points"


def _seeds_needed(margin: Estimate) -> str:
    """How many seeds would bring Student's interval to the margin found, about."""
    spread = margin.sd or 0.0
    if not spread or abs(margin.mean) < spread / 30:
        return "no difference to be seen"
    count = max(5, math.ceil((2.2 * spread / margin.mean) ** 2))
    return f"too few seeds; a difference of this size needs about {count}"


def _find(test: Test, comparisons: Sequence[Comparison]) -> tuple[Comparison, Row] | None:
    for comparison in comparisons:
        if comparison.cell.model.name != test.model:
            continue
        for row in comparison.rows:
            if row.cell.budget == test.budget and row.ok and test.method in _names(comparison, row):
                return comparison, row
    return None


def _names(comparison: Comparison, row: Row) -> tuple[str, str]:
    """A row's name with all its settings, and the one that its comparison gives it."""
    return row.method, comparison.label(row)


def _scorer(ranking: Ranking, name: str) -> Scorer | None:
    """The scorer of that name; of a name without settings, the one with the fewest."""
    named = [scorer for scorer in ranking.scorers if scorer.name == name]
    plain = [scorer for scorer in ranking.scorers if scorer.records[0].cell.method == name]
    plain.sort(key=lambda scorer: len(scorer.records[0].cell.settings))
    return next(iter(named + plain), None)


def _mean_top1(row: Row) -> float:
    top1 = row.mean(lambda record: record.top1.finetuned)
    return top1.mean if top1 else -1.0


def _taus(ranking: Ranking, scorer: Scorer) -> dict[int, float]:
    return {s: kendall_tau(scores, ranking.mean_truth) for s, scores in scorer.scores.items()}


def _seconds(scorer: Scorer) -> dict[int, float]:
    return {r.cell.seed: spent_seconds(r, ["supernet"]) for r in scorer.records}


def _absent(test: Test, what: str) -> Outcome:
    why = f"no record of {what} in results/{test.folder}"
    return Outcome("none yet", "–", "cannot be tested here", why)


def _cells(claim: Claim, outcome: Outcome) -> tuple[str, ...]:
    needs = claim.needs
    hours = f"{needs.gpu_hours:.2g} GPU hours" if needs.images else "minutes"
    why = f": {in_markdown(outcome.why)}" if outcome.why else ""
    verdict = Written(f"**{outcome.verdict}**{why}")
    ours = [claim.says, f"{needs.data}; {hours}; `{needs.command}`"]
    says, need = (Written(text.replace("|", r"\|")) for text in ours)
    return says, outcome.setting, outcome.number, verdict, need


if __name__ == "__main__":
    main()

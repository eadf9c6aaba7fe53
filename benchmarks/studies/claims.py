"""The papers' claims held against our records: ``python -m benchmarks.studies.claims``.

Reads `claims.toml` beside it and the records that it names, and writes docs/claims.md. Verdicts
follow from the records by one rule, which the page states. Imports neither torch nor zoo.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from benchmarks.records.files import Unread, read_folder
from benchmarks.records.plain import in_markdown
from benchmarks.records.rates import hours, training_macs
from benchmarks.records.record import Record
from benchmarks.records.reference import Reference
from benchmarks.records.strict import Many, Strict, explain
from benchmarks.records.whole_file import write_whole
from benchmarks.studies.claim_schema import Test
from benchmarks.studies.separable import CEILING
from benchmarks.studies.trials import try_test
from benchmarks.studies.verdicts import FEWEST, MANY, UNTESTED, Outcome, correct
from benchmarks.tables.markdown import Written, markdown_table
from benchmarks.tables.unread import unread_markdown

__all__ = ["Claim", "claims_page", "load_claims", "main", "try_claim"]

HEAD = (
    "Claim",
    "Tried here",
    "Control",
    "Records",
    "Our number",
    "Verdict",
    "In the paper's setting",
)

TITLES: Mapping[str, str] = {
    "knapsack": "Knapsack Pruning with Inner Distillation",
    "bnp": "Block-Wisely Supervised Network Pruning with Knowledge Distillation and MCMC",
    "pse_net": "PSE-Net: Channel Pruning with Parallel-subnets Estimator",
    "stagewise": "Effective Model Compression via Stage-wise Pruning",
}

INTRODUCTION = f"""\
# What the abstracts claim, and what came of it here

Written by `python -m benchmarks.studies.claims` from `benchmarks/studies/claims.toml` and the
records under `results/`. Of the papers little more than the abstracts could be read, and not in
their exact words: each claim below is a paraphrase of a sentence that states a result, no
quotation. Embedded images, photographs of clothes and a JPEG copy of CIFAR-10 stand in for the
papers' data, and short trainings for theirs, so "here" means what it says: a claim that does not
hold here may hold there, and the other way round.

**Rows.** A claim about accuracies is tried wherever its method has results: each network with its
data, at each budget, of the folders that compare several of the papers' methods fine-tuned alike
(`quick`, `fashion`, `cifar10-cores`) or of the one that varies what the claim is about. A claim
about ResNets takes these alone. Of several protocols the newest counts; of several recipes, or
processors that trained a network, the one with the most seeds, which is named. A verdict is about
the setting of its row: a claim about many settings, one that says "often" for example, is not
decided by one of them.

**Rule.** The number is a difference to the control, paired by seed, or what the claim says; in
brackets stands its bootstrap 95 % interval. A row alone is clear if bootstrap and Student's
interval both lie on one side of the value that the claim names (zero if it names none); differences
that do not spread at all have no test and are never clear. Of many rows of one claim some would be
clear by chance, so a row counts only if Holm's correction over all rows of its claim, those without
a test among them, leaves the p-value of its paired t-test at 0.05 or less. The words follow the
seeds: from {MANY} on a clear row *holds here* or *does not hold here*; with {FEWEST} or {MANY - 1},
which leave two or three degrees of freedom, it only *points that way here* or *points the other way
here*. *Not supported here*: the method beats the control that the claim has in mind, but not a
stronger one that lacks what the claim praises. *Cannot be tested here*: fewer than {FEWEST} seeds,
no fair control, or no clear row; then the table says what is missing.

**Controls.** Every row names its own.

- Accuracies of different methods are compared from protocol 2 on alone: under protocol 1 every
  method finished with its own loss and weights, and uniform width kept the first channels. Settings
  of one method were finished alike under protocol 1, too, and are compared there.
- A pruned network that gains on its parent is compared with the parent fine-tuned by the same
  recipe, never with the parent as it was: that one had less training.
- Protocol 2 compares decisions, all networks under one common finish. The papers' own losses and
  weights are not part of it, so a row about the best results says what the decision is worth.
- To be best, a method needs a clear lead over each of the others. The best of the others is chosen
  by the same numbers that it is then compared with, so a loss to it refutes nothing; a method that
  lies clearly below the mean of the others is not the best. The p-value of a lead over each is the
  largest of theirs.
- A difference between rankings is taken within each seed, since its networks and its supernet share
  a parent. It has to be clear over seeds, and over networks and seeds drawn anew together, on a
  sample that single trainings rank alike at tau {CEILING} or more: two lengths of training of one
  seed, or where there is one length, one seed against the mean of the others.

GPU hours count three times a network's MACs for every image that passes, at two tera-MACs a second,
which small and mobile networks leave of a data-centre GPU; the commands use the short recipes of
the suites where the paper's own is not known.
"""


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
    tests: Many[Test] = ()
    needs: Needs


class _File(Strict):
    claims: Many[Claim]


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


def try_claim(claim: Claim, results: Path) -> list[Outcome]:
    """Hold a claim against records, in each setting of its tests; Holm's correction over them all.

    Args:
        claim: what to try.
        results: folder of results folders.
    """
    if not claim.tests:
        why = f"needs {claim.needs.data}"
        return [Outcome("none", "–", "–", "–", UNTESTED, why)]
    return correct([outcome for test in claim.tests for outcome in try_test(test, results)])


def claims_page(results: Path) -> str:
    """The page as Markdown."""
    claims = load_claims()
    tried = {claim.says: try_claim(claim, results) for claim in claims}
    parts = [INTRODUCTION, _chance([each for found in tried.values() for each in found])]
    for paper, title in TITLES.items():
        rows = [
            cells
            for claim in claims
            if claim.paper == paper
            for cells in _rows(claim, tried[claim.says])
        ]
        parts.append(f"## {title}\n\n{markdown_table(HEAD, 'l' * len(HEAD), rows)}")
    return "\n".join(filter(None, [*parts, unread_markdown(_unread(results))]))


def _chance(outcomes: Sequence[Outcome]) -> str:
    """How many verdicts there are, and that some of them come by chance."""
    judged = sum(outcome.verdict != UNTESTED for outcome in outcomes)
    return (
        f"Of the {len(outcomes)} rows below, {judged} come to a verdict. The level of 95 % is\n"
        "that of all rows of a claim together: of twenty claims for which nothing differs, one\n"
        "would have a row that looks as if it did.\n"
    )


def _unread(results: Path) -> list[Unread]:
    """Files that are no records in the folders that claims name."""
    tests = [test for claim in load_claims() for test in claim.tests]
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


def _rows(claim: Claim, outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """A row for each outcome; the first one says what is claimed and what a full test takes."""
    needs = claim.needs
    hours = f"{_two_digits(needs.gpu_hours)} GPU hours" if needs.images else "minutes"
    ours = [claim.says, f"{needs.data}; {hours}; `{needs.command}`"]
    says, need = (Written(text.replace("|", r"\|")) for text in ours)
    first, *others = outcomes
    again = [(Written("as above"), *_found(other), Written("as above")) for other in others]
    return [(says, *_found(first), need), *again]


def _two_digits(number: float) -> str:
    return f"{number:.2g}" if number < 99 else f"{float(f'{number:.2g}'):,.0f}"


def _found(outcome: Outcome) -> tuple[str, ...]:
    why = f": {in_markdown(outcome.why)}" if outcome.why else ""
    verdict = Written(f"**{outcome.verdict}**{why}")
    return outcome.setting, outcome.control, outcome.records, outcome.number, verdict


if __name__ == "__main__":
    main()

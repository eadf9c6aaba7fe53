"""The page of the width table: ``python -m benchmarks.studies.width_table_page``.

Says how the table was made, how far the accuracies are spread, how much of that is noise of the
seeds, and what costs alone say of them. Writes docs/width_table.md.
"""

from __future__ import annotations

import argparse
import hashlib
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.analysis.ranking import Agreement, agreement
from benchmarks.analysis.uncertainty import mean_accuracies
from benchmarks.records.whole_file import write_whole
from benchmarks.studies.width_table_file import TABLE, Trainings, read_trainings
from benchmarks.tables.markdown import markdown_table

__all__ = ["BUDGETS", "Measured", "main", "page"]

BUDGETS = (0.3, 0.5, 0.7)
"""Shares of the widest network's multiply-adds."""

BAND = 0.2
"""Networks of about a budget cost at most this share less."""

FEWEST = 10
"""Networks of about a budget that are worth a ranking."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The numbers of a table, networks in the order of the file.

    Attributes:
        widths: shape (networks, groups).
        runs: accuracy of each training, shape (seeds, networks).
        macs: multiply-adds, shape (networks,).
        params: parameters, shape (networks,).
    """

    widths: np.ndarray
    runs: np.ndarray
    macs: np.ndarray
    params: np.ndarray

    @classmethod
    def of(cls, trainings: Trainings) -> Measured:
        """Gather the trainings of each network."""
        rows = sorted(trainings.rows, key=lambda row: (row.widths, row.seed))
        seeds = len({row.seed for row in rows})
        first = rows[::seeds]
        return cls(
            np.array([row.widths for row in first]),
            np.array([row.right / row.images for row in rows]).reshape(-1, seeds).T,
            np.array([row.macs for row in first]),
            np.array([row.params for row in first]),
        )

    @cached_property
    def means(self) -> np.ndarray:
        """Mean accuracy over the seeds, shape (networks,)."""
        return mean_accuracies(self.runs, axis=0)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of one training about the mean of its network, over all networks."""
        return float(np.sqrt(self.runs.var(axis=0, ddof=1).mean()))

    @cached_property
    def share_of_noise(self) -> float:
        """Of the variance of the means, what the noise of their trainings is expected to add."""
        return float(self.noise**2 / len(self.runs) / self.means.var(ddof=1))

    def about(self, budget: float) -> np.ndarray:
        """Networks that cost up to `BAND` less than a share of the widest, bool, (networks,)."""
        limit = budget * self.macs.max()
        is_about: np.ndarray = (self.macs <= limit) & (self.macs > (1 - BAND) * limit)
        return is_about

    def ceiling(self, chosen: np.ndarray) -> Agreement:
        """What one training says of the mean of the others, among some networks."""
        runs = self.runs[:, chosen]
        others = [
            mean_accuracies(np.delete(runs, seed, axis=0), axis=0) for seed in range(len(runs))
        ]
        return agreement(list(runs), others)

    def by_cost(self, cost: np.ndarray, chosen: np.ndarray) -> Agreement:
        """What a cost says of the mean accuracies, among some networks."""
        return agreement([cost[chosen]], [self.means[chosen]])


def page(trainings: Trainings) -> str:
    """The page as Markdown.

    Args:
        trainings: of the table, every network with every seed.
    """
    found = Measured.of(trainings)
    every = np.ones(len(found.means), dtype=bool)
    bands = {
        f"{100 * (1 - BAND) * budget:g} to {100 * budget:g} % of the MACs": found.about(budget)
        for budget in BUDGETS
    }
    many = {name: band for name, band in bands.items() if band.sum() >= FEWEST}
    return "\n".join(
        (
            _introduction(trainings, found),
            _spread(found),
            _ceilings(found, {"all": every, **many}),
            _best(found, trainings.groups),
        )
    )


def _introduction(trainings: Trainings, found: Measured) -> str:
    settings, count = trainings.settings, found.runs.size
    head = (
        "[`width_table.csv`](../benchmarks/studies/width_table.csv), in the folder of the studies, "
        f"has the test accuracy of {len(found.means):,} networks that differ in their widths "
        f"alone. Each was trained alone with {len(found.runs)} seeds: {count:,} trainings, a line "
        f"each. Licence: {settings['licence']}, as the rest of the repository. A search that reads "
        "it in place of training is judged by its exact regret: [searches on the "
        "table](tabular.md)."
    )
    tail = (
        "`python -m benchmarks.studies.width_table` trains the networks, in any number of "
        "processes, and `python -m benchmarks.studies.width_table_join` checks and joins what they "
        "wrote: costs are counted again, and no network is in the table without all its seeds. "
        f"SHA-256 of the file: `{hashlib.sha256(trainings.text.encode()).hexdigest()}`."
    )
    items = "\n".join(_filled(f"- {item}", "  ") for item in _protocol(trainings, found))
    return f"""\
# A table of widths

Written by `python -m benchmarks.studies.width_table_page`; do not edit.

{_filled(head)}

{items}

{_filled(tail)}
"""


def _protocol(trainings: Trainings, found: Measured) -> Iterator[str]:
    """How the networks were made and trained, an item each."""
    settings = trainings.settings
    recipe: Mapping[str, Any] = settings["recipe"]
    groups = ", ".join(
        f"`{name}` {'/'.join(map(str, sorted(set(column))))}"
        for name, column in zip(trainings.groups, found.widths.T.tolist(), strict=True)
    )
    side, steps = settings["image_size"], settings["train_size"] // recipe["batch_size"]
    yield (
        f"*Network*: `{settings['network']}` with {_words(settings['layers'])} blocks in its "
        f"stages and {_words(settings['channels'])} channels. Widths of its channel groups: "
        f"{groups}. {_sample(trainings, found)}"
    )
    yield (
        f"*Data*: `{settings['data']}`, {settings['train_size']:,} training images, the same for "
        f"all, and all {trainings.rows[0].images:,} test images, at {side} x {side} pixels, each "
        "the mean of four of the set's. No augmentation."
    )
    yield (
        f"*Training*: {recipe['epochs']} epochs of {recipe['optimizer'].upper()} with momentum "
        f"{recipe['momentum']:g} in batches of {recipe['batch_size']}, "
        f"{recipe['epochs'] * steps} steps; learning rate {recipe['lr']:g} after "
        f"{recipe['warmup_epochs']:g} epochs of warm-up, then cosine; weight decay "
        f"{recipe['weight_decay']:g}. Every network and seed has weights and an order of images of "
        "its own. Nothing was chosen by the test images."
    )
    yield (
        "*Columns*: width of each group, seed, right answers, test images, multiply-adds, "
        "parameters, kind of device, version of PyTorch. The first line, a comment, has the "
        "settings."
    )
    yield (
        f"*Trained on*: {_devices(trainings)}. float32 with PyTorch's defaults, which on a GPU let "
        "convolutions use TF32 and cuDNN add in any order. So a GPU does not give the same bits "
        "twice: an accuracy comes out a little different, within the noise below."
    )


def _sample(trainings: Trainings, found: Measured) -> str:
    """Which of the study's networks the table has."""
    constant = [
        f"`{name}`"
        for name, column in zip(trainings.groups, found.widths.T, strict=True)
        if len(set(column.tolist())) == 1
    ]
    told = "All their combinations are in the table"
    if not constant:
        return f"{told}."
    study = len(trainings.settings["shares"]) ** len(trainings.groups)
    return (
        f"{told}: of the {study:,} networks of the study all those in which {', '.join(constant)} "
        "keeps all its channels. Not all others were trained with every seed: they are left out."
    )


def _filled(text: str, indent: str = "") -> str:
    """Lines of a paragraph, or of an item of a list."""
    return textwrap.fill(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _words(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


def _devices(trainings: Trainings) -> str:
    counted = Counter((row.device, row.torch) for row in trainings.rows)
    return "; ".join(
        f"{device} with PyTorch {torch} ({count:,} trainings)"
        for (device, torch), count in counted.most_common()
    )


def _spread(found: Measured) -> str:
    means = 100 * found.means
    low, middle, high = (f"{value:.2f}" for value in np.quantile(means, [0, 0.5, 1]))
    seeds, noise = len(found.runs), 100 * found.noise
    told = (
        f"Mean accuracies go from {low} to {high} %; their median is {middle} %, their standard "
        f"deviation {means.std(ddof=1):.2f} points. One training has a standard deviation of "
        f"{noise:.2f} points about the mean of its network, the mean of {seeds} has "
        f"{noise / np.sqrt(seeds):.2f}: {100 * found.share_of_noise:.1f} % of the variance of the "
        "means is noise of the seeds. The noise has a long tail: half of the networks have a "
        f"standard deviation of at most {100 * np.median(found.runs.std(axis=0, ddof=1)):.2f} "
        f"points, and the worst training has {100 * found.runs.min():.2f} %."
    )
    return f"## Spread and noise\n\n{_filled(told)}\n"


def _ceilings(found: Measured, taken: Mapping[str, np.ndarray]) -> str:
    rows = []
    for name, chosen in taken.items():
        scores = (
            found.ceiling(chosen),
            *(found.by_cost(cost, chosen) for cost in (found.macs, found.params)),
        )
        regrets = (f"{100 * each.regret:.2f}" for each in scores)
        rows.append([name, str(int(chosen.sum())), *map(_tau, scores), *regrets])
    headings = (
        *("Networks", "count", "tau of one training", "tau of MACs", "tau of parameters"),
        *("regret of one training", "of MACs", "of parameters"),
    )
    told = (
        "The noise ceiling is what one training says of the mean of the others, by Kendall's tau: "
        "a score can be as good as training the network once, and hardly be seen to be better. In "
        "brackets stands the 95 % interval over resampled networks. The regret, in points, is the "
        "accuracy lost by taking the network of highest score. MACs and parameters are scores that "
        "cost nothing: what they say over all networks is no merit of a search."
    )
    table = markdown_table(headings, "l" + "r" * 7, rows)
    return f"## Noise ceiling, and what costs say\n\n{_filled(told)}\n\n{table}"


def _tau(found: Agreement) -> str:
    return f"{found.tau:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _best(found: Measured, groups: Sequence[str]) -> str:
    rows = []
    for budget in (*BUDGETS, 1.0):
        fitting = np.flatnonzero(found.macs <= budget * found.macs.max())
        near = found.means[found.about(budget)]
        if not len(near):
            continue
        best = fitting[found.means[fitting].argmax()]
        rows.append(
            [
                f"{100 * budget:g} %",
                str(len(fitting)),
                " ".join(map(str, found.widths[best].tolist())),
                f"{100 * found.means[best]:.2f} ± {100 * found.runs[:, best].std(ddof=1):.2f}",
                f"{100 * np.median(near):.2f}",
                f"{found.macs[best]:,}",
                f"{found.params[best]:,}",
            ]
        )
    headings = (
        *("MACs", "networks that fit", "widths of the best", "top-1, %"),
        *(f"median within {100 * BAND:g} %", "its MACs", "its parameters"),
    )
    told = (
        f"Widths in the order of {', '.join(f'`{name}`' for name in groups)}. Mean ± standard "
        "deviation over the seeds; the highest of many means owes something to luck. Beside it "
        f"stands the median of the networks that cost up to {100 * BAND:g} % less than the budget."
    )
    return (
        f"## Best within a budget\n\n{_filled(told)}\n\n{markdown_table(headings, 'rrlrrrr', rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/width_table.md"))
    parser.add_argument("--table", type=Path, default=TABLE, help="of trainings")
    asked = parser.parse_args(arguments)
    write_whole(asked.path, page(read_trainings(asked.table)))


if __name__ == "__main__":
    main()

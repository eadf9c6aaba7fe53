"""Searches compared on a table of accuracies: ``python -m benchmarks.studies.tabular``.

A table that lists every configuration stands in for the network, so each search can be run with
many seeds and judged by its regret: how much accuracy the best configuration within the budget has
over the one that the search would take after k evaluations. Reads our own table of widths and
writes docs/tabular.md; or, from a path, the ResNet space of Channel-Bench-Macro (16,384 networks,
each trained three times on CIFAR-10), which is no part of this repository, and writes
docs/channel_bench_macro.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.analysis.ranking import kendall_tau
from benchmarks.analysis.uncertainty import ROUNDING, estimate
from benchmarks.records.whole_file import write_whole
from benchmarks.studies.table_searches import (
    CONTROL,
    EVERYTHING,
    FLOOR,
    SCORES,
    SEARCHES,
    Scoring,
    Search,
    WidthTable,
    everything,
    read_table,
    true_scores,
)
from benchmarks.studies.width_table_file import TABLE
from benchmarks.studies.width_table_page import BUDGETS
from benchmarks.tables.markdown import Written, markdown_table

__all__ = [
    "CHANNEL_BENCH",
    "CONTROL",
    "OURS",
    "SCORES",
    "SEARCHES",
    "Subject",
    "WidthTable",
    "introduction",
    "main",
    "measure",
    "page",
    "read_table",
    "regrets",
    "summary",
    "to_markdown",
]

INTRODUCTION = """\
# {title}

{source}

Every search sees the same scores and pays one evaluation for each network that it looks at. Its
regret after k evaluations is the accuracy of the best network within the budget less that of the
network it would take by then, the one of highest score that fits. In brackets stands the bootstrap
95 % interval of the mean over the seeds. The last column is the difference to the control,
evolution without a prior, paired by seed; bold ones have an interval that leaves zero out, and of
twenty such differences one does so by chance.

- *True scores* are the mean accuracies themselves: an upper limit for any search.
- *One training* scores each network by one of its {runs} trainings and judges by the mean of the
  others: scores as good as training every candidate alone. There are {runs} such tables, which
  the seeds take in turn, so the intervals hold the luck of the searches and hardly that of tables.
- *Noisy scores* add noise as wide as the accuracies are spread over the table, drawn once for each
  network and seed: a supernet of a tau of about a half. More evaluations may then do harm, since
  the highest of many noisy scores is the luckiest.
- *All of them* looks at every network that fits. With true scores it has no regret; with others its
  regret is what the scores cost, and no search can be blamed for that part.

What the table can say: whether a prior, greedy steps or a chain find good widths in fewer
evaluations, all else equal. What it cannot:

- It holds accuracies of trained networks and no supernet. How good the scores of PSE-Net, BCNet,
  AutoSlim or stage-wise pruning are is another question: [supernets.md](supernets.md).
- Stage-wise pruning searches each stage by its own error, which no table of whole networks has. Its
  control that evolves all widths at once is evolution without a prior.
- A dash stands where a search has seen nothing yet that fits: AutoSlim slims the widest network
  and pays for all that it looks at on its way. With true scores it and the greedy search of blocks
  (*greedy*, which grows the narrowest) draw nothing, so their intervals have no width.
- The priors are fitted to made-up training losses: the error of a network, noise and a trend.
- {groups} groups of {choices} widths are few. Where good networks are dense, drawing at random is
  hard to beat; the paper's argument for a prior is about long tails. Of the networks within
  {budget:g} % of the MACs, {dense:.0f} % have at most half a point less than the best of them.
- Random draws and evolution bring a network up to {floor:.0f} % of the budget where single steps
  lead there. {near} networks cost at least that at {budgets} % of the MACs; a
  search that finds nothing new has ended.
- The chain and the greedy search of blocks are given accuracies of whole networks. In BNP they sum
  scores of single blocks, which this table does not have: their rows say how such a search fares
  without that structure, and nothing of BNP.
- Its optimum is the highest of {networks:,} means of {runs} trainings, each mean with a standard
  deviation of about {noise:.2f} points: regrets below that are within the table's own noise.
"""

SUMMARY = """\
## Which differ

Against the control, by the last columns of the tables below: three kinds of scores at three
budgets. Where a search has seen nothing that fits by then, it is not counted.
"""

Measured = Mapping[float, Mapping[str, np.ndarray]]
"""Regrets in points, shape (seeds, evaluations), by share of the MACs and search."""

SHOWN = (10, 30, 100, 300, 1000)
"""Evaluations whose regret is shown; searches are compared at the last but one."""


@dataclass(frozen=True)
class Subject:
    """What is said of a table, and what is asked of it.

    Attributes:
        title: of the page.
        source: where the table is from, as Markdown.
        budgets: shares of the widest network's multiply-adds.
        evaluations: configurations that a search looks at.
        page: where the page is.
    """

    title: str
    source: str
    budgets: tuple[float, ...]
    evaluations: int
    page: Path

    @classmethod
    def of(cls, path: Path) -> Subject:
        """Ours, or Channel-Bench-Macro where the table is a file of JSON."""
        return CHANNEL_BENCH if path.suffix == ".json" else OURS


OURS = Subject(
    title="Searches on a table of trained networks",
    source="""\
Written by `python -m benchmarks.studies.tabular` from [our own table of widths](width_table.md),
of networks that were trained on Fashion-MNIST. The same on a larger table, of networks that were
trained on CIFAR-10: [Channel-Bench-Macro](channel_bench_macro.md).""",
    budgets=BUDGETS,
    evaluations=30,
    page=Path("docs/tabular.md"),
)

CHANNEL_BENCH = Subject(
    title="Searches on Channel-Bench-Macro",
    source="""\
Written by `python -m benchmarks.studies.tabular TABLE`, where TABLE is the file
`Results_ResNet.json` of Channel-Bench-Macro: 16,384 networks of seven widths, each trained three
times on CIFAR-10. It carries no licence and is no part of this repository. The same on
[our own table](tabular.md), which is.""",
    budgets=(0.25, 0.5, 0.75),
    evaluations=300,
    page=Path("docs/channel_bench_macro.md"),
)


def regrets(
    table: WidthTable,
    search: Search,
    limit: int,
    evaluations: int,
    seeds: int,
    scoring: Scoring = true_scores,
) -> np.ndarray:
    """Regret of what a search would take after each evaluation, shape (seeds, evaluations).

    A search that ends early keeps what it has; before it has seen a network that fits, the regret
    is NaN.

    Args:
        table: to search.
        search: how.
        limit: multiply-adds of the budget.
        evaluations: states that it may look at.
        seeds: runs, each with a generator of its own.
        scoring: what the search sees of the table.
    """
    rows = np.full((seeds, evaluations), np.nan)
    for seed, row in enumerate(rows):
        seen = scoring(table, seed)
        states = search(seen, limit, evaluations, np.random.default_rng(seed))[:evaluations]
        taken = np.array([seen.accuracies[state] for state in _taken(seen, states, limit)])
        first = len(states) - len(taken)  # states before one that fits
        row[first : len(states)] = seen.best_within(limit) - taken
        row[len(states) :] = row[len(states) - 1]
    return rows


def _taken(
    table: WidthTable, states: list[tuple[int, ...]], limit: int
) -> Iterator[tuple[int, ...]]:
    """The state of highest score that fits, after each of some states, from the first that fits."""
    best = None
    for state in states:
        is_better = best is None or table.scores[state] > table.scores[best]
        if table.macs[state] <= limit and is_better:
            best = state
        if best is not None:
            yield best


def measure(
    table: WidthTable,
    limits: Mapping[float, int],
    evaluations: int,
    seeds: int,
    scoring: Scoring = true_scores,
) -> Measured:
    """Regrets of all searches and of looking at everything.

    Args:
        table: to search.
        limits: multiply-adds of each budget, by its share of the widest network's.
        evaluations: states that each search may look at.
        seeds: runs of each search.
        scoring: what the searches see of the table.
    """
    return {
        ratio: {
            name: 100 * regrets(table, search, limit, evaluations, seeds, scoring)
            for name, search in (*SEARCHES.items(), (EVERYTHING, everything))
        }
        for ratio, limit in limits.items()
    }


def to_markdown(measured: Measured) -> str:
    """Mean regret in points after some numbers of evaluations, with intervals."""
    evaluations = next(each.shape[1] for found in measured.values() for each in found.values())
    shown = [k for k in SHOWN if k <= evaluations]
    compared = _compared(evaluations)
    headings = (
        *("MACs", "Search"),
        *(f"after {k}" for k in shown),
        f"to no prior, after {compared}",
    )
    rows = []
    for ratio, found in measured.items():
        for name, each in found.items():
            cells = [_with_interval(each[:, k - 1]) for k in shown]
            gap = "–"
            if name == EVERYTHING:
                cells[:-1] = ["–"] * (len(cells) - 1)
            elif name != CONTROL:
                gap = _with_interval(_gap(found, name), is_difference=True)
            rows.append([f"{100 * ratio:g} %", name, *cells, gap])
    return markdown_table(headings, "rl" + "r" * (len(shown) + 1), rows)


def summary(settings: Sequence[Measured]) -> str:
    """How often each search differs clearly from the control, and by how much at most.

    Args:
        settings: what was measured, once for each kind of scores.
    """
    rows = []
    alike, worse = list[str](), list[str]()
    for name in SEARCHES:
        gaps = [_gap(found, name) for measured in settings for found in measured.values()]
        known = [gap for gap in gaps if not np.isnan(gap).any()]
        if name == CONTROL or not known:
            continue
        signs = [_sign(gap) for gap in known]
        counts = [f"{signs.count(sign)} of {len(known)}" for sign in (-1, 1)]
        alike += [name] if not any(signs) else []
        worse += [name] if signs.count(1) > len(known) / 2 else []
        means = [float(gap.mean()) for gap in known]
        rows.append([name, *counts, f"{min(means):+.2f} to {max(means):+.2f}"])
    headings = ("Search", "clearly less regret", "clearly more", "differences, points")
    said = (
        f"Never told apart from the control: {', '.join(alike) or 'none'}. Clearly worse more\n"
        f"often than not: {', '.join(worse) or 'none'}.\n"
    )
    return f"{markdown_table(headings, 'lrrr', rows)}\n{said}"


def _gap(found: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Regret of a search less that of the control, seed by seed, shape (seeds,)."""
    last = _compared(found[name].shape[1]) - 1
    gap: np.ndarray = found[name][:, last] - found[CONTROL][:, last]
    return gap


def _compared(evaluations: int) -> int:
    """After how many evaluations searches are compared."""
    shown = [k for k in SHOWN if k <= evaluations]
    return shown[max(0, len(shown) - 2)]


def _sign(values: np.ndarray) -> int:
    """1 or -1 where the interval of the mean lies above or below zero."""
    interval = estimate(values.tolist()).interval
    return 0 if interval is None else int(interval[0] > ROUNDING) - int(interval[1] < -ROUNDING)


def _with_interval(values: np.ndarray, *, is_difference: bool = False) -> str:
    """Mean and bootstrap interval; a dash where a search has nothing yet."""
    if np.isnan(values).any():
        return "–"
    found, pattern = estimate(values.tolist()), "+.2f" if is_difference else ".2f"
    if found.interval is None:
        return format(found.mean, pattern)
    low, high = found.interval
    text = f"{found.mean:{pattern}} [{low:{pattern}}, {high:{pattern}}]"
    return Written(f"**{text}**") if is_difference and _sign(values) else text


def page(table: WidthTable, subject: Subject, seeds: int) -> str:
    """The page as Markdown.

    Args:
        table: to search, with its single trainings.
        subject: what is said of it, and what is asked.
        seeds: runs of each search.
    """
    limits = {ratio: int(ratio * table.macs.max()) for ratio in subject.budgets}
    found = {
        name: measure(table, limits, subject.evaluations, seeds, scoring)
        for name, scoring in SCORES.items()
    }
    parts = [introduction(table, subject), f"{SUMMARY}\n{summary(list(found.values()))}"]
    for name, scoring in SCORES.items():
        parts.append(f"## {name}\n\n{_told(table, limits, scoring, seeds)}\n")
        parts.append(to_markdown(found[name]))
    return "\n".join(parts)


def introduction(table: WidthTable, subject: Subject) -> str:
    """What the page says before any search.

    Args:
        table: with its single trainings.
        subject: what is said of it.

    Raises:
        ValueError: if the table holds no single trainings.
    """
    if table.runs is None:
        raise ValueError("the table holds no single trainings; read one that does")
    count, budget = len(table.runs), subject.budgets[1]
    limit = int(budget * table.macs.max())
    fitting = table.accuracies[table.macs <= limit]
    sizes = sorted(set(table.sizes.tolist()))
    limits = [int(share * table.macs.max()) for share in subject.budgets]
    near = [((table.macs <= each) & (table.macs >= int(FLOOR * each))).sum() for each in limits]
    return INTRODUCTION.format(
        title=subject.title,
        source=subject.source,
        runs=count,
        groups=len(table.sizes),
        choices=" or ".join(map(str, sizes)),
        floor=100 * FLOOR,
        near=" / ".join(f"{count:,}" for count in near),
        budgets=" / ".join(f"{100 * share:g}" for share in subject.budgets),
        budget=100 * budget,
        dense=100 * (fitting >= table.best_within(limit) - 0.005).mean(),
        networks=table.macs.size,
        noise=100 * np.sqrt(table.runs.var(axis=0, ddof=1).mean() / count),
    )


def _told(table: WidthTable, limits: Mapping[float, int], scoring: Scoring, seeds: int) -> str:
    """How well the scores rank, over the table and among networks of nearly each budget's cost."""
    seen = [scoring(table, seed) for seed in range(min(seeds, 3))]
    taus = []
    for limit in limits.values():
        band = (table.macs <= limit) & (table.macs > 0.95 * limit)
        found = [kendall_tau(each.scores[band], each.accuracies[band]) for each in seen]
        taus.append(f"{np.mean(found):.2f}")
    ratios = " / ".join(f"{100 * ratio:g} %" for ratio in limits)
    return (
        f"{seeds} seeds. Kendall's tau of scores and accuracies among networks that cost up to\n"
        f"5 % less than {ratios} of the MACs: {' / '.join(taus)}. Regrets in points."
    )


def main() -> None:
    """Write the page of all searches on a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "table", nargs="?", type=Path, default=TABLE, help="ours, or of Channel-Bench-Macro"
    )
    parser.add_argument("path", nargs="?", type=Path, help="of the page")
    parser.add_argument("--evaluations", type=int, help="configurations looked at")
    parser.add_argument("--seeds", type=int, default=50, help="runs of each search")
    asked = parser.parse_args()
    subject = Subject.of(asked.table)
    if asked.evaluations is not None:
        subject = replace(subject, evaluations=asked.evaluations)
    write_whole(asked.path or subject.page, page(read_table(asked.table), subject, asked.seeds))


if __name__ == "__main__":
    main()

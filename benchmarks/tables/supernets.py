"""What supernets cost, and what that buys: training, sharing among targets, ranking quality.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.names import short_name
from benchmarks.analysis.ranking import Ranking, Scorer
from benchmarks.records.bounds import numbers
from benchmarks.records.cell import Cell
from benchmarks.records.plain import in_markdown
from benchmarks.records.record import PhaseCost, Record
from benchmarks.tables.markdown import markdown_table

__all__ = ["reach_table", "sharing_table", "supernet_table"]

PAPER = {"bcnet": 0.30, "autoslim": 0.16}
"""Training cost of PSE-Net over that of a method, as PSE-Net's abstract states it."""

TRAINING = (
    "Supernet of", "Seeds", "Images", "Image-subnet pairs", "Forward TMACs", "Backward TMACs",
    "Seconds", "Peak memory, MiB", "Gradient error", "Tau", "95 % interval",
)  # fmt: skip
SHARING = (
    "Supernet of", "Seeds", "Targets", "One-off TMACs", "One-off s", "Search TMACs, each",
    "Search s, each", "TMACs, one target", "TMACs, each of all",
)  # fmt: skip
REACH = (
    "Supernet of", "Tau at each length, by images", "Reached with images",
    "Forward and backward TMACs", "Seconds",
)  # fmt: skip


def supernet_table(rankings: Sequence[Ranking]) -> str:
    """Markdown: what each supernet's training cost, beside how well its scores rank.

    Scoring with a supernet costs all alike and is left out. The cheapest training comes first. The
    gradient error is that of joint batch statistics against separate ones, relative to the norm of
    the latter, on the first batch.
    """
    parts = []
    for ranking in rankings:
        if trained := _cheapest_first(ranking.scorers):
            rows = [_supernet_cells(ranking, scorer) for scorer in trained]
            table = markdown_table(TRAINING, "l" + "r" * 10, rows)
            parts.append(f"### {in_markdown(ranking.title)}\n\n{table}{_left_out(ranking)}")
    return "\n".join(parts)


def _left_out(ranking: Ranking) -> str:
    """Names the scorers without a tau, since seeds of theirs failed; empty if there are none."""
    told = "; ".join(in_markdown(f"{scorer.name}, {scorer.seeds}") for scorer in ranking.lost)
    return f"\nWithout a tau: {told}.\n" if told else ""


def _supernet_cells(ranking: Ranking, scorer: Scorer) -> list[str]:
    found = ranking.agreements[scorer.name]
    peaks = [_training(record).peak_bytes for record in scorer.records]
    errors = [e for r in scorer.records for e in traced(r, "gradient_error")]
    known = [peak for peak in peaks if peak is not None]
    return [
        scorer.name,
        f"{len(scorer.records)}",
        f"{_mean_training(scorer, 'images'):,.0f}",
        f"{scorer.mean(_pairs):,.0f}",
        f"{_mean_training(scorer, 'macs_forward') / 1e12:.3f}",
        f"{_mean_training(scorer, 'macs_backward') / 1e12:.3f}",
        f"{_mean_training(scorer, 'seconds'):.1f}",
        f"{np.mean(known) / 2**20:.0f}" if known else "–",
        f"{np.mean(errors):.2f}" if errors else "–",
        f"{found.tau:.2f}",
        f"{found.low:.2f} to {found.high:.2f}",
    ]


def _training(record: Record) -> PhaseCost:
    """What a record spent on its supernet; nothing where it trained none."""
    return record.spent.get("supernet", PhaseCost())


def _cheapest_first(scorers: Iterable[Scorer]) -> list[Scorer]:
    """Those that trained a supernet, the cheapest training first."""
    trained = [scorer for scorer in scorers if all(map(_pairs, scorer.records))]
    return sorted(trained, key=lambda scorer: _mean_training(scorer, "macs"))


def _mean_training(scorer: Scorer, what: str) -> float:
    """A field of `PhaseCost`, or its `macs`, averaged over a scorer's supernets."""
    return scorer.mean(lambda record: float(getattr(_training(record), what)))


def _pairs(record: Record) -> float:
    """Images times subnets that saw them, from the training's own trace; 0 where it says none."""
    return float(sum(traced(record, "pairs")))


def traced(record: Record, name: str) -> list[float]:
    """Numbers of a name in a record's trace."""
    return numbers(row.get(name) for row in record.trace)


def sharing_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: what supernets cost once, and what each target that they serve costs beside.

    Records that name the same trained supernet share it; each was charged its whole training. The
    last two columns are what one target costs if the supernet serves it alone, and if it serves
    all that the records hold. A method that lost seeds has no means.
    """
    parts = []
    for comparison in distinct(comparisons):
        lost = {comparison.label(row): row.seeds for row in comparison.rows if row.lost}
        rows = [
            [name, lost[name], *"–" * (len(SHARING) - 2)]
            if name in lost
            else _sharing_cells(name, supernets)
            for name, supernets in _shared(comparison).items()
        ]
        if rows:
            table = markdown_table(SHARING, "l" + "r" * 8, rows)
            parts.append(f"### {in_markdown(comparison.heading)}\n\n{table}")
    return "\n".join(parts)


def _shared(comparison: Comparison) -> dict[str, list[list[Record]]]:
    """By method the records of each of its supernets."""
    found: dict[str, dict[str, list[Record]]] = {}
    for row in comparison.rows:
        for record in row.ok:
            for step in record.trace:
                if step.get("step") == "supernet":
                    supernets = found.setdefault(comparison.label(row), {})
                    supernets.setdefault(str(step.get("key")), []).append(record)
    return {name: list(supernets.values()) for name, supernets in sorted(found.items())}


def _sharing_cells(name: str, supernets: Sequence[Sequence[Record]]) -> list[str]:
    """One method: costs averaged over its supernets, one of each seed."""

    def mean(value: Callable[[Sequence[Record]], float]) -> float:
        return float(np.mean([value(records) for records in supernets]))

    def searching(records: Sequence[Record], unit: Callable[[PhaseCost], float]) -> float:
        return float(np.mean([unit(r.spent.get("search", PhaseCost())) for r in records]))

    once = mean(lambda records: _training(records[0]).macs / 1e12)
    each = mean(lambda records: searching(records, lambda cost: cost.macs / 1e12))
    shared = mean(lambda records: _training(records[0]).macs / len(records) / 1e12)
    return [
        name,
        f"{len(supernets)}",
        f"{mean(len):g}",
        f"{once:.3f}",
        f"{mean(lambda records: _training(records[0]).seconds):.1f}",
        f"{each:.3f}",
        f"{mean(lambda records: searching(records, lambda cost: cost.seconds)):.1f}",
        f"{once + each:.3f}",
        f"{shared + each:.3f}",
    ]


@dataclass(frozen=True)
class _Reach:
    """One way of training, at several lengths.

    Attributes:
        name: of the method with its settings, without the length.
        method: its name alone.
        is_plain: whether the length is the only setting.
        steps: scorers with their tau, the cheapest first.
    """

    name: str
    method: str
    is_plain: bool
    steps: tuple[tuple[Scorer, float], ...]

    @property
    def best(self) -> float:
        """The highest tau of any length."""
        return max(tau for _, tau in self.steps)

    def first(self, reference: float) -> tuple[Scorer, float] | None:
        """The cheapest length whose tau is at least the reference, None if none is."""
        return next((step for step in self.steps if step[1] >= reference), None)


def reach_table(rankings: Sequence[Ranking]) -> str:
    """Markdown: the cost at which each method's training reaches a tau that all methods reach.

    The reference is the highest tau that every method with its own defaults reaches at one of its
    lengths. The smallest of the lengths that were run counts; nothing is interpolated.
    """
    return "\n".join(
        _one_reach(ranking, found) for ranking in rankings if (found := _reaches(ranking))
    )


def _reaches(ranking: Ranking) -> list[_Reach]:
    trained = _cheapest_first(ranking.scorers)
    cells = [_without_steps(scorer.records[0].cell) for scorer in trained]
    families: dict[str, list[Scorer]] = {}
    for scorer, cell in zip(trained, cells, strict=True):
        families.setdefault(short_name(cell, cells), []).append(scorer)
    found = []
    for name, scorers in families.items():
        taus = [ranking.agreements[scorer.name].tau for scorer in scorers]
        steps = tuple(zip(scorers, np.nan_to_num(taus, nan=-1.0).tolist(), strict=True))
        method = scorers[0].records[0].cell.method
        found.append(_Reach(name, method, name == method, steps))
    return sorted(found, key=lambda reach: (not reach.is_plain, reach.name))


def _without_steps(cell: Cell) -> Cell:
    rest = {key: value for key, value in cell.settings.items() if key != "steps"}
    return cell.model_copy(update={"settings": rest})


def _one_reach(ranking: Ranking, reaches: Sequence[_Reach]) -> str:
    plain = [reach for reach in reaches if reach.is_plain] or list(reaches)
    reference = min(reach.best for reach in plain)
    names = " and ".join(in_markdown(reach.name) for reach in plain)
    beside = [
        f"{in_markdown(scorer.name)} alone {ranking.agreements[scorer.name].tau:.2f}"
        for scorer in ranking.scorers
        if scorer.name in ("macs", "params")
    ]
    if top := ranking.ceiling:
        beside.append(f"one training alone, the ceiling, {top.tau:.2f}")
    caption = (
        f"The reference is tau {reference:.2f}, the highest that {names} all reach. "
        f"For comparison: {', '.join(beside) or 'nothing was scored'}. Listed is the shortest of "
        "the trainings that were run whose tau is at least the reference."
    )
    table = markdown_table(REACH, "llrrr", [_reach_cells(reach, reference) for reach in reaches])
    claim = _claim({reach.name: reach for reach in plain}, reference)
    text = f"### {in_markdown(ranking.title)}\n\n{caption}\n\n{table}{_left_out(ranking)}"
    return f"{text}\n{claim}\n" if claim else text


def _reach_cells(reach: _Reach, reference: float) -> tuple[str, ...]:
    lengths = "; ".join(
        f"{tau:.2f} at {_mean_training(scorer, 'images'):,.0f}" for scorer, tau in reach.steps
    )
    found = reach.first(reference)
    if found is None:
        return reach.name, lengths, "not reached", "–", "–"
    images, tmacs, seconds = _cost(found[0])
    return reach.name, lengths, f"{images:,.0f}", f"{tmacs:.3f}", f"{seconds:.1f}"


def _claim(plain: Mapping[str, _Reach], reference: float) -> str:
    """What PSE-Net's training costs of that of the methods that its paper names."""
    own = plain["pse_net"].first(reference) if "pse_net" in plain else None
    if own is None:
        return ""
    sentences = []
    for name, stated in PAPER.items():
        other = plain[name].first(reference) if name in plain else None
        if other is not None:
            shares = [
                mine / theirs if theirs else float("nan")
                for mine, theirs in zip(_cost(own[0]), _cost(other[0]), strict=True)
            ]
            sentences.append(
                f"pse_net reaches it with {shares[0]:.0%} of the images, {shares[1]:.0%} of the "
                f"multiply-adds and {shares[2]:.0%} of the seconds that {name} takes; the paper "
                f"states {stated:.0%} of its training cost, in a unit that is not known."
            )
    return " ".join(sentences)


def _cost(scorer: Scorer) -> tuple[float, float, float]:
    """Images, multiply-adds in trillions, and seconds of a training, averaged over its seeds."""
    images, macs, seconds = (_mean_training(scorer, what) for what in ("images", "macs", "seconds"))
    return images, macs / 1e12, seconds

"""How long pruning itself takes, beside Torch-Pruning.

``python -m benchmarks.studies.pruning_speed`` writes the blocks of docs/speed.md. Both prune to
half of the multiply-adds by L1 norms, in turns, and what counts is time of the processor. Ours is
the whole road: trace, costs, decision, a new network and its proof. Torch-Pruning changes the
network in place, unproved, and is told the keep ratio that halves the multiply-adds, not to be
found. How our time grows with depth is told by the exponent of a power of the operator calls.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from rich.progress import track
from torch import nn

from benchmarks.tables.markdown import markdown_table
from benchmarks.tables.marked_blocks import replace_block
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import keep_best, uniform_widths
from zoo.core.whole_file import write_whole

__all__ = [
    "NETWORKS",
    "Growth",
    "Speed",
    "growth_exponent",
    "main",
    "measure_growth",
    "measure_speed",
    "prune_with_torch_pruning",
]

NETWORKS = (
    "resnet18", "resnet50", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0",
    "efficientnet_b4", "regnety_032", "densenet121",
)  # fmt: skip
FAMILIES = (
    ("resnet18", "resnet50", "resnet152"),
    ("densenet121", "densenet169", "densenet201"),
)  # fmt: skip
SIZE = (3, 224, 224)
_HALF = 1 - 0.5**0.5  # pruned of every width: multiply-adds go with the product of two


@dataclass(frozen=True)
class Speed:
    """Seconds of the processor for one network, medians over rounds.

    Attributes:
        name: timm's name.
        trace, decision, rebuild: of our parts; the last one with the proof.
        theirs: of Torch-Pruning, graph and pruning.
        ratio: ours over theirs, median of the rounds' ratios.
    """

    name: str
    trace: float
    decision: float
    rebuild: float
    theirs: float
    ratio: float


def measure_speed(name: str, rounds: int) -> Speed:
    """Prune a network by turns with both libraries, after a round that does not count.

    Args:
        name: timm's name of the network.
        rounds: that count.
    """
    torch.set_num_threads(1)
    model = timm.create_model(name).eval()
    ours, theirs = [], []
    for _ in range(rounds + 1):
        other = copy.deepcopy(model)
        ours.append(_times(model))
        started = time.process_time()
        prune_with_torch_pruning(other)
        theirs.append(time.process_time() - started)
    ours, theirs = ours[1:], theirs[1:]
    trace, decision, rebuilt = (statistics.median(part) for part in zip(*ours, strict=True))
    ratios = [sum(our) / their for our, their in zip(ours, theirs, strict=True)]
    median = statistics.median
    return Speed(name, trace, decision, rebuilt, median(theirs), median(ratios))


@dataclass(frozen=True)
class Growth:
    """How seconds of the processor grow with depth.

    Attributes:
        names: timm's names of the networks, the shallowest first.
        calls: operator calls of a pass through each.
        trace, decision, rebuild: seconds of our parts for each, medians over rounds.
    """

    names: tuple[str, ...]
    calls: tuple[int, ...]
    trace: tuple[float, ...]
    decision: tuple[float, ...]
    rebuild: tuple[float, ...]


def measure_growth(names: Sequence[str], rounds: int) -> Growth:
    """Prune networks by turns, after a round that does not count.

    Args:
        names: timm's names, the shallowest first.
        rounds: that count.
    """
    torch.set_num_threads(1)
    models = [timm.create_model(name).eval() for name in names]
    calls = [len(ChannelSpace.trace(model, SIZE).trace_record.ops) for model in models]
    times = [[_times(model) for model in models] for _ in range(rounds + 1)][1:]
    parts = zip(*(zip(*row, strict=True) for row in times), strict=True)  # part, round, network
    trace, decision, rebuilt = (
        tuple(map(statistics.median, zip(*part, strict=True))) for part in parts
    )
    return Growth(tuple(names), tuple(calls), trace, decision, rebuilt)


def growth_exponent(calls: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent of the power of the calls that is closest to the seconds, in logarithms."""
    return float(np.polyfit(np.log(calls), np.log(seconds), 1)[0])


def prune_with_torch_pruning(model: nn.Module) -> None:
    """Prune a network in place, by L1 norms."""
    import torch_pruning as tp

    pruner = tp.pruner.MagnitudePruner(
        model,
        torch.randn(1, *SIZE),
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=_HALF,
        ignored_layers=[model.get_classifier()],  # type: ignore[operator]  # timm's
    )
    pruner.step()


def _times(model: nn.Module) -> tuple[float, float, float]:
    """Seconds of trace, decision, and rebuilding with its proof."""
    started = time.process_time()
    space = ChannelSpace.trace(model, SIZE)
    traced = time.process_time()
    cost = CostModel(space)
    # Weights and costs decide, so the problem has no images.
    none: Any = None
    problem = Problem(model, space, cost, Budget.parse(0.5, cost), none, meter=Meter())
    config = keep_best(space, magnitude_scores(model, space), uniform_widths(problem))
    decided = time.process_time()
    rebuild(model, space, config)
    return traced - started, decided - traced, time.process_time() - decided


def to_markdown(rows: Sequence[Speed]) -> str:
    """Return the table."""
    headings = ("network", "trace, s", "decision, s", "rebuild and proof, s", "Torch-Pruning, s",
                "ours / theirs")  # fmt: skip
    cells = [
        (row.name, *map(_seconds, (row.trace, row.decision, row.rebuild, row.theirs)),
         f"{row.ratio:.2f}")
        for row in rows
    ]  # fmt: skip
    return markdown_table(headings, "lrrrrr", cells)


def growth_to_markdown(rows: Sequence[Growth]) -> str:
    """Return the table of exponents."""
    headings = ("networks", "operator calls", "trace", "decision", "rebuild and proof", "all")
    cells = []
    for row in rows:
        parts = (row.trace, row.decision, row.rebuild)
        totals = tuple(map(sum, zip(*parts, strict=True)))
        found = (growth_exponent(row.calls, each) for each in (*parts, totals))
        calls = ", ".join(map(str, row.calls))
        cells.append((", ".join(row.names), calls, *(f"{each:.2f}" for each in found)))
    return markdown_table(headings, "lrrrrr", cells)


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def main() -> None:
    """Measure all networks and write the blocks of a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="that count, for each network")
    parser.add_argument("--page", type=Path, default=Path("docs/speed.md"))
    arguments = parser.parse_args()
    rows = [measure_speed(name, arguments.rounds) for name in track(NETWORKS, "Pruning")]
    page: Path = arguments.page
    text = replace_block(page.read_text("utf-8"), to_markdown(rows), "pruning speed")
    grown = [measure_growth(names, arguments.rounds) for names in track(FAMILIES, "Growth")]
    write_whole(page, replace_block(text, growth_to_markdown(grown), "growth with depth"))


if __name__ == "__main__":
    main()

"""How well latency tables predict: random configurations, predicted from the table and measured.

`python -m benchmarks.studies.latency_table` measures the tables on the device in use, one thread,
rebuilds ten random configurations of each network, times them whole, and writes `docs/latency.md`.
It takes some minutes; a machine with busy neighbours gives other numbers, which the page's
control shows.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from scipy.stats import spearmanr

import zoo.core.networks.cifar_resnet  # noqa: F401  (registers resnet20_cifar)
from benchmarks.measuring.environment import capture
from benchmarks.tables.markdown import Written, markdown_table
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import NS_PER_MS, CostModel
from zoo.core.cost.measure_latency import Timing, measure_latency, pass_ns
from zoo.core.networks.rebuild import rebuild
from zoo.core.randomness import fixed_random
from zoo.core.whole_file import write_whole

__all__ = ["main"]

_log = logging.getLogger(__name__)

CASES = (
    ("resnet20_cifar", 24, 1),
    ("resnet20_cifar", 24, 16),
    ("test_efficientnet", 24, 1),
    ("test_efficientnet", 24, 16),
    ("resnet50", 224, 1),
)
"""Network, side of the images in pixels, batch."""

CONFIGURATIONS = 10

QUIET, ATTEMPTS = 0.05, 2
"""A control above this means busy neighbours: everything is measured anew, so often at most."""

HEADINGS = (
    "Network",
    "Pixels",
    "Batch",
    "Parent, ms",
    "Table made in, s",
    "Control",
    "Error",
    "Spearman",
    "Error of MACs",
    "Spearman of MACs",
)


@dataclass(frozen=True)
class Trial:
    """One table and what it predicted.

    Attributes:
        seconds: that measuring the table took.
        predicted: nanoseconds of the parent and then of each configuration, shape (1 + n,).
        measured: the same, timed whole.
        macs: multiply-adds of the same networks.
    """

    name: str
    side: int
    batch: int
    seconds: float
    predicted: np.ndarray
    measured: np.ndarray
    macs: np.ndarray

    @property
    def control(self) -> float:
        """The parent's time beside the configurations over that beside the operators, less 1."""
        return float(self.measured[0] / self.predicted[0] - 1)

    def error(self, cost: np.ndarray) -> float:
        """Mean relative error of the configurations' shares of the parent's cost.

        Args:
            cost: of the parent and then of each configuration, shape (1 + n,).
        """
        said, took = cost[1:] / cost[0], self.measured[1:] / self.measured[0]
        return float(np.abs(said / took - 1).mean())

    def rank(self, cost: np.ndarray) -> float:
        """Spearman's correlation of a cost with the measured time over the configurations.

        Args:
            cost: of the parent and then of each configuration, shape (1 + n,).
        """
        return float(spearmanr(cost[1:], self.measured[1:]).statistic)


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write to")
    folder = parser.parse_args().docs
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    trials = [quiet_trial(*case) for case in CASES]
    write_whole(folder / "latency.md", page(trials))


def quiet_trial(name: str, side: int, batch: int) -> Trial:
    """The first trial with a quiet control, or the quietest after all attempts.

    Args:
        name: of a timm model.
        side: of the images, in pixels.
        batch: images of a pass.
    """
    trials = []
    for _ in range(ATTEMPTS):
        trials.append(try_table(name, side, batch))
        if abs(trials[-1].control) <= QUIET:
            break
    return min(trials, key=lambda trial: abs(trial.control))


def try_table(name: str, side: int, batch: int) -> Trial:
    """Measure a table anew, then time configurations that it has not seen.

    Args:
        name: of a timm model.
        side: of the images, in pixels.
        batch: images of a pass.
    """
    with fixed_random("latency table", 0):
        model = timm.create_model(name, num_classes=10).eval()
    space, timing = ChannelSpace.trace(model, (3, side, side)), Timing(batch=batch)
    with tempfile.TemporaryDirectory() as fresh:
        began = time.perf_counter()
        table = measure_latency(model, space, timing, folder=Path(fresh))
        seconds = time.perf_counter() - began
    cost = CostModel(space, table)
    widths = random_widths(space)
    names = [group.name for group in space.groups]
    networks = [
        rebuild(
            model,
            space,
            SubnetConfig.from_widths(space, dict(zip(names, row.tolist(), strict=True))),
        )
        for row in widths
    ]
    trial = Trial(
        name,
        side,
        batch,
        seconds,
        cost.latency_of_widths(widths),
        np.array(pass_ns(networks, space, timing)),
        cost.macs_of_widths(widths),
    )
    _log.info("%s, batch %d: %s", name, batch, ", ".join(_cells(trial)))
    return trial


def random_widths(space: ChannelSpace) -> np.ndarray:
    """The full widths and random ones, each group near a common ratio, shape (1 + n, G)."""
    rng = np.random.default_rng(0)
    common = rng.uniform(0.2, 1.0, (CONFIGURATIONS, 1))
    ratios = np.clip(common + rng.uniform(-0.25, 0.25, (CONFIGURATIONS, len(space.groups))), 0, 1)
    widths = np.maximum(np.rint(ratios * space.sizes), WidthRules().minimums(space))
    return np.vstack([space.sizes, widths]).astype(np.int64)


def page(trials: list[Trial]) -> str:
    """The Markdown page."""
    environment = capture(1)
    hardware = environment.gpu or environment.cpu
    return f"""\
# Latency as a budget: how well operator times add up

Written by `python -m benchmarks.studies.latency_table`; do not edit.

A budget of latency (`zoo.prune(..., latency=0.7)`, `zoo prune MODEL --latency 0.7`, or
`metric = "latency"` in a suite; in milliseconds `latency_ms`) is met on a prediction. Every
operator of the network is timed alone, on the device in use, at a grid of the sizes that it reads
and makes, operators of equal shape once. Between grid points is interpolated, and the sum over the
operators is corrected by one factor and one constant, so that the full network takes what it was
measured to take. Times are made monotone: the cost grows with every width, as searches need it.
Searches never see the clock, so one table and one seed give one configuration; the record holds
the prediction beside the measured latency of the final network.

A table is kept in a file with what it holds for: the operators, device, torch, dtype, threads,
layout and batch. A suite takes the first batch of its `[latency]`.

Below are {CONFIGURATIONS} random configurations of each network, timed whole beside their parent.
The error is that of the share of the parent's latency, which is what a budget limits, averaged
over the configurations; beside it the same for the share of MACs. The control is how much the
parent's time moved between the table and the networks: where it is far from zero, neighbours kept
the machine busy, and the errors hold their noise, too. Above {100 * QUIET:.0f} % all is measured
anew, at most {ATTEMPTS} times, and the trial of the smallest control is shown.
Where a smaller network is slower than a larger one, as the lists below show where it happened, no
prediction that grows with every width can follow.

{markdown_table(HEADINGS, "l" * len(HEADINGS), map(_cells, trials))}
## Each configuration

Milliseconds a pass, predicted / measured, in order of the prediction.

{chr(10).join(_list(trial) for trial in trials)}

Measured on {hardware}, {environment.threads} thread, channels_last, float32, with torch
{environment.torch} and timm {environment.timm}.
"""


def _cells(trial: Trial) -> tuple[str, ...]:
    return (
        Written(f"`{trial.name}`"),
        str(trial.side),
        str(trial.batch),
        f"{trial.measured[0] / NS_PER_MS:.2f}",
        f"{trial.seconds:.0f}",
        f"{100 * trial.control:+.1f} %",
        f"{100 * trial.error(trial.predicted):.1f} %",
        f"{trial.rank(trial.predicted):.2f}",
        f"{100 * trial.error(trial.macs):.0f} %",
        f"{trial.rank(trial.macs):.2f}",
    )


def _list(trial: Trial) -> str:
    order = np.argsort(trial.predicted)
    pairs = zip(trial.predicted[order], trial.measured[order], strict=True)
    told = ", ".join(f"{p / NS_PER_MS:.2f} / {m / NS_PER_MS:.2f}" for p, m in pairs)
    return f"- `{trial.name}`, batch {trial.batch}: {told}"


if __name__ == "__main__":
    main()

"""Which costs supernet training sees, docs/sampling.png: ``python -m benchmarks.studies.sampling``.

Widths that are drawn independently crowd in a narrow middle of the range of costs, so a supernet
never sees networks near most budgets; covering draws are spread evenly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from matplotlib.figure import Figure

from zoo.core.channels.config import WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers its networks with timm)
from zoo.core.search.width_grid import WidthGrid, covering_states, independent_states
from zoo.core.whole_file import whole_file

__all__ = ["draw", "main", "shares"]

NETWORKS = {"resnet20_cifar": 32, "resnet50": 224, "mobilenetv2_140": 224}
STATES = 4000
RATIOS = 10
DRAWS = {"independent": independent_states, "covering": covering_states}


def shares(name: str, size: int) -> dict[str, np.ndarray]:
    """MACs of drawn networks as shares of the full one, by way of drawing, shape (STATES,)."""
    with torch.device("meta"):
        model = timm.create_model(name)
    space = ChannelSpace.trace(model, (3, size, size))
    grid = WidthGrid.over(space, CostModel(space).macs_of_widths, WidthRules(), RATIOS)
    full = grid.costs(grid.full[None])[0]
    rng = np.random.default_rng(0)
    return {kind: grid.costs(draw(grid, STATES, rng)) / full for kind, draw in DRAWS.items()}


def draw(path: Path) -> None:
    """Histograms, a panel for each network."""
    figure = Figure((10.5, 3.2), layout="constrained")
    axes = figure.subplots(1, len(NETWORKS))
    bins = np.linspace(0, 1, 41)
    for axis, (name, size) in zip(axes, NETWORKS.items(), strict=True):
        for kind, found in shares(name, size).items():
            weights = np.full(len(found), 100 / len(found))
            axis.hist(found, bins, weights=weights, histtype="stepfilled", alpha=0.6, label=kind)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("MACs, share of the full network")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Draws in a bin, %")
    axes[0].legend(frameon=False)
    with whole_file(path) as hidden:
        figure.savefig(hidden, dpi=150, format="png")


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/sampling.png"))
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()

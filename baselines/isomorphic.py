"""Isomorphic pruning: channels are ranked among groups of the same topology only.

Paper: Fang, Ma, Mi, Wang: Isomorphic Pruning for Vision Models, 2024, arXiv 2407.04616. Read: the
    abstract, the README of VainF/Isomorphic-Pruning, and the option `isomorphic` of the authors'
    library Torch-Pruning 1.6.1 [official code].

Idea: Scores of unlike sub-structures, such as depthwise layers and streams with skips, follow
    unlike distributions and cannot be compared. So groups are sorted by their topology, and each
    class loses the same share of its channels, those of lowest score.

Steps:
    1. `coupled_norms`: sum the squares of all coupled weights of a channel, over its group's mean.
    2. `ranks_in_topology`: rank each channel among the groups of its topology.
    3. `global_widths`: drop the lowest ranks of the network until the recounted cost fits.
    4. `keep_best`: keep the channels of highest rank.

Deviations:
    - Two groups are of one topology if the same kinds of layers make and read them, by role and
      kernel; [official code] compares the sequence of layer types along a group. Expected effect:
      kernels of other sizes are told apart here and not there.
    - One shot. A group keeps a minimum width, and what is left of the budget is filled up.

Unknowns:
    - Which score the paper's convolutional results rest on: it names magnitude and Taylor; the
      README calls its own data-driven. Ours is the group norm, which needs no data; `knapsack` has
      the same ranking with Taylor values as scope = "isomorphic".

Cost: No data.

Names: isomorphic group -> class of a topology; importance -> `coupled_norms`.
"""

from dataclasses import dataclass

from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import coupled_norms, ranks_in_topology
from zoo.core.search.widths_in_budget import global_widths, keep_best

__all__ = ["Isomorphic"]


@dataclass(frozen=True)
class Isomorphic(Pruner):
    """The same share of every class of topologies, lowest group norms first."""

    def search(self, problem: Problem) -> Subnet:
        """Score by weights alone, rank within classes, then count."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("scoring"):
            scores = ranks_in_topology(problem.space, coupled_norms(problem.model, problem.space))
        with problem.phase("search"):
            widths = global_widths(problem, scores)
        return conclude(problem, keep_best(problem.space, scores, widths))

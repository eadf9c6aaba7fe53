"""Torch-Pruning as a contestant: its dependency graph and its importances decide.

Paper: Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, 2023, arXiv 2301.12900;
    isomorphic scope: Fang, Ma, Mi, Wang: Isomorphic Pruning for Vision Models, 2024,
    arXiv 2407.04616. The library: VainF/Torch-Pruning, release 1.6.1.

Idea: The library finds coupled layers itself, scores each channel of a group over all of them, and
    removes the lowest scores of the network. It knows pruning ratios and no budgets, so the ratio
    is bisected. What it left is read back from its network by value.

Steps:
    1. `tagged_copy`: copy the parent in double precision, each weight with its place in low bits.
    2. `take_gradients`: for Taylor and Hessian scores, backward passes through that copy.
    3. `prune_copy`: let the library prune a copy at a ratio, `read_config` what is left.
    4. `fewest_removed`: bisect the ratio until the recounted cost meets the budget.

Deviations:
    - Legal widths are told to the library in its own terms: layers that have to stay whole are its
      `ignored_layers`, a divisor is its `round_to`, and the channels that a group has to keep, by
      default a tenth, get an infinite score from a wrapper around its importance. Expected effect:
      that of the "10 % group-wise protection" of PruningBench, which is built on it.
    - One step, where the library's benchmark script takes many and scores anew after each. Expected
      effect: worse at strong pruning.
    - The network is in eval mode, and double precision decides. Expected effect: ties apart, none.
    - Groups for which an importance has no score, for `bn_scale` those without a batch norm, are
      left whole by the library.

Unknowns:
    - None of the method: the library's code is what runs. In 1.6.1 `GroupHessianImportance` keeps
      the squared gradients of the last image alone: it looks them up by name and stores them by
      tensor. It is run as it is.
    - Number of images for `taylor` and `hessian`: the library leaves it to its user.

Cost: `taylor`: one forward and backward pass over a share of the training images; `hessian`: one
    for each of some images; otherwise no data. A dozen prunings by the library.

Names: pruning ratio -> `removed` of `most`; p of the norm -> the library's default, 2.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.read_back import read_config, tagged_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, require_packages, unpruned
from zoo.core.randomness import fixed_random
from zoo.core.search.foreign_budget import fewest_removed
from zoo.core.training.gradients import backward
from zoo.core.training.task import Task

__all__ = ["TorchPruning", "prune_copy", "take_gradients"]

Importance = Literal["magnitude", "taylor", "bn_scale", "lamp", "fpgm", "hessian"]

CLASSES: Mapping[Importance, str] = {
    "magnitude": "GroupMagnitudeImportance",
    "taylor": "GroupTaylorImportance",
    "bn_scale": "BNScaleImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "hessian": "GroupHessianImportance",
}
"""Names of the importances in the library."""


@dataclass(frozen=True)
class TorchPruning(Pruner):
    """The library's one-shot pruner at the smallest ratio that meets the budget.

    Attributes:
        importance: which of the library's scores decides; each with its defaults.
        scope: what ranks together, the channels of the whole network or of groups alike in
            structure.
        calibration: share of the training images for `taylor`.
        images: how many images `hessian` takes gradients of, one by one.
    """

    requires: ClassVar[Mapping[str, str]] = {"torch_pruning": "torch-pruning"}

    importance: Importance = "magnitude"
    scope: Literal["global", "isomorphic"] = "global"
    calibration: Annotated[float, Field(gt=0)] = 0.1
    images: Annotated[int, Field(ge=1)] = 32

    def search(self, problem: Problem) -> Subnet:
        """Bisect the library's ratio, and read back what it left."""
        require_packages(type(self))
        if whole := unpruned(problem):
            return whole
        tagged, scores = tagged_copy(problem.model), _importance(self.importance)
        with problem.phase("scoring"):
            take_gradients(problem, self, tagged, scores)
        most = int(problem.space.sizes.sum())

        def prune(removed: int) -> SubnetConfig:
            network = prune_copy(problem, self, tagged, scores, removed / most)
            return read_config(tagged, network, problem.space)

        with problem.phase("search"), fixed_random("torch_pruning"):
            config = fewest_removed(problem, prune, most)
        return conclude(problem, config)

    def check_task(self, task: Task, space: ChannelSpace) -> None:
        """A library of others is asked about classifiers alone."""
        super().check_task(task, space)
        if not task.is_classification:
            raise UnsupportedModel(
                "TorchPruning is run with the cross-entropy of logits alone; use one of our methods"
            )

    @classmethod
    def tiny(cls) -> Self:
        """A few images."""
        return cls(calibration=0.01, images=4)


def _importance(name: Importance) -> Any:  # Any: the library is untyped
    import torch_pruning as tp

    return getattr(tp.importance, CLASSES[name])()


def take_gradients(
    problem: Problem, settings: TorchPruning, tagged: nn.Module, scores: Any
) -> None:
    """Leave in a copy the gradients that an importance reads; nothing if it needs no data.

    Args:
        problem: gives the images; each pass is charged.
        settings: which importance, and how many images.
        tagged: the copy, in eval mode; gets gradients of the mean loss of the last batch.
        scores: the library's importance, which for `hessian` is handed each image's gradients.
    """
    if settings.importance not in ("taylor", "hessian"):
        return
    data = problem.data
    is_single = settings.importance == "hessian"
    count = settings.images if is_single else settings.calibration * data.num_train
    taken = list(data.train(max(1, math.ceil(count / data.batch_size))))
    if is_single:
        images, labels = (torch.cat(parts)[: settings.images] for parts in zip(*taken, strict=True))
        taken = [(x[None], y[None]) for x, y in zip(images, labels, strict=True)]
    for images, labels in taken:
        problem.meter.passes(len(images), problem.cost.full_macs, backward=True)
        if is_single:
            tagged.zero_grad()
        backward(F.cross_entropy(tagged(images.double()), labels))
        if is_single:
            scores.accumulate_grad(tagged)


def prune_copy(
    problem: Problem, settings: TorchPruning, tagged: nn.Module, scores: Any, ratio: float
) -> nn.Module:
    """A copy that the library has pruned.

    Args:
        problem: gives groups and rules.
        settings: importance and scope.
        tagged: what is copied, gradients included.
        scores: the library's importance.
        ratio: share of the channels that the library is asked to remove.
    """
    import torch_pruning as tp

    # Together, since an importance may hold what it knows by tensor.
    network, own = copy.deepcopy((tagged, scores))
    for before, after in zip(tagged.parameters(), network.parameters(), strict=True):
        after.grad = None if before.grad is None else before.grad.clone()
    size = (1, *problem.space.input_size)
    widths = _Widths(problem, network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside of layers; they are read back, too
        pruner = tp.pruner.BasePruner(
            network,
            torch.zeros(size, dtype=torch.float64, device=next(network.parameters()).device),
            importance=lambda group: widths.bounded(group, own(group)),
            global_pruning=True,
            isomorphic=settings.scope == "isomorphic",
            pruning_ratio=ratio,
            round_to=problem.rules.divisor,
            ignored_layers=widths.whole,
            # Defaults of the library that all its pruners would share.
            in_channel_groups={},
            out_channel_groups={},
        )
        pruner.step()
    return network


class _Widths:
    """Legal widths, told to the library by scores and by layers that it leaves whole.

    Attributes:
        whole: layers whose outputs have to stay.
    """

    def __init__(self, problem: Problem, network: nn.Module) -> None:
        table = problem.space.table
        self._legal: dict[nn.Module, tuple[int, int, int]] = {}
        self.whole: list[nn.Module] = []
        for path, module in network.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            index = table.tensors.get((f"{path}.weight", 0))
            axis = None if index is None else table.axes[index]
            if axis is None or (axis.group < 0).any():
                self.whole.append(module)
            elif len(axis.groups) == 1:
                size = problem.space.groups[axis.groups[0]].size
                legal = problem.legal[axis.groups[0]]
                self._legal[module] = (size, int(legal[0]), int(legal[-1]))
                if legal[0] == size:
                    self.whole.append(module)

    def bounded(self, group: Any, scores: Tensor | None) -> Tensor | None:
        """Scores of a group of the library, the channels that have to stay or to go at the ends.

        Args:
            group: the library's; its first member is the layer that makes the channels.
            scores: shape (channels,), higher = keep, or None if there are none.
        """
        known = self._legal.get(group[0].dep.target.module)
        if scores is None or known is None or len(scores) % known[0]:
            return scores
        size, least, most = known
        # A channel of a grouped convolution stands for one of each of its groups, as in ours.
        order = scores.view(-1, size).mean(0).argsort(descending=True, stable=True)
        bounded = scores.view(-1, size).clone()
        bounded[:, order[:least]] = math.inf
        bounded[:, order[most:]] = -math.inf
        return bounded.view(-1)

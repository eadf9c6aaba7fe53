"""FastNAS of NVIDIA ModelOpt as a contestant: it finds, sorts and searches channels itself.

Paper: None that the library names; NVIDIA/Model-Optimizer, release 0.47, mode "fastnas".

Idea: The library sorts the channels of each layer by importance, measures for each width of each
    layer how much accuracy is lost when that layer alone is cut to it, and takes the narrowest
    widths whose loss stays below one threshold, which it bisects until its count of multiply-adds
    fits.

Steps:
    1. `tagged_copy`: copy the parent in double precision, each weight with its place in low bits.
    2. `width_ratios`: tell the library in its own terms which widths are legal.
    3. `search_copy`: let it search a copy within a share of its cost, `read_config` what is left.
    4. `FastNAS`: lower the share while the recounted cost is above the budget.

Deviations:
    - A few keep ratios between the least and the most that are legal are offered, in place of steps
      of a twentieth that are multiples of 32. Expected effect: finer on small networks.
    - Widths are scored by top-1 on some batches of the search split, after the library's own
      estimate of batch-norm statistics on training images.
    - The library counts multiply-adds or parameters by itself; a limit on latency is approached by
      its count of multiply-adds. What it reached is recounted here, and nothing is filled up.

Unknowns:
    - Which networks it takes: of timm's, those whose norms and activations are one module lose few
      or no channels, since the library follows no such module. It then says that the network has
      nothing to configure, or that the limit cannot be met; both are passed on.

Cost: For each width of each layer the chosen batches of the search split and of training images,
    forward, counted as passes of the whole network; all of it for each share that is tried.

Names: flops, params -> the library's constraints; channels_ratio -> `width_ratios`.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.read_back import read_config, tagged_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import InfeasibleBudget, UnsupportedModel, said
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, require_packages, unpruned
from zoo.core.randomness import fixed_random
from zoo.core.training.task import Task
from zoo.core.training.top1 import right_answers

__all__ = ["FastNAS", "search_copy", "width_ratios"]

TRIES = 6
"""Shares that are tried before a budget counts as missed."""


@dataclass(frozen=True)
class FastNAS(Pruner):
    """The library's search at the largest of a few shares whose result meets the budget.

    Attributes:
        choices: keep ratios that are offered beside the whole width.
        search_batches: batches of the search split that a width is scored on.
        calibration_batches: training batches for the library's batch-norm statistics; 0 for none.
    """

    known_exceptions: ClassVar[Mapping[str, str]] = {
        "cost_meets_the_budget": "one threshold for all layers may end far below the budget",
        "golden_answer_comes_out": "the library takes no channel of the planted network",
    }
    requires: ClassVar[Mapping[str, str]] = {
        "modelopt": "nvidia-modelopt",
        "torchprofile": "torchprofile",
        "requests": "requests",
    }

    choices: Annotated[int, Field(ge=2)] = 10
    search_batches: Annotated[int, Field(ge=1)] = 4
    calibration_batches: Annotated[int, Field(ge=0)] = 2

    def search(self, problem: Problem) -> Subnet:
        """Let the library search, and lower its limit until the recounted cost fits."""
        require_packages(type(self))
        if whole := unpruned(problem):
            return whole
        tagged, share = tagged_copy(problem.model), problem.budget.limit / problem.full_cost
        with problem.phase("search"), fixed_random("fastnas"):
            for _ in range(TRIES):
                network = search_copy(problem, self, tagged, share)
                config = read_config(tagged, network, problem.space)
                cost = problem.cost_of_config(config)
                problem.trace("try", share=share, cost=cost)
                if cost <= problem.budget.limit:
                    break
                share *= 0.999 * problem.budget.limit / cost
            else:
                reached = problem.budget.format_cost(cost)
                raise InfeasibleBudget(
                    f"budget {problem.budget} was missed: fastnas reached {reached} in {TRIES} "
                    "tries; raise the budget"
                )
        try:
            problem.rules.check(problem.space, config)
        except ValueError as error:
            raise InfeasibleBudget(f"{problem.budget}: fastnas met it so that {error}") from error
        return conclude(problem, config)

    def check_task(self, task: Task, space: ChannelSpace) -> None:
        """A library of others is asked about classifiers alone."""
        super().check_task(task, space)
        if not task.is_classification:
            raise UnsupportedModel(
                "FastNAS is run with the cross-entropy of logits alone; use one of our methods"
            )

    @classmethod
    def tiny(cls) -> Self:
        """Few widths, one batch."""
        return cls(choices=4, search_batches=1, calibration_batches=1)


def width_ratios(problem: Problem, most: int) -> list[float]:
    """Keep ratios that are legal, once rounded, in all groups that may lose channels, ascending.

    One list for all layers: the library takes what is common to a layer and to those that it reads.

    Args:
        problem: gives groups and rules.
        most: how many.
    """
    free = [
        (legal[0] / group.size, legal[-1] / group.size)
        for group, legal in zip(problem.space.groups, problem.legal, strict=True)
        if legal[0] < group.size
    ]
    low, high = (np.array(ends) for ends in zip(*free, strict=True))
    return [*np.linspace(low.max(), high.min(), most).tolist(), 1.0]


def _whole(problem: Problem) -> list[str]:
    """Paths of the layers whose outputs have to stay."""
    table, found = problem.space.table, []
    for (tensor, dim), index in table.tensors.items():
        axis = table.axes[index]
        sizes = problem.space.sizes
        is_whole = any(problem.legal[g][0] == sizes[g] for g in axis.groups)
        if tensor.endswith(".weight") and not dim and (is_whole or (axis.group < 0).any()):
            found.append(tensor.removesuffix(".weight"))
    return found


def search_copy(problem: Problem, settings: FastNAS, tagged: nn.Module, share: float) -> nn.Module:
    """A copy that the library has searched and pruned.

    Args:
        problem: gives images, groups and rules; each pass is charged as one of the whole network.
        settings: how many widths and batches.
        tagged: what is copied.
        share: the limit, of the library's own cost of the whole network.

    Raises:
        UnsupportedModel: if the library takes no channel of the network.
        InfeasibleBudget: if the library says that the limit cannot be met.
    """
    import modelopt.torch.prune as mtp
    from modelopt.torch.opt.conversion import ApplyModeError

    device = next(tagged.parameters()).device
    dummy = torch.zeros((2, *problem.space.input_size), dtype=torch.float64, device=device)
    metric = "params" if problem.budget.metric == "params" else "flops"
    options: dict[str, object] = {"score_func": _Score(problem, settings), "verbose": False}
    if settings.calibration_batches:
        loader = _Calibration(problem, settings.calibration_batches)
        options |= {"data_loader": loader, "collect_func": lambda batch: batch[0]}
    told = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
    ):
        warnings.simplefilter("ignore")
        try:
            network, _ = mtp.prune(
                _contiguous(copy.deepcopy(tagged)),
                mode=[("fastnas", _rules(problem, settings.choices))],
                constraints={metric: f"{100 * share:.6f}%"},
                dummy_input=dummy,
                config=options,
            )
        except ApplyModeError as error:
            raise UnsupportedModel(f"fastnas takes no channel of it: {said(error)}") from error
        except ValueError as error:
            if "constraints can be satisfied" not in f"{error}{told.getvalue()}":
                raise
            raise InfeasibleBudget(
                f"budget {problem.budget} was missed: fastnas says that {100 * share:.3g} % of its "
                f"{metric} cannot be reached; raise the budget"
            ) from error
    pruned: nn.Module = network
    return pruned


def _rules(problem: Problem, most: int) -> dict[str, dict[str, dict[str, object]]]:
    """The library's own rules, with legal widths in the place of its ratios and divisors."""
    from modelopt.torch.prune.fastnas import FastNASConfig

    ratios = tuple(width_ratios(problem, most))
    rules: dict[str, Any] = FastNASConfig().model_dump()
    for kind, patterns in rules.items():
        plain = dict(patterns.get("*") or {}) if isinstance(patterns, dict) else {}
        name = next((key for key in plain if key.endswith("ratio")), None)
        if name is None:
            continue
        plain |= {key: problem.rules.divisor for key in plain if key.endswith("divisor")}
        whole = {path: {**plain, name: (1.0,)} for path in _whole(problem)}
        rules[kind] = {"*": {**plain, name: ratios}, **whole}
    return rules


def _contiguous(network: nn.Module) -> nn.Module:
    """The network, its tensors in the one memory format that the library takes."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.contiguous()
    return network


def _plain(images: Tensor) -> Tensor:
    return images.double().contiguous()


class _Score:
    """Top-1 of what the library asks about, on batches of the search split."""

    def __init__(self, problem: Problem, settings: FastNAS) -> None:
        self._problem = problem
        self._count = settings.search_batches

    def __call__(self, network: nn.Module) -> float:
        problem, correct, total = self._problem, 0, 0
        network.eval()
        with torch.no_grad():
            for (images, labels), _ in zip(problem.data.search(), range(self._count), strict=False):
                problem.meter.passes(len(images), problem.cost.full_macs, backward=False)
                correct += int(right_answers(network(_plain(images)), labels).sum())
                total += len(labels)
        return correct / total


class _Calibration:
    """Training batches in double precision, charged whenever the library passes over them."""

    def __init__(self, problem: Problem, count: int) -> None:
        self._problem = problem
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._problem.data.train(self._count):
            self._problem.meter.passes(len(images), self._problem.cost.full_macs, backward=False)
            yield _plain(images), labels

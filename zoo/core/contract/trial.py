"""Tiny searches under watch: the networks, problems and observations that the contract looks at."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import timm
import torch
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batch, Batches, ImageTensors
from zoo.core.data.metered import MeteredData, TestSplit
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.networks.rebuild import rebuild
from zoo.core.tracing.copies import copy_network

__all__ = ["NETWORKS", "Run", "Snapshot", "TooManyEvaluations", "Trial"]

NETWORKS: Mapping[str, str] = {
    "residual": "test_resnet",
    "depthwise": "mobilenetv2_035",
    "squeeze_excite": "test_efficientnet",
}
# Half of mobilenetv2's blocks: what a search costs here is the number of its layers.
ARGUMENTS: Mapping[str, Mapping[str, float]] = {"depthwise": {"depth_multiplier": 0.3}}
CLASSES = 10
INPUT_SIZE = (3, 32, 32)
BATCH_SIZE = 16
TRAIN_IMAGES, SEARCH_IMAGES = 64, 32

# More than any search needs to see that nothing fits.
MOST_CONFIGS = 1_000_000
MOST_COST_CALLS = 10_000
MOST_IMAGES = 10_000


class TooManyEvaluations(RuntimeError):
    """A search went on long after it could have known the answer."""


class CountedCost(CostModel):
    """A cost model that stops a search which asks without end."""

    _calls = 0
    _configs = 0

    def checked(self, widths: np.ndarray) -> np.ndarray:
        """As the cost model's, counted: widths of any cost, shape (n, G), come through here.

        Raises:
            TooManyEvaluations: for more calls or configurations than any search needs.
        """
        self._calls += 1
        self._configs += len(widths)
        if self._calls > MOST_COST_CALLS or self._configs > MOST_CONFIGS:
            raise TooManyEvaluations(f"{self._configs} costs in {self._calls} calls")
        return super().checked(widths)


class CountedBatches(Batches):
    """Batches that count the images that leave them, charged or not."""

    drawn = 0
    dtype = torch.float32

    def epoch(self, index: int) -> Iterator[Batch]:
        """As the batches', counted.

        Raises:
            TooManyEvaluations: for more images than any search needs.
        """
        for images, labels in super().epoch(index):
            self.drawn += len(images)
            if self.drawn > MOST_IMAGES:
                raise TooManyEvaluations(f"{self.drawn} images drawn")
            yield images.to(self.dtype), labels


@dataclass
class Snapshot:
    """Everything about a model that a search must leave as it was."""

    tensors: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    facts: dict[str, object]

    @classmethod
    def take(cls, model: nn.Module) -> Snapshot:
        """Copies of all tensors, and modes, hooks and attributes of all modules."""
        facts: dict[str, object] = {}
        for path, module in model.named_modules():
            facts[f"{path}: mode"] = module.training
            facts[f"{path}: attributes"] = sorted(vars(module))
            facts[f"{path}: description"] = module.extra_repr()
            for name, value in vars(module).items():
                if "hooks" in name and isinstance(value, dict):
                    facts[f"{path}: {name}"] = len(value)
        for name, parameter in model.named_parameters():
            facts[f"{name}: requires_grad"] = parameter.requires_grad
        return cls(
            {name: tensor.clone() for name, tensor in model.state_dict().items()},
            {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
            facts,
        )

    def difference(self, other: Snapshot) -> str | None:
        """The first thing that differs, or None."""
        for mine, theirs, what in (
            (self.tensors, other.tensors, "tensor"),
            (self.gradients, other.gradients, "gradient of"),
        ):
            for name in mine.keys() | theirs.keys():
                if not _same(mine.get(name), theirs.get(name)):
                    return f"{what} {name}"
        changed = [key for key in self.facts if self.facts[key] != other.facts.get(key)]
        return changed[0] if changed else None


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


@dataclass
class Run:
    """One search and what was seen while it ran."""

    problem: Problem
    subnet: Subnet
    before: Snapshot
    after: Snapshot
    images_drawn: int
    is_test_opened: bool
    is_random_touched: bool


@dataclass
class Trial:
    """A pruner with tiny settings on one tiny network; searches run once and are kept.

    Attributes:
        cls: the pruner's class.
        network: a key of `NETWORKS`.
        device: where the searches run.
        dtype: what network and images are calculated in.
    """

    cls: type[Pruner]
    network: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    pruner: Pruner = field(init=False)

    def __post_init__(self) -> None:
        self.pruner = self.cls.tiny()

    @property
    def space(self) -> ChannelSpace:
        """The network's channel groups."""
        return _parent(self.network)[1]

    @cached_property
    def first(self) -> Run:
        """A search at half the MACs."""
        return self.run()

    @cached_property
    def _rebuilt(self) -> nn.Module:
        run = self.first
        return rebuild(run.problem.model, self.space, run.subnet.config, run.subnet.weights).cpu()

    def rebuilt(self) -> nn.Module:
        """A fresh copy, on the CPU, of the smaller network that the first search leads to."""
        return copy_network(self._rebuilt)

    def run(self, keep_ratio: float = 0.5, rules: WidthRules | None = None) -> Run:
        """Search a fresh problem under watch.

        Args:
            keep_ratio: budget as a share of the network's MACs, or an absolute number of them.
            rules: legal widths.
        """
        model, space = _parent(self.network)
        cost = CountedCost(space)
        meter = Meter(self.device)
        train, search = (_batches(n, self.device) for n in (TRAIN_IMAGES, SEARCH_IMAGES))
        train.dtype = search.dtype = self.dtype
        problem = Problem(
            model=copy_network(model).to(self.device, self.dtype),
            space=space,
            cost=cost,
            budget=Budget.parse(keep_ratio, cost),
            data=MeteredData(train, search, meter),
            rules=rules or WidthRules(),
            meter=meter,
        )
        before = Snapshot.take(problem.model)
        with _watched_test_splits() as opened, _watched_random() as touched:
            subnet = self.pruner.search(problem)
        after = Snapshot.take(problem.model)
        drawn = train.drawn + search.drawn
        return Run(problem, subnet, before, after, drawn, bool(opened), bool(touched))


@cache
def _parent(network: str) -> tuple[nn.Module, ChannelSpace]:
    """A network with random weights and random BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(
            NETWORKS[network], num_classes=CLASSES, **ARGUMENTS.get(network, {})
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.1)
                nn.init.normal_(module.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    model.eval()
    return model, ChannelSpace.trace(model, INPUT_SIZE)


def images_and_labels(count: int) -> Batch:
    """Random images, float, shape (count, 3, 32, 32), and labels, shape (count,)."""
    return next(_batches(count, "cpu").epoch(0))


def _batches(count: int, device: str) -> CountedBatches:
    rng = np.random.default_rng(count)
    images = torch.from_numpy(rng.integers(0, 256, (count, *INPUT_SIZE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, count))
    dataset = ImageTensors(images, labels, (0.5,) * 3, (0.29,) * 3)
    return CountedBatches(dataset, min(BATCH_SIZE, count), seed=0, device=device)


@contextmanager
def _watched_test_splits() -> Iterator[list[TestSplit]]:
    """Collects the test splits that are opened meanwhile."""
    opened: list[TestSplit] = []
    original = TestSplit.open

    def watched(split: TestSplit) -> object:
        opened.append(split)
        return original(split)

    TestSplit.open = watched  # type: ignore[method-assign,assignment]
    try:
        yield opened
    finally:
        TestSplit.open = original  # type: ignore[method-assign]


@contextmanager
def _watched_random() -> Iterator[list[str]]:
    """Collects the global generators whose state changed meanwhile."""
    touched: list[str] = []
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield touched
    if random.getstate() != before[0]:
        touched.append("random")
    if not all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True)):
        touched.append("numpy.random")
    if not torch.equal(torch.get_rng_state(), before[2]):
        touched.append("torch")


def same_config(space: ChannelSpace, first: SubnetConfig, second: SubnetConfig) -> bool:
    """Whether two configurations keep the same channels, however they are written.

    Args:
        space: gives the size of a group that a configuration leaves out.
        first: a configuration that fits the space.
        second: another.
    """
    return all(first.indices(group) == second.indices(group) for group in space.groups)

"""MetaPruning: a network that generates the weights of any pruned network, and evolution on it.

Paper: Liu, Mu, Zhang, Guo, Yang, Cheng, Sun: MetaPruning: Meta Learning for Automatic Neural
    Network Channel Pruning, ICCV 2019, arXiv 1903.10258. Of the paper only the abstract and the
    opening of the introduction could be read ([paper]); of the official repository,
    liuzechun/MetaPruning, all code ([code]) and answers of the authors to issues ([authors]).

Idea: One set of weights cannot serve all widths equally well, so a PruningNet generates the
    weights of each pruned network from its widths. It is trained with structures drawn at random,
    and then an evolutionary search under the constraint compares many of them without fine-tuning
    [paper]. Only widths come of it: the best network is trained from scratch [code].

Steps:
    1. `list_widths`: list the candidate widths of every group; the code has 31.
    2. `PruningNet`: for each layer that is cropped, two fully connected layers with a ReLU between
       them turn widths, as shares of the whole, into its weights at full size; these are cropped
       to the widths [code].
    3. `train_pruning_net`: draw one structure for each batch, every width uniformly; its loss
       trains the fully connected layers [code].
    4. `evolve_widths`: from a random population, mutants and crossings of the best, all within
       the budget; each scored with its generated weights, BatchNorm recalibrated [code].
    5. `fill_closely`: add channels up to the budget, where groups are narrowest; ours.
    6. `keep_best`: hand on the channels of largest L1 norm at these widths, without weights.

Deviations:
    - The bias of a second layer is the parent's weight and its matrix zero, so that training starts
      at the parent; ours. In the code both layers start as torch draws them. `start` = "scratch"
      starts from drawn weights, the matrix drawn at the scale of the layer's own. Expected effect:
      useful scores far sooner.
    - A layer reads the widths of all groups; ours. In the code it reads those of its block, or of
      its own input and output; `encoding` = "layer" is the latter. Expected effect: unknown.
    - The hidden layer narrows until the matrices hold `most_parameters` numbers; ours. The code has
      32 units, 64 in the blocks of MobileNetV2, whatever that takes: 0.8e9 numbers for ResNet-50.
    - Gates and the classifier are generated as well where they are cropped; what nothing crops is
      trained itself. In the code the classifier is never cropped and there are no gates.
    - One BatchNorm serves all widths, with the parent's scale and shift, trained as they are. The
      code has one for each width, most without scale and shift, which made no obvious difference
      to the authors [authors]; its statistics are measured anew for each candidate, as ours.
    - Offspring over the budget is repaired, not dropped and drawn again; a mutated width may be
      drawn as it was. Expected effect: fewer wasted draws.
    - The loss is the task's alone; the code smooths labels by 0.1. The learning rate follows a
      cosine from 0.006; the code has a linear decay from 0.25 (MobileNetV2) or three steps from 0.1
      (ResNet-50), and starts from nothing.
    - The network that comes out is fine-tuned from the parent's weights, as after all methods here;
      a suite's `start` = "scratch" trains it as the paper does.

Unknowns:
    - What the paper itself says of encoding, layers, schedules, recalibration, numbers of
      candidates and latency as a constraint; what its ablations found. Nothing of that was read.
    - How long to train: the code has 64 epochs of ImageNet for MobileNetV2 and 32 for ResNet-50, a
      quarter of a training from scratch [authors]. Ours: see the attributes; it starts trained.
    - How many candidates: the code scores 20 generations of 50 after 100 batches of recalibration.
      Ours: 200 after 4.

Cost: `steps` batches, forward and backward, with one subnet each, once for all budgets, and the
    generation of its weights, `hidden` multiply-adds for each. For each evaluation four training
    batches and one pass over the search split, forward only, and one generation. Memory: `hidden`
    + 1 times the weights of the cropped layers, three times over with gradients and momentum; at
    most about 1.2 GB with the default of `most_parameters`, beside the network's own.

Names: PruningNet(c_1, ..., c_l) -> `PruningNet.weights`; c_i -> widths of the channel groups; fc1
    and fc2 of the code -> the entries of `PruningNet.drawn`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zoo.core.channels.channel_group import PRODUCERS, Role
from zoo.core.channels.config import SubnetConfig
from zoo.core.method.planted import BY_ACCURACY, Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, conclude, unpruned
from zoo.core.one_shot.effort import middle_macs
from zoo.core.one_shot.one_shot import OneShot, RankedWidths, evolve_widths, list_widths
from zoo.core.one_shot.supernet_training import Engine, Start, starting_weights
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.prior import SeenSubnets, uniform_prior
from zoo.core.search.width_grid import independent_states
from zoo.core.search.widths_in_budget import fill_closely, keep_best
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState

__all__ = ["MetaPruning", "PruningNet", "train_pruning_net"]

Encoding = Literal["network", "layer"]

_CROPPED: tuple[Role, ...] = (*PRODUCERS, "in")
"""Roles of the weights that are generated: a group's channels lie along them."""


@dataclass(frozen=True)
class MetaPruning(OneShot):
    """Generated weights, and evolution with them.

    Attributes:
        hidden: units between the two fully connected layers of each layer; 32 in the code, fewer
            here where `most_parameters` demands it.
        most_parameters: numbers that the matrices of the second layers may hold together, unless
            one unit is too many already.
        lr: highest learning rate of its cosine; ours, a third of other supernets'. One step down a
            generated weight's gradient moves it 1 + |units|^2 times as far as a trained one, about
            three times at half width with 32 units.
        encoding: whose widths a layer is generated from, all groups' or its own.
        ratios: candidate widths of each group; 31 in the code.
        evaluations: states scored; 1000 in the code.
        population: children of a generation, and size of the first one; 50 in the code.
        parents: best states that have children; 10 in the code.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset({"evaluations", "population", "parents"})

    hidden: Annotated[int, Field(ge=1)] = 32
    most_parameters: Annotated[int, Field(ge=1)] = 100_000_000
    lr: Annotated[float, Field(gt=0)] = 0.006
    encoding: Encoding = "network"
    ratios: Annotated[int, Field(ge=2)] = 31
    evaluations: Annotated[int, Field(ge=1)] = 200
    population: Annotated[int, Field(ge=1)] = 50
    parents: Annotated[int, Field(ge=1)] = 10

    def search(self, problem: Problem) -> Subnet:
        """Train the PruningNet, evolve widths on what it generates, hand on the widths."""
        if whole := unpruned(problem):
            return whole
        widths = list_widths(problem, self)
        trained = self.train(widths)
        with problem.phase("search"):
            state = evolve_widths(
                widths,
                lambda configs: self.accuracies(widths, configs, trained.weights),
                uniform_prior(widths.grid.sizes),
                evaluations=self.evaluations,
                population=self.population,
                parents=self.parents,
                slack=self.slack,
            )
        chosen = fill_closely(
            problem, widths.widths_of(state), widths.narrowest_first, slack=self.slack
        )
        # The parent is fine-tuned, however the PruningNet began.
        order = channel_order(problem, by_magnitude=True)
        return conclude(problem, keep_best(problem.space, order, chosen))

    def update_macs(self, problem: Problem) -> int:
        """One subnet on each image, and one generation for all images of the batch."""
        generated = PruningNet.of(problem, self).macs
        return middle_macs(problem)[1] + generated // max(1, problem.data.batch_size)

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train the PruningNet."""
        return train_pruning_net(widths, self)

    def accuracy(
        self, widths: RankedWidths, config: SubnetConfig, weights: Mapping[str, Tensor]
    ) -> float:
        """Score with the weights that the trained PruningNet generates, BatchNorm recalibrated."""
        with torch.no_grad():
            generated = PruningNet.of(widths.problem, self).weights(weights, config)
        return widths.problem.accuracy(config, generated)

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and a small population."""
        return cls(steps=2, lr=1e-4, hidden=4, ratios=5, evaluations=6, population=4, parents=2)

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is the best of all feasible width pairs; the parent's weights do."""
        return planted_golden(BY_ACCURACY, steps=0, ratios=8, evaluations=40, population=20)


@dataclass(frozen=True, eq=False)
class PruningNet:
    """Generates the weights of every layer that is cropped from the widths of the network.

    It holds no weights: they come with each call, by name. Of the layer whose weight is "w" in the
    state dict, the first fully connected layer is "w/fc1.weight" and "w/fc1.bias", the matrix of
    the second is "w/fc2.weight", and its bias, in the shape of the weight, is "w" itself.
    Parameters that nothing generates have their own names; frozen ones stay the network's.

    Attributes:
        problem: gives network, groups and meter.
        read: ordinals of the groups whose widths each generated weight depends on, by state-dict
            name.
        hidden: units between the two layers.
    """

    problem: Problem
    read: Mapping[str, tuple[int, ...]]
    hidden: int

    @classmethod
    def of(cls, problem: Problem, settings: MetaPruning) -> PruningNet:
        """The one for a problem; see `MetaPruning`."""
        space, own = problem.space, dict(problem.model.named_parameters())
        groups: dict[str, list[int]] = {}
        for ordinal, group in enumerate(space.groups):
            for member in group.members:
                found = groups.setdefault(member.tensor, [])
                if member.role in _CROPPED and ordinal not in found:
                    found.append(ordinal)
        every = tuple(range(len(space.groups)))
        read = {
            name: tuple(found) if settings.encoding == "layer" else every
            for name, found in groups.items()
            if found and own[name].requires_grad
        }
        size = sum(math.prod(space.table.shapes[name]) for name in read)
        most = max(1, settings.most_parameters // max(1, size))
        return cls(problem, read, min(settings.hidden, most))

    @property
    def macs(self) -> int:
        """Multiply-adds of one generation."""
        shapes = self.problem.space.table.shapes
        return sum(
            self.hidden * (len(ordinals) + math.prod(shapes[name]))
            for name, ordinals in self.read.items()
        )

    def drawn(self, start: Start) -> dict[str, Tensor]:
        """All that is trained, as leaves that require gradients, by name.

        Args:
            start: "parent" generates its weights at all widths; "scratch" draws them, and how they
                depend on widths, from the problem's seed.
        """
        leaves = starting_weights(self.problem, start)
        generator = self.problem.generator("search")
        for name, ordinals in self.read.items():
            weight = leaves[name].detach()
            scale = 0.0 if start == "parent" else float(weight.square().mean().sqrt())
            new = {
                "fc1.weight": ((self.hidden, len(ordinals)), len(ordinals) ** -0.5),
                "fc1.bias": ((self.hidden,), len(ordinals) ** -0.5),
                "fc2.weight": ((weight.numel(), self.hidden), scale * (3 / self.hidden) ** 0.5),
            }
            for part, (shape, bound) in new.items():
                values = torch.empty(shape, dtype=weight.dtype)
                values.uniform_(-bound, bound, generator=generator)
                leaves[f"{name}/{part}"] = values.to(weight.device).requires_grad_()
        return leaves

    def weights(self, trained: Mapping[str, Tensor], config: SubnetConfig) -> dict[str, Tensor]:
        """Full-size parameters for a subnet, by state-dict name; charged, gradients flow back.

        Args:
            trained: as `drawn` returns them.
            config: its widths are what is encoded.
        """
        self.problem.meter.passes(1, self.macs, backward=torch.is_grad_enabled())
        shares = config.widths(self.problem.space) / self.problem.space.sizes
        names = (name for name, _ in self.problem.model.named_parameters())
        found = {name: trained[name] for name in names if name in trained}
        for name, ordinals in self.read.items():
            bias = trained[name]
            code = torch.as_tensor(shares[list(ordinals)], dtype=bias.dtype, device=bias.device)
            units = F.linear(code, trained[f"{name}/fc1.weight"], trained[f"{name}/fc1.bias"])
            made = F.linear(units.relu(), trained[f"{name}/fc2.weight"])
            found[name] = bias + made.view(bias.shape)
        return found


def train_pruning_net(widths: RankedWidths, settings: MetaPruning) -> Trained:
    """Train a PruningNet, with one structure drawn for each batch.

    Returns:
        What it is made of, by name, and state, loss and step of every update.
    """
    problem, grid = widths.problem, widths.grid
    rng = problem.rng("search").spawn(2)[0]
    net = PruningNet.of(problem, settings)
    engine = Engine(
        problem,
        net.drawn(settings.start),
        steps=settings.steps,
        lr=settings.lr,
        execution="sliced",
        generate=net.weights,
    )
    seen = SeenSubnets(len(grid.sizes))
    parts: dict[str, Stateful] = {"rng": GeneratorState(rng), "seen": seen}
    for images, labels in engine.updates(settings.training_settings, parts):
        (state,) = independent_states(grid, 1, rng)
        loss = problem.task.loss_of(engine.logits(images, widths.config(state)), labels)
        engine.update(loss)
        seen.add(np.array([state]), loss[None])
    problem.trace(
        "train_pruning_net",
        pairs=engine.pairs,
        hidden=net.hidden,
        parameters=sum(tensor.numel() for tensor in engine.weights.values()),
        losses=seen.means(),
    )
    return Trained(engine.trained(), seen.records)

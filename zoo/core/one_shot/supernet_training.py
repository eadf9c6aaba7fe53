"""The supernet engine: one set of full-size weights, trained and scored at many widths.

PSE-Net, AutoSlim, BCNet, single-path training and stage-wise pruning differ in the subnets that
they draw and in what these learn from, MetaPruning in where their weights come from. How a subnet
runs, what a step costs and how it is scored is the same for all, and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.resize import Place
from zoo.core.data.inputs import Inputs, count_images, divided
from zoo.core.errors import Diverged
from zoo.core.method.problem import Problem
from zoo.core.method.updates import Updates
from zoo.core.one_shot.shared_terms import Term, average_gradients, exchanged
from zoo.core.randomness import fixed_random
from zoo.core.tracing.copies import copy_network, memory_format_of
from zoo.core.training.checkpoint import State, Stateful, digest
from zoo.core.training.course import TensorState
from zoo.core.training.gradients import backward, gradients
from zoo.core.training.ranks import mine_of, rank, sum_over_ranks, world
from zoo.core.training.task import Answer

__all__ = ["Engine", "Execution", "Generate", "Norm", "Start", "starting_weights"]

SLICED_FROM = 1_000_000_000
"""Multiply-adds of a subnet's part of the batch, at full width, from which slicing pays on a CPU.

Measured on one core (`tox -e bench` times both): slices of 8 images took 1.7 times as long as masks
for ResNet-20 at 24 x 24 (0.2e9), as long for MobileNetV2 at half width, and 0.9 times as long for
ResNet-20 at 32 x 32 and 32 images (1.3e9).
"""

_WEIGHT_DECAY = 5e-4  # not of biases and normalisation

Execution = Literal["auto", "masked", "sliced"]
Norm = Literal["separate", "joint"]
Start = Literal["parent", "scratch"]
Generate = Callable[[Mapping[str, Tensor], SubnetConfig], Mapping[str, Tensor]]
"""Full-size parameters for a subnet, by state-dict name, made from what is trained."""


class Engine:
    """Trains one set of weights at many widths; every pass is charged.

    Args:
        problem: gives network, groups, costs and meter.
        weights: full-size parameters by state-dict name, leaves that require gradients; what is
            not among them stays as it is in the network.
        steps: updates that will be made, for the cosine of the learning rate.
        lr: its highest value.
        momentum: of the gradient descent.
        execution: how `parallel` runs several subnets at once: "masked" in one full-width pass,
            "sliced" one after the other, which saves the arithmetic of dropped channels. "auto" is
            "masked" on a GPU, and on a CPU where a subnet's part of the batch is small work, unless
            the network has layers that cannot be masked.
        norm: "separate" takes batch statistics for each subnet; "joint" over the whole batch, which
            changes gradients and needs masks.
        generate: makes the full-size parameters of a subnet from the trained tensors, which then
            need not be the network's own; None trains the parameters themselves.

    Attributes:
        divergence_hint: returns what, beside the learning rate, may make the next update diverge,
            and the remedy; "" if nothing is known.

    Raises:
        ValueError: if subnets that run one after the other should share batch statistics, if
            subnets whose weights differ should run at once, or if there is nothing to train.
    """

    def __init__(
        self,
        problem: Problem,
        weights: Mapping[str, Tensor],
        *,
        steps: int,
        lr: float,
        momentum: float = 0.9,
        execution: Execution = "auto",
        norm: Norm = "separate",
        generate: Generate | None = None,
    ) -> None:
        if norm == "joint" and execution == "sliced":
            raise ValueError("norm 'joint' runs subnets together; use execution 'masked'")
        if generate is not None and execution != "sliced":
            raise ValueError("each subnet has weights of its own; use execution 'sliced'")
        if steps and not weights:
            raise ValueError(
                "all parameters are frozen (requires_grad=False), so a supernet has nothing to "
                "train; unfreeze some, or take a method that trains none, such as l1_norm"
            )
        self.problem = problem
        self.weights = dict(weights)
        self.steps = steps
        self.norm = norm
        self.execution = execution
        self.generate = generate
        self.pairs = 0
        self.divergence_hint: Callable[[], str] = str
        self._values = self.trained()
        self._lent: list[tuple[SubnetConfig, dict[str, Tensor]]] = []
        self._gradients: dict[str, Tensor] = {}
        decayed = [w for w in self.weights.values() if w.ndim > 1]
        free = [w for w in self.weights.values() if w.ndim <= 1]
        self._optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": _WEIGHT_DECAY},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=lr,
            momentum=momentum,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, max(1, steps))
        self._updates: Updates | None = None

    def updates(self, settings: Mapping[str, object], parts: Mapping[str, Stateful]) -> Updates:
        """The batches of all updates, one for each; those after a checkpoint, if one was kept.

        Args:
            settings: all that decides the training, see `train_once`.
            parts: what the loop changes beside the engine, by name.
        """
        self._updates = Updates(
            self.problem,
            self.steps,
            {"engine": self, **parts},
            weights=digest(self.weights),
            settings=dict(settings),
        )
        return self._updates

    def state_dict(self) -> State:
        """Weights, optimizer, schedule and pairs."""
        return {
            "weights": dict(self.weights),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "pairs": self.pairs,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Put them back."""
        TensorState(self.weights).load_state_dict(state_dict["weights"])
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._schedule.load_state_dict(state_dict["schedule"])
        self.pairs = state_dict["pairs"]

    def answer(self, inputs: Inputs, config: SubnetConfig) -> Answer:
        """What one subnet returns in training mode, with its own batch statistics; charged.

        Args:
            inputs: images, shape (N, C, H, W), or other inputs.
            config: what it keeps.
        """
        n_images = count_images(inputs)
        self.pairs += n_images
        self._charge(n_images, self.problem.cost.macs(config))
        values = self.sliced(config)
        return self.problem.supernet.answer(inputs, config, values, training=True)

    def shared_answer(self, inputs: Inputs, config: SubnetConfig) -> Answer:
        """What a subnet that others learn from returns: every rank runs it; charged once.

        Rank 0 alone has gradients, see `losses`.

        Args:
            inputs: images, shape (N, C, H, W), or other inputs.
            config: what it keeps.
        """
        n_images = count_images(inputs)
        self.pairs += n_images
        self.problem.meter.passes(n_images, self.problem.cost.macs(config), backward=True)
        with torch.set_grad_enabled(rank() == 0):
            values = self.sliced(config)
            return self.problem.supernet.answer(inputs, config, values, training=True)

    def losses(self, terms: Sequence[Term], first: Sequence[Tensor] = ()) -> Tensor:
        """Losses of several subnets, one after the other, shape (n,).

        Where several processes train, each runs some of the terms, and all get all losses.

        Args:
            terms: what each subnet adds.
            first: losses, scalars, of what every rank has run, with gradients in rank 0 alone.
        """
        if world() == 1:
            return torch.stack([*first, *(loss for term in terms for loss in term.losses())])
        # Of what has run already the pass back is left, two thirds of the work.
        busy = 2 * self.problem.cost.full_macs if first else 0
        mine = mine_of([3 * term.cost for term in terms], busy)
        with self._charging_for_all():
            found = [term.losses() if own else None for term, own in zip(terms, mine, strict=True)]
        counts = [len(first), *(term.count for term in terms)]
        return exchanged([first if rank() == 0 else None, *found], counts, self._like)

    def logits(self, images: Inputs, config: SubnetConfig) -> Any:
        """What one subnet returns, of a classifier its logits, shape (N, classes); see `answer`."""
        return self.answer(images, config).outputs

    def part_losses(self, inputs: Inputs, targets: Any, configs: Sequence[SubnetConfig]) -> Tensor:
        """Losses of several subnets, each on its own part of the batch, shape (subnets,).

        With cross-entropy they run at once, see `parallel`; with a loss of its own one after the
        other.

        Args:
            inputs: of a batch; what is beyond equal parts is left out.
            targets: of the same.
            configs: what each subnet keeps.

        Raises:
            ValueError: if the batch cannot be divided.
        """
        if world() == 1:
            return self._part_losses(inputs, targets, configs)
        n_images, count = count_images(inputs), len(configs)
        parts = [divided(each, n_images, count) for each in (inputs, targets)]
        if self.chosen(n_images // count) == "sliced":
            costs = map(self.problem.cost.macs, configs)
            run = [partial(self._part_loss, *each) for each in zip(*parts, configs, strict=True)]
            return self.losses([Term(*each) for each in zip(costs, run, strict=True)])
        mine = mine_of([1] * count)
        if self.norm == "joint":  # its batch statistics are over all parts
            mine = [rank() == 0] * count
        chosen = [place for place, own in enumerate(mine) if own]
        found: list[list[Tensor] | None] = [None] * count  # one loss each
        with self._charging_for_all():
            if chosen:
                images, labels = (torch.cat([each[k] for k in chosen]) for each in parts)
                losses = self._part_losses(images, labels, [configs[k] for k in chosen])
                for place, loss in zip(chosen, losses, strict=True):
                    found[place] = [loss]
        return exchanged(found, [1] * count, self._like)

    def _part_losses(self, inputs: Inputs, targets: Any, configs: Sequence[SubnetConfig]) -> Tensor:
        """The same in this process alone."""
        count, task = len(configs), self.problem.task
        n_images = count_images(inputs)
        if task.is_classification and isinstance(inputs, Tensor):
            used = n_images - n_images % count
            logits = self.parallel(inputs[:used], configs)
            each = F.cross_entropy(logits, targets[:used], reduction="none")
            return each.view(count, -1).mean(1)
        both = (inputs, targets)
        parts = (divided(each, n_images, count) if count > 1 else [each] for each in both)
        return torch.stack(
            [
                task.loss_of(self.logits(part, config), wanted)
                for part, wanted, config in zip(*parts, configs, strict=True)
            ]
        )

    def _part_loss(self, inputs: Inputs, targets: Any, config: SubnetConfig) -> list[Tensor]:
        return list(self._part_losses(inputs, targets, [config]))

    def parallel(self, images: Tensor, configs: Sequence[SubnetConfig]) -> Tensor:
        """Training-mode logits of several subnets, each on its own part of the batch.

        Args:
            images: shape (N, C, H, W); N is a multiple of the number of subnets.
            configs: what each subnet keeps.

        Returns:
            Shape (N, classes), part after part; the same for both executions.
        """
        if self.chosen(len(images) // len(configs)) == "sliced":
            parts = images.chunk(len(configs))
            return torch.cat([self.logits(p, c) for p, c in zip(parts, configs, strict=True)])
        self.pairs += len(images)
        self._charge(len(images), self.problem.cost.full_macs)
        return self.problem.supernet.parallel(
            images, configs, self.weights, joint_norm=self.norm == "joint"
        )

    def chosen(self, part: int) -> Execution:
        """Resolve "auto" for subnets that have a part of the batch each.

        Args:
            part: images of each subnet.
        """
        if not self.problem.task.is_classification:
            return "sliced"
        if self.execution != "auto":
            return self.execution
        if self.norm == "separate" and not self.problem.supernet.is_maskable:
            return "sliced"
        is_small = part * self.problem.cost.full_macs < SLICED_FROM
        is_gpu = self.problem.meter.device.type == "cuda"
        return "masked" if is_gpu or is_small or self.norm == "joint" else "sliced"

    def sliced(self, config: SubnetConfig) -> dict[str, Tensor]:
        """A subnet's tensors by state-dict name; parameters that are cut become new leaves.

        `update` brings their gradients to the full weights. A slice with a graph behind it would
        cost a full-size gradient for each dimension it is cut along, and a convolution that reads a
        view is slower than one that reads dense weights.
        """
        if self.generate is not None:
            return self._generated(config, self.generate(self.weights, config))
        values = self.problem.supernet.sliced(config, self._values, with_statistics=False)
        lent = {}
        for name, weight in self.weights.items():
            if values[name].shape == weight.shape:
                values[name] = weight
            elif torch.is_grad_enabled():
                part = values[name].clone(memory_format=memory_format_of(weight))
                lent[name] = values[name] = part.requires_grad_()
        if lent:
            self._lent.append((config, lent))
        return values

    def _generated(self, config: SubnetConfig, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A subnet's tensors, cut out of generated ones; gradients flow back through both."""
        values = self.problem.supernet.sliced(config, full, with_statistics=False)
        for name, weight in full.items():
            is_cut = values[name].shape != weight.shape
            layout = memory_format_of(weight)
            values[name] = values[name].clone(memory_format=layout) if is_cut else weight
        return values

    def joint_norm_error(
        self, images: Tensor, configs: Sequence[SubnetConfig], loss: Callable[[Tensor], Tensor]
    ) -> float:
        """Relative error of the gradient when batch statistics are taken over all subnets together.

        The gradient of a parallel pass with statistics over the whole batch is compared with that
        of separate statistics, which is that of the subnets run one after the other. Both passes
        are charged; weights stay as they are.

        Args:
            images: shape (N, C, H, W); N is a multiple of the number of subnets.
            configs: what each subnet keeps.
            loss: a scalar from logits, shape (N, classes).

        Returns:
            Norm of the difference over norm of the gradient with separate statistics.
        """
        found = []
        for is_joint in (False, True):
            self._charge(len(images), self.problem.cost.full_macs)
            logits = self.problem.supernet.parallel(
                images, configs, self.weights, joint_norm=is_joint
            )
            parts = gradients(loss(logits), list(self.weights.values()), zeros=True)
            found.append(torch.cat([part.flatten() for part in parts]))
        separate, joint = found
        return float((joint - separate).norm() / separate.norm())

    def update(self, loss: Tensor, terms: Tensor | None = None) -> Tensor:
        """One step down the gradient of a scalar; the learning rate follows its cosine.

        Args:
            loss: the scalar.
            terms: what it was made of, shape (n,), for those who record it.

        Returns:
            The terms on the CPU, without a graph, shape (n,); none if none were given. They are
            read together with the loss, as each read waits for the device.

        Raises:
            Diverged: if the loss is not finite.
        """
        read = loss[None] if terms is None else torch.cat([loss[None], terms])
        value, *_ = both = read.detach().cpu()
        if not bool(value.isfinite()):
            way_out = (
                "lower its learning rate or, where channels of the parent are dead, start it from "
                "scratch"
            )
            reason = self.divergence_hint() or way_out
            raise Diverged(f"the supernet's loss is {float(value)}; {reason}")
        self._optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad or world() == 1:  # else the other ranks have run all subnets
            backward(loss)
        places = self._gather_gradients()
        if world() > 1:
            average_gradients(self.weights.values())
        self._optimizer.step()
        # Zero only the entries this step wrote; cheaper than the whole buffer.
        for place in places:
            place.clear()
        self._lent.clear()
        self._schedule.step()
        if self._updates is not None:
            self._updates.tell(value)
        return both[1:]

    def trained(self) -> dict[str, Tensor]:
        """The weights, full-size, by state-dict name, without gradients."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    def _gather_gradients(self) -> list[Place]:
        """Add the gradients of lent slices to those of the full weights; returns where."""
        written = []
        for config, lent in self._lent:
            found = {n: part.grad for n, part in lent.items() if part.grad is not None}
            places = self.problem.supernet.places(config, {n: self._full(n) for n in found})
            for place, gradient in zip(places, found.values(), strict=True):
                place.add(gradient)
            written += places
        return written

    def _full(self, name: str) -> Tensor:
        """The gradient of a full weight; by default zeros that are kept for it."""
        weight = self.weights[name]
        if weight.grad is None:
            if name not in self._gradients:
                self._gradients[name] = torch.zeros_like(weight)
            weight.grad = self._gradients[name]
        return weight.grad

    @property
    def _like(self) -> Tensor:
        """A tensor of the type and on the device of the losses."""
        return next(iter(self.weights.values()))

    @contextmanager
    def _charging_for_all(self) -> Iterator[None]:
        """Charge and count, too, what the other ranks run while the context is open."""
        meter = self.problem.meter
        before = [*meter.counts[1:], self.pairs]
        yield
        now = [*meter.counts[1:], self.pairs]
        own = [after - was for after, was in zip(now, before, strict=True)]
        device = self._like.device
        total = sum_over_ranks(torch.tensor(own, dtype=torch.int64, device=device)).tolist()
        forward, back, pairs = (every - mine for every, mine in zip(total, own, strict=True))
        meter.add_macs(forward, back)
        self.pairs += pairs

    def _charge(self, n_images: int, macs: int) -> None:
        self.problem.meter.passes(n_images, macs, backward=torch.is_grad_enabled())


def starting_weights(problem: Problem, start: Start) -> dict[str, Tensor]:
    """Copies of the parent's parameters, or newly drawn ones, by state-dict name, as leaves.

    Parameters that are frozen (`requires_grad=False`) are left out: subnets use the parent's.

    Args:
        problem: gives the parent; new weights are drawn from its seed.
        start: "parent" or "scratch".
    """
    model = problem.model if start == "parent" else _redrawn(problem.model, problem.seed)
    device, own = problem.meter.device, dict(problem.model.named_parameters())
    return {
        name: parameter.detach().clone().to(device).requires_grad_()
        for name, parameter in model.named_parameters()
        if own[name].requires_grad
    }


def _redrawn(model: nn.Module, seed: int) -> nn.Module:
    """A copy on the CPU in which every layer has drawn its parameters again."""
    fresh = copy_network(model).cpu()
    with fixed_random("weights", seed):
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh

"""Run a subnet inside the full network: sliced weights, no surgery, gradients to all weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.channels.channel_table import is_in
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.resize import (
    KeptPositions,
    Place,
    SizedAttributes,
    axis_sizes,
    resize_tensor,
)
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import Inputs, call
from zoo.core.supernet.masks import masked_inputs, norms_by_part, unmaskable
from zoo.core.tracing.trace import on_meta
from zoo.core.training.task import Answer, answer
from zoo.core.training.train import eval_mode

__all__ = ["CANDIDATE_BATCHES", "RECALIBRATION_BATCHES", "Supernet", "recalibrate", "run_through"]

RECALIBRATION_BATCHES = 8
"""Training batches that the batch-norm statistics of a pruned network are measured on."""

CANDIDATE_BATCHES = 4
"""The same for each candidate of a search, which scores hundreds and only compares them."""


class Supernet:
    """Runs any configuration of a space on the weights of one network.

    A skeleton without data is called with views (``narrow`` for leading channels, otherwise
    ``index_select``) of the given weights, so neither the model nor its modules are touched.

    Args:
        model: the full network; its own parameters and buffers are the default weights.
        space: its channel space.
    """

    def __init__(self, model: nn.Module, space: ChannelSpace) -> None:
        self.space = space
        self._own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._skeleton = on_meta(model)
        self._slots = _slots(self._skeleton)
        self._statistics = _statistics(self._skeleton)
        self._modules = dict(self._skeleton.named_modules())
        self._attributes = SizedAttributes(self._skeleton, space.table)
        self._kept = self._remembered()
        self._mode: bool | None = None  # training or not; None if modules differ

    def __getstate__(self) -> dict[str, object]:
        """All but the cache, which cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        vars(self).update(state)
        self._kept = self._remembered()

    def _remembered(self) -> Callable[[SubnetConfig], KeptPositions]:
        """The positions of a configuration, which a pass asks for several times."""
        find = self.space.table.kept_positions
        return lru_cache(maxsize=16)(lambda config: KeptPositions(find(config)))

    def kept(self, config: SubnetConfig) -> KeptPositions:
        """The kept positions of every axis."""
        return self._kept(config)

    def sliced(
        self,
        config: SubnetConfig,
        weights: Mapping[str, Tensor] | None = None,
        modules: Sequence[str] = ("",),
        *,
        with_statistics: bool = True,
    ) -> dict[str, Tensor]:
        """Return the parameters and buffers of a subnet by state-dict name.

        Buffers are copies, so running them in training mode leaves the full network alone.
        Parameters are views of the full ones, or gathered from them: gradients flow back.

        Args:
            config: what to keep.
            weights: full-size values used instead of the model's own; may be incomplete.
            modules: paths of the modules whose tensors are wanted.
            with_statistics: with the running statistics of batch norms, which a pass in training
                mode only writes.
        """
        config.check(self.space)
        table, parameters = self.space.table, set(self.space.table.parameters)
        kept = self._kept(config)
        values = {}
        for name, own in self._own.items():
            is_left_out = name in self._statistics and not with_statistics
            if is_left_out or not is_in(name, modules):
                continue
            full = own if weights is None else weights.get(name, own)
            part = resize_tensor(table, kept, name, full)
            values[name] = part if name in parameters else part.detach().clone()
        return values

    def places(self, config: SubnetConfig, full: Mapping[str, Tensor]) -> list[Place]:
        """The places of a subnet's parts in full-size tensors, given by state-dict name."""
        kept = self._kept(config)
        return [Place.of(self.space.table, kept, name, tensor) for name, tensor in full.items()]

    def forward(
        self,
        images: Inputs,
        config: SubnetConfig,
        values: Mapping[str, Tensor] | None = None,
        *,
        training: bool = False,
    ) -> Any:
        """Return what a subnet returns: of a classifier logits, shape (N, classes).

        Args:
            images: shape (N, C, H, W), or other inputs.
            config: what to keep.
            values: the subnet's own parameters and buffers, as ``sliced`` or ``recalibrated``
                return them; by default sliced from the model.
            training: use batch statistics, and update those in ``values``.
        """
        values = self.sliced(config) if values is None else values
        return self.answer(images, config, values, training=training).outputs

    def answer(
        self,
        inputs: Inputs,
        config: SubnetConfig,
        values: Mapping[str, Tensor],
        *,
        training: bool,
    ) -> Answer:
        """Return what a subnet returns, and what of it is compared with a teacher's.

        Args:
            inputs: of the network.
            config: what to keep.
            values: the subnet's own parameters and buffers, as ``sliced`` or ``recalibrated``
                return them.
            training: use batch statistics, and update those in ``values``.
        """
        self._switch(training)
        with self._lent(config, values) as network:
            return answer(network, inputs, self.space.part)

    def through(
        self,
        modules: Sequence[str],
        features: Any,
        config: SubnetConfig,
        values: Mapping[str, Tensor],
        *,
        training: bool = False,
    ) -> Any:
        """Return what some modules of a subnet, one after the other, make of features.

        Args:
            modules: paths in order of execution.
            features: what enters the first, shape (N, C, H, W), already narrowed, or the inputs of
                the whole network; not changed.
            config: what is kept.
            values: the parameters and buffers of these modules, as ``sliced`` returns them.
            training: use batch statistics, and update those in ``values``.
        """
        self._switch(training)
        with self._lent(config, values) as network:
            return run_through(network, modules, features)

    def recalibrated(
        self,
        config: SubnetConfig,
        batches: Iterable[Any],
        weights: Mapping[str, Tensor] | None = None,
        modules: Sequence[str] = ("",),
    ) -> dict[str, Tensor]:
        """Return a subnet's tensors with batch-norm statistics measured on ``batches``.

        Mean and variance are averaged over the batches, each batch counting alike.

        Args:
            config: what to keep.
            batches: inputs, such as images (N, C, H, W), or what enters the first of the modules.
            weights: full-size values used instead of the model's own; may be incomplete.
            modules: paths of the modules to measure, which run one after the other.

        Raises:
            ValueError: if there is no batch.
        """
        values = self.sliced(config, weights, modules)
        self._mode = None
        with torch.no_grad(), _averaging_statistics(self._skeleton):
            for name, value in values.items():
                if name.endswith("num_batches_tracked"):
                    value.zero_()
            count = 0
            with self._lent(config, values) as network:
                for images in batches:
                    run_through(network, modules, images)
                    count += 1
        if not count:
            raise ValueError("batch-norm statistics need at least one batch")
        return values

    def parallel(
        self,
        images: Tensor,
        configs: Sequence[SubnetConfig],
        weights: Mapping[str, Tensor] | None = None,
        *,
        joint_norm: bool = False,
    ) -> Tensor:
        """Return the training-mode logits of several subnets in one full-width pass.

        The batch is divided into equal parts, one for each subnet. What a layer reads is masked
        along the batch: a channel masked where it is made would come back through the bias or the
        batch-norm shift behind it. Gradients are those of the subnets run one after the other.

        Args:
            images: shape (N, C, H, W); N is a multiple of the number of subnets.
            configs: what each subnet keeps.
            weights: full-size values used instead of the model's own; may be incomplete.
            joint_norm: take batch statistics over the whole batch, dropped channels and all, not
                over each part; gradients then differ from those of the subnets alone.

        Returns:
            Shape (N, classes), part after part.

        Raises:
            ValueError: if the batch cannot be divided evenly.
            UnsupportedModel: if masks cannot stand for slices in this network.
        """
        if not configs or len(images) % len(configs):
            raise ValueError(
                f"{len(images)} images cannot be divided among {len(configs)} subnets evenly"
            )
        values = self.sliced(SubnetConfig.full(), weights)
        size = len(images) // len(configs)
        self._switch(True)
        with (
            masked_inputs(self._skeleton, self.space, configs, images),
            norms_by_part(self._skeleton, size if not joint_norm else len(images)),
            self._lent(SubnetConfig.full(), values) as network,
        ):
            logits: Tensor = network(images)
            return logits

    @cached_property
    def is_maskable(self) -> bool:
        """Whether ``parallel`` can run, as far as the layers tell."""
        is_exact = all(group.exact for group in self.space.groups)
        return is_exact and not unmaskable(self._skeleton, self.space)

    @contextmanager
    def resized(self, config: SubnetConfig) -> Iterator[nn.Module]:
        """Lend the skeleton with the attributes of a subnet; its tensors come with each call."""
        sizes = axis_sizes(self.space.table, self._kept(config))
        changes = [(self._modules[path], *rest) for path, *rest in self._attributes.at(sizes)]
        before = [getattr(module, name) for module, name, _ in changes]
        for module, name, value in changes:
            object.__setattr__(module, name, value)  # numbers; a module would look for tensors
        try:
            yield self._skeleton
        finally:
            for (module, name, _), value in zip(changes, before, strict=True):
                object.__setattr__(module, name, value)

    @contextmanager
    def running(self, config: SubnetConfig, values: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """Lend the skeleton as a subnet in eval mode, for any number of batches (N, C, H, W).

        Args:
            config: what is kept.
            values: the subnet's parameters and buffers, as ``sliced`` or ``recalibrated`` return
                them.
        """
        self._switch(False)
        with self._lent(config, values) as network:
            yield network

    @contextmanager
    def _lent(self, config: SubnetConfig, values: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """Lend the skeleton in whatever mode it is."""
        with self.resized(config) as skeleton:
            filled = [
                (slots, key, name)
                for slots, key, name in self._slots
                if name in values or name in self._statistics
            ]
            before = [slots[key] for slots, key, _ in filled]
            for slots, key, name in filled:
                slots[key] = values.get(name)
            try:
                yield skeleton
            finally:
                for (slots, key, _), tensor in zip(filled, before, strict=True):
                    slots[key] = tensor

    def _switch(self, training: bool) -> None:
        """Put all modules into a mode, unless they are in it."""
        if self._mode is not training:
            self._skeleton.train(training)
            self._mode = training


def run_through(network: nn.Module, modules: Sequence[str], features: Any) -> Any:
    """Run modules one after the other, the first on a copy, since it may work in place.

    Args:
        network: holds the modules, and their tensors.
        modules: paths in order of execution; the whole network is ``("",)``.
        features: what enters the first, shape (N, C, H, W), or the inputs of the whole network.
    """
    if tuple(modules) == ("",):
        return call(network, features)
    features = features.clone()
    for path in modules:
        features = network.get_submodule(path)(features)
    return features


_Slot = tuple[dict[str, Any], str, str]  # tensors of a module, key, and state-dict name


def _slots(skeleton: nn.Module) -> list[_Slot]:
    """The place of each tensor in its modules; a shared tensor has one name in several places."""
    names = {id(t): n for n, t in (*skeleton.named_parameters(), *skeleton.named_buffers())}
    return [
        (slots, key, names[id(tensor)])
        for module in skeleton.modules()
        for slots in (module._parameters, module._buffers)
        for key, tensor in slots.items()
        if tensor is not None
    ]


def _statistics(model: nn.Module) -> frozenset[str]:
    """Names of the buffers of batch norms."""
    return frozenset(
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_buffers()
    )


@checked()
def recalibrate(model: nn.Module, batches: Iterable[Inputs]) -> None:
    """Measure the batch-norm statistics of ``model`` anew, in place; its mode is kept.

    Args:
        model: a network on the device of the batches.
        batches: images, each of shape (N, C, H, W), or other inputs, each batch counting alike.
    """
    with eval_mode(model), torch.no_grad(), _averaging_statistics(model):
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()
        for images in batches:
            call(model, images)


@contextmanager
def _averaging_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms average the statistics of what they see; all else is in eval mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    handles = []
    for norm in norms:
        norm.train()
        norm.momentum = None
        # None alone has each norm read from the device how often it ran.
        handles.append(norm.register_forward_pre_hook(_Averaging()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class _Averaging:
    """Before each run of a norm: the share of its batch in the mean over all, 1, 1/2, 1/3, ..."""

    def __init__(self) -> None:
        self._runs = 0

    def __call__(self, norm: Any, _inputs: object) -> None:
        if norm.num_batches_tracked is not None:
            self._runs += 1
            norm.momentum = 1.0 / self._runs

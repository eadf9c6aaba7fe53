"""Run a subnet inside the full network: sliced weights, no surgery, gradients to all weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.core.config import SubnetConfig
from zoo.core.resize import Attribute, resize_attributes, resize_tensor
from zoo.core.space import ChannelSpace
from zoo.core.trace import on_meta

__all__ = ["Supernet", "recalibrate"]


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

    def sliced(
        self, config: SubnetConfig, weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the parameters and buffers of a subnet by state-dict name.

        Buffers are copies, so running them in training mode leaves the full network alone.
        Parameters are views of the full ones, or gathered from them: gradients flow back.

        Args:
            config: what to keep.
            weights: full-size values used instead of the model's own; may be incomplete.
        """
        config.check(self.space)
        table, parameters = self.space.table, set(self.space.table.parameters)
        kept = table.kept_positions(config)
        values = {}
        for name, own in self._own.items():
            full = own if weights is None else weights.get(name, own)
            part = resize_tensor(table, kept, name, full)
            values[name] = part if name in parameters else part.detach().clone()
        return values

    def forward(
        self,
        images: Tensor,
        config: SubnetConfig,
        values: Mapping[str, Tensor] | None = None,
        *,
        training: bool = False,
    ) -> Tensor:
        """Return the logits of a subnet, shape (N, classes).

        Args:
            images: shape (N, C, H, W).
            config: what to keep.
            values: the subnet's own parameters and buffers, as ``sliced`` or ``recalibrated``
                return them; by default sliced from the model.
            training: use batch statistics, and update those in ``values``.
        """
        self._skeleton.train(training)
        return self._run(images, config, self.sliced(config) if values is None else values)

    def recalibrated(
        self,
        config: SubnetConfig,
        batches: Iterable[Tensor],
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return a subnet's tensors with batch-norm statistics measured on ``batches``.

        Mean and variance are averaged over the batches, each batch counting alike.

        Args:
            config: what to keep.
            batches: images, each of shape (N, C, H, W).
            weights: full-size values used instead of the model's own; may be incomplete.

        Raises:
            ValueError: if there is no batch.
        """
        values = self.sliced(config, weights)
        with torch.no_grad(), _averaging_statistics(self._skeleton):
            for name, value in values.items():
                if name.endswith("num_batches_tracked"):
                    value.zero_()
            count = 0
            for images in batches:
                self._run(images, config, values)
                count += 1
        if not count:
            raise ValueError("batch-norm statistics need at least one batch")
        return values

    @contextmanager
    def resized(self, config: SubnetConfig) -> Iterator[nn.Module]:
        """Lend the skeleton with the attributes of a subnet; its tensors come with each call."""
        kept = self.space.table.kept_positions(config)
        changes = resize_attributes(self._skeleton, self.space.table, kept)
        with _attributes(self._skeleton, changes):
            yield self._skeleton

    def _run(self, images: Tensor, config: SubnetConfig, values: Mapping[str, Tensor]) -> Tensor:
        with self.resized(config) as skeleton:
            logits: Tensor = functional_call(skeleton, dict(values), (images,))
        return logits


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the batch-norm statistics of ``model`` anew, in place; its mode is kept.

    Args:
        model: a network on the device of the batches.
        batches: images, each of shape (N, C, H, W), each batch counting alike.
    """
    was_training = {module: module.training for module in model.modules()}
    with torch.no_grad(), _averaging_statistics(model):
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()
        for images in batches:
            model(images)
    for module, mode in was_training.items():
        module.training = mode


@contextmanager
def _averaging_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms average the statistics of what they see; all else is in eval mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def _attributes(model: nn.Module, changes: list[Attribute]) -> Iterator[None]:
    old = [(model.get_submodule(path), name) for path, name, _ in changes]
    before = [getattr(module, name) for module, name in old]
    for (module, name), (_, _, value) in zip(old, changes, strict=True):
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in zip(old, before, strict=True):
            setattr(module, name, value)

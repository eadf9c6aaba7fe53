"""rebuild: from a subnet's configuration to a new network that is really smaller."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Kept, kept_atoms, prove
from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.metadata import Shapes, refresh_metadata
from zoo.core.tracing.collector import collector_paused
from zoo.core.tracing.copies import named_tensors

__all__ = ["rebuild"]


@checked()
@collector_paused()
def rebuild(
    model: nn.Module,
    space: ChannelSpace,
    config: SubnetConfig,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a new network that has only the kept channels; ``model`` is not touched.

    The result has the class, mode and device of ``model``, fresh parameters without gradients,
    and timm's metadata (``num_features``, ``feature_info``, ...) at the new widths. Optimizers must
    be built after this, from the new parameters.

    Args:
        model: the network that ``space`` was traced from, or one of the same architecture.
        space: its channel space.
        config: what to keep.
        weights: full-size values by state-dict name, used instead of those of ``model``.

    Raises:
        ValueError: if ``config`` does not fit ``space``.
        UnsupportedModel: if the smaller network is not the one that the space predicts.
    """
    config.check(space)
    _check_shapes(model, space)
    smaller = resized_copy(model, space.table, config, weights)
    trace, size = space.trace_record, space.size
    kept = Kept(kept_atoms(trace, space.table, config))
    refresh_metadata(
        Shapes(model, trace),
        Shapes(smaller, trace, kept),
        lambda: prove(trace, space.table, config, smaller, size, kept),
        trace.ops,
    )
    return smaller


def _check_shapes(model: nn.Module, space: ChannelSpace) -> None:
    for name, tensor in named_tensors(model):
        expected = space.table.shapes.get(name, ())
        if tensor.ndim and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the space was traced from a network "
                f"where it is {expected or 'absent'}; trace the network that is to be rebuilt"
            )

"""A hook that reads logits, shape (N, classes), from whatever a classifier returns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.errors import UnsupportedModel

__all__ = ["LogitsReader", "reading", "unwrapped"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogitsReader:
    """A forward hook that replaces what a network returns by logits, shape (N, classes).

    Attributes:
        in_eval, in_training: where the logits are in what the network returns in either mode: a
            name, a position, or None for all of it.
        is_flat: whether the logits have shape (N, classes) there, not (N, classes, 1, 1).
        is_binary: the network has one logit z; what is returned is (0, z), whose cross-entropy and
            softmax are the binary cross-entropy and the sigmoid of z.
    """

    in_eval: str | int | None = None
    in_training: str | int | None = None
    is_flat: bool = True
    is_binary: bool = False

    @classmethod
    def of(
        cls, in_eval: object, in_training: object, name: str, still: object = None
    ) -> LogitsReader:
        """The reader for what a network returns in both modes.

        Args:
            in_eval: what it returned for some images in eval mode.
            in_training: the same in training mode.
            name: of the network, for messages.
            still: the same in training mode with norms and dropouts in eval mode; it identifies
                the logits of eval mode where several outputs may be logits.

        Raises:
            UnsupportedModel: if it is unclear where the logits are; names the network.
        """
        where = _find(in_eval, name, None)
        logits = _picked(in_eval, where)
        also = _same(in_training, still, logits)
        if also is None:
            also = _find(in_training, name, logits.shape)
        return cls(where, also, logits.ndim == 2, logits.shape[1] == 1)

    @property
    def is_plain(self) -> bool:
        """Whether the network returns logits, shape (N, classes), and nothing else."""
        is_tensor = self.in_eval is None and self.in_training is None
        return is_tensor and self.is_flat and not self.is_binary

    def read(self, output: object, *, training: bool) -> Tensor:
        """Logits, shape (N, classes).

        Args:
            output: what the network returned.
            training: in which mode.

        Raises:
            UnsupportedModel: if there is no tensor of that shape at the known place.
        """
        logits = _picked(output, self.in_training if training else self.in_eval)
        if logits.ndim not in (2, 4):
            raise UnsupportedModel(
                f"the network returned shape {tuple(logits.shape)} where logits, shape (N, "
                "classes), are expected; where its forward pass squeezes, give the dimension"
            )
        logits = logits.flatten(1)
        if self.is_binary:
            return torch.cat([torch.zeros_like(logits), logits], 1)
        return logits

    def __call__(self, module: nn.Module, _inputs: object, output: object) -> Tensor:
        """As a forward hook, in the mode that the network is in."""
        return self.read(output, training=module.training)


@contextmanager
def reading(model: nn.Module, reader: LogitsReader) -> Iterator[nn.Module]:
    """Let a network return logits while the context is open.

    Copies made in this context, and networks cut from it, keep the hook. A network that has one
    returns logits already, in which the reader would look for logits again.
    """
    if any(isinstance(hook, LogitsReader) for hook in model._forward_hooks.values()):
        yield model
        return
    handle = model.register_forward_hook(reader)
    try:
        yield model
    finally:
        handle.remove()


def unwrapped(model: object) -> nn.Module:
    """The network inside `DataParallel`, `DistributedDataParallel` or `torch.compile`.

    Raises:
        UnsupportedModel: if it is no `nn.Module`, or holds a script.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(model, nn.Module) and hasattr(model, "_orig_mod"):  # torch.compile's wrapper
        return unwrapped(model._orig_mod)
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"model is a {type(model).__name__}; pass a torch.nn.Module")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"{path} is" if path else "model is"
            raise UnsupportedModel(
                f"{where} a ScriptModule ({module.original_name}), whose channels cannot be "
                "traced; pass the torch.nn.Module that it was scripted from"
            )
    return model


def _find(output: object, name: str, like: torch.Size | None) -> str | int | None:
    """Where the logits are in an output; `like` is their shape in the other mode, if known."""
    if isinstance(output, Tensor):
        if not _is_logits(output):
            raise UnsupportedModel(
                f"{name} returns a tensor of shape {tuple(output.shape)}; expected logits, shape "
                "(N, classes), unless loss= and metric= say what else it is for"
            )
        return None
    fields = _fields(output)
    if "logits" in fields and _is_logits(fields["logits"]):
        return "logits"
    found: list[str | int] = [key for key, value in fields.items() if _is_logits(value)]
    if len(found) == 1:
        return found[0]
    first = fields.get(0)
    if like is not None and isinstance(first, Tensor) and first.shape == like:
        _LOGGER.warning(
            "%s returns several tensors in training mode, and none equals the logits of eval mode: "
            "the first is trained, since auxiliary heads come behind the logits; if it is another, "
            "return it first, or name it 'logits' in a dict",
            name,
        )
        return 0
    shapes = ", ".join(
        f"{key}: {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in fields.items()
    )
    raise UnsupportedModel(
        f"{name} returns a {type(output).__name__} ({shapes or 'without tensors'}), of which "
        f"{'several' if found else 'none'} may be logits, shape (N, classes); let forward return "
        "the logits alone, or name them 'logits' in a dict; for other tasks give loss= and metric="
    )


def _same(output: object, still: object, logits: Tensor) -> str | int | None:
    """The first place in a training output where the logits of eval mode stand, None if unknown."""
    fields = _fields(output) if not isinstance(output, Tensor) else {}
    found: list[str | int] = [
        key
        for key, value in _fields(still).items()
        if key in fields
        and isinstance(value, Tensor)
        and (value.shape, value.dtype) == (logits.shape, logits.dtype)
        and torch.allclose(value, logits, rtol=1e-3, atol=1e-5)
    ]
    return found[0] if found else None


def _picked(output: object, where: str | int | None) -> Tensor:
    chosen: Any = output if where is None else _fields(output)[where]
    assert isinstance(chosen, Tensor)  # it was one when the reader was made
    return chosen


def _fields(output: object) -> Mapping[Any, object]:
    """What a returned value holds, by name or position."""
    if isinstance(output, Mapping):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return dict(enumerate(output))
    return vars(output) if hasattr(output, "__dict__") else {}


def _is_logits(value: object) -> bool:
    """Whether a value may be logits: shape (N, classes), or (N, classes, 1, 1)."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return value.ndim == 2 or (value.ndim == 4 and value.shape[2:] == (1, 1))

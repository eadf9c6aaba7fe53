"""Architecture: how timm makes a network again, from what it left on the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from zoo.core.errors import said
from zoo.core.networks.model_args import check_model_args, check_model_name
from zoo.core.networks.structure import printable
from zoo.core.tracing.operator_mode import OperatorMode, tensors_in

__all__ = ["MOST_NUMBERS", "Architecture", "make", "require_makeable"]

MOST_NUMBERS = 2**30
"""In a network that a file asks for; the largest convolutional one of timm's has 0.94 * 10**9."""


@dataclass(frozen=True)
class Architecture:
    """How timm makes the parent again.

    Args:
        name: timm's name of the parent, None if it is not timm's: then ``load_pruned`` must be
            given the parent.
        args: arguments of ``timm.create_model``, JSON values.

    Raises:
        ValueError: naming the first argument that does not describe an architecture, such as
            ``pretrained``: ``load_pruned`` takes no such thing from a file.
    """

    name: str | None
    args: dict[str, Any]  # whatever the architecture takes

    def __post_init__(self) -> None:
        check_model_args(self.args, "the arguments of the architecture")

    @classmethod
    def of(cls, parent: nn.Module, **args: Any) -> Architecture:
        """Return the architecture of a network, with the head and input that it has.

        This is a guess from what timm left on the network; ``save_pruned`` tries it.

        Args:
            parent: the full network.
            **args: further arguments that it was created with, as ``drop_rate``.

        Raises:
            ValueError: if one of ``args`` does not describe an architecture.
        """
        described: Any = getattr(parent, "pretrained_cfg", None) or {}
        name = described.get("architecture")
        if name is None or not timm.is_model(name):
            check_model_args(args, "model_args")
            return cls(None, {})
        return cls(name, _kept_by_timm(parent) | _seen(parent) | args)


def make(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Return timm's network; the caller's random numbers stay as they are.

    Args:
        name: timm's name.
        args: arguments of ``timm.create_model`` that ``check_model_args`` has let through.

    Raises:
        ValueError: if timm cannot make it, or it would be larger than any network of timm's.
    """
    check_model_name(name, "architecture")
    require_makeable(name, args)
    with torch.random.fork_rng(devices=()):
        made: nn.Module = timm.create_model(name, **args)
    return made


def require_makeable(name: str, args: Mapping[str, Any]) -> None:
    """Refuse arguments that timm makes no network of, or one larger than any of timm's.

    The network is made on the meta device, where tensors take no memory.

    Args:
        name: timm's name.
        args: arguments of ``timm.create_model`` that ``check_model_args`` has let through.

    Raises:
        ValueError: with timm's reason.
    """
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"), _Bounded():
            timm.create_model(name, **args)
    except Exception as error:  # whatever a constructor may raise on arguments of a stranger
        reason, told = printable(said(error)), printable(str(dict(args)), 200)
        raise ValueError(
            f"timm cannot make {name!r} with args {told}: {reason}; change or remove an argument"
        ) from error


class _Bounded(OperatorMode):
    """Stops before new tensors get more numbers than any network should have."""

    def __init__(self) -> None:
        super().__init__()
        self._made = 0

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not tensors_in((args, kwargs)):
            shape = next((arg for arg in args if isinstance(arg, list | tuple)), ())
            self._made += math.prod(int(size) for size in shape)
            if self._made > MOST_NUMBERS:
                raise ValueError(f"it would have more than {MOST_NUMBERS:,} parameters")
        return func(*args, **kwargs)


def _kept_by_timm(parent: nn.Module) -> dict[str, Any]:
    """Return the arguments that newer versions of timm leave on a network, where they are plain."""
    left: Any = getattr(parent, "_model_args", None)
    kept: dict[str, Any] = {}
    for name, value in left.items() if isinstance(left, dict) else ():
        try:
            kept |= check_model_args({name: value}, "")
        except ValueError:
            continue  # a class or a function; what is made without it is compared when it is saved
    return kept


def _seen(parent: nn.Module) -> dict[str, Any]:
    """Return the arguments that can be read off the network as it is now."""
    seen: dict[str, Any] = {}
    host: Any = parent  # timm's networks have more than a module
    if isinstance(getattr(host, "num_classes", None), int):
        seen["num_classes"] = host.num_classes
        head = host.get_classifier() if hasattr(host, "get_classifier") else None
        if isinstance(head, nn.Linear | nn.Conv2d):  # it may have been replaced
            seen["num_classes"] = head.weight.shape[0]
    first = next((m for m in parent.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None:
        seen["in_chans"] = first.in_channels
    rate: Any = getattr(host, "drop_rate", None)
    if isinstance(rate, float) and 0 < rate < 1:
        seen["drop_rate"] = rate
    return seen

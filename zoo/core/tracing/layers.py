"""torch's layers that state their sizes, and whether other code computes with these numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.core.tracing.copies import named_modules

__all__ = ["SIZED_LAYERS", "watch_widths"]

# Surgery sets what they state.
SIZED_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)
_WIDTHS = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features",
    "num_channels", "num_groups",
)  # fmt: skip


def watch_widths(meta: nn.Module, note: Callable[[], None]) -> None:
    """Call ``note`` whenever Python code computes with a width that a layer states, or compares it.

    Args:
        meta: the network; its layers state numbers of another type from now on.
        note: what is to be done.
    """
    watched = _watched(note)
    for _, module in named_modules(meta):
        if isinstance(module, SIZED_LAYERS):
            held = vars(module)
            held.update({n: watched(held[n]) for n in _WIDTHS if type(held.get(n)) is int})


def _watched(note: Callable[[], None]) -> type[int]:
    """A kind of integers that tell when they are computed with; torch reads them unnoticed."""

    def telling(name: str) -> Callable[..., Any]:
        usual = getattr(int, name)

        def method(self: int, *others: Any) -> Any:
            note()
            return usual(self, *others)

        return method

    return type("int", (int,), {name: telling(name) for name in _OPERATIONS})


_ALONE = (
    "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "index", "int", "float", "str", "repr",
    "neg", "pos", "abs", "invert", "round", "format",
)  # fmt: skip
_WITH_ANOTHER = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and",
    "or", "xor",
)  # fmt: skip
_SWAPPED = tuple(f"r{name}" for name in _WITH_ANOTHER)
_OPERATIONS = tuple(f"__{name}__" for name in (*_ALONE, *_WITH_ANOTHER, *_SWAPPED))

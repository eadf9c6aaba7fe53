"""See the operator calls of a pass, and run them without data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["OperatorMode", "run_on_meta", "tensors_in"]


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Calls `call` in place of every operator, while the context is open."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]  # typed here for all

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator.

        Args:
            func: the operator, a `torch._ops.OpOverload`, which has no public type.
            args: its positional arguments: tensors, numbers, lists.
            kwargs: its named arguments.

        Returns:
            What the network gets as the operator's result.

        Raises:
            NotImplementedError: here; subclasses say what happens.
        """
        raise NotImplementedError


def tensors_in(values: object) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, in order; of any shape."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


# Of these torch computes the shapes in Python, which takes a millisecond each.
_KEEPS_SHAPE = frozenset(
    f"aten.{name}.default"
    for name in ("relu", "gelu", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu")
)
_IN_PLACE = frozenset(name.replace(".default", "_.default") for name in _KEEPS_SHAPE)


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the meta device, without the slow decompositions of frequent ones.

    Args:
        func: the operator.
        args: its positional arguments, tensors without data.
        kwargs: its named arguments.
    """
    name = str(func)
    if name == "aten.native_batch_norm.default":
        images = args[0]
        return torch.empty_like(images), images.new_empty(0), images.new_empty(0)
    if name in _KEEPS_SHAPE and args[0].is_meta and args[0].is_floating_point():
        return torch.empty_like(args[0])
    if name in _IN_PLACE and args[0].is_meta and args[0].is_floating_point():
        return args[0]
    return func(*args, **kwargs)

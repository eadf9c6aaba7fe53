"""See the operator calls of a pass, and run them without data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.core.tracing.operators import operator_of
from zoo.core.tracing.shapes import shape_rule

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
    found: list[Tensor] = []
    _collect((values,), found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        kind: Any = type(value)
        if kind in _NO_TENSORS:
            continue
        if kind is tuple or kind is list:
            _collect(value, found)
        elif isinstance(value, Tensor):
            found.append(value)
        elif kind is dict:
            _collect(value.values(), found)
        else:
            found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


_NO_TENSORS = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the meta device; the shapes of frequent ones are computed here.

    Args:
        func: the operator.
        args: its positional arguments, tensors without data.
        kwargs: its named arguments.
    """
    rule = shape_rule(operator_of(func).name)
    result = None if rule is None else rule(args, kwargs)
    return func(*args, **kwargs) if result is None else result

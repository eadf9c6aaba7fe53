"""What torch says of an operator, asked once: names, arguments, defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Operator", "bind", "operator_of"]


@dataclass(frozen=True, eq=False)
class Operator:
    """The facts about an operator that do not differ from call to call.

    Attributes:
        func: the operator itself, a `torch._ops.OpOverload`, which has no public type.
        name: with namespace and overload, as "aten.add.Tensor".
        kind: without them, as "add".
        arguments: names of its arguments in the order of its schema.
        defaults: default values by name, of whatever type.
        is_pointwise: whether torch tags it as elementwise.
    """

    func: Any
    name: str
    kind: str
    arguments: tuple[str, ...]
    defaults: dict[str, Any]
    is_pointwise: bool


_KNOWN: dict[int, Operator] = {}  # by id, which the operator keeps in use; its hash is slow


def operator_of(func: Any) -> Operator:
    """Return the facts about an operator.

    Args:
        func: the operator, a `torch._ops.OpOverload`, which has no public type.
    """
    known = _KNOWN.get(id(func))
    return _KNOWN.setdefault(id(func), _asked(func)) if known is None else known


def _asked(func: Any) -> Operator:
    arguments = func._schema.arguments
    return Operator(
        func=func,
        name=str(func),
        kind=str(func.overloadpacket).removeprefix("aten."),
        arguments=tuple(argument.name for argument in arguments),
        defaults={a.name: a.default_value for a in arguments if a.has_default_value()},
        is_pointwise=torch.Tag.pointwise in func.tags,
    )


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operator by their names in its schema, defaults filled in.

    Args:
        func: the operator.
        args: its positional arguments.
        kwargs: its named arguments.
    """
    operator = operator_of(func)
    return operator.defaults | dict(zip(operator.arguments, args, strict=False)) | kwargs

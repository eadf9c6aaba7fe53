"""The chain of module calls that a network is, read from one pass on the meta device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.channels.channel_group import ChannelGroup
from zoo.core.channels.channel_table import is_in
from zoo.core.channels.space import ChannelSpace, timm_ordinals
from zoo.core.data.inputs import tensors_of
from zoo.core.tracing.entry import InputSize, blank_inputs, enter
from zoo.core.tracing.trace import on_meta

__all__ = ["Call", "inner_groups", "read_links"]

_Key = tuple[int, int]  # identity and version of a tensor


@dataclass
class Call:
    """One call of a module: the tensor that went in, the one that came out, the calls inside."""

    path: str
    entered: _Key | None
    left: _Key | None = None
    reads_several: bool = False
    is_pooling: bool = False
    parts: list[Call] = field(default_factory=list)

    @property
    def is_chain(self) -> bool:
        """Whether the module only passes a tensor through its parts, one after the other."""
        if not self.parts or None in (self.entered, self.left):
            return False
        keys = [self.entered, *(part.left for part in self.parts)]
        return keys == [*(part.entered for part in self.parts), self.left]


def _read_calls(model: nn.Module, size: InputSize) -> tuple[Call, dict[str, int]]:
    """The tree of module calls of one pass on the meta device, and calls by path."""
    meta = on_meta(model)
    stack: list[Call] = [Call("", None)]
    counts: dict[str, int] = {}
    alive: list[Any] = []  # whatever modules return; keeps identities from being used again

    def begin(path: str, inputs: tuple[Any, ...]) -> None:
        call = Call(path, _key(inputs[0]) if len(inputs) == 1 else None)
        call.reads_several = len(list(tensors_of(inputs))) > 1
        counts[path] = counts.get(path, 0) + 1
        stack[-1].parts.append(call)
        stack.append(call)

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.left = _key(output)
        call.is_pooling = _is_pooling(module, inputs, output)
        alive.append((inputs, output))

    for path, module in meta.named_modules():
        module.register_forward_pre_hook(lambda _m, inputs, path=path: begin(path, inputs))
        module.register_forward_hook(leave)
    with torch.no_grad():
        enter(meta, size, blank_inputs(meta, size))
    return stack[0].parts[0], counts


def _key(tensor: object) -> _Key | None:
    return (id(tensor), tensor._version) if isinstance(tensor, Tensor) else None


def _is_pooling(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> bool:
    """Whether a module without parameters makes maps smaller; a global pooling leaves no map."""
    if next(module.parameters(), None) is not None or len(inputs) != 1:
        return False
    if not (isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
        return False
    if inputs[0].ndim != 4 or output.ndim != 4:
        return False
    return 1 < output.shape[2:].numel() < inputs[0].shape[2:].numel()


def read_links(model: nn.Module, size: InputSize) -> tuple[list[Call], Call, dict[str, int]]:
    """The network as a chain of calls; modules that merely run their children are expanded.

    A module all of whose parameters are one block for timm's ``group_matcher`` stays whole.

    Returns:
        The links in order of execution, the call of the whole network, and how often each module
        is called, by path.
    """
    root, counts = _read_calls(model, size)
    ordinals = timm_ordinals(model, coarse=False)
    parts = root.parts or [root]
    return [link for part in parts for link in _taken_apart(part, ordinals)], root, counts


def inner_groups(space: ChannelSpace, modules: Sequence[str]) -> tuple[ChannelGroup, ...]:
    """The groups all of whose members lie in some modules."""
    return tuple(
        group
        for group in space.groups
        if all(is_in(member.tensor, modules) for member in group.members)
    )


def _taken_apart(call: Call, ordinals: dict[str, int]) -> Iterator[Call]:
    # What reads or returns several tensors is no link: its parts are, as far as one feeds the next.
    is_link = call.left is not None and not call.reads_several
    is_whole = not call.parts or (is_link and not call.is_chain)
    if is_whole or _is_one_block(call.path, ordinals):
        yield call
        return
    for part in call.parts:
        yield from _taken_apart(part, ordinals)


def _is_one_block(path: str, ordinals: dict[str, int]) -> bool:
    """Whether timm counts all parameters of a module as one block."""
    return len({ordinal for name, ordinal in ordinals.items() if is_in(name, (path,))}) == 1

"""Which attributes of modules hold a number of channels, and not just an equal number.

A module that splits, slices or reshapes channels may hold their number as an attribute. That a
number equals a width proves nothing: it may be a temperature or a kernel size. So an attribute
changes only if the smaller network is not what the table predicts without, and is with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from zoo.core.channels.channel_table import ChannelTable, Follower, Held
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Mismatch, prove_on_meta
from zoo.core.channels.resize import is_sized_layer, resized_on_meta
from zoo.core.tracing.atoms import Trace
from zoo.core.tracing.entry import InputSize

__all__ = ["with_held"]

_Kind = tuple[type, str, int]  # class of the module, name of the attribute, which of its axes
_Found = tuple[frozenset[_Kind], Mismatch | None]
_TOGETHER = 2  # attributes of one module that one call may need at once


def with_held(
    model: nn.Module,
    trace: Trace,
    table: ChannelTable,
    configs: Sequence[SubnetConfig],
    size: InputSize,
) -> ChannelTable:
    """Return the table with the attributes that must follow the widths.

    A network whose code meets no number of channels has none. Modules of the same class are treated
    alike. Attributes are added where the smaller network differs first, as few at a time as bring
    it further.

    Args:
        model: the network; not touched.
        trace: its trace.
        table: made from the trace.
        configs: what smaller networks keep, the first less than all of every group. It is tried,
            then the second; all tell widths apart that are equal in the first by chance.
        size: what enters, see `Entry`.

    Raises:
        Mismatch: if the smaller network differs from the prediction whatever is changed, or if
            several ways to change attributes bring it equally far.
    """
    if trace.is_blind and not trace.is_trained:
        return table
    attempt = _Attempt(model, trace, table, configs, size, _candidates(model, table))
    chosen: frozenset[_Kind] = frozenset()
    mismatch = attempt.mismatch(chosen, configs[0])
    while mismatch is not None:
        found = _further(attempt, chosen, mismatch)
        if found is None:
            raise mismatch
        chosen, mismatch = found
    for config in configs[1:2]:
        mismatch = attempt.mismatch(chosen, config)
        if mismatch is not None:
            raise mismatch
    return attempt.table(chosen)


@dataclass(frozen=True)
class _Attempt:
    """Builds and proves the smaller network with some attributes changed."""

    model: nn.Module
    trace: Trace
    plain_table: ChannelTable  # without attributes
    configs: Sequence[SubnetConfig]
    size: InputSize
    candidates: dict[_Kind, list[Held]]

    def table(self, chosen: frozenset[_Kind]) -> ChannelTable:
        """The table with attributes of some kinds, in the order of execution."""
        kinds = [kind for kind in self.candidates if kind in chosen]
        return replace(self.plain_table, held=tuple(h for k in kinds for h in self.candidates[k]))

    def mismatch(self, chosen: frozenset[_Kind], config: SubnetConfig) -> Mismatch | None:
        """First difference of the smaller network from the prediction; None if there is none."""
        table = self.table(chosen)
        try:
            smaller = resized_on_meta(self.model, table, config)
            prove_on_meta(self.trace, table, config, smaller, self.size)
        except Mismatch as mismatch:
            return mismatch
        return None

    def reached(self, mismatch: Mismatch | None) -> int:
        """Number of calls that were as predicted, one more than there are without a mismatch."""
        if mismatch is None:
            return len(self.trace.ops) + 1
        return len(self.trace.ops) if mismatch.step is None else mismatch.step


def _further(attempt: _Attempt, chosen: frozenset[_Kind], mismatch: Mismatch) -> _Found | None:
    """The one smallest set of attributes to add that brings the proof further, and where to."""
    if mismatch.step is None:
        return None
    where = attempt.trace.ops[mismatch.step].module
    for nearby in _nearby(attempt, chosen, where):
        for count in range(1, _TOGETHER + 1):
            found = []
            for added in combinations(nearby, count):
                more = chosen | set(added)
                after = attempt.mismatch(more, attempt.configs[0])
                if attempt.reached(after) > attempt.reached(mismatch):
                    found.append((more, after))
            if found:
                return _only_furthest(attempt, found)
    return None


def _only_furthest(attempt: _Attempt, found: list[_Found]) -> _Found | None:
    """The one that gets furthest at all configurations, None if several do."""
    left = _furthest(found, [attempt.reached(mismatch) for _, mismatch in found])
    for config in attempt.configs[1:]:
        if len(left) > 1:
            after = [attempt.mismatch(chosen, config) for chosen, _ in left]
            left = _furthest(left, [attempt.reached(mismatch) for mismatch in after])
    return left[0] if len(left) == 1 else None


def _furthest(found: list[_Found], reached: list[int]) -> list[_Found]:
    return [one for one, far in zip(found, reached, strict=True) if far == max(reached)]


def _nearby(attempt: _Attempt, chosen: frozenset[_Kind], where: str) -> Iterator[list[_Kind]]:
    """Kinds of attributes of the module that ran, then those of the modules around it."""
    path = "" if where == type(attempt.model).__name__ else where
    around = [path.rsplit(".", n)[0] if n else path for n in range(path.count(".") + 1)]
    for paths in ({path}, {*around[1:], ""} - {path}):
        yield [
            kind
            for kind, held in attempt.candidates.items()
            if kind not in chosen and any(one.path in paths for one in held)
        ]


def _candidates(model: nn.Module, table: ChannelTable) -> dict[_Kind, list[Held]]:
    """The attributes that equal a size which their module meets, by kind."""
    root = type(model).__name__
    kinds: dict[_Kind, list[Held]] = {}
    ranks: dict[tuple[str, str], int] = {}
    for follower in dict.fromkeys(table.followers):
        path = "" if follower.module == root else follower.module
        module = model.get_submodule(path)
        if is_sized_layer(module):
            continue
        for name, value in vars(module).items():
            if _holds(value, follower):
                rank = ranks.get((path, name), 0)
                ranks[path, name] = rank + 1
                kinds.setdefault((type(module), name, rank), []).append(Held(path, name, follower))
    return kinds


def _holds(value: Any, follower: Follower) -> bool:
    """Whether a value, of whatever type, is the sizes of a follower."""
    if type(value) is int:  # a flag is an instance of int, and no number of channels
        return follower.sizes == (value,) and value > 1
    if type(value) in (list, tuple, torch.Size):
        return all(type(part) is int for part in value) and tuple(value) == follower.sizes
    return False

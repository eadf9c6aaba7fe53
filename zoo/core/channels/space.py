"""ChannelSpace: the channel groups of a network, traced from the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, overload

import numpy as np
from torch import nn

from zoo.core.arguments import check_argument
from zoo.core.channels.attributes import with_held
from zoo.core.channels.channel_group import ChannelGroup, Pinned
from zoo.core.channels.channel_table import ChannelTable
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Mismatch
from zoo.core.channels.table_builder import build_table
from zoo.core.errors import UnsupportedModel, unknown_name
from zoo.core.tracing.atoms import Op, Trace
from zoo.core.tracing.collector import collector_paused
from zoo.core.tracing.copies import named_tensors
from zoo.core.tracing.entry import Entry, InputSize, image_size
from zoo.core.tracing.trace import on_meta, trace_model

__all__ = ["ChannelSpace", "timm_ordinals"]

_PROBES = 64  # rounds of pinning after which a network is given up
_CONFIGS = 6  # configurations that tell apart what follows which widths


@dataclass(frozen=True)
class ChannelSpace:
    """Every group of channels that can be pruned, and where its channels lie.

    Attributes:
        input_size: (C, H, W) of one image; the costs hold for this size.
        inexact: whether groups are free whose channels an operator mixes.
        table: the groups and their places, for surgery, supernet and cost.
        trace_record: the pass over the network that the table was made from.
        stages: module paths at whose outputs the stages end, from timm's ``feature_info``; empty
            where the model has none.
        entry: what enters, unless it is images alone into the whole network.
    """

    input_size: tuple[int, int, int]
    inexact: bool
    table: ChannelTable = field(repr=False)
    trace_record: Trace = field(repr=False, compare=False)
    stages: tuple[str, ...]
    entry: Entry | None = field(default=None, repr=False)

    @classmethod
    @collector_paused()
    def trace(
        cls, model: nn.Module, input_size: InputSize = (3, 224, 224), inexact: bool = False
    ) -> ChannelSpace:
        """Return the space of ``model``, which is not touched.

        The network runs once on the meta device. If its code meets numbers of channels, copies in
        which groups have lost some channels are traced, too; an operator that does not follow pins
        the channels it reads.

        Args:
            model: any network that maps a batch of images (N, C, H, W) to a tensor.
            input_size: (C, H, W) of one image; or, where the network takes other inputs or a part
                of it alone is to be traced, an ``Entry``.
            inexact: free the groups that an ECA gate, a layer norm or a group norm makes inexact:
                there the remaining channels change when one is dropped.

        Raises:
            UnsupportedModel: if the forward pass cannot be traced; the message names the module.
        """
        check_argument("model", model, nn.Module)
        check_argument("input_size", input_size, Sequence[int] | Entry)
        entry = input_size if isinstance(input_size, Entry) else None
        image, size = image_size(input_size), entry or image_size(input_size)
        trace = trace_model(on_meta(model), size)
        ordinals = {
            "stages": timm_ordinals(model, coarse=True),
            "blocks": timm_ordinals(model, coarse=False),
        }
        for _ in range(_PROBES):
            table = build_table(trace, inexact=inexact, **ordinals)
            try:
                table = with_held(model, trace, table, _Probes(table), size)
            except Mismatch as mismatch:
                _pin(trace, mismatch, model)
            else:
                return cls(image, inexact, table, trace, _stages(model, trace), entry)
        raise UnsupportedModel(
            f"{type(model).__name__} still differs from its channel table after {_PROBES} rounds"
        )

    @property
    def size(self) -> InputSize:
        """What enters: (C, H, W) of one image, or the entry."""
        return self.entry or self.input_size

    @property
    def part(self) -> str:
        """Path of the part that was traced, and whose multiply-adds count; "" for all."""
        return self.entry.part if self.entry else ""

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The prunable groups, in order of execution."""
        return self.table.groups

    @property
    def pinned(self) -> tuple[Pinned, ...]:
        """The channels that cannot be pruned, each with its reason."""
        return self.table.pinned

    @property
    def sizes(self) -> np.ndarray:
        """Number of channels of each group, int64, shape (G,)."""
        return np.array([group.size for group in self.groups], dtype=np.int64)

    @property
    def tried(self) -> SubnetConfig:
        """A configuration that keeps less of every group.

        It was proved while tracing, unless the code of the network meets no number of channels.
        """
        return _Probes(self.table)[0]

    def group(self, name: str) -> ChannelGroup:
        """Return the group called ``name``.

        Raises:
            ValueError: if there is none; the message has the nearest names.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise unknown_name("channel group", name, [group.name for group in self.groups])


class _Probes(Sequence[SubnetConfig]):
    """Configurations to try, made when asked for; the first keeps about half of every group.

    The second keeps an odd number of first channels: no halves and quarters of these are alike. The
    others are random, as the first.
    """

    def __init__(self, table: ChannelTable) -> None:
        self._table = table
        self._made: dict[int, SubnetConfig] = {}

    def __len__(self) -> int:
        return _CONFIGS

    @overload
    def __getitem__(self, index: int) -> SubnetConfig: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SubnetConfig]: ...
    def __getitem__(self, index: int | slice) -> SubnetConfig | Sequence[SubnetConfig]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(_CONFIGS))]
        seed = range(_CONFIGS)[index]
        if seed not in self._made:
            self._made[seed] = _probe(self._table, seed)
        return self._made[seed]


def _probe(table: ChannelTable, seed: int) -> SubnetConfig:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in table.groups:
        least, most = max(1, group.size // 3), max(2, group.size * 3 // 4)
        width = int(rng.integers(1, group.size + 1) if seed else rng.integers(least, most))
        chosen = np.sort(rng.choice(group.size, size=width, replace=False))
        if seed == 1:
            chosen = np.arange(min(group.size * 2 // 3 | 1, group.size))
        keep[group.name] = tuple(chosen.tolist())
    return SubnetConfig(keep)


def _pin(trace: Trace, mismatch: Mismatch, model: nn.Module) -> None:
    """Pin the channels of the operator that did not follow, in all modules of its kind."""
    if mismatch.step is None:
        for name in mismatch.tensors:
            for label in trace.tensors[name].values():
                trace.atoms.pin(label, "its channels are rearranged by a number held in code")
        return
    # The call that stopped may have no channels left to pin: then what it depends on in its module.
    for step in (_first_with_channels(trace.ops, mismatch.step), mismatch.step):
        if _pin_around(trace, trace.ops[step], model):
            return
    raise mismatch


def _pin_around(trace: Trace, culprit: Op, model: nn.Module) -> bool:
    """Pin what a call touches, or else more and more around it; tell whether any of it was free."""
    kinds = {path or type(model).__name__: type(module) for path, module in model.named_modules()}
    alike = [op for op in trace.ops if kinds.get(op.module) == kinds.get(culprit.module)]
    scopes = [[op for op in alike if op.name == culprit.name], alike]
    path = culprit.module
    while path:
        scopes.append([op for op in trace.ops if op.module.startswith(path)])
        path = path.rpartition(".")[0]
    where = f"{culprit.name} in {culprit.module}"
    # Wider and wider, until something is pinned that was not.
    return any(_pin_channels(trace, ops, where) for ops in scopes)


def _first_with_channels(ops: Sequence[Op], step: int) -> int:
    """The first call that has channels, of one and of those in its module that depend on it."""
    reached = set[object]()
    for index, op in enumerate(ops[step:], step):
        if index == step or any(isinstance(s, tuple) and s[0] in reached for s in op.sources):
            reached.add(index)
            has_channels = any(labels for _, labels in (*op.inputs, *op.outputs))
            if op.module == ops[step].module and has_channels:
                return index
    return step


def _pin_channels(trace: Trace, ops: Sequence[Op], where: str) -> bool:
    """Pin what operators read and make; tell whether any of it was free."""
    known = np.zeros(trace.atoms.count + 1, dtype=bool)
    known[-1] = True  # fixed positions
    for label, _ in trace.atoms.pinned:
        known[label] = True
    is_new = False
    for op in ops:
        for _, labels in (*op.inputs, *op.outputs):
            for label in labels.values():
                is_new = is_new or not known[label].all()
                trace.atoms.pin(label, f"{where} holds its number of channels in code")
    return is_new


def timm_ordinals(model: nn.Module, *, coarse: bool) -> dict[str, int]:
    """Return the ordinal of the stage (coarse) or block of every parameter, as timm counts them.

    Empty where the network has no ``group_matcher``.
    """
    host: Any = model  # any network may have timm's group_matcher
    if not hasattr(host, "group_matcher"):
        return {}
    from timm.models import group_parameters

    try:
        matcher = host.group_matcher(coarse=coarse)
    except AssertionError:  # how timm says that a network has no such grouping
        return {}
    # It asks for names alone, and ours come sooner.
    named = [each for each in named_tensors(model) if isinstance(each[1], nn.Parameter)]
    host = SimpleNamespace(named_parameters=lambda: named)
    matched: Any = group_parameters(host, matcher, reverse=True)
    return {name: int(ordinal) for name, ordinal in matched.items()}


def _stages(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """Return the modules whose outputs (N, C, H, W) end a stage, as far as the model names them."""
    infos: Any = getattr(model, "feature_info", None) or ()
    names = [info.get("module") for info in getattr(infos, "info", infos)]
    maps = {path for path, (shape, _) in trace.outputs.items() if len(shape) == 4}
    return tuple(name for name in names if name in maps)

"""Group the channels of a trace and write down where each group lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.channels.channel_group import ChannelGroup, Member, Pinned
from zoo.core.channels.channel_table import Axis, ChannelTable, Follower, Read
from zoo.core.tracing.atoms import FIXED, Trace

__all__ = ["build_table"]

Place = tuple[str, int]  # name of a tensor, dimension

# Operators that are given sizes, which their module may hold as attributes.
_SIZED = frozenset(
    ("split", "split_with_sizes", "slice", "convolution", "view", "_unsafe_view", "expand",
     "native_batch_norm", "native_group_norm", "native_layer_norm")
)  # fmt: skip


def build_table(
    trace: Trace, *, inexact: bool, stages: dict[str, int], blocks: dict[str, int]
) -> ChannelTable:
    """Return the table of a trace.

    Args:
        trace: of the pass over the network.
        inexact: free the groups whose channels an operator mixes.
        stages: stage ordinal of each parameter name; empty if unknown.
        blocks: block ordinal of each parameter name; empty if unknown.
    """
    return _Builder(trace, inexact).table(stages, blocks)


class _Builder:
    """Groups the components of a trace; every attribute is indexed by component."""

    def __init__(self, trace: Trace, inexact: bool) -> None:
        self.trace = trace
        self.component = trace.atoms.components()
        self.count = int(self.component.max()) + 1 if len(self.component) else 0
        self.places = [(n, d) for n, labels in trace.tensors.items() for d in labels]
        order = {place: i for i, place in enumerate(trace.roles)}
        self.places.sort(key=lambda place: order.get(place, len(order)))
        self.made = self._made()
        self.mixed = self._first_reason(trace.atoms.mixed)
        self.reason = self._first_reason(trace.atoms.pinned)
        if not inexact:
            for index in np.flatnonzero(self.mixed != ""):
                self.reason[index] = self.reason[index] or str(self.mixed[index])
        self.made_by = self._makers()
        self.group = self._group()

    def _first_reason(self, facts: Sequence[tuple[np.ndarray, str]]) -> np.ndarray:
        reasons = np.full(self.count, "", dtype=object)
        for label, reason in reversed(facts):
            reasons[self.component[label]] = reason
        return reasons

    def _made(self) -> _Positions:
        """Component and place of every position at which a layer makes channels, in order."""
        roles = self.trace.roles
        made = [i for i, place in enumerate(self.places) if roles.get(place) == "out"]
        labels = [self.trace.tensors[self.places[i][0]][self.places[i][1]] for i in made]
        atoms = np.concatenate([np.empty(0, dtype=np.int64), *labels])
        return _Positions(self.component[atoms], np.repeat(made, [len(a) for a in labels]))

    def _makers(self) -> np.ndarray:
        """Return for every component the place of the first layer that makes it, -1 if none."""
        makers = np.full(self.count, -1)
        # Of several values for one index the last stays.
        makers[self.made.component[::-1]] = self.made.place[::-1]
        return makers

    def _group(self) -> np.ndarray:
        """Return the group of every component, shape (components,), -1 where it is pinned.

        Two components share a group if they occupy the same positions in every tensor, that is if
        they lie equally often in every place.
        """
        classes = self._classes()
        free = (self.reason == "") & (self.made_by >= 0)
        group = 2 * classes + (self.mixed != "")
        single = free & (np.bincount(group[free], minlength=2 * self.count)[group] == 1)
        self.reason[single] = "a single channel"
        group[~free | single] = -1
        return self._in_order(group)

    def _classes(self) -> np.ndarray:
        """Number equal components alike: those that lie equally often in every place."""
        # Many places hold the same components in the same order: one of them tells it all.
        labels = [label for found in self.trace.tensors.values() for label in found.values()]
        places = [self.component[label] for label in labels]
        distinct = list({place.tobytes(): place for place in places}.values())
        component = np.concatenate([np.empty(0, dtype=np.int64), *distinct])
        place = np.repeat(np.arange(len(distinct)), [len(each) for each in distinct])
        lies, often = np.unique(component * len(distinct) + place, return_counts=True)
        component, place = np.divmod(lies, max(len(distinct), 1))
        told = np.stack([place, often], axis=1).astype(np.int64)
        ends = np.searchsorted(component, np.arange(self.count + 1))
        # Neighbours mostly lie in the same places: the first of such a run stands for it.
        starts = self._runs(told, ends)
        text, width = told.tobytes(), told.itemsize * 2
        known: dict[bytes, int] = {}
        numbers = [
            known.setdefault(text[a * width : b * width], len(known))
            for a, b in zip(ends[starts].tolist(), ends[starts + 1].tolist(), strict=True)
        ]
        return np.repeat(np.array(numbers, dtype=np.int64), np.diff([*starts, self.count]))

    def _runs(self, told: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """First components of the runs of components of which the same is told.

        Args:
            told: rows of all components, one component after the other, shape (n, 2).
            ends: where the rows of each component start, and the last ones end.
        """
        counts = np.diff(ends)
        # A row is as the one of the component before if it is as many rows further up.
        owner = np.repeat(np.arange(self.count), counts)
        before = np.arange(len(told)) - np.append(0, counts[:-1])[owner]
        is_other = (told != told[np.maximum(before, 0)]).any(axis=1)
        differs = np.append(True, counts[1:] != counts[:-1])[: self.count]
        differs[owner[is_other]] = True
        differs[:1] = True
        found: np.ndarray = np.flatnonzero(differs)
        return found

    def _in_order(self, group: np.ndarray) -> np.ndarray:
        """Number the groups by the place and position at which they are made first."""
        found, first = np.unique(group[self.made.component], return_index=True)
        order = found[np.argsort(first)]
        order = order[order >= 0]
        numbers = np.full(2 * self.count + 1, -1)  # the last entry serves -1
        numbers[order] = np.arange(len(order))
        renumbered: np.ndarray = numbers[group]
        return renumbered

    def _channels(self) -> np.ndarray:
        """Return the index of every component within its group, in order of position."""
        channel = np.full(self.count, -1)
        found, first = np.unique(self.made.component, return_index=True)
        order = found[np.argsort(first)]
        order = order[self.group[order] >= 0]
        order = order[np.argsort(self.group[order], kind="stable")]
        sizes = np.bincount(self.group[order])
        starts = np.cumsum(sizes) - sizes
        channel[order] = np.arange(len(order)) - np.repeat(starts, sizes)
        return channel

    def table(self, stages: dict[str, int], blocks: dict[str, int]) -> ChannelTable:
        """Return the table, with the stage and block of each parameter where they are known."""
        axes = _Axes(self.component, self.group, self._channels())
        tensors = {place: axes.of(self.trace.tensors[place[0]][place[1]]) for place in self.places}
        products = tuple(
            (p.module, p.factor, tuple(axes.of(label) for label in p.labels))
            for p in self.trace.products
        )
        outputs = self._outputs(axes)
        followers = tuple(self._followers(axes))
        reads = tuple(dict.fromkeys(self._reads(axes)))
        groups = self._groups(axes, tensors, stages, blocks)
        used = tuple(axes.distinct)
        return ChannelTable(
            groups,
            self._pinned(),
            used,
            tensors,
            self.trace.shapes,
            tuple(self.trace.parameters),
            products,
            outputs,
            followers,
            reads,
            frozenset(self.trace.depthwise),
        )

    def _groups(
        self,
        axes: _Axes,
        tensors: dict[tuple[str, int], int],
        stages: dict[str, int],
        blocks: dict[str, int],
    ) -> tuple[ChannelGroup, ...]:
        count = self.group.max(initial=-1) + 1
        members: list[list[Member]] = [[] for _ in range(count)]
        for place in self.places:
            role = self.trace.roles.get(place, "other")
            for index, positions in axes.positions(tensors[place]):
                members[index].append(Member(*place, positions, role))  # type: ignore[arg-type]
        joined = np.concatenate(self.trace.atoms.added or [np.empty(0, int)])
        added = set(self.group[self.component[joined[joined != FIXED]]].tolist())
        makers = [[m for m in found if m.role == "out"] for found in members]
        names = _names([found[0].tensor for found in makers])
        mixed = set(self.group[self.mixed != ""].tolist())
        return tuple(
            ChannelGroup(
                name=names[index],
                size=len(members[index][0].index),
                stage=stages.get(makers[index][0].tensor),
                block=blocks.get(makers[index][0].tensor),
                residual=index in added and len(makers[index]) > 1,
                exact=index not in mixed,
                members=tuple(members[index]),
            )
            for index in range(count)
        )

    def _pinned(self) -> tuple[Pinned, ...]:
        found: dict[tuple[str, str], int] = {}
        for index in np.flatnonzero((self.group < 0) & (self.made_by >= 0)):
            where = _layer(self.places[self.made_by[index]][0])
            key = (where, str(self.reason[index]))
            found[key] = found.get(key, 0) + 1
        for name in self.trace.unused:  # the weight comes first and tells the width
            width = self.trace.shapes[name][:1] or (1,)
            found.setdefault((_layer(name), "no pass reads it, so it keeps its widths"), *width)
        return tuple(Pinned(where, count, reason) for (where, reason), count in found.items())

    def _outputs(self, axes: _Axes) -> dict[str, tuple[int, int | None]]:
        widths: dict[str, tuple[int, int | None]] = {}
        for path, (shape, labels) in self.trace.outputs.items():
            dim = 1 if len(shape) == 4 else len(shape) - 1
            if dim > 0:
                widths[path] = shape[dim], axes.of(labels[dim]) if dim in labels else None
        return widths

    def _reads(self, axes: _Axes) -> Iterable[Read]:
        """Yield the weights that read channels of groups."""
        for module, name, label in self.trace.reads:
            axis = axes.of(label)
            if not axes.distinct[axis].groups:
                continue
            own = self.trace.tensors.get(name or "", {})
            roles = [self.trace.roles.get((name or "", d)) for d in own if own[d][0] == label[0]]
            yield Read(module, name if roles == ["in"] else None, axis)

    def _followers(self, axes: _Axes) -> Iterable[Follower]:
        """Yield the sizes that code outside of layers may hold as numbers: parts and groups."""
        for op in self.trace.ops:
            if op.name.split(".")[1] not in _SIZED:
                continue
            parts: dict[int, list[tuple[int, int]]] = {}
            for shape, labels in (*op.inputs, *op.outputs):
                for dim, label in labels.items():
                    axis = axes.of(label)
                    if axes.distinct[axis].groups:
                        yield Follower(op.module, (shape[dim],), (axis,))
            if len(op.outputs) < 2:
                continue
            for shape, labels in op.outputs:
                for dim, label in labels.items():
                    parts.setdefault(dim, []).append((shape[dim], axes.of(label)))
            for found in parts.values():
                if len(found) > 1:
                    yield Follower(
                        op.module, tuple(s for s, _ in found), tuple(a for _, a in found)
                    )


@dataclass(frozen=True)
class _Positions:
    """Positions along dimensions of tensors: which component lies there, and in which place."""

    component: np.ndarray
    place: np.ndarray


class _Axes:
    """Gives equal dimensions the same axis."""

    def __init__(self, component: np.ndarray, group: np.ndarray, channel: np.ndarray) -> None:
        self._group = np.append(group[component], -1)  # the last entry serves FIXED
        self._channel = np.append(channel[component], -1)
        self._known: dict[bytes, int] = {}
        self._of: dict[int, tuple[np.ndarray, int]] = {}  # by id, which the label keeps in use
        self._positions: dict[int, list[tuple[int, np.ndarray]]] = {}
        self.distinct: list[Axis] = []

    def of(self, label: np.ndarray) -> int:
        if id(label) in self._of:
            return self._of[id(label)][1]
        axis = Axis(self._group[label], self._channel[label])
        key = axis.group.tobytes() + axis.channel.tobytes()
        if key not in self._known:
            self._known[key] = len(self.distinct)
            self.distinct.append(axis)
        self._of[id(label)] = label, self._known[key]
        return self._known[key]

    def positions(self, index: int) -> list[tuple[int, np.ndarray]]:
        """The groups along an axis, each with its positions, shape (size, positions each)."""
        if index not in self._positions:
            axis = self.distinct[index]
            found = [(group, _positions(axis, group)) for group in axis.groups]
            self._positions[index] = found
        return self._positions[index]


def _positions(axis: Axis, group: int) -> np.ndarray:
    here = np.flatnonzero(axis.group == group)
    channels = axis.channel[here]
    each = np.count_nonzero(channels == channels[0])  # channels of a group lie equally often
    return here[np.argsort(channels, kind="stable")].reshape(-1, each)


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _names(tensors: Sequence[str]) -> list[str]:
    """Return a name for every group; groups made by the same layer get [0], [1], ... behind it."""
    layers = [_layer(tensor) for tensor in tensors]
    return [
        f"{layer}[{layers[:i].count(layer)}]" if layers.count(layer) > 1 else layer
        for i, layer in enumerate(layers)
    ]

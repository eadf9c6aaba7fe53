"""Group the channels of a trace and write down where each group lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from zoo.core.channels.channel_group import ChannelGroup, Member, Pinned
from zoo.core.channels.channel_table import Axis, ChannelTable, Follower
from zoo.core.tracing.atoms import FIXED, Trace

__all__ = ["build_table"]

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
        self.mixed = self._first_reason(trace.atoms.mixed)
        self.reason = self._first_reason(trace.atoms.pinned)
        if not inexact:
            for index in np.flatnonzero(self.mixed != ""):
                self.reason[index] = self.reason[index] or str(self.mixed[index])
        self.made_by = self._makers()
        self.group = self._group()

    def _first_reason(self, facts: Iterable[tuple[np.ndarray, str]]) -> np.ndarray:
        reasons = np.full(self.count, "", dtype=object)
        for label, reason in facts:
            found = np.unique(self.component[label])
            empty = found[reasons[found] == ""]
            reasons[empty] = reason
        return reasons

    def _at(self, place: tuple[str, int]) -> np.ndarray:
        """Return the component at every position of a dimension of a tensor."""
        name, dim = place
        found: np.ndarray = self.component[self.trace.tensors[name][dim]]
        return found

    def _makers(self) -> np.ndarray:
        """Return for every component the place of the first layer that makes it, -1 if none."""
        makers = np.full(self.count, -1)
        for index, place in reversed(list(enumerate(self.places))):
            if self.trace.roles.get(place) == "out":
                makers[self._at(place)] = index
        return makers

    def _group(self) -> np.ndarray:
        """Return the group of every component, shape (components,), -1 where it is pinned.

        Two components share a group if they occupy the same positions in every tensor. Starts with
        one class and splits it place by place by how often a component lies there.
        """
        classes = np.zeros(self.count, dtype=np.int64)
        following = 1
        for place in self.places:
            found, counts = np.unique(self._at(place), return_counts=True)
            keys = np.stack([classes[found], counts])
            _, inverse = np.unique(keys, axis=1, return_inverse=True)
            classes[found] = following + inverse.ravel()
            following += len(found)
        free = (self.reason == "") & (self.made_by >= 0)
        exactness = self.mixed != ""
        names, group = np.unique(np.stack([classes, exactness]), axis=1, return_inverse=True)
        group = group.ravel()
        sizes = np.bincount(group[free], minlength=names.shape[1])
        single = free & (sizes[group] == 1)
        self.reason[single] = "a single channel"
        group[~free | single] = -1
        return self._in_order(group)

    def _in_order(self, group: np.ndarray) -> np.ndarray:
        """Number the groups by the place and position at which they are made first."""
        numbers: dict[int, int] = {}
        for place in self.places:
            if self.trace.roles.get(place) == "out":
                here = group[self._at(place)]
                for old in here[np.sort(np.unique(here, return_index=True)[1])]:
                    if old >= 0:
                        numbers.setdefault(int(old), len(numbers))
        renumbered = np.full_like(group, -1)
        for old, new in numbers.items():
            renumbered[group == old] = new
        return renumbered

    def _channels(self) -> np.ndarray:
        """Return the index of every component within its group, in order of position."""
        channel = np.full(self.count, -1)
        following = np.zeros(self.group.max(initial=-1) + 1, dtype=np.int64)
        for place in self.places:
            if self.trace.roles.get(place) != "out":
                continue
            here = self._at(place)
            here = here[np.sort(np.unique(here, return_index=True)[1])]
            here = here[(self.group[here] >= 0) & (channel[here] < 0)]
            for index in np.unique(self.group[here]):
                new = here[self.group[here] == index]
                channel[new] = following[index] + np.arange(len(new))
                following[index] += len(new)
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
            axis = axes.distinct[tensors[place]]
            role = self.trace.roles.get(place, "other")
            for index in np.unique(axis.group[axis.group >= 0]):
                here = np.flatnonzero(axis.group == index)
                order = np.argsort(axis.channel[here], kind="stable")
                size = len(np.unique(axis.channel[here]))
                positions = here[order].reshape(size, -1)
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

    def _followers(self, axes: _Axes) -> Iterable[Follower]:
        """Yield the sizes that code outside of layers may hold as numbers: parts and groups."""
        for op in self.trace.ops:
            kind = op.name.split(".")[1]
            if kind not in _SIZED:
                continue
            parts: dict[int, list[tuple[int, int]]] = {}
            for shape, labels in (*op.inputs, *op.outputs):
                for dim, label in labels.items():
                    axis = axes.of(label)
                    if (axes.distinct[axis].group >= 0).any():
                        yield Follower(op.module, (shape[dim],), (axis,))
            for shape, labels in op.outputs:
                for dim, label in labels.items():
                    parts.setdefault(dim, []).append((shape[dim], axes.of(label)))
            for found in parts.values():
                if len(found) > 1:
                    yield Follower(
                        op.module, tuple(s for s, _ in found), tuple(a for _, a in found)
                    )


class _Axes:
    """Gives equal dimensions the same axis."""

    def __init__(self, component: np.ndarray, group: np.ndarray, channel: np.ndarray) -> None:
        self._group = np.append(group[component], -1)  # the last entry serves FIXED
        self._channel = np.append(channel[component], -1)
        self._known: dict[bytes, int] = {}
        self.distinct: list[Axis] = []

    def of(self, atoms: np.ndarray) -> int:
        axis = Axis(self._group[atoms], self._channel[atoms])
        key = axis.group.tobytes() + axis.channel.tobytes()
        if key not in self._known:
            self._known[key] = len(self.distinct)
            self.distinct.append(axis)
        return self._known[key]


def _layer(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _names(tensors: Sequence[str]) -> list[str]:
    """Return a name for every group; groups made by the same layer get [0], [1], ... behind it."""
    layers = [_layer(tensor) for tensor in tensors]
    return [
        f"{layer}[{layers[:i].count(layer)}]" if layers.count(layer) > 1 else layer
        for i, layer in enumerate(layers)
    ]

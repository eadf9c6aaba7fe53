"""Prove that a smaller network is the one that the table of its parent predicts.

The proof is cheap: the smaller network is traced on the meta device again. Operator by operator its
shapes must be those that the table predicts, its numbers (temperatures, strides, epsilons) those of
the parent, and what it reads made by the same earlier calls; channel by channel its layers must be
connected as the kept channels of the parent were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from zoo.core.channels.channel_table import ChannelTable
from zoo.core.channels.config import SubnetConfig
from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.arguments import arguments_agree
from zoo.core.tracing.atoms import Op, Seen, Trace
from zoo.core.tracing.entry import InputSize
from zoo.core.tracing.trace import TraceFailed, on_meta, retrace

__all__ = ["Kept", "Mismatch", "compare_traces", "kept_atoms", "prove", "prove_on_meta"]


class Mismatch(UnsupportedModel):
    """The smaller network is not what the table predicts.

    Attributes:
        step: index of the first operator that differs, None if only the connections differ.
        tensors: names of parameters whose connections differ.
    """

    def __init__(self, message: str, step: int | None, tensors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.step = step
        self.tensors = tensors


def prove(
    trace: Trace,
    table: ChannelTable,
    config: SubnetConfig,
    smaller: nn.Module,
    size: InputSize,
    kept: Kept | None = None,
) -> None:
    """Raise ``Mismatch`` unless ``smaller`` is what ``table`` predicts for ``config``.

    Args:
        trace: the trace of the parent.
        table: the table made from it.
        config: what was kept.
        smaller: the smaller network; not touched.
        size: what enters, see `Entry`.
        kept: of ``kept_atoms``, where they are known.
    """
    prove_on_meta(trace, table, config, on_meta(smaller), size, kept)


def prove_on_meta(
    trace: Trace,
    table: ChannelTable,
    config: SubnetConfig,
    smaller: nn.Module,
    size: InputSize,
    kept: Kept | None = None,
) -> None:
    """Do as ``prove`` does with a network on the meta device, which gets hooks and runs.

    Args:
        trace: the trace of the parent.
        table: the table made from it.
        config: what was kept.
        smaller: the smaller network, as ``on_meta`` or ``resized_on_meta`` makes it.
        size: what enters, see `Entry`.
        kept: of ``kept_atoms``, where they are known.
    """
    kept = Kept(kept_atoms(trace, table, config)) if kept is None else kept
    try:
        found = retrace(smaller, size, table.depthwise, is_trained=trace.is_trained)
    except TraceFailed as error:
        step = _first_difference(trace, kept, error.ops)
        raise Mismatch(str(error), len(error.ops) if step is None else step) from error
    _compare(trace, kept, found)


def compare_traces(trace: Trace, kept: np.ndarray, found: Trace) -> None:
    """Raise ``Mismatch`` unless ``found`` is ``trace`` with only the kept atoms.

    Args:
        trace: the trace of the parent.
        kept: for every atom whether it stays, with a True appended, shape (atoms + 1,).
        found: the trace of the smaller network.
    """
    _compare(trace, Kept(kept), found)


def _compare(trace: Trace, counted: Kept, found: Trace) -> None:
    step = _first_difference(trace, counted, found.ops)
    if step is None and len(found.ops) != len(trace.ops):
        step = min(len(found.ops), len(trace.ops)) - 1
    if step is not None:
        op = trace.ops[step]
        raise Mismatch(
            f"module {op.module!r}: {op.name} does not follow the smaller widths; the network was "
            "not pruned. Its code holds a number of channels that is unknown from outside, or "
            "computes with one.",
            step,
        )
    wrong = _wrong_connections(trace, counted, found)
    if wrong:
        raise Mismatch(
            f"the channels of {', '.join(wrong[:3])} are connected in another way in the smaller "
            "network; it was not pruned",
            None,
            wrong,
        )


def kept_atoms(trace: Trace, table: ChannelTable, config: SubnetConfig) -> np.ndarray:
    """Return for every atom whether it stays, with a True appended for fixed positions.

    Args:
        trace: the trace of the network.
        table: the table made from it.
        config: what is kept.

    Returns:
        Booleans, shape (atoms + 1,).
    """
    alive = np.ones(trace.atoms.count + 1, dtype=bool)
    positions = table.kept_positions(config)
    for (name, dim), axis in table.tensors.items():
        kept = positions[axis]
        if kept is not None:
            atoms = trace.tensors[name][dim]
            alive[atoms] = False
            alive[atoms[kept]] = True
    component = trace.atoms.components()
    dropped = np.zeros(component.max(initial=0) + 1, dtype=bool)
    dropped[component[~alive[:-1]]] = True  # atoms outside of tensors follow their component
    alive[:-1] = ~dropped[component]
    return alive


class Kept:
    """Counts the kept positions of labels, each label once: many tensors carry the same.

    Args:
        atoms: for every atom whether it stays, as ``kept_atoms`` returns it, shape (atoms + 1,).
    """

    def __init__(self, atoms: np.ndarray) -> None:
        self.atoms = atoms
        self._counts: dict[int, tuple[np.ndarray, int]] = {}  # by id, which the label keeps in use

    def count(self, label: np.ndarray) -> int:
        """How many positions of a label, shape (size,), stay."""
        if id(label) not in self._counts:
            self._counts[id(label)] = label, int(np.count_nonzero(self.atoms[label]))
        return self._counts[id(label)][1]

    def shape(self, seen: Seen) -> tuple[int, ...]:
        """The shape of a tensor in the smaller network."""
        shape, labels = seen
        if not labels:
            return shape
        sizes = enumerate(shape)
        return tuple([self.count(labels[d]) if d in labels else size for d, size in sizes])


def _first_difference(trace: Trace, kept: Kept, found: Sequence[Op]) -> int | None:
    """Return the first call whose operator, shapes, numbers or sources are not as predicted."""
    for step, (op, other) in enumerate(zip(trace.ops, found, strict=False)):
        is_same = (
            op.name == other.name
            and op.sources == other.sources
            and [kept.shape(seen) for seen in op.outputs] == [shape for shape, _ in other.outputs]
            and arguments_agree(op, other, kept.atoms)
        )
        if not is_same:
            return step
    return None


def _wrong_connections(trace: Trace, kept: Kept, found: Trace) -> tuple[str, ...]:
    """Return the parameters whose channels are not tied to the same others as before.

    Components of the two traces must correspond one to one. Dimensions that were left with one
    channel carry no label, so the ties that ran through them cannot be seen any more.
    """
    places = [
        (name, dim)
        for name, labels in trace.tensors.items()
        for dim, label in labels.items()
        if kept.count(label) > 1
    ]
    if not places:
        return ()
    atoms = np.concatenate([trace.tensors[name][dim] for name, dim in places])
    parents = trace.atoms.components()[atoms[kept.atoms[atoms]]]
    children = np.concatenate([found.tensors[name][dim] for name, dim in places])
    children = found.atoms.components()[children]
    is_split = _is_divided(parents, children, trace.atoms.count)
    is_joined = _is_divided(children, parents, found.atoms.count)
    if not is_split.any() and not is_joined.any():
        return ()
    is_split[_lonely(trace, kept)] = False
    wrong = is_split[parents] | is_joined[children]
    lengths = [kept.count(trace.tensors[name][dim]) for name, dim in places]
    owners = np.repeat(np.arange(len(places)), lengths)
    return tuple(dict.fromkeys(places[owner][0] for owner in owners[wrong].tolist()))


def _is_divided(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """Tell for each of ``count`` values whether it meets several values of the other array.

    Args:
        left: non-negative integers below ``count``, shape (n,).
        right: what they meet, position by position, shape (n,).
        count: of the values.

    Returns:
        Booleans, shape (count,).
    """
    one = np.zeros(count, dtype=np.int64)
    one[left] = right  # any one of those that it meets
    is_divided = np.zeros(count, dtype=bool)
    is_divided[left[one[left] != right]] = True
    return is_divided


def _lonely(trace: Trace, kept: Kept) -> np.ndarray:
    """Return the components that are alone along some dimension of the smaller network."""
    component = trace.atoms.components()
    in_flight = [labels for op in trace.ops for _, labels in (*op.inputs, *op.outputs)]
    lonely = []
    for labels in (*trace.tensors.values(), *in_flight):
        for label in labels.values():
            if kept.count(label) == 1:
                atom = label[kept.atoms[label]][0]
                lonely += [component[atom]] if atom >= 0 else []
    return np.array(lonely, dtype=np.int64)

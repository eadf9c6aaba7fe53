"""Prove that a smaller network is the one that the table of its parent predicts.

The proof is cheap: the smaller network is traced on the meta device again. Operator by operator its
shapes must be those that the table predicts, its numbers (temperatures, strides, epsilons) those of
the parent, and what it reads made by the same earlier calls; channel by channel its layers must be
connected as the kept channels of the parent were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from zoo.core.channels.channel_table import ChannelTable
from zoo.core.channels.config import SubnetConfig
from zoo.core.errors import UnsupportedModel
from zoo.core.tracing.arguments import arguments_agree
from zoo.core.tracing.atoms import Trace
from zoo.core.tracing.trace import TraceFailed, on_meta, trace_model

__all__ = ["Mismatch", "compare_traces", "prove"]


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
    trace: Trace, table: ChannelTable, config: SubnetConfig, smaller: nn.Module, size: Sequence[int]
) -> None:
    """Raise ``Mismatch`` unless ``smaller`` is what ``table`` predicts for ``config``.

    Args:
        trace: the trace of the parent.
        table: the table made from it.
        config: what was kept.
        smaller: the smaller network.
        size: (C, H, W) of one image.
    """
    kept = _kept_atoms(trace, table, config)
    try:
        found = trace_model(on_meta(smaller), size, table.depthwise, trace.is_trained)
    except TraceFailed as error:
        step = _first_difference(trace, kept, error.ops)
        raise Mismatch(str(error), len(error.ops) if step is None else step) from error
    compare_traces(trace, kept, found)


def compare_traces(trace: Trace, kept: np.ndarray, found: Trace) -> None:
    """Raise ``Mismatch`` unless ``found`` is ``trace`` with only the kept atoms.

    Args:
        trace: the trace of the parent.
        kept: for every atom whether it stays, with a True appended, shape (atoms + 1,).
        found: the trace of the smaller network.
    """
    step = _first_difference(trace, kept, found.ops)
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
    wrong = _wrong_connections(trace, kept, found)
    if wrong:
        raise Mismatch(
            f"the channels of {', '.join(wrong[:3])} are connected in another way in the smaller "
            "network; it was not pruned",
            None,
            wrong,
        )


def _kept_atoms(trace: Trace, table: ChannelTable, config: SubnetConfig) -> np.ndarray:
    """Return for every atom whether it stays, with a True appended for fixed positions."""
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


def _first_difference(trace: Trace, kept: np.ndarray, found: Sequence[Any]) -> int | None:
    """Return the first call whose operator, shapes, numbers or sources are not as predicted."""
    for step, (op, other) in enumerate(zip(trace.ops, found, strict=False)):
        expected = [
            tuple(
                int(kept[labels[dim]].sum()) if dim in labels else size
                for dim, size in enumerate(shape)
            )
            for shape, labels in op.outputs
        ]
        is_same = op.name == other.name and op.sources == other.sources
        if not is_same or expected != [shape for shape, _ in other.outputs]:
            return step
        if not arguments_agree(op, other, kept):
            return step
    return None


def _wrong_connections(trace: Trace, kept: np.ndarray, found: Trace) -> tuple[str, ...]:
    """Return the parameters whose channels are not tied to the same others as before.

    Components of the two traces must correspond one to one. Dimensions that were left with one
    channel carry no label, so the ties that ran through them cannot be seen any more.
    """
    before, after = trace.atoms.components(), found.atoms.components()
    pairs = [np.empty((2, 0), dtype=np.int64)]
    names, lengths = [""], [0]
    for name, labels in trace.tensors.items():
        for dim, label in labels.items():
            atoms = label
            atoms = atoms[kept[atoms]]
            if len(atoms) > 1:
                pairs.append(np.stack([before[atoms], after[found.tensors[name][dim]]]))
                names.append(name)
                lengths.append(len(atoms))
    # One number for each pair of components, from which both are read back below.
    parents, children = np.concatenate(pairs, axis=1)
    base = int(children.max(initial=0)) + 1
    distinct = np.unique(parents * base + children)
    is_split = np.bincount(distinct // base, minlength=len(before)) > 1
    is_split[_lonely(trace, kept, before)] = False
    is_joined = np.bincount(distinct % base) > 1
    wrong = is_split[parents] | is_joined[children]
    owners = np.repeat(np.arange(len(names)), lengths)
    return tuple(dict.fromkeys(names[i] for i in owners[wrong]))


def _lonely(trace: Trace, kept: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Return the components that are alone along some dimension of the smaller network."""
    lonely = [np.empty(0, dtype=np.int64)]
    in_flight = [labels for op in trace.ops for _, labels in (*op.inputs, *op.outputs)]
    for labels in (*trace.tensors.values(), *in_flight):
        for label in labels.values():
            atoms = label
            atoms = atoms[kept[atoms]]
            if len(atoms) == 1 and atoms[0] >= 0:
                lonely.append(component[atoms])
    return np.concatenate(lonely)

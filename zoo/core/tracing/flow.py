"""Tensors in flight: the channels along their dimensions, and the operators that they meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.tracing.atoms import FIXED, Labels, Seen, Trace
from zoo.core.tracing.operators import Operator

__all__ = ["Call", "Flow"]


@dataclass
class Flow:
    """Labels of the tensors in flight, found by identity; keeps those tensors alive.

    Attributes:
        where: path of the module that is running.
        depthwise: the modules whose convolutions are depthwise, None to tell by their shapes. A
            grouped convolution that is left with one channel in each group looks like one.
    """

    where: str
    depthwise: frozenset[str] | None = None
    trace: Trace = field(default_factory=Trace)
    _labels: dict[int, Labels] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _alive: list[Tensor] = field(default_factory=list)
    _own: set[int] = field(default_factory=set)  # parameters and buffers

    def enter(self, name: str, tensor: Tensor) -> None:
        """Give a parameter or buffer, any shape, fresh atoms along its first two dimensions."""
        sizes = enumerate(tensor.shape[:2])
        labels = {dim: self.trace.atoms.new(size) for dim, size in sizes if size > 1}
        self.trace.tensors[name] = labels
        self.trace.shapes[name] = tuple(tensor.shape)
        if isinstance(tensor, torch.nn.Parameter):
            self.trace.parameters.append(name)
        self.set(tensor, labels)
        self._names[id(tensor)] = name
        self._own.add(id(tensor))

    def get(self, tensor: Tensor | None) -> Labels:
        """Return the labels of a tensor, shape (size,) each; dimensions without one are fixed."""
        return {} if tensor is None else self._labels.get(id(tensor), {})

    def along(self, tensor: Tensor, dim: int) -> np.ndarray:
        """Return the label of one dimension, all fixed where there is none, shape (size,)."""
        label = self.get(tensor).get(dim)
        return np.full(tensor.shape[dim], FIXED) if label is None else label

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """Attach labels, each of shape (size,), to a tensor; dimensions of one element get none."""
        shape = tensor.shape
        self._labels[id(tensor)] = {d: v for d, v in labels.items() if shape[d] > 1}
        self._alive.append(tensor)

    def same_memory(self, tensor: Tensor) -> list[Tensor]:
        """The known tensors that lie where a tensor of any shape lies, the newest last."""
        place = tensor.untyped_storage()._cdata
        return [t for t in self._alive if t.untyped_storage()._cdata == place]

    def release(self) -> tuple[list[Labels], list[Tensor]]:
        """Let go of the tensors of a pass; return their labels and them, in equal order.

        Parameters and buffers stay known. Labels have shape (size,), tensors any.
        """
        made = list({id(t): t for t in self._alive if id(t) not in self._own}.values())
        labels = [self._labels[id(tensor)] for tensor in made]
        self._alive = [t for t in self._alive if id(t) in self._own]
        self._labels = {key: self._labels[key] for key in self._own}
        self._names = {key: self._names[key] for key in self._own}
        return labels, made

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer of any shape, or of the one it transposes."""
        return None if tensor is None else self._names.get(id(tensor))

    def rename(self, tensor: Tensor, name: str | None) -> None:
        """Remember that ``tensor`` has the shape and values of ``name`` transposed."""
        if name is not None:
            self._names[id(tensor)] = name

    def role(self, tensor: Tensor | None, dim: int, role: str) -> None:
        """Note what a dimension of a parameter or buffer is used for; the first use counts.

        Args:
            tensor: of any shape; nothing is noted unless it is a parameter, buffer or transpose.
            dim: the dimension.
            role: as in ``zoo.core.channels.channel_group.Role``.
        """
        name, label = self.name(tensor), self.get(tensor).get(dim)
        if name is None or label is None:
            return
        for own, atoms in self.trace.tensors[name].items():  # the same dimension, if transposed
            if atoms is label or atoms[0] == label[0]:
                self.trace.roles.setdefault((name, own), role)

    def read(self, weight: Tensor, dim: int) -> None:
        """Note that a dimension of a weight, of any shape, reads channels and sums them up."""
        label = self.get(weight).get(dim)
        if label is not None:
            self.role(weight, dim, "in")
            self.trace.reads.append((self.where, self.name(weight), label))


@dataclass(frozen=True)
class Call:
    """One operator call: ``bound`` maps the argument names of its schema to their values."""

    operator: Operator
    inputs: list[Tensor]
    read: tuple[Seen, ...]  # the inputs before the call
    outputs: list[Tensor]
    bound: dict[str, Any]  # tensors, numbers, lists: whatever the operator takes

    @property
    def name(self) -> str:
        """The operator without namespace and overload, as "convolution"."""
        return self.operator.kind

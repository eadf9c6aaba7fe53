"""Channel positions, what is known of them, and the record of one pass over a network."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["FIXED", "Atoms", "Labels", "ModuleCalls", "Op", "Product", "Seen", "Trace"]

FIXED = -1
Labels = dict[int, np.ndarray]  # dimension -> atom of every position, int64, shape (size,)
Seen = tuple[tuple[int, ...], Labels]  # shape and labels that a tensor had


@dataclass
class Atoms:
    """Positions along channel dimensions, and the facts that the operators state about them."""

    count: int = 0
    united: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    pinned: list[tuple[np.ndarray, str]] = field(default_factory=list)
    mixed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    added: list[np.ndarray] = field(default_factory=list)
    _known: tuple[int, np.ndarray] | None = field(default=None, repr=False, compare=False)
    # Labels without fixed positions, by id, which they keep in use.
    _free: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def components(self) -> np.ndarray:
        """Return the component of every atom, int64, shape (atoms,); counted anew after a union."""
        if self._known is None or self._known[0] != len(self.united):
            left = np.concatenate([a for a, _ in self.united] or [np.empty(0, np.int64)])
            right = np.concatenate([b for _, b in self.united] or [np.empty(0, np.int64)])
            found = _components(self.count, left, right)
            self._known = (len(self.united), found)
        return self._known[1]

    def new(self, size: int) -> np.ndarray:
        """Return ``size`` fresh atoms, int64, shape (size,)."""
        self.count += size
        label = np.arange(self.count - size, self.count, dtype=np.int64)
        self._free[id(label)] = label
        return label

    def unite(self, left: np.ndarray, right: np.ndarray, where: str) -> None:
        """Declare two labels to be the same channels, position by position.

        Args:
            left: atoms, any shape; FIXED positions pin what they meet.
            right: atoms, same shape.
            where: module that says so, for the reason of a pin.

        Raises:
            ValueError: if they differ in number.
        """
        if left is right:
            return
        if left.size != right.size:
            raise ValueError(f"{left.size} channels meet {right.size} in {where}")
        is_free = self._is_free(left) and self._is_free(right)
        left, right = left.ravel(), right.ravel()
        if is_free:  # nearly always
            self.united.append((left, right))
            return
        free = (left != FIXED) & (right != FIXED)
        self.united.append((left[free], right[free]))
        self.pin(left[right == FIXED], f"joined with fixed channels in {where}")
        self.pin(right[left == FIXED], f"joined with fixed channels in {where}")

    def _is_free(self, label: np.ndarray) -> bool:
        """Whether no position of a label is fixed; each is looked through once."""
        if id(label) not in self._free:
            if label.size and label.min() == FIXED:
                return False
            self._free[id(label)] = label
        return True

    def tie(self, label: np.ndarray, parts: int, where: str) -> np.ndarray:
        """Unite position j of all equal parts of a label.

        Args:
            label: atoms, shape (size,).
            parts: number of parts; divides the size.
            where: module that says so.

        Returns:
            The first part, shape (size / parts,).
        """
        rows = label.reshape(parts, -1)
        self.unite(rows[1:], np.broadcast_to(rows[:1], rows[1:].shape), where)
        first: np.ndarray = rows[0]
        return first

    def pin(self, label: np.ndarray, reason: str) -> None:
        """Declare atoms, any shape, unremovable; the first reason given is the one reported."""
        label = label[label != FIXED]
        if len(label):
            self.pinned.append((label, reason))

    def mix(self, label: np.ndarray, reason: str) -> None:
        """Declare that an operator computes each atom, any shape, from its neighbours."""
        label = label[label != FIXED]
        if len(label):
            self.mixed.append((label, reason))


def _components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Number the components of a graph by their first node.

    Args:
        count: of the nodes.
        left: one end of every edge, int64, shape (edges,).
        right: the other end, same shape.

    Returns:
        Component of every node, int64, shape (count,).
    """
    # Most atoms meet one other in all, as those of a batch norm do: only the rest is searched.
    degree = np.bincount(left, minlength=count) + np.bincount(right, minlength=count)
    is_leaf = degree[left] == 1
    leads_to_leaf = (degree[right] == 1) & ~is_leaf
    is_inner = ~(is_leaf | leads_to_leaf)
    root = np.arange(count)
    left_in, right_in = left[is_inner], right[is_inner]
    is_node = np.zeros(count, dtype=bool)
    is_node[left_in] = is_node[right_in] = True
    nodes, place = np.flatnonzero(is_node), np.cumsum(is_node) - 1
    root[nodes] = nodes[_roots(len(nodes), place[left_in], place[right_in])]
    root[left[is_leaf]] = root[right[is_leaf]]
    root[right[leads_to_leaf]] = root[left[leads_to_leaf]]
    first = _first_of(root, count)[root]
    numbers = np.cumsum(first == np.arange(count)) - 1
    found: np.ndarray = numbers[first]
    return found


def _roots(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One node of its component for every node of a graph, shape (count,)."""
    if not count:
        return np.empty(0, dtype=np.int64)
    # scipy's search, not a union-find in Python: a large network has 100,000 atoms.
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    roots: np.ndarray = _first_of(labels, count)[labels]
    return roots


def _first_of(values: np.ndarray, count: int) -> np.ndarray:
    """The first place of each value below ``count``, shape (count,); any for those in none."""
    first = np.zeros(count, dtype=np.int64)
    first[values[::-1]] = np.arange(len(values))[::-1]  # of several, the last one written stays
    return first


@dataclass(frozen=True)
class Op:
    """One operator call: what ran, where, and (shape, labels) of what it read and made.

    Attributes:
        scalars: the arguments that are no tensors, by name.
        sources: what made each tensor that it read.
    """

    name: str
    module: str
    inputs: tuple[Seen, ...]
    outputs: tuple[Seen, ...]
    scalars: tuple[tuple[str, object], ...] = ()
    sources: tuple[object, ...] = ()


@dataclass(frozen=True)
class Product:
    """MACs of one call of a layer: ``factor`` times the sizes of the labelled dimensions."""

    module: str
    factor: int
    labels: tuple[np.ndarray, ...]


@dataclass
class ModuleCalls:
    """The tensors that entered a module, and those that it returned, call by call."""

    entering: list[tuple[Seen, ...]] = field(default_factory=list)
    leaving: list[tuple[Seen, ...]] = field(default_factory=list)


@dataclass
class Trace:
    """What one pass over a network found.

    Attributes:
        atoms: the channel positions and the facts about them.
        shapes: shape of every parameter and buffer, by name.
        parameters: names of the parameters, without the buffers.
        tensors: labels of every parameter and buffer, by name.
        roles: (tensor name, dimension) -> what a layer uses it for, in order of execution.
        reads: (module, name, labels) of every weight along which a call sums channels up; the name
            is None where the weight is computed from parameters.
        ops: the operator calls in order: those of the pass in eval mode, then those of the pass in
            training mode, if there was one.
        eval_ops: how many of ``ops`` belong to the pass in eval mode.
        is_blind: whether the code of the network meets no number of channels: it neither reads a
            shape nor gives one to torch, so it runs in the same way at all widths.
        unused: names of the parameters that no pass read.
        outputs: (shape, labels) of what each module that returns one tensor put out last, by
            path, in order of execution; as `calls` and `features`, of the pass in eval mode, and
            empty in the trace of a network that was made smaller.
        calls: what went through every module, by path.
        features: what the method ``forward_features`` of modules returned, by path.
        products: MACs of convolutions and of products with what is no image, in eval mode.
        depthwise: paths of modules that ran a depthwise convolution.
    """

    atoms: Atoms = field(default_factory=Atoms)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: list[str] = field(default_factory=list)
    tensors: dict[str, Labels] = field(default_factory=dict)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    reads: list[tuple[str, str | None, np.ndarray]] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    outputs: dict[str, Seen] = field(default_factory=dict)
    calls: dict[str, ModuleCalls] = field(default_factory=dict)
    features: dict[str, tuple[Seen, ...]] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    depthwise: set[str] = field(default_factory=set)
    eval_ops: int = 0
    is_blind: bool = False
    unused: tuple[str, ...] = ()

    @property
    def is_trained(self) -> bool:
        """Whether there was a pass in training mode, too."""
        return len(self.ops) > self.eval_ops

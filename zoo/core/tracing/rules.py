"""What each operator does to channels: one short rule per kind of operator.

``apply_rule`` runs the rule of one call. Rules are stated for ATen operators, which is what every
PyTorch network is made of. A call without a rule pins every channel it reads, and what it returns
is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from math import prod
from operator import mul

import numpy as np
import torch
from torch import Tensor

from zoo.core.tracing.atoms import FIXED, Labels
from zoo.core.tracing.flow import Call, Flow
from zoo.core.tracing.operators import Operator

__all__ = ["apply_rule", "labels_after_view"]


Rule = Callable[[Flow, Call], None]
_RULES: dict[str, Rule] = {}


def _rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for some operators, whose names are separated by spaces."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def apply_rule(flow: Flow, call: Call) -> None:
    """Run the rule of ``call``: labels of its outputs are set, facts about atoms are stated."""
    if call.name != "expand" and not any(labels for _, labels in call.read):
        return
    _rule_of(call.operator)(flow, call)


@cache
def _rule_of(operator: Operator) -> Rule:
    if operator.kind in _RULES:
        return _RULES[operator.kind]
    if operator.is_pointwise:
        return _pointwise
    return _spatial if _SPATIAL.fullmatch(operator.kind) else _no_rule


def labels_after_view(label: Tensor, dim: int, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Return the atom of every element after a view from shape ``old`` to shape ``new``.

    A view acts on runs of dimensions that hold equally many elements before and after. Only the run
    around the labelled dimension is written out; the others repeat it, at no cost.

    Args:
        label: atoms along one dimension, shape (size,).
        dim: that dimension.
        old: shape before the view.
        new: shape after it.
    """
    before, after = (list(accumulate(shape, mul, initial=1)) for shape in (old, new))
    start = max({*before[: dim + 1]} & {*after})
    end = min({*before[dim + 1 :]} & {*after})
    first, last = after.index(start), after.index(end)
    run = label[:, None].expand(before[dim] // start, len(label), end // before[dim + 1])
    inner = [1] * (len(new) - last)
    return run.reshape([*[1] * first, *new[first:last], *inner]).expand(tuple(new))


def _no_rule(flow: Flow, call: Call) -> None:
    for tensor in call.inputs:
        for label in flow.get(tensor).values():
            flow.trace.atoms.pin(label, f"operator {call.name} in {flow.where} has no rule")
    for tensor in call.outputs:
        flow.set(tensor, {})


@_rule("convolution")
def _convolution(flow: Flow, call: Call) -> None:
    images, weight, bias = call.bound["input"], call.bound["weight"], call.bound["bias"]
    groups, out = call.bound["groups"], call.outputs[0]
    if call.bound["transposed"] and groups > 1:
        _no_rule(flow, call)
        return
    beyond: Labels = {}
    for dim, label in flow.get(images).items():
        if dim != 1 and out.shape[dim] != images.shape[dim]:
            flow.trace.atoms.pin(label, f"the convolution in {flow.where} changes their number")
        elif dim != 1:
            beyond[dim] = label
        if dim > 1:
            flow.trace.atoms.mix(label, f"a convolution along the channels in {flow.where}")
    make, read = (1, 0) if call.bound["transposed"] else (0, 1)
    made = flow.along(weight, make)
    _connect_inputs(flow, images, weight, groups, make, read)
    flow.set(out, {**beyond, 1: made})
    _add_vector(flow, bias, made, "bias")


def _connect_inputs(
    flow: Flow, images: Tensor, weight: Tensor, groups: int, make: int, read: int
) -> None:
    """Tie what a convolution reads to its weight."""
    atoms, where = flow.trace.atoms, flow.where
    entering, made = flow.along(images, 1), flow.along(weight, make)
    channels = images.shape[1]
    is_depthwise = groups > 1 and weight.shape[1] == 1 and groups == channels
    if is_depthwise and (flow.depthwise is None or where in flow.depthwise):
        rows = made.reshape(channels, -1)
        atoms.unite(rows, np.broadcast_to(entering[:, None], rows.shape), where)
        flow.role(weight, make, "depthwise")
        flow.trace.depthwise.add(where)
        return
    flow.role(weight, make, "out")
    flow.read(weight, read)
    if groups > 1:  # every group of the convolution loses the same channels
        entering = atoms.tie(entering, groups, where)
        atoms.tie(made, groups, where)
    if weight.shape[read] > 1:
        atoms.unite(flow.along(weight, read), entering, where)


def _add_vector(flow: Flow, vector: Tensor | None, label: np.ndarray, role: str) -> None:
    """Tie a per-channel parameter, shape (C,), or (N, C) as a sum has it, to its channels."""
    if vector is not None and vector.ndim and vector.shape[-1] > 1:
        flow.trace.atoms.unite(flow.along(vector, vector.ndim - 1), label, flow.where)
        flow.role(vector, vector.ndim - 1, role)


@_rule("addmm mm")
def _linear(flow: Flow, call: Call) -> None:
    rows, weight = call.bound.get("mat1", call.bound["self"]), call.bound["mat2"]
    out = call.outputs[0]
    if flow.name(weight) is None:  # a product of two activations
        _no_rule(flow, call)
        return
    made, row = flow.along(weight, 1), flow.get(rows).get(0)
    flow.trace.atoms.unite(flow.along(weight, 0), flow.along(rows, 1), flow.where)
    flow.role(weight, 1, "out")
    flow.read(weight, 0)
    flow.set(out, {1: made} if row is None else {0: row, 1: made})
    if call.name == "addmm":
        added = call.bound["self"]
        _add_vector(flow, added, made, "bias")
        if added.ndim > 1 and added.shape[0] > 1:
            flow.trace.atoms.unite(flow.along(added, 0), flow.along(rows, 0), flow.where)


@_rule(
    """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_no_update
    """
)
def _batch_norm(flow: Flow, call: Call) -> None:
    images = call.bound["input"]
    label = flow.along(images, 1)
    roles = {
        "weight": "norm_weight",
        "bias": "norm_bias",
        "running_mean": "norm_mean",
        "running_var": "norm_var",
    }
    for argument, role in roles.items():
        _add_vector(flow, call.bound.get(argument), label, role)
    if call.bound.get("training"):
        for dim, other in flow.get(images).items():
            if dim != 1:
                flow.trace.atoms.mix(other, f"a normalisation in {flow.where}")
    flow.set(call.outputs[0], flow.get(images))


@_rule("native_layer_norm")
def _layer_norm(flow: Flow, call: Call) -> None:
    images = call.bound["input"]
    first = images.ndim - len(call.bound["normalized_shape"])
    for dim, label in flow.get(images).items():
        if dim >= first:
            flow.trace.atoms.mix(label, f"a layer norm in {flow.where}")
    for argument in ("weight", "bias"):
        parameter = call.bound[argument]
        if parameter is not None and parameter.ndim == 1:
            _add_vector(flow, parameter, flow.along(images, first), f"norm_{argument}")
        elif parameter is not None:
            _no_rule(flow, call)
            return
    flow.set(call.outputs[0], flow.get(images))


@_rule("native_group_norm")
def _group_norm(flow: Flow, call: Call) -> None:
    images, groups = call.bound["input"], call.bound["group"]
    label = flow.along(images, 1)
    for dim, other in flow.get(images).items():
        if dim > 1:  # its mean is over all positions
            flow.trace.atoms.mix(other, f"a group norm in {flow.where}")
    for argument in ("weight", "bias"):
        _add_vector(flow, call.bound[argument], label, f"norm_{argument}")
    if groups != images.shape[1]:
        flow.trace.atoms.mix(label, f"a group norm in {flow.where}")
        flow.trace.atoms.tie(label, groups, flow.where)
    flow.set(call.outputs[0], flow.get(images))


# Elementwise operators that torch does not tag as such in some version from 2.11 on, and new values
# of the same shape: masks of dropout, noise, gates that start from zero.
@_rule(
    """
    elu elu_ gelu gelu_ hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_
    leaky_relu leaky_relu_ mish mish_ threshold threshold_
    _prelu_kernel copy_ log_sigmoid_forward rsub
    empty_like zeros_like ones_like full_like rand_like randn_like
    bernoulli bernoulli_ uniform_ normal_ fill_ zero_ native_dropout
    """
)
def _pointwise(flow: Flow, call: Call) -> None:
    tensors = [t for t in call.inputs if t.ndim]
    if len(tensors) == 1:  # most of the calls: an activation
        (tensor,) = tensors
        for dim in flow.get(tensor):
            flow.role(tensor, dim, "other")
        _hand_on(flow, call, tensor.ndim, flow.get(tensor))
        return
    ndim = max(t.ndim for t in tensors)
    merged: Labels = {}
    for dim in range(ndim):
        sized = [
            (t, flow.get(t).get(dim - ndim + t.ndim))
            for t in tensors
            if dim - ndim + t.ndim >= 0 and t.shape[dim - ndim + t.ndim] > 1
        ]
        labels = [label for _, label in sized if label is not None]
        for label in labels if len(labels) < len(sized) else ():
            flow.trace.atoms.pin(label, f"joined with fixed channels in {flow.where}")
        if not labels or len(labels) < len(sized):
            continue
        merged[dim] = labels[0]
        for label, (tensor, _) in zip(labels, sized, strict=True):
            flow.trace.atoms.unite(labels[0], label, flow.where)
            flow.role(tensor, dim - ndim + tensor.ndim, "other")
        if call.name.startswith("add") and len([t for t, _ in sized if not flow.name(t)]) > 1:
            flow.trace.atoms.added.append(merged[dim])
    _hand_on(flow, call, ndim, merged)


def _hand_on(flow: Flow, call: Call, ndim: int, labels: Labels) -> None:
    for out in call.outputs:
        if out.ndim == ndim:
            flow.set(out, labels)


@_rule("new_empty new_zeros new_ones new_full")
def _fresh(flow: Flow, call: Call) -> None:
    """A tensor of a stated shape takes only type and device from what it reads.

    An empty one is about to be filled with noise (a mask of whole channels): its shape is taken to
    follow that of its model, and the proof tells where code holds a number instead.
    """
    out, shape = call.outputs[0], call.read[0][0]
    is_mask = call.name == "new_empty" and out.ndim == len(shape)
    labels = flow.get(call.inputs[0]) if is_mask else {}
    flow.set(out, {dim: v for dim, v in labels.items() if out.shape[dim] == shape[dim]})


_SPATIAL = re.compile(
    r"(_?adaptive_avg_pool|adaptive_max_pool|avg_pool|max_pool|upsample_\w*?|_upsample_\w*?"
    r"|reflection_pad|replication_pad)([123])d\w*"
)


def _spatial(flow: Flow, call: Call) -> None:
    """Pooling and resizing: channels pass, the last one to three dimensions are positions."""
    match = _SPATIAL.fullmatch(call.name)
    images = call.inputs[0]
    positions = images.ndim - int(match.group(2)) if match else images.ndim
    labels = flow.get(images)
    for dim, label in labels.items():
        if dim >= positions:
            flow.trace.atoms.pin(label, f"operator {call.name} in {flow.where} pools channels")
    kept = {dim: label for dim, label in labels.items() if dim < positions}
    for out in call.outputs:
        flow.set(out, kept)


@_rule("mean sum amax amin max min var std var_mean linalg_vector_norm")
def _reduce(flow: Flow, call: Call) -> None:
    tensor = call.inputs[0]
    if len(call.inputs) > 1:  # max and min of two tensors
        _pointwise(flow, call)
        return
    given = call.bound.get("dim")
    dims = [given] if isinstance(given, int) else list(given or range(tensor.ndim))
    gone = {dim % tensor.ndim for dim in dims}
    for dim, label in flow.get(tensor).items():
        if dim in gone:
            flow.trace.atoms.mix(label, f"{call.name} over the channels in {flow.where}")
    left = [dim for dim in range(tensor.ndim) if dim not in gone]
    place = left if call.bound.get("keepdim") else list(range(len(left)))
    moved = dict(zip(left, place, strict=True))
    kept = {moved[d]: label for d, label in flow.get(tensor).items() if d in moved}
    for out in call.outputs:
        flow.set(out, kept)


@_rule("_softmax _log_softmax")
def _softmax(flow: Flow, call: Call) -> None:
    tensor = call.inputs[0]
    label = flow.get(tensor).get(call.bound["dim"] % tensor.ndim)
    if label is not None:
        flow.trace.atoms.mix(label, f"a softmax over the channels in {flow.where}")
    flow.set(call.outputs[0], flow.get(tensor))


@_rule("cat")
def _cat(flow: Flow, call: Call) -> None:
    tensors = [t for t in call.bound["tensors"] if t.numel()]
    dim = call.bound["dim"] % tensors[0].ndim
    merged: Labels = {}
    for other in {d for t in tensors for d in flow.get(t)} - {dim}:
        labels = [flow.get(t)[other] for t in tensors if other in flow.get(t)]
        if len(labels) == len(tensors):
            merged[other] = labels[0]
        for tensor in tensors:
            flow.trace.atoms.unite(labels[0], flow.along(tensor, other), flow.where)
    joined = np.concatenate([flow.along(tensor, dim) for tensor in tensors])
    if (joined != FIXED).any():
        merged[dim] = joined
    flow.set(call.outputs[0], merged)


@_rule("stack")
def _stack(flow: Flow, call: Call) -> None:
    tensors = call.bound["tensors"]
    new = call.bound["dim"] % call.outputs[0].ndim
    merged: Labels = {}
    for dim in {d for t in tensors for d in flow.get(t)}:
        merged[dim + (dim >= new)] = flow.along(tensors[0], dim)
        for tensor in tensors:
            flow.trace.atoms.unite(flow.along(tensors[0], dim), flow.along(tensor, dim), flow.where)
    flow.set(call.outputs[0], merged)


@_rule("split split_with_sizes unbind select slice chunk")
def _take_part(flow: Flow, call: Call) -> None:
    tensor = call.inputs[0]
    dim = call.bound.get("dim", 0) % tensor.ndim
    label = flow.get(tensor).get(dim)
    if label is not None and call.name in ("unbind", "select"):
        flow.trace.atoms.pin(label, f"{call.name} of single channels in {flow.where}")
    pieces = _rearranged(flow, call)
    if label is not None and call.name == "split":  # equal chunks stay equal
        size = call.outputs[0].shape[dim]
        if len(label) % size:
            flow.trace.atoms.pin(label, f"chunks of unequal size in {flow.where}")
        else:
            flow.trace.atoms.tie(label, len(label) // size, flow.where)
    for out, labels in zip(call.outputs, pieces, strict=True):
        flow.set(out, labels)


@_rule(
    """
    view _unsafe_view reshape permute transpose t unsqueeze squeeze alias detach clone
    _to_copy flip roll repeat pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle unfold lift_fresh
    """
)
def _rearrange(flow: Flow, call: Call) -> None:
    flow.set(call.outputs[0], _rearranged(flow, call)[0])
    if call.name in ("t", "transpose", "detach", "alias"):
        flow.rename(call.outputs[0], flow.name(call.inputs[0]))


def _rearranged(flow: Flow, call: Call) -> list[Labels]:
    """Run the operator on the labels themselves; return the labels of each output."""
    tensor = call.inputs[0]
    results: list[Labels] = [{} for _ in call.outputs]
    arguments = {name: value for name, value in call.bound.items() if value is not tensor}
    arguments.pop("memory_format", None)
    first = call.operator.arguments[0]
    for dim, label in flow.get(tensor).items():
        shape = [1] * tensor.ndim
        shape[dim] = len(label)
        row = torch.from_numpy(label)
        atoms = row.reshape(shape).expand(tensor.shape)
        if call.name in ("_to_copy", "clone"):
            moved = [atoms]
        elif call.name in ("view", "_unsafe_view", "reshape"):
            moved = [labels_after_view(row, dim, tensor.shape, call.outputs[0].shape)]
        else:
            returned = call.operator.func(**{first: atoms}, **arguments)
            moved = [returned] if isinstance(returned, Tensor) else list(returned)
        for labels, atoms in zip(results, moved, strict=True):
            _settle(flow, labels, atoms)
    return results


def _settle(flow: Flow, labels: Labels, atoms: Tensor) -> None:
    """Enter into ``labels`` the one dimension along which ``atoms`` varies.

    Where channels were spread over several dimensions, the kept ones must form a rectangle: the
    channels are tied over all of these dimensions but the last.
    """
    for dim in range(atoms.ndim):  # what only repeats costs nothing, so it goes first
        if atoms.stride(dim) == 0:
            atoms = atoms.narrow(dim, 0, 1)
    for dim in range(atoms.ndim):
        start = atoms.narrow(dim, 0, 1)
        if atoms.shape[dim] > 1 and bool((atoms == start).all()):
            atoms = start
    varying = [dim for dim in range(atoms.ndim) if atoms.shape[dim] > 1]
    if not varying:
        flow.trace.atoms.pin(atoms.flatten().numpy(), f"a single channel is taken in {flow.where}")
        return
    last = varying[-1]
    label = flow.trace.atoms.tie(
        atoms.flatten().numpy(), prod(atoms.shape[d] for d in varying[:-1]), flow.where
    )
    if last in labels:
        flow.trace.atoms.pin(label, f"two kinds of channels merged in {flow.where}")
        flow.trace.atoms.pin(labels.pop(last), f"two kinds of channels merged in {flow.where}")
        return
    labels[last] = label


@_rule("as_strided_")
def _restride(flow: Flow, call: Call) -> None:
    """A change of the memory layout alone leaves the channels where they are."""
    if call.read[0][0] != tuple(call.outputs[0].shape):
        _no_rule(flow, call)


@_rule("expand")
def _expand(flow: Flow, call: Call) -> None:
    """A dimension of one element that is repeated takes on the channels it is joined with."""
    tensor, out = call.inputs[0], call.outputs[0]
    new = out.ndim - tensor.ndim
    labels = {dim + new: label for dim, label in flow.get(tensor).items()}
    for dim in range(out.ndim):
        size = tensor.shape[dim - new] if dim >= new else 1
        if size == 1 and out.shape[dim] > 1:
            labels[dim] = flow.trace.atoms.new(out.shape[dim])
    flow.set(out, labels)


@_rule("constant_pad_nd")
def _pad(flow: Flow, call: Call) -> None:
    tensor, pad = call.inputs[0], call.bound["pad"]
    labels = dict(flow.get(tensor))
    for step in range(len(pad) // 2):
        dim = tensor.ndim - 1 - step
        if dim in labels and (pad[2 * step] or pad[2 * step + 1]):
            fixed = [np.full(max(0, n), FIXED) for n in pad[2 * step : 2 * step + 2]]
            if min(pad[2 * step : 2 * step + 2]) < 0:
                _no_rule(flow, call)
                return
            labels[dim] = np.concatenate([fixed[0], labels[dim], fixed[1]])
    flow.set(call.outputs[0], labels)

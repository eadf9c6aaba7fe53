"""Follow every channel of a network through one forward pass on the meta device.

Each position along a channel dimension of each parameter is an *atom*. While the network runs once
without data or arithmetic, every operator tells which atoms are the same channel, which may not be
removed, and which it mixes with their neighbours (``zoo.core.rules``). What is left after the pass
are connected components: channels that stay or go together.

A tensor in flight carries a label for each dimension along which channels lie: the atom of every
position. A dimension without label is fixed. An operator without a rule pins what it reads, so the
result can be too cautious and never wrong; the rules themselves are checked after surgery, by
tracing the smaller network and comparing (``zoo.core.surgery``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.core.arguments import plain_arguments
from zoo.core.atoms import Op, Trace
from zoo.core.errors import UnsupportedModel
from zoo.core.flow import Call, Flow, bind
from zoo.core.outputs import pin_outputs
from zoo.core.products import note_product
from zoo.core.rules import apply_rule
from zoo.core.sources import Constants, Sources

__all__ = ["TraceFailed", "on_meta", "run_on_meta", "trace_model"]


class TraceFailed(UnsupportedModel):
    """The pass on the meta device stopped; ``ops`` are the calls that ran before."""

    def __init__(self, where: str, ops: list[Op], error: Exception) -> None:
        reason = str(error).split("\n")[0] or type(error).__name__
        super().__init__(
            f"module {where!r} cannot be traced: {reason.rstrip('.')}. Networks whose forward pass "
            "depends on values, or that hold tensors outside parameters and buffers, are not "
            "supported."
        )
        self.ops = ops


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in eval mode whose parameters and buffers hold no data.

    Raises:
        UnsupportedModel: if the model cannot be copied.
    """
    memo: dict[int, Any] = {}  # deepcopy's own form: id of the original -> its copy
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    try:
        return copy.deepcopy(model, memo).eval()
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModel(f"{type(model).__name__} cannot be copied: {error}") from error


def trace_model(
    meta: nn.Module, input_size: Sequence[int], depthwise: frozenset[str] | None = None
) -> Trace:
    """Return the trace of a network that is on the meta device.

    Args:
        meta: the network, as ``on_meta`` makes it; hooks are added to it.
        input_size: (C, H, W) of one image.
        depthwise: paths of the modules whose convolutions are depthwise; None to tell by shape.

    Raises:
        UnsupportedModel: if the pass fails; the message names the module that was running.
    """
    tracer = _Tracer(meta, depthwise)
    dtype = next((p.dtype for p in meta.parameters()), torch.float32)
    images = torch.empty(1, *input_size, device="meta", dtype=dtype)
    tracer.sources.enter_images(images)
    try:
        with torch.no_grad(), tracer, tracer.constants:
            outputs = meta(images)
    except Exception as error:  # whatever a foreign forward pass may raise
        raise TraceFailed(tracer.flow.where, tracer.flow.trace.ops, error) from error
    pin_outputs(tracer.flow, tracer.sources, tracer.own, outputs)
    return tracer.flow.trace


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Runs the rule of every operator beside the operator itself."""

    def __init__(self, meta: nn.Module, depthwise: frozenset[str] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow(where=type(meta).__name__, depthwise=depthwise)
        self._stack = [self.flow.where]
        named = [*meta.named_parameters(), *meta.named_buffers()]
        for name, tensor in named:
            self.flow.enter(name, tensor)
        self.own = [tensor for _, tensor in named]
        self.sources = Sources(named)
        self.constants = Constants(self.sources)
        for path, module in meta.named_modules():
            if path:
                module.register_forward_pre_hook(lambda *_, path=path: self._enter(path))
                module.register_forward_hook(lambda _module, _inputs, out: self._leave(out))

    def _enter(self, path: str) -> None:
        self._stack.append(path)
        self.flow.where = path

    def _leave(self, output: object) -> None:
        path = self._stack.pop()
        if isinstance(output, Tensor):
            self.flow.trace.outputs.pop(path, None)
            self.flow.trace.outputs[path] = tuple(output.shape), self.flow.get(output)
        self.flow.where = self._stack[-1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        read = tuple((tuple(t.shape), self.flow.get(t)) for t in inputs)
        origins = tuple(self.sources.of(tensor) for tensor in inputs)
        result = run_on_meta(func, args, kwargs)
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if "norm" in str(func):  # statistics of the batch, which nobody reads
            outputs = outputs[:1]
        shapes = [shape for shape, _ in read]
        call = Call(func, inputs, shapes, outputs, bind(func, args, kwargs))
        apply_rule(self.flow, call)
        note_product(self.flow, self.sources, call)
        self.sources.note_call(len(self.flow.trace.ops), inputs, outputs)
        made = tuple((tuple(t.shape), self.flow.get(t)) for t in outputs)
        scalars = plain_arguments(call.bound)
        self.flow.trace.ops.append(Op(str(func), self.flow.where, read, made, scalars, origins))
        return result


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the meta device, batch norm without its slow decomposition."""
    if str(func) == "aten.native_batch_norm.default":
        images = args[0]
        return torch.empty_like(images), images.new_empty(0), images.new_empty(0)
    return func(*args, **kwargs)

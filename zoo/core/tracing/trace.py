"""Follow every channel of a network through its forward pass on the meta device.

Each position along a channel dimension of each parameter is an *atom*. While the network runs once
without data or arithmetic, every operator tells which atoms are the same channel, which may not be
removed, and which it mixes with their neighbours (``zoo.core.tracing.rules``). What is left after
the pass are connected components: channels that stay or go together.

A tensor in flight carries a label for each dimension along which channels lie: the atom of every
position. A dimension without label is fixed. An operator without a rule pins what it reads, so the
result can be too cautious and never wrong; the rules themselves are checked after surgery, by
tracing the smaller network and comparing (``zoo.core.channels.proof``).

A network may run other branches while it trains: auxiliary heads, outputs of several depths, paths
that are dropped. Where it does, a second pass in training mode states its facts about the same
atoms, so that what is left is what both modes allow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.data.inputs import tensors_of
from zoo.core.errors import UnsupportedModel, said
from zoo.core.tracing.arguments import Scalars, is_same_value, plain_arguments
from zoo.core.tracing.atoms import Op, Trace
from zoo.core.tracing.copies import copy_with, named_modules, named_tensors, without_data
from zoo.core.tracing.entry import Entry, InputSize, blank_inputs, enter
from zoo.core.tracing.flow import Call, Flow
from zoo.core.tracing.functions import FunctionCalls
from zoo.core.tracing.layers import watch_widths
from zoo.core.tracing.mode_reads import MODELESS, mode_reads
from zoo.core.tracing.module_log import ModuleLog
from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta, tensors_in
from zoo.core.tracing.operators import bind, operator_of
from zoo.core.tracing.outputs import pin_outputs, returned_tensors
from zoo.core.tracing.products import note_product
from zoo.core.tracing.rules import apply_rule
from zoo.core.tracing.sources import Sources, outliving

__all__ = ["TraceFailed", "on_meta", "retrace", "trace_model", "training_mode"]

Signature = tuple[str, str, Scalars, tuple[str | None, ...], tuple[torch.Size, ...]]


class TraceFailed(UnsupportedModel):
    """The pass on the meta device stopped; ``ops`` are the calls that ran before."""

    def __init__(self, where: str, ops: list[Op], error: Exception) -> None:
        super().__init__(
            f"module {where!r} cannot be traced: {said(error)}. Networks whose forward pass "
            "depends on values, or that hold tensors outside parameters and buffers, are not "
            f"supported.{_hint(error)}"
        )
        self.ops = ops


def _hint(error: Exception) -> str:
    """The remedy if a user's hook stopped the pass; empty if the network itself did."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        hook = step.tb_frame.f_locals.get("hook")
        code = getattr(getattr(hook, "__func__", hook), "__code__", None)
        if code is not None and code is step.tb_next.tb_frame.f_code:
            return " It stopped in a hook: remove that before pruning (handle.remove())."
        step = step.tb_next
    return ""


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in eval mode whose parameters and buffers hold no data.

    Raises:
        UnsupportedModel: if the model cannot be copied.
    """

    def emptied(_: str, tensor: Tensor) -> Tensor:
        empty = without_data(tensor)
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(empty, requires_grad=False) if is_parameter else empty

    meta = copy_with(model, emptied, lambda held: torch.empty_like(held, device="meta"))
    held = [(type(module), vars(module)) for _, module in named_modules(meta)]
    if type(meta).eval is not nn.Module.eval or any(
        kind.train is not nn.Module.train or "training" not in attributes
        for kind, attributes in held
    ):
        return meta.eval()
    for _, attributes in held:  # past the slow way in which modules set attributes
        attributes["training"] = False
    return meta


def trace_model(meta: nn.Module, size: InputSize) -> Trace:
    """Return the trace of a network that is on the meta device.

    A pass in training mode follows if the one in eval mode left a parameter or buffer unread, or if
    the two modes call different operators or hand out other tensors.

    Args:
        meta: the network, as ``on_meta`` makes it; hooks are added to it.
        size: what enters: (C, H, W) of one image, or an `Entry`.

    Raises:
        UnsupportedModel: if a pass fails; the message names the module that was running.
    """
    tracer = _Tracer(meta, None, size)
    watch_widths(meta, tracer.functions.note_width)
    with tracer.logged(meta), mode_reads(meta, _weakly(tracer.note_mode)):
        handed_out = _run(meta, tracer)
    trace = tracer.flow.trace
    trace.eval_ops = len(trace.ops)
    trace.is_blind = tracer.functions.is_blind and not _is_grouped_by_code(meta, trace.ops)
    if _is_other_in_training(meta, tracer, handed_out):
        _run_training(meta, tracer)
    return tracer.finished()


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """A method that does not keep its owner: classes made to watch wait for Python's collector."""
    found = WeakMethod(method)

    def call() -> None:
        told = found()
        if told is not None:
            told()

    return call


def _is_grouped_by_code(meta: nn.Module, ops: Sequence[Op]) -> bool:
    """Whether a grouped convolution is none of torch's layers, whose groups follow the widths."""
    modules = dict(named_modules(meta))
    return any(
        not isinstance(modules.get(op.module), nn.modules.conv._ConvNd)
        for op in ops
        if op.name == "aten.convolution.default" and dict(op.scalars)["groups"] != 1
    )


def retrace(
    meta: nn.Module, size: InputSize, depthwise: frozenset[str], *, is_trained: bool
) -> Trace:
    """Return the trace of a network that was made from one whose trace is known.

    Args:
        meta: the network, as ``on_meta`` makes it; hooks are added to it.
        size: what enters: (C, H, W) of one image, or an `Entry`.
        depthwise: paths of the modules whose convolutions are depthwise.
        is_trained: whether a pass in training mode follows.

    Raises:
        UnsupportedModel: if a pass fails; the message names the module that was running.
    """
    tracer = _Tracer(meta, depthwise, size)
    with tracer.silenced():
        _run(meta, tracer)
    tracer.flow.trace.eval_ops = len(tracer.flow.trace.ops)
    if is_trained:
        _run_training(meta, tracer)
    return tracer.finished()


def _run(meta: nn.Module, tracer: _Tracer) -> set[object]:
    """Run one pass with its rules; what reaches the outside is pinned, its origins returned."""
    tracer.sources.enter_images(tensors_of(tracer.inputs))
    try:
        with torch.no_grad(), tracer, tracer.functions:
            outputs = enter(meta, tracer.size, tracer.inputs)
    except Exception as error:  # whatever a foreign forward pass may raise
        raise TraceFailed(tracer.flow.where, tracer.flow.trace.ops, error) from error
    return tracer.ended(outputs)


@contextmanager
def training_mode(meta: nn.Module) -> Iterator[None]:
    """Training mode for all modules but torch's own norms and dropouts.

    Those do to channels what they do in eval mode, and one image may be too few for the norms.
    """
    meta.train()
    for _, module in named_modules(meta):
        if isinstance(module, MODELESS):
            module.eval()
    try:
        yield
    finally:
        meta.eval()


def _is_other_in_training(meta: nn.Module, tracer: _Tracer, handed_out: set[object]) -> bool:
    """Whether the pass in training mode can say more than the one in eval mode, which has run."""
    trace = tracer.flow.trace
    unread = (n for n in trace.shapes if tracer.is_entered(n) and n not in tracer.used)
    if any(trace.shapes[name] for name in unread):
        return True
    if not tracer.asks_for_mode:
        return False
    check = _Comparison(tracer)
    try:
        with torch.no_grad(), tracer.silenced(), training_mode(meta), check:
            outputs = enter(meta, tracer.size, tracer.inputs)
        returned = list(returned_tensors(outputs))
    except Exception:  # the pass with rules says what happened
        return True
    return check.step != len(tracer.calls) or not check.handed_out(returned) <= handed_out


def _run_training(meta: nn.Module, tracer: _Tracer) -> None:
    """Run the pass in training mode after the one in eval mode.

    It adds ties and pins. Layers that make channels only here are pinned: they cost nothing where
    the network is used. If the pass fails, nothing it states is missing as long as every parameter
    was read in eval mode.
    """
    trace = tracer.flow.trace
    unread = tracer.unread()
    products = len(trace.products)
    made = {place for place, role in trace.roles.items() if role in ("out", "depthwise")}
    try:
        with tracer.silenced(), training_mode(meta):
            _run(meta, tracer)
    except TraceFailed as error:
        if unread:
            raise UnsupportedModel(
                f"{', '.join(unread[:3])} {'is' if len(unread) == 1 else 'are'} not used in eval "
                f"mode, and the pass in training mode stops: {error} Remove what is not used "
                "before pruning, or let training mode run with images alone."
            ) from error
        warnings.warn(
            f"only eval mode was traced, since the pass in training mode stops: {error}",
            stacklevel=2,
        )
        del trace.ops[trace.eval_ops :]
    del trace.products[products:]
    _pin_training_only(trace, made)


def _pin_training_only(trace: Trace, made: set[tuple[str, int]]) -> None:
    """Pin the channels that no layer makes in eval mode; ``made`` are the places that do."""
    component = trace.atoms.components()
    known = np.zeros(component.max(initial=0) + 1, dtype=bool)
    for name, dim in made:
        known[component[trace.tensors[name][dim]]] = True
    for place, role in trace.roles.items():
        label = trace.tensors[place[0]][place[1]]
        if role == "out" and place not in made:
            is_new = ~known[component[label]]
            trace.atoms.pin(label[is_new], "made in training mode only")


class _Tracer(OperatorMode):
    """Runs every operator, and the rule for its channels."""

    def __init__(self, meta: nn.Module, depthwise: frozenset[str] | None, size: InputSize) -> None:
        super().__init__()
        self.size = size
        self.inputs = blank_inputs(meta, size)
        part = size.part if isinstance(size, Entry) else ""
        self._prefix = f"{part}." if part else ""
        self.flow = Flow(where=type(meta).__name__, depthwise=depthwise)
        self.calls: list[Signature] = []  # of each call, for `_Comparison`
        self.used: set[str] = set()  # names of the parameters and buffers that were read
        self._stack = [self.flow.where]
        self._is_silent = False
        self._is_repeat = depthwise is not None  # what it costs is known, and what is pinned
        self.asks_for_mode = False
        modules = named_modules(meta)
        named = named_tensors(meta, modules)
        self._named = {id(tensor): name for name, tensor in named}
        for name, tensor in named:
            self.flow.enter(name, tensor)
        self.own = [tensor for _, tensor in named]
        self.sources = Sources(named)
        self.functions = FunctionCalls(self.sources)
        self._log: ModuleLog | None = None
        for path, module in modules:
            calls_operators = path and type(module) not in (nn.Identity, nn.Sequential)
            if calls_operators or depthwise is None:
                self._watch(path if calls_operators else None, path, module)

    def _watch(self, place: str | None, path: str, module: nn.Module) -> None:
        """Note when a module runs; ``place`` is its path, None if it calls no operator itself."""

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if place is not None:
                self._stack.append(place)
                self.flow.where = place
            if self._log is not None:
                self._log.entered(path, (args, kwargs) if kwargs else args)

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            if place is not None:
                self._stack.pop()
                self.flow.where = self._stack[-1]
            if self._log is not None:
                self._log.left(path, output)

        # Registered as torch does it, without handles: nobody takes them off the copy again.
        key = -1 - len(module._forward_pre_hooks)
        module._forward_pre_hooks[key] = enter
        module._forward_pre_hooks_with_kwargs[key] = True
        module._forward_hooks[key] = leave

    @contextmanager
    def logged(self, meta: nn.Module) -> Iterator[None]:
        """Note in the trace what goes through the modules of the network."""
        self._log = ModuleLog(self.flow)
        try:
            with self._log.features(named_modules(meta)):
                yield
        finally:
            self._log = None

    def ended(self, outputs: object) -> set[object]:
        """Pin what reaches the outside after a pass, let go of the rest, return the origins."""
        if not self._is_repeat:
            return pin_outputs(self.flow, self.sources, self.own, outputs)
        list(returned_tensors(outputs))  # nothing may do its work later
        self.flow.release()
        self.sources.forget()
        return set()

    def finished(self) -> Trace:
        """The trace, once all passes have run."""
        trace = self.flow.trace
        trace.unused = tuple(self.unread())
        return trace

    def is_entered(self, name: str) -> bool:
        """Whether a parameter or buffer lies in what is traced, and not beside that part."""
        return name.startswith(self._prefix)

    def unread(self) -> list[str]:
        """Names of the parameters of what is traced that no pass has read yet."""
        known = self.flow.trace.parameters
        return [name for name in known if self.is_entered(name) and name not in self.used]

    def note_mode(self) -> None:
        """Note that code has asked whether the network is trained, or may have."""
        self.asks_for_mode = True

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Note no more calls for `_Comparison`; a failed pass leaves no module open."""
        self._is_silent = True
        self._stack = self._stack[:1]
        self.flow.where = self._stack[0]
        try:
            yield
        finally:
            self._is_silent = False
            self._stack = self._stack[:1]
            self.flow.where = self._stack[0]

    def signature(
        self, name: str, scalars: Scalars, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Signature:
        """Identifies a call: operator, module, numbers, parameters read, shapes made."""
        names = tuple(self._named.get(id(tensor)) for tensor in inputs)
        return name, self.flow.where, scalars, names, tuple(tensor.shape for tensor in outputs)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.functions.is_inside:  # called past torch's functions
            self.functions.note_width()
        inputs = tensors_in((args, kwargs) if kwargs else args)
        if any(not t.is_meta and isinstance(t, nn.Parameter) for t in inputs):
            raise UnsupportedModel(
                "it reads a parameter that the network does not know as its own, so it is neither "
                "trained nor saved; hold modules in an nn.ModuleList, parameters in an "
                "nn.ParameterList, not in a plain list"
            )
        operator, labels_of = operator_of(func), self.flow.get
        origins = tuple([self.sources.of(tensor) for tensor in inputs])
        if None in origins:
            self._recognise([t for t, origin in zip(inputs, origins, strict=True) if not origin])
            origins = tuple([self.sources.of(tensor) for tensor in inputs])
        read = tuple([(tuple(t.shape), labels_of(t)) for t in inputs])
        bound = bind(func, args, kwargs)
        scalars = plain_arguments(bound)
        result = run_on_meta(func, args, kwargs)
        outputs = tensors_in(result)
        name = operator.name
        if not self._is_silent:
            self.calls.append(self.signature(name, scalars, inputs, outputs))
        self.used.update([self._named[id(t)] for t in inputs if id(t) in self._named])
        if "norm" in name:  # statistics of the batch, which nobody reads
            outputs = outputs[:1]
        call = Call(operator, inputs, read, outputs, bound)
        apply_rule(self.flow, call)
        if not self._is_repeat:
            note_product(self.flow, self.sources, call)
        if func is torch.ops.aten.clone.default:
            self.sources.note_copy(inputs[0], outputs[0])
            return result  # computes nothing; whether `reshape` makes one depends on the widths
        self.sources.note_call(len(self.flow.trace.ops), inputs, outputs)
        made = tuple([(tuple(t.shape), labels_of(t)) for t in outputs])
        name = name.replace("_unsafe_view", "view")  # the one that `reshape` takes of a copy
        self.flow.trace.ops.append(Op(name, self.flow.where, read, made, scalars, origins))
        return result

    def _recognise(self, tensors: Sequence[Tensor]) -> None:
        """Label tensors that no operator made, as `nn.Parameter(x)`, like those they stand for."""
        for tensor in tensors:
            known = self.flow.same_memory(tensor)
            alike = [t for t in known if t.shape == tensor.shape and t.stride() == tensor.stride()]
            if alike:
                self.flow.set(tensor, self.flow.get(alike[-1]))
                self.sources.note(tensor, self.sources.of(alike[-1]))
                continue
            for label in [v for t in known for v in self.flow.get(t).values()]:
                self.flow.trace.atoms.pin(label, f"read past torch in {self.flow.where}")


class _Comparison(OperatorMode):
    """Counts the calls of a pass that are those of the pass before; the first other one ends it."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self.step = 0
        self._tracer = tracer
        self._made: dict[int, tuple[Tensor, tuple[int, int]]] = {}  # by id: (tensor, call, place)

    def handed_out(self, returned: list[Tensor]) -> set[object]:
        """Origins of the tensors with channels, of any shape, that outlive the pass."""
        origins = {key: origin for key, (_, origin) in self._made.items()}
        found = {origins.get(id(tensor)) for tensor in returned}
        made = [tensor for tensor, _ in self._made.values()]
        self._made.clear()
        left = [list(origins.values())[i] for i in outliving(made, self._tracer.own, returned)]
        ops = self._tracer.flow.trace.ops
        return {o for o in (*found, *left) if o is not None and ops[o[0]].outputs[o[1]][1]}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = tensors_in((args, kwargs))
        bound = bind(func, args, kwargs)
        result = run_on_meta(func, args, kwargs)
        outputs = tensors_in(result)
        name, scalars = operator_of(func).name, plain_arguments(bound)
        signature = self._tracer.signature(name, scalars, inputs, outputs)
        calls = self._tracer.calls
        if self.step >= len(calls) or not is_same_value(signature, calls[self.step]):
            raise _OtherCall
        before = self._tracer.flow.trace.ops[self.step]
        for tensor, source in zip(inputs, before.sources, strict=True):
            if id(tensor) in self._made and self._made[id(tensor)][1] != source:
                raise _OtherCall
        for place, tensor in enumerate(outputs[: len(before.outputs)]):
            self._made[id(tensor)] = tensor, (self.step, place)
        self.step += 1
        return result


class _OtherCall(Exception):
    """The pass has called another operator than the one before."""

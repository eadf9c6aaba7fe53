"""What goes in and out of every module of a network during one pass, with its channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.tracing.atoms import ModuleCalls, Seen
from zoo.core.tracing.copies import named_modules
from zoo.core.tracing.flow import Flow
from zoo.core.tracing.operator_mode import tensors_in

__all__ = ["module_log"]


@contextmanager
def module_log(meta: nn.Module, flow: Flow) -> Iterator[None]:
    """Note in the trace, while the context is open, what goes through the modules of a network.

    Args:
        meta: the network, on the meta device; it has hooks in the meantime.
        flow: of the pass.
    """
    log = _Log(flow)
    undo = [remove for item in named_modules(meta) for remove in log.watch(*item)]
    try:
        yield
    finally:
        for remove in undo:
            remove()


class _Log:
    """Hooks that write into the trace of a pass."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._trace = flow.trace
        self._stack: list[str] = []

    def watch(self, path: str, module: nn.Module) -> Iterator[Callable[[], None]]:
        """Note what a module reads and returns; yield functions that end that."""

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(path)
            calls = self._trace.calls.setdefault(path, ModuleCalls())
            calls.entering.append(self._seen((args, kwargs) if kwargs else args))

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            self._left(self._stack.pop(), output)

        yield module.register_forward_pre_hook(enter, with_kwargs=True).remove
        yield module.register_forward_hook(leave).remove
        host: Any = module  # any network may have timm's forward_features
        if hasattr(host, "forward_features"):
            method = host.forward_features

            def forward_features(*args: Any, **kwargs: Any) -> Any:
                output = method(*args, **kwargs)
                self._trace.features[path] = self._seen(output)
                return output

            host.forward_features = forward_features
            yield lambda: delattr(host, "forward_features")

    def _left(self, path: str, output: object) -> None:
        seen = self._seen(output)
        self._trace.calls[path].leaving.append(seen)
        if path and isinstance(output, Tensor):
            self._trace.outputs.pop(path, None)  # the last call tells the order
            self._trace.outputs[path] = seen[0]

    def _seen(self, values: object) -> tuple[Seen, ...]:
        # Not to be taken for code of the network that reads a shape.
        with torch._C.DisableTorchFunction():
            return tuple([(tuple(t.shape), self._flow.get(t)) for t in tensors_in(values)])

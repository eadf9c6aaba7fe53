"""What goes in and out of every module of a network during one pass, with its channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.tracing.atoms import ModuleCalls, Seen
from zoo.core.tracing.flow import Flow
from zoo.core.tracing.operator_mode import tensors_in

__all__ = ["ModuleLog"]


class ModuleLog:
    """Writes into the trace of a pass what goes through modules.

    Args:
        flow: of the pass.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._trace = flow.trace

    def entered(self, path: str, values: object) -> None:
        """Note the tensors in what a module is called with."""
        self._trace.calls.setdefault(path, ModuleCalls()).entering.append(self._seen(values))

    def left(self, path: str, output: object) -> None:
        """Note the tensors in what a module returns."""
        seen = self._seen(output)
        self._trace.calls[path].leaving.append(seen)
        if path and isinstance(output, Tensor):
            self._trace.outputs.pop(path, None)  # the last call tells the order
            self._trace.outputs[path] = seen[0]

    @contextmanager
    def features(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
        """Note what methods ``forward_features`` return, while the context is open.

        Args:
            modules: those that may have one, with their paths.
        """
        changed: list[Any] = []  # any network may have timm's forward_features
        for path, module in modules:
            # Past the slow search of modules for what they lack.
            if hasattr(type(module), "forward_features") or "forward_features" in vars(module):
                self._watch_features(path, module)
                changed.append(module)
        try:
            yield
        finally:
            for module in changed:
                del module.forward_features

    def _watch_features(self, path: str, host: Any) -> None:
        method = host.forward_features

        def forward_features(*args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            self._trace.features[path] = self._seen(output)
            return output

        host.forward_features = forward_features

    def _seen(self, values: object) -> tuple[Seen, ...]:
        # Not to be taken for code of the network that reads a shape.
        with torch._C.DisableTorchFunction():
            return tuple([(tuple(t.shape), self._flow.get(t)) for t in tensors_in(values)])

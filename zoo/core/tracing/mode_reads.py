"""Whether the code of a network asks if it is being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from zoo.core.tracing.copies import named_modules

__all__ = ["MODELESS", "mode_reads"]

# They do to channels in training mode what they do in eval mode.
MODELESS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@contextmanager
def mode_reads(meta: nn.Module, note: Callable[[], None]) -> Iterator[None]:
    """Call ``note`` whenever code reads ``training`` of a module, while the context is open.

    It is called at once for what cannot be watched. In the meantime the modules are of classes
    derived from their own.

    Args:
        meta: the network; torch's norms and dropouts in it are not watched.
        note: what is to be done.
    """
    watched: dict[Any, Any] = {}  # classes, whose metaclass may be any
    modules = [m for _, m in named_modules(meta) if not isinstance(m, MODELESS)]
    own = [(module, type(module)) for module in modules]
    try:
        for module, kind in own:
            if not _is_usual(kind):
                note()
                continue
            if kind not in watched:
                watched[kind] = _telling(kind, note)
            object.__setattr__(module, "__class__", watched[kind])  # past the slow one of modules
        yield
    finally:
        for module, kind in own:
            object.__setattr__(module, "__class__", kind)


def _is_usual(kind: type[nn.Module]) -> bool:
    """Whether a class can be derived from unnoticed, and changes modes as torch does."""
    own = [vars(base) for base in kind.__mro__ if base is not object]
    is_plain = type(kind) is type and not any("__init_subclass__" in names for names in own)
    has_usual_mode = kind.train is nn.Module.train and kind.eval is nn.Module.eval
    return is_plain and has_usual_mode and not any("training" in names for names in own)


def _telling(kind: type[nn.Module], note: Callable[[], None]) -> type[nn.Module]:
    def read(module: nn.Module) -> Any:
        note()
        return vars(module)["training"]

    def write(module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    space = {"training": property(read, write), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**space, "__qualname__": kind.__qualname__})

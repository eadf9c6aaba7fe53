"""A pretended CUDA device for machines without one: a CPU's numbers under CUDA's rules.

A tensor that is moved to the device becomes a wrapper that says so and holds a CPU tensor. Every
operator is held against the rules that CUDA has (one device for all operands, a generator of its
own), and then carried out on the CPU; launches, copies and waits of the host are counted. The
literal "cuda" of the source of the project is read as the name of the pretended device, so this
works in a process of its own that has not imported the project before.

It stands on an interface of torch for backends that are written in Python. It cannot see cuDNN,
streams, memory or time.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from tests import pretended_graph
from tests.pretended_graph import OPEN, SYNC_MODE, permit_wait

DEVICE = "gpux"
"""Its name; the project takes it for CUDA."""

COUNTS: Counter[str] = Counter()
"""Of "launch", "to_device", "to_device_unwaited" and "wait": each wait is a read by the host."""

FREE = {"detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"}
FREE |= {"new_empty_strided", "_unsafe_view", "is_same_size", "_reshape_alias"}
"""Operators that launch no kernel, beside views."""

INDEXED = {"index", "index_put_", "_index_put_impl_", "index_put"}
READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero"}
COPIES = {"_to_copy", "copy_"}


class _Backend(_DummyBackendModule):
    def device_count(self) -> int:
        return 2

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_rng_state(self, *_: Any) -> None:
        pass

    def _lazy_init(self) -> None:
        pass


class _Renamed(importlib.machinery.SourceFileLoader):
    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        return data.replace(b'"cuda"', f'"{DEVICE}"'.encode()) if path.endswith(".py") else data

    def path_stats(self, path: str) -> Any:
        raise OSError("no compiled file is read or written")

    def set_data(self, *_: Any, **__: Any) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.partition(".")[0] not in ("zoo", "benchmarks", "baselines"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Renamed(spec.loader.name, spec.loader.path)
        return spec


class OnDevice(torch.Tensor):
    """A tensor of the pretended device; `held` is where its numbers lie."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=device,
        )
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:
            _wait()
            return args[0].held.detach().tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype}, {self.device})"


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(func, args, kwargs or {})


def _carried_out(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator: checked, counted, and done on the CPU."""
    leaves, tree = tree_flatten((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    asked = kwargs.get("device") or next(
        (leaf for leaf in leaves if isinstance(leaf, torch.device)), None
    )
    asked = None if asked is None else torch.device(asked)
    if not there and (asked is None or asked.type != DEVICE):
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    device = args[0].device if name == "copy_" else asked or there[0].device
    _check(func, name, leaves, there, device)
    _count(func, name, args, kwargs, leaves, device)
    given, named = tree_unflatten([_held(leaf) for leaf in leaves], tree)
    if "pin_memory" in named:
        named["pin_memory"] = None
    if OPEN:
        OPEN[-1].keep(given, named)
    out = func(*given, **named)
    if OPEN:
        OPEN[-1].add(func, given, named, out)
    return out if device.type != DEVICE else _returned(func, args, kwargs, out, device)


def _held(leaf: Any) -> Any:
    if isinstance(leaf, OnDevice):
        return leaf.held
    if isinstance(leaf, torch.device) and leaf.type == DEVICE:
        return torch.device("cpu")
    return leaf


def _check(func: Any, name: str, leaves: Any, there: Any, device: torch.device) -> None:
    """Refuse what CUDA refuses."""
    plain = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)]
    mixed = [x for x in plain if x.ndim > 0] if there and name not in INDEXED | COPIES else []
    if mixed or (len({x.device for x in there}) > 1 and name not in COPIES):
        shapes = [(str(x.device), tuple(x.shape)) for x in (*there, *mixed)]
        raise RuntimeError(f"{func}: all tensors must be on one device, found {shapes}")
    generators = [x for x in leaves if isinstance(x, torch.Generator)]
    if device.type == DEVICE and any(each.device.type != DEVICE for each in generators):
        raise RuntimeError(f"{func}: a generator of the CPU draws nothing on {device}")


def _count(func: Any, name: str, args: Any, kwargs: Any, leaves: Any, device: Any) -> None:
    if name in COPIES:
        source = args[1] if name == "copy_" else args[0]
        kinds = (source.device.type, device.type)
        if kinds == ("cpu", DEVICE):
            is_waited = not kwargs.get("non_blocking")
            if is_waited:
                permit_wait()
            COUNTS["to_device" if is_waited else "to_device_unwaited"] += 1
        elif kinds == (DEVICE, "cpu"):
            _wait()
        elif DEVICE in kinds:
            COUNTS["launch"] += 1
    elif name in READS:
        _wait()
    elif not func.is_view and name not in FREE:
        COUNTS["launch"] += 1
        if name in INDEXED:  # CUDA copies indices that lie on the CPU
            plain = [x for x in leaves if isinstance(x, torch.Tensor) and x.device.type == "cpu"]
            COUNTS["to_device"] += sum(x.ndim > 0 for x in plain)


def _returned(func: Any, args: Any, kwargs: Any, out: Any, device: torch.device) -> Any:
    """Results as tensors of the device; what was written in place is the tensor that was given."""
    given = {}
    for place, argument in enumerate(func._schema.arguments):
        alias = argument.alias_info
        if alias is not None and alias.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            given.update(dict.fromkeys(alias.before_set, value))

    def one(value: Any, form: Any) -> Any:
        alias = form.alias_info
        if alias is not None and alias.is_write:
            return given[next(iter(alias.before_set))]
        return tree_map(lambda x: OnDevice(x, device) if type(x) is torch.Tensor else x, value)

    forms = func._schema.returns
    if len(forms) == 1:
        return one(out, forms[0])
    return tuple(map(one, out, forms)) if isinstance(out, tuple) else out


class _Event:
    def __init__(self, **_: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        _wait()


def _wait(*_: Any) -> None:
    permit_wait()
    COUNTS["wait"] += 1


def install() -> None:
    """Make torch know the device, and the project take it for CUDA.

    Raises:
        RuntimeError: if the project has been imported before.
    """
    if any(name.partition(".")[0] == "zoo" for name in sys.modules):
        raise RuntimeError("the project was imported before its source could be read anew")
    _setup_privateuseone_for_python_backend(DEVICE, backend_module=_Backend())
    sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def pretended() -> Iterator[Counter[str]]:
    """Inside, torch has two such devices; name them with their index. Lends the counts."""
    zeros = torch.zeros(16, dtype=torch.uint8)
    patched: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "synchronize": _wait,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 1 << 20,
        "memory_allocated": lambda *_: 0,
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: "Pretended GPU",
        "current_device": lambda: 0,
        "get_rng_state": lambda *_, **__: zeros,
        "set_rng_state": lambda *_, **__: None,
        "default_generators": (torch.Generator(), torch.Generator()),
        "Event": _Event,
        "CUDAGraph": pretended_graph.Graph,
        "graph": pretended_graph.recorded,
        "Stream": pretended_graph.Stream,
        "stream": pretended_graph.stream,
        "current_stream": pretended_graph.Stream,
        "is_current_stream_capturing": lambda: bool(OPEN),  # torch 2.11's Adam asks
        "get_sync_debug_mode": lambda: SYNC_MODE[0],
        "set_sync_debug_mode": lambda mode: SYNC_MODE.__setitem__(0, mode),
    }
    pretended_graph.Graph.counts = COUNTS
    before = {name: getattr(torch.cuda, name) for name in patched}
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    for name, value in patched.items():
        setattr(torch.cuda, name, value)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Mode():
            yield COUNTS
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        for name, value in before.items():
            setattr(torch.cuda, name, value)

"""The widths that a network states beside its layers, brought up to date after surgery.

Blocks keep numbers that no forward pass reads: timm's ``feature_info`` and ``num_features``, and
the ``in_chs``, ``out_channels`` or ``groups`` from which a block makes new layers later
(``reset_classifier``, ``reparameterize_model``). A number with a known meaning that was right in
the parent becomes what the channels kept make of it at the same place. The network is proved after
that, and what makes it compute in another way is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from zoo.core.channels.proof import Kept, Mismatch
from zoo.core.tracing.atoms import Op, Seen, Trace
from zoo.core.tracing.copies import named_modules
from zoo.core.tracing.entry import blank_inputs
from zoo.core.tracing.operator_mode import tensors_in
from zoo.core.tracing.trace import on_meta

__all__ = ["Shapes", "refresh_metadata"]

# What names mean, in timm and torchvision alike.
_READ = ("in_channels", "in_chs", "in_features", "in_dim", "in_planes", "inplanes", "inp")
_MADE = ("out_channels", "out_chs", "out_features", "out_dim", "out_planes", "outplanes", "oup")
_ALIKE = ("dim", "embed_dim", "channels", "num_channels", "num_features")  # read and made
_HIDDEN = ("num_features", "head_hidden_size", "hidden_size")  # what enters a classifier
_KNOWN = {"groups", *_READ, *_MADE, *_ALIKE, *_HIDDEN}
_LAYER_READ = ("in_channels", "in_features", "num_features")
_LAYER_MADE = ("out_channels", "out_features")

Shape = tuple[int, ...]
Change = tuple[str, str, int]  # module path, name of the attribute, new value
Side = Literal["entering", "leaving"]


class Shapes:
    """The shapes that go through the modules of a network, as a trace tells them.

    Args:
        model: the network that was traced, or one whose channels are the kept ones of it.
        trace: of the larger network.
        kept: counts the channels that ``model`` has; None if it has all.
    """

    def __init__(self, model: nn.Module, trace: Trace, kept: Kept | None = None) -> None:
        self.model = model
        self.modules = dict(named_modules(model))
        self._trace = trace
        self._kept = kept
        self._intermediates: dict[str, list[Shape]] = {}

    def through(self, path: str, side: Side) -> list[list[Shape]]:
        """Of the tensors that entered or left a module, call by call."""
        calls = self._trace.calls.get(path)
        return [] if calls is None else [self._shapes(seen) for seen in getattr(calls, side)]

    def features(self, path: str) -> list[Shape] | None:
        """Of what the method ``forward_features`` of a module returned, None if it did not run."""
        seen = self._trace.features.get(path)
        return None if seen is None else self._shapes(seen)

    def intermediates(self, path: str) -> list[Shape]:
        """Of the intermediate features of a network or a part that reads images."""
        if path not in self._intermediates:  # a pass for all features, not one for each
            entering = self.through(path, "entering")
            found: list[Shape] = []
            if entering:
                meta = on_meta(self.model)
                module: Any = meta.get_submodule(path)
                images = blank_inputs(meta, entering[0][0][1:], entering[0][0][0])
                with torch.no_grad():
                    made = module.forward_intermediates(images, intermediates_only=True)
                found = [tuple(tensor.shape) for tensor in tensors_in(made)]
            self._intermediates[path] = found
        return self._intermediates[path]

    def _shapes(self, seen: Sequence[Seen]) -> list[Shape]:
        return (
            [shape for shape, _ in seen]
            if self._kept is None
            else list(map(self._kept.shape, seen))
        )


def refresh_metadata(
    before: Shapes, after: Shapes, prove: Callable[[], None], where: Sequence[Op]
) -> None:
    """Bring the widths that a network states beside its layers up to date, and prove the result.

    Args:
        before: the network that was resized.
        after: the result; its network is changed.
        prove: raises ``Mismatch`` unless the result is the network that it should be.
        where: the calls that the steps of a ``Mismatch`` count.

    Raises:
        Mismatch: if the result is another network even without what was changed here.
    """
    changes = list(_changes(before, after))
    resized = after.model
    held = {path: dict(vars(resized.get_submodule(path))) for path, _, _ in changes}
    _set(resized, changes)
    while True:
        try:
            prove()
            break
        except Mismatch as mismatch:
            if not changes:
                raise
            undone = _at_fault(changes, mismatch, where) or changes
        changes = [change for change in changes if change not in undone]
        _set(resized, [(path, name, held[path][name]) for path, name, _ in undone])
    for path, module in after.modules.items():
        for index, info in enumerate(_feature_infos(module)):
            info["num_chs"] = _feature_width(before, after, path, index)


def _at_fault(changes: Sequence[Change], mismatch: Mismatch, where: Sequence[Op]) -> list[Change]:
    """The changes at the module where a network differs, and at those around it."""
    if mismatch.step is None:
        return []
    path = where[mismatch.step].module
    return [change for change in changes if f"{path}.".startswith(f"{change[0]}.") or not change[0]]


def _set(model: nn.Module, changes: Iterable[Change]) -> None:
    for path, name, value in changes:
        setattr(model.get_submodule(path), name, value)


def _followed(before: Shape, after: Shape, stated: int) -> int | None:
    """The new size of a dimension that had the stated size; None if no dimension had.

    Channels lie along the second or the last dimension. Where both have the stated size, it is the
    one that changes: positions stay what they are.
    """
    if len(before) < 2 or len(before) != len(after):
        return None
    found = {after[dim] for dim in (1, len(before) - 1) if before[dim] == stated}
    changed = found - {stated}
    return (changed or found).pop() if found and len(changed) <= 1 else None


def _only(found: Iterable[int | None]) -> int | None:
    """The value that all agree on, None if there is none."""
    distinct = set(found)
    return distinct.pop() if len(distinct) == 1 else None


def _stated(network: Shapes, path: str) -> dict[str, int]:
    """The widths with a known meaning that a module states."""
    held = vars(network.modules[path])
    return {n: v for n, v in held.items() if n in _KNOWN and type(v) is int and v > 1}


def _changes(before: Shapes, after: Shapes) -> Iterator[Change]:
    """The stated widths that are out of date, with their new values."""
    for path, module in before.modules.items():
        if isinstance(module._parameters.get("weight"), nn.Parameter):  # surgery has set its sizes
            continue
        held = vars(after.modules[path])
        for name, stated in _stated(before, path).items():
            new = _new_width(before, after, path, name, stated)
            if new is not None and new != held[name]:
                yield path, name, new


def _new_width(before: Shapes, after: Shapes, path: str, name: str, stated: int) -> int | None:
    """The new value of a stated width; None if its meaning is unclear.

    What goes through the module tells it, or else its own layers, if they agree.
    """
    module, small = before.modules[path], after.modules[path]
    features = before.features(path), after.features(path)
    if name == "num_features" and features[0] is not None and features[1] is not None:
        told = _followed_one(features[0], features[1], stated)
        if told is not None:
            return told
    held = vars(module)
    is_depthwise = any(held.get(width) == held.get("groups") for width in _READ)
    if name == "groups" or (name in _READ and is_depthwise):
        found = list(_of_layers(module, small, ("groups",), stated))
        if found or not is_depthwise:
            return _only(found)
    through = []
    if name in (*_READ, *_ALIKE, "groups"):
        through.append(_through(before, after, path, "entering", stated))
    if name in (*_MADE, *_ALIKE):
        through.append(_through(before, after, path, "leaving", stated))
    told = _only(through)
    if told is not None:
        return told
    if name in _HIDDEN:
        return _hidden_width(before, after, path, stated)
    names = _LAYER_READ if name in _READ else _LAYER_MADE if name in _MADE else _LAYER_READ
    return _only(_of_layers(module, small, names, stated))


def _hidden_width(before: Shapes, after: Shapes, path: str, stated: int) -> int | None:
    """The new width of what enters the classifier of a network or head."""
    module: Any = before.modules[path]
    classifier = module.get_classifier() if hasattr(module, "get_classifier") else None
    paths = [name for name, part in before.modules.items() if part is classifier]
    through = (_through(before, after, name, "entering", stated) for name in paths)
    told = next((width for width in through if width is not None), None)
    if told is not None:
        return told
    small = after.modules[path]
    read = _of_layers(module, small, _LAYER_READ, stated)
    made = _of_layers(module, small, _LAYER_MADE, stated)
    return next(iter([*reversed([*read]), *reversed([*made])]), None)  # nearest to the end


def _through(before: Shapes, after: Shapes, path: str, side: Side, stated: int) -> int | None:
    """The new width of the one tensor that enters or leaves a module, the same in all calls."""
    ours, theirs = before.through(path, side), after.through(path, side)
    return _only(_followed_one(*both, stated) for both in zip(ours, theirs, strict=False))


def _followed_one(before: Sequence[Shape], after: Sequence[Shape], stated: int) -> int | None:
    """The new width of a single tensor, as `_followed` finds it; None for several tensors."""
    is_one = len(before) == len(after) == 1
    return _followed(before[0], after[0], stated) if is_one else None


def _of_layers(
    module: nn.Module, small: nn.Module, names: Sequence[str], stated: int
) -> Iterator[int]:
    """The new sizes of the layers within a module that have the stated one in the parent."""
    for (_, layer), (_, other) in zip(named_modules(module), named_modules(small), strict=True):
        if layer._parameters.get("weight") is not None:
            for name in names:
                if getattr(layer, name, None) == stated:
                    yield getattr(other, name)


def _feature_infos(module: nn.Module) -> list[dict[str, Any]]:
    """The entries of timm's ``feature_info``, empty where a module has none."""
    infos: Any = getattr(module, "feature_info", None)
    infos = getattr(infos, "info", infos)
    is_known = isinstance(infos, list) and all(isinstance(info, dict) for info in infos)
    return [info for info in infos if "num_chs" in info] if is_known else []


def _feature_width(before: Shapes, after: Shapes, path: str, index: int) -> int | None:
    """The new number of channels of a feature, None where the parent's cannot be found again.

    Looked for in what a feature extractor returns, at the module that the entry names, and in what
    ``forward_intermediates`` returns, in this order.
    """
    module: Any = before.modules[path]
    infos = _feature_infos(module)
    info, stated = infos[index], infos[index]["num_chs"]
    found: list[int | None] = []
    taken = [i % len(infos) for i in getattr(module.feature_info, "out_indices", ())]
    if index in taken:
        place = taken.index(index)
        returned = before.through(path, "leaving"), after.through(path, "leaving")
        for old, new in zip(*returned, strict=False):
            if len(old) == len(new) == len(taken):
                found.append(_followed(old[place], new[place], stated))
    side: Side = "entering" if info.get("hook_type") == "forward_pre" else "leaving"
    named = _paths_of(path, str(info.get("module")))
    found += [_through(before, after, name, side, stated) for name in named]
    told = next((width for width in found if width is not None), None)
    if told is not None or taken or not hasattr(module, "forward_intermediates"):
        return told
    old, new = before.intermediates(path), after.intermediates(path)
    return _followed(old[index], new[index], stated) if len(old) == len(new) > index else None


def _paths_of(path: str, name: str) -> list[str]:
    """Paths where the module that a feature names may be: extractors move and flatten modules."""
    prefix = f"{path}." if path else ""
    names = (name, name.replace(".", "_", 1), f"body.{name}", f"model.{name}")
    return [f"{prefix}{name}" for name in names]

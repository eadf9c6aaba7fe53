"""The widths that a network states beside its layers, brought up to date after surgery.

Blocks keep numbers that no forward pass reads: timm's ``feature_info`` and ``num_features``, and
the ``in_chs``, ``out_channels`` or ``groups`` from which a block makes new layers later
(``reset_classifier``, ``reparameterize_model``). Both networks run once on the meta device; a
number with a known meaning that was right in the parent becomes what is seen at the same place of
the resized network. What would make the network compute in another way is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.core.tracing.operator_mode import OperatorMode, run_on_meta, tensors_in
from zoo.core.tracing.trace import blank_images, on_meta, training_mode

__all__ = ["refresh_metadata"]

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


def refresh_metadata(
    parent: nn.Module, resized: nn.Module, input_size: Sequence[int], *, is_trained: bool
) -> None:
    """Bring the widths that a network states beside its layers up to date.

    Args:
        parent: the network that was resized.
        resized: the result; changed.
        input_size: (C, H, W) of one image.
        is_trained: whether it runs other operators in training mode, as its trace tells.
    """
    before = _Pass(on_meta(parent), input_size, is_trained=False)
    after = _Pass(on_meta(resized), input_size, is_trained)
    changes = list(_changes(before, after))
    _set(resized, changes)
    while changes:
        where = after.first_difference(_Pass(on_meta(resized), input_size, is_trained))
        if where is None:
            break
        undone = [c for c in changes if f"{where}.".startswith(f"{c[0]}.") or not c[0]] or changes
        changes = [change for change in changes if change not in undone]
        held = {path: vars(after.model.get_submodule(path)) for path, _, _ in undone}
        _set(resized, [(path, name, held[path][name]) for path, name, _ in undone])
    for path, module in resized.named_modules():
        for index, info in enumerate(_feature_infos(module)):
            info["num_chs"] = _feature_width(before, after, path, index)


def _set(model: nn.Module, changes: Iterable[Change]) -> None:
    for path, name, value in changes:
        setattr(model.get_submodule(path), name, value)


@dataclass
class _Calls:
    """Shapes of the tensors that entered a module and of those it returned, call by call."""

    entering: list[list[Shape]] = field(default_factory=list)
    leaving: list[list[Shape]] = field(default_factory=list)


class _Pass(OperatorMode):
    """One pass on the meta device: what went through each module, and every operator call.

    Attributes:
        model: the network that ran, on the meta device.
        images: what it ran on.
        calls: the shapes that went through each module, by path.
        features: shapes of what the method ``forward_features`` of each module returned, by path.
        intermediates: those of what ``forward_intermediates`` returned, by path, where asked for.
    """

    def __init__(self, model: nn.Module, input_size: Sequence[int], is_trained: bool) -> None:
        super().__init__()
        self.model = model
        self.calls: dict[str, _Calls] = {path: _Calls() for path, _ in model.named_modules()}
        self.features: dict[str, list[Shape]] = {}
        self.intermediates: dict[str, list[Shape]] = {}
        self._stack = [""]
        self._log: list[tuple[str, tuple[Any, ...]]] = []  # path, operator and arguments
        self.images = blank_images(model, input_size)
        hooks = [handle for item in model.named_modules() for handle in self._watch(*item)]
        with torch.no_grad(), self:
            model(self.images)
        for hook in hooks:
            hook()
        if is_trained:
            with torch.no_grad(), training_mode(model), self:
                model(self.images)

    def first_difference(self, other: _Pass) -> str | None:
        """The module at whose operator call another pass differs, None if none does."""
        for ours, theirs in zip(self._log, other._log, strict=False):
            if ours != theirs:
                return ours[0]
        return None if len(self._log) == len(other._log) else self._log[-1][0]

    def _watch(self, path: str, module: nn.Module) -> Iterator[Callable[[], None]]:
        """Note what a module reads and returns; yield functions that remove the hooks."""

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(path)
            self.calls[path].entering.append(_shapes((args, kwargs)))

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            self.calls[self._stack.pop()].leaving.append(_shapes(output))

        yield module.register_forward_pre_hook(enter, with_kwargs=True).remove
        yield module.register_forward_hook(leave).remove
        host: Any = module  # any network may have timm's forward_features
        if hasattr(host, "forward_features"):
            method = host.forward_features

            def forward_features(*args: Any, **kwargs: Any) -> Any:
                output = method(*args, **kwargs)
                self.features[path] = _shapes(output)
                return output

            host.forward_features = forward_features
            yield lambda: delattr(host, "forward_features")

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        told = tuple(map(_describe, tree_leaves((args, kwargs))))
        self._log.append((self._stack[-1], (str(func), *told)))
        return run_on_meta(func, args, kwargs)


def _describe(leaf: Any) -> object:
    """An argument of a call: the shape of a tensor, its values if it holds any."""
    if not isinstance(leaf, Tensor):
        return leaf
    return tuple(leaf.shape) if leaf.is_meta else str(leaf)


def _shapes(values: Any) -> list[Shape]:
    return [tuple(tensor.shape) for tensor in tensors_in(values)]


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


def _stated(network: _Pass, path: str) -> dict[str, int]:
    """The widths with a known meaning that a module states."""
    held = vars(network.model.get_submodule(path))
    return {n: v for n, v in held.items() if n in _KNOWN and type(v) is int and v > 1}


def _changes(before: _Pass, after: _Pass) -> Iterator[Change]:
    """The stated widths that are out of date, with their new values."""
    owners: dict[int, str] = {}
    for path, module in before.model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter):  # surgery has set the sizes of its first owner
            yield from _tied(before, after, path, owners.setdefault(id(weight), path))
            continue
        held = vars(after.model.get_submodule(path))
        for name, stated in _stated(before, path).items():
            new = _new_width(before, after, path, name, stated)
            if new is not None and new != held[name]:
                yield path, name, new


def _tied(before: _Pass, after: _Pass, path: str, owner: str) -> Iterator[Change]:
    """The sizes of a layer that shares its weight with the layer ``owner``, which has its own."""
    old, new = (
        [vars(network.model.get_submodule(name)) for name in (path, owner)]
        for network in (before, after)
    )
    for name in ("groups", *_LAYER_READ, *_LAYER_MADE) if path != owner else ():
        if name in old[0] and old[0][name] == old[1].get(name) and new[0][name] != new[1][name]:
            yield path, name, new[1][name]


def _new_width(before: _Pass, after: _Pass, path: str, name: str, stated: int) -> int | None:
    """The new value of a stated width; None if its meaning is unclear.

    What goes through the module tells it, or else its own layers, if they agree.
    """
    module, small = before.model.get_submodule(path), after.model.get_submodule(path)
    if name == "num_features" and path in before.features and path in after.features:
        told = _followed_one(before.features[path], after.features[path], stated)
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


def _hidden_width(before: _Pass, after: _Pass, path: str, stated: int) -> int | None:
    """The new width of what enters the classifier of a network or head."""
    module: Any = before.model.get_submodule(path)
    classifier = module.get_classifier() if hasattr(module, "get_classifier") else None
    paths = [name for name, part in before.model.named_modules() if part is classifier]
    found = [_through(before, after, name, "entering", stated) for name in paths]
    small = after.model.get_submodule(path)
    read = _of_layers(module, small, _LAYER_READ, stated)
    made = _of_layers(module, small, _LAYER_MADE, stated)
    found += [*reversed([*read]), *reversed([*made])]  # the layer nearest to the end
    return next((width for width in found if width is not None), None)


def _through(before: _Pass, after: _Pass, path: str, side: Side, stated: int) -> int | None:
    """The new width of the one tensor that enters or leaves a module, the same in all calls."""
    ours, theirs = (getattr(network.calls[path], side) for network in (before, after))
    return _only(_followed_one(*both, stated) for both in zip(ours, theirs, strict=False))


def _followed_one(before: Sequence[Shape], after: Sequence[Shape], stated: int) -> int | None:
    """The new width of a single tensor, as `_followed` finds it; None for several tensors."""
    is_one = len(before) == len(after) == 1
    return _followed(before[0], after[0], stated) if is_one else None


def _of_layers(
    module: nn.Module, small: nn.Module, names: Sequence[str], stated: int
) -> Iterator[int]:
    """The new sizes of the layers within a module that have the stated one in the parent."""
    for layer, other in zip(module.modules(), small.modules(), strict=True):
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            for name in names:
                if getattr(layer, name, None) == stated:
                    yield getattr(other, name)


def _feature_infos(module: nn.Module) -> list[dict[str, Any]]:
    """The entries of timm's ``feature_info``, empty where a module has none."""
    infos: Any = getattr(module, "feature_info", None)
    infos = getattr(infos, "info", infos)
    is_known = isinstance(infos, list) and all(isinstance(info, dict) for info in infos)
    return [info for info in infos if "num_chs" in info] if is_known else []


def _feature_width(before: _Pass, after: _Pass, path: str, index: int) -> int | None:
    """The new number of channels of a feature, None where the parent's cannot be found again.

    Looked for in what a feature extractor returns, at the module that the entry names, and in what
    ``forward_intermediates`` returns, in this order.
    """
    module: Any = before.model.get_submodule(path)
    infos = _feature_infos(module)
    info, stated = infos[index], infos[index]["num_chs"]
    found: list[int | None] = []
    taken = [i % len(infos) for i in getattr(module.feature_info, "out_indices", ())]
    if index in taken:
        place = taken.index(index)
        for old, new in zip(*(n.calls[path].leaving for n in (before, after)), strict=False):
            if len(old) == len(new) == len(taken):
                found.append(_followed(old[place], new[place], stated))
    side: Side = "entering" if info.get("hook_type") == "forward_pre" else "leaving"
    named = [name for name in _paths_of(path, str(info.get("module"))) if name in before.calls]
    found += [_through(before, after, name, side, stated) for name in named]
    told = next((width for width in found if width is not None), None)
    if told is not None or taken or not hasattr(module, "forward_intermediates"):
        return told
    old, new = (_intermediates(network, path) for network in (before, after))
    return _followed(old[index], new[index], stated) if len(old) == len(new) > index else None


def _intermediates(network: _Pass, path: str) -> list[Shape]:
    """Shapes of the intermediate features of a network or a part that reads images."""
    if path not in network.intermediates:  # a pass for all features, not one for each
        module: Any = network.model.get_submodule(path)
        entering = network.calls[path].entering
        found: list[Shape] = []
        if entering:
            images = network.images.new_empty(entering[0][0])
            with torch.no_grad():
                found = _shapes(module.forward_intermediates(images, intermediates_only=True))
        network.intermediates[path] = found
    return network.intermediates[path]


def _paths_of(path: str, name: str) -> list[str]:
    """Paths where the module that a feature names may be: extractors move and flatten modules."""
    prefix = f"{path}." if path else ""
    names = (name, name.replace(".", "_", 1), f"body.{name}", f"model.{name}")
    return [f"{prefix}{name}" for name in names]

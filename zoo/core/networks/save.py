"""A pruned network on disk: tensors as safetensors, structure as JSON, nothing to execute."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import prove
from zoo.core.channels.resize import axis_sizes
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.architecture import MOST_NUMBERS, Architecture, make
from zoo.core.networks.assemble import assemble
from zoo.core.networks.check_output import (
    CheckOutput,
    check_output,
    different_operator,
    different_output,
)
from zoo.core.networks.structure import (
    FORMAT,
    STRUCTURE,
    DtypeName,
    Structure,
    printable,
    read_plain_file,
)
from zoo.core.tracing.copies import memory_format_of
from zoo.core.whole_file import require_place, write_whole

__all__ = ["Saveable", "holds_network", "load_pruned", "save_pruned"]

_TENSORS = "network.safetensors"
_LARGEST_FILE = 8 * MOST_NUMBERS  # bytes of tensors


class Saveable(Protocol):
    """The interface that ``save_pruned`` needs; ``PruneResult`` has it."""

    @property
    def model(self) -> nn.Module:
        """The pruned network."""

    @property
    def config(self) -> SubnetConfig:
        """The channels it kept."""

    @property
    def space(self) -> ChannelSpace:
        """The channel space of its parent."""

    @property
    def architecture(self) -> Architecture:
        """How timm makes the parent."""


@dataclass(frozen=True)
class _Rebuilt:
    """A network that ``rebuild`` made, as ``save_pruned`` needs it."""

    model: nn.Module
    config: SubnetConfig
    space: ChannelSpace
    architecture: Architecture


@checked()
def save_pruned(
    result: Saveable | nn.Module,
    directory: str | os.PathLike[str],
    *,
    space: ChannelSpace | None = None,
    config: SubnetConfig | None = None,
    model_args: Mapping[str, object] | None = None,
) -> None:
    """Write a pruned network into a folder, as ``network.safetensors`` and ``network.json``.

    What ``zoo.prune`` returned is saved as it is; what ``zoo.rebuild`` made, with the space and the
    configuration that it was made with. A network that is not timm's is saved the same way; to load
    it, ``load_pruned`` asks for a network made as its parent was.

    Before that, the network is made again as ``load_pruned`` would make it, and held against the
    given one: operator by operator in eval and training mode, and by what both put out for fixed
    images. Where timm's name and arguments do not give the same network again, because a layer or
    an attribute of the parent was changed after it was made, a warning says what differs, and
    ``load_pruned(directory, parent=...)`` will ask for the parent. A network that was widened
    before, or pruned before, is made again from its architecture like any other.

    What the network puts out for the fixed images goes into the file, too, and so do the types of
    its tensors, a network in bfloat16 is loaded as one, and which parameters are frozen.

    ``network.json`` is written last. A run that is killed before leaves no network, and its folder
    can be saved into again; one that is killed later leaves a whole one.

    Args:
        result: what ``zoo.prune`` returned, or the network that ``zoo.rebuild`` made.
        directory: made if it does not exist.
        space: of a rebuilt network, the channel space of its parent.
        config: of a rebuilt network, what it kept.
        model_args: of a rebuilt network, what timm made its parent with beside its classes.

    Raises:
        FileExistsError: if the folder holds a network already.
        TypeError: if a rebuilt network comes without space or configuration.
        ValueError: if the network has other tensors than its configuration says, as after a new
            head; if its outputs are all NaN; if its state holds something that is no tensor; if a
            part of it was pruned, or it takes other inputs than images.
        UnsupportedModel: if a rebuilt network is not what the space predicts.
        OSError: if it cannot be written.
    """
    folder = Path(directory)
    if isinstance(result, nn.Module) or space is not None or config is not None or model_args:
        result = _rebuilt(result, space, config, model_args)
    if not hasattr(result, "space"):
        raise TypeError(f"result is a {type(result).__name__}; give what zoo.prune returned")
    _refuse_own_inputs(result)
    if holds_network(folder):
        raise FileExistsError(f"{folder / STRUCTURE} exists; choose another folder or remove it")
    require_place(folder / STRUCTURE)
    tensors = _state(result.model)
    _refuse_changed(tensors, result.space, result.config)
    if isinstance(result, _Rebuilt):  # what `zoo.prune` returned was proved when it was made
        kept, traced = result.config, result.space
        prove(traced.trace_record, traced.table, kept, result.model, traced.size)
    content = safetensors.torch.save(tensors)
    structure = _verified(result, tensors, hashlib.sha256(content).hexdigest())
    text = structure.text()
    _sweep(folder)
    try:
        write_whole(folder / _TENSORS, content)
        write_whole(folder / STRUCTURE, text)
    except BaseException:
        if not (folder / STRUCTURE).exists():
            (folder / _TENSORS).unlink(missing_ok=True)
        raise
    _warn_of_parent(structure, result.architecture)


def _warn_of_parent(structure: Structure, architecture: Architecture) -> None:
    """Warn, of the caller's caller, if timm's network by that name is not the parent."""
    if structure.needs_parent and architecture.name is not None:
        warnings.warn(
            f"timm's {architecture.name!r} with {architecture.args} is not the parent of this "
            f"network: {structure.needs_parent}. The network is saved; load it with "
            "zoo.load_pruned(directory, parent=...), a network made as its parent was",
            stacklevel=3,
        )


def _refuse_own_inputs(result: Saveable) -> None:
    """Refuse what was pruned by a part, or is called with something else than images.

    Raises:
        ValueError: with the way out.
    """
    if result.space.entry is None:
        return
    what = f"its part {result.space.part!r}" if result.space.part else "inputs of its own"
    raise ValueError(
        f"{type(result.model).__name__} was pruned by {what}, and what load_pruned makes again is "
        "called with images and pruned as a whole; keep result.config.to_json() with "
        "result.model.state_dict(), and make it again with zoo.rebuild(parent, result.space, "
        "config)"
    )


def holds_network(folder: Path) -> bool:
    """Tell whether a folder holds a saved network: both files, the second being written last."""
    return all(os.path.lexists(folder / name) for name in (_TENSORS, STRUCTURE))


@checked()
def load_pruned(directory: str | os.PathLike[str], parent: nn.Module | None = None) -> nn.Module:
    """Return the network that ``save_pruned`` wrote, on the CPU and in eval mode.

    The parent's architecture is made anew, traced, brought to the widths that the parent had, and
    cut to the saved configuration; then the saved tensors are loaded, and what the network puts out
    for fixed images must be what the saved one did.

    The folder may come from a stranger: nothing in it is executed, and nothing is downloaded,
    opened or written because of it. Names and arguments are held against a list of those that
    describe an architecture, and everything else against types and bounds.

    Folders of older versions hold no outputs to compare with; a warning says so.

    Args:
        directory: the folder.
        parent: a full network made as the parent was, needed where timm alone cannot make it: it
            comes from elsewhere, or was changed after timm made it. Its weights do not matter, and
            it may have the widths from before or after an earlier pruning.

    Raises:
        FileNotFoundError: if the folder holds no network.
        ValueError: if the files are damaged or not plain files, ask for something that is not
            allowed (the message names the key), or belong to another parent.
        OSError: if they cannot be read.
    """
    folder = Path(directory)
    structure = Structure.read(folder)
    path = folder / _TENSORS
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path} does not exist; the folder holds no whole network")
    tensors = _read_tensors(path, structure)
    if parent is None and structure.architecture is None:
        reason = structure.needs_parent or "it was not made by timm"
        raise ValueError(
            f"the parent of {folder} cannot be made again by timm alone: {printable(reason)}; call "
            "load_pruned(directory, parent=...) with a network made as the parent was"
        )
    try:
        model = assemble(structure, tensors, parent)
        if structure.check is not None:
            _compare(structure, structure.check, model, parent)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    if structure.check is None:
        warnings.warn(
            f"{folder} holds no outputs to compare with, so it is not known whether this is the "
            "network that was saved; save it again",
            stacklevel=2,
        )
    return model


def _rebuilt(
    model: object,
    space: ChannelSpace | None,
    config: SubnetConfig | None,
    model_args: Mapping[str, object] | None,
) -> _Rebuilt:
    """Return a rebuilt network with what it was made with.

    Raises:
        TypeError: if something is missing, or is given beside what holds it already.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"space, config and model_args belong to a network; {type(model).__name__} is none and "
            "is saved without them"
        )
    if space is None or config is None:
        missing = " and ".join(
            name for name, given in (("space", space), ("config", config)) if given is None
        )
        raise TypeError(
            f"a network without {missing} cannot be saved: save_pruned(network, directory, "
            "space=..., config=...), with those that zoo.rebuild made it with"
        )
    return _Rebuilt(model, config, space, Architecture.of(model, **(model_args or {})))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as tensors on the CPU of a known type."""
    state = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} of the network's state is a {type(tensor).__name__}, no tensor; remove it "
                "(get_extra_state) before the network is saved"
            )
        _dtype_name(name, tensor)
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is no ordinary tensor with data; it cannot be saved")
        state[name] = tensor.detach().cpu().contiguous().clone()
    return state


def _refuse_changed(
    tensors: Mapping[str, Tensor], space: ChannelSpace, config: SubnetConfig
) -> None:
    """Refuse a network that no parent gives back, because it was changed after it was pruned."""
    table = space.table
    config.check(space)
    sizes = axis_sizes(table, table.kept_positions(config))
    for name, full in table.shapes.items():
        places = [table.tensors.get((name, dim)) for dim in range(len(full))]
        shape = tuple(
            size if axis is None else sizes[axis] for size, axis in zip(full, places, strict=True)
        )
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape and (found is not None or name in table.parameters):
            raise ValueError(
                f"{name} is {found or 'absent'}, where the pruned network has {shape}: it was "
                "changed after it was pruned, or kept other channels. Change the network before "
                "it is pruned, or save its state_dict yourself"
            )


def _dtype_name(name: str, tensor: Tensor) -> DtypeName:
    known: dict[torch.dtype, DtypeName] = {getattr(torch, n): n for n in get_args(DtypeName)}
    if tensor.dtype not in known:
        raise ValueError(f"{name} is of type {tensor.dtype}; known are {', '.join(known.values())}")
    return known[tensor.dtype]


def _verified(result: Saveable, tensors: Mapping[str, Tensor], sha256: str) -> Structure:
    """Make the network again from timm; return the structure that did it, or needs the parent."""
    space, architecture = result.space, result.architecture
    facts: dict[str, Any] = {
        "format": FORMAT,
        "input_size": list(space.input_size),
        "inexact": space.inexact,
        "keep": result.config.to_json(),
        # The last bits of the logits depend on it.
        "channels_last": any(
            memory_format_of(p) is torch.channels_last for p in result.model.parameters()
        ),
        "dtypes": {name: _dtype_name(name, tensor) for name, tensor in tensors.items()},
        "frozen": [n for n, p in result.model.named_parameters() if not p.requires_grad] or None,
        "check": _repeated_output(result.model, space),
        "sha256": sha256,
    }
    kind = type(result.model)
    reason = f"{kind.__module__}.{kind.__qualname__} was not made by timm"
    for at_hand in _attempts(architecture, space):
        if isinstance(at_hand, str):
            reason = at_hand
            break
        made, inexact, widths = at_hand
        structure = Structure(
            architecture=architecture.name,
            args=architecture.args,
            parent_widths=widths,
            parent_inexact=inexact,
            **facts,
        )
        found = _difference(structure, tensors, made, result.model)
        if found is None:
            return structure
        reason = found
    return Structure(
        architecture=None,
        args={},
        needs_parent=printable(reason),
        parent_widths={group.name: group.size for group in space.groups},
        **facts,
    )


def _attempts(
    architecture: Architecture, space: ChannelSpace
) -> Iterator[tuple[nn.Module, bool, dict[str, int]] | str]:
    """Yield timm's network, `inexact` and the parent's widths to try, or why there is none."""
    if architecture.name is None:
        return
    try:
        made = make(architecture.name, architecture.args)
        shapes = {n: tuple(t.shape) for n, t in (*made.named_parameters(), *made.named_buffers())}
        wanted = space.table.shapes
        if all(shapes.get(name) == shape for name, shape in wanted.items() if shape):
            yield made, space.inexact, {group.name: group.size for group in space.groups}
            return
        for inexact in (space.inexact, not space.inexact):
            found = ChannelSpace.trace(made, space.input_size, inexact=inexact)
            yield made, inexact, _widths_in(found, wanted)
    except ValueError as error:
        yield str(error)


def _widths_in(space: ChannelSpace, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the width of each group in a network whose tensors have other shapes."""
    widths = {}
    for group in space.groups:
        for member in group.members:
            own, other = space.table.shapes[member.tensor], shapes.get(member.tensor, ())
            repeats = own[member.dim] // group.size
            is_alone = own[member.dim] == member.index.size and len(own) == len(other)
            if is_alone and other[member.dim] % repeats == 0:
                widths[group.name] = other[member.dim] // repeats
                break
    return widths


def _repeated_output(model: nn.Module, space: ChannelSpace) -> CheckOutput | None:
    """Return what the network puts out, None if it is not the same twice."""
    try:
        first = check_output(model, space.input_size)
    except ValueError as error:
        _warn_unchecked(str(error))
        return None
    if first.is_blank:
        raise ValueError(
            "the network puts out nothing but NaN or infinity for every image, so nothing can be "
            "told from what it computes; it was not saved"
        )
    differs = different_output(first, check_output(model, space.input_size))
    if differs is None:
        return first
    _warn_unchecked(f"the network put the same images through twice gives {differs}")
    return None


def _warn_unchecked(reason: str) -> None:
    warnings.warn(
        f"{reason}. The network is saved without outputs that loading could compare with",
        stacklevel=5,
    )


def _difference(
    structure: Structure, tensors: Mapping[str, Tensor], made: nn.Module, model: nn.Module
) -> str | None:
    """Return how the network that is made from the structure differs from the given one."""
    try:
        again = assemble(structure, tensors, None, made)
        found = different_operator(model, again, structure.input_size)
        if found is None and structure.check is not None:
            output = check_output(again, structure.input_size, structure.check.dtype)
            found = different_output(structure.check, output)
    except ValueError as error:
        return str(error)
    return None if found is None else f"made again, it has {found}"


def _compare(
    structure: Structure, check: CheckOutput, model: nn.Module, parent: nn.Module | None
) -> None:
    """Raise unless the loaded network puts out what the saved one did."""
    found = check_output(model, structure.input_size, check.dtype)
    differs = different_output(check, found)
    if differs is None:
        return
    if parent is None:
        raise ValueError(
            f"timm {timm.__version__} makes of {structure.architecture!r} a network with "
            f"{differs}; give load_pruned(directory, parent=...) one made as the parent was"
        )
    raise ValueError(
        f"with the given parent the network has {differs}; give one made as the parent was, with "
        "the same strides, activations and buffers"
    )


def _read_tensors(path: Path, structure: Structure) -> dict[str, Tensor]:
    """Return the saved tensors, once they are what the structure says.

    Raises:
        ValueError: naming the tensor that is not.
    """
    content = read_plain_file(path, _LARGEST_FILE)
    if hashlib.sha256(content).hexdigest() != structure.sha256:
        raise ValueError(f"{path} is damaged: its checksum is not the one in {STRUCTURE}")
    try:
        tensors = safetensors.torch.load(content)
        found = {name: _dtype_name(name, tensor) for name, tensor in tensors.items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {printable(str(error))}") from error
    if structure.dtypes is None:  # an older version; the types are those of the file
        return tensors
    for name in sorted({*found, *structure.dtypes}):
        if found.get(name) != structure.dtypes.get(name):
            raise ValueError(
                f"{path}: dtypes: {printable(name)} is {found.get(name, 'absent')}, {STRUCTURE} "
                f"says {structure.dtypes.get(name, 'that it is absent')}"
            )
    return tensors


def _sweep(folder: Path) -> None:
    """Remove the files of a save that was killed; only for a folder without a whole network."""
    for name in (STRUCTURE, _TENSORS):  # first the one without which the other means nothing
        if (folder / name).is_file() or (folder / name).is_symlink():
            (folder / name).unlink()

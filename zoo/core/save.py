"""A pruned network on disk: tensors as safetensors, structure as JSON, nothing to execute."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from zoo.core.config import SubnetConfig
from zoo.core.space import ChannelSpace
from zoo.core.surgery import rebuild
from zoo.core.widen import widen

__all__ = ["Architecture", "Saveable", "load_pruned", "save_pruned"]

_FORMAT = 1
_TENSORS, _STRUCTURE = "network.safetensors", "network.json"


@dataclass(frozen=True)
class Architecture:
    """How timm makes the parent again.

    Args:
        name: timm's name of the parent, None if it is not timm's: then ``load_pruned`` must be
            given the parent.
        args: arguments of ``timm.create_model``, JSON values.
    """

    name: str | None
    args: dict[str, Any]  # whatever the architecture takes

    @classmethod
    def of(cls, parent: nn.Module, **args: Any) -> Architecture:
        """Return the architecture of a network, with the head and input that it has.

        Args:
            parent: the full network.
            **args: further arguments that it was created with, as ``drop_rate``.
        """
        described: Any = getattr(parent, "pretrained_cfg", None) or {}
        name = described.get("architecture")
        if name is None or not timm.is_model(name):
            return cls(None, {})
        if isinstance(getattr(parent, "num_classes", None), int):
            args.setdefault("num_classes", parent.num_classes)
        first = next((m for m in parent.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None:
            args.setdefault("in_chans", first.in_channels)
        return cls(name, args)


class Saveable(Protocol):
    """What ``save_pruned`` needs: what ``zoo.prune`` returns, or anything like it."""

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


def save_pruned(result: Saveable, directory: str | os.PathLike[str]) -> None:
    """Write a pruned network into a folder, as ``network.safetensors`` and ``network.json``.

    Args:
        result: what ``zoo.prune`` returned.
        directory: made if it does not exist.

    Raises:
        FileExistsError: if the folder holds a network already.
        OSError: if it cannot be written.
    """
    folder = Path(directory)
    for name in (_TENSORS, _STRUCTURE):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in result.model.state_dict().items()
    }
    hidden = [folder / f".{name}.{os.getpid()}.tmp" for name in (_TENSORS, _STRUCTURE)]
    try:
        save_file(tensors, hidden[0])
        structure = {
            "format": _FORMAT,
            "architecture": result.architecture.name,
            "args": result.architecture.args,
            "input_size": list(result.space.input_size),
            "inexact": result.space.inexact,
            "parent_widths": {group.name: group.size for group in result.space.groups},
            "keep": result.config.to_json(),
            "channels_last": _is_channels_last(result.model),
            "sha256": hashlib.sha256(hidden[0].read_bytes()).hexdigest(),
        }
        hidden[1].write_text(json.dumps(structure, indent=1) + "\n")
        hidden[0].replace(folder / _TENSORS)
        hidden[1].replace(folder / _STRUCTURE)
    finally:
        for path in hidden:
            path.unlink(missing_ok=True)


def load_pruned(directory: str | os.PathLike[str], parent: nn.Module | None = None) -> nn.Module:
    """Return the network that ``save_pruned`` wrote, on the CPU and in eval mode.

    The parent's architecture is made anew, traced, widened if the parent was, and cut to the saved
    configuration; then the saved tensors are loaded. Nothing in the files is executed.

    Args:
        directory: the folder.
        parent: a full network of the parent's architecture, needed where the parent was not made
            by timm; its weights do not matter.

    Raises:
        FileNotFoundError: if the folder holds no network.
        ValueError: if the files are damaged, or belong to another parent.
    """
    folder = Path(directory)
    structure = _read_structure(folder)
    path = folder / _TENSORS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the folder holds no whole network")
    if hashlib.sha256(path.read_bytes()).hexdigest() != structure["sha256"]:
        raise ValueError(f"{path} is damaged: its checksum is not the one in {_STRUCTURE}")
    if parent is None:
        parent = _make(structure, folder)
    space = ChannelSpace.trace(parent, structure["input_size"], inexact=structure["inexact"])
    widths = structure.get("parent_widths", {})  # absent from folders of older versions
    if any(space.group(name).size != width for name, width in widths.items()):
        parent = widen(parent, space, widths)
        space = ChannelSpace.trace(parent, space.input_size, inexact=space.inexact)
    model = rebuild(parent, space, SubnetConfig.from_json(structure["keep"]))
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not fit its architecture: {error}") from error
    if structure["channels_last"]:
        model.to(memory_format=torch.channels_last)
    return model.eval()


def _is_channels_last(model: nn.Module) -> bool:
    """Tell the memory format, on which the last bits of the logits depend."""
    return any(
        p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
    )


def _make(structure: dict[str, Any], folder: Path) -> nn.Module:
    name = structure["architecture"]
    if name is None:
        raise ValueError(
            f"the parent of {folder} was not made by timm; call load_pruned(directory, parent) "
            "with a network of its architecture"
        )
    if not timm.is_model(name):
        raise ValueError(f"{folder} was pruned from {name!r}, which this timm does not have")
    made: nn.Module = timm.create_model(name, **structure["args"])
    return made


def _read_structure(folder: Path) -> dict[str, Any]:
    path = folder / _STRUCTURE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the folder holds no pruned network")
    try:
        structure = json.loads(path.read_text())
        missing = {"format", "architecture", "args", "input_size", "inexact", "keep"}
        missing |= {"channels_last", "sha256"}
        missing -= set(structure)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    if structure["format"] != _FORMAT:
        raise ValueError(f"{path} has format {structure['format']}; this version reads {_FORMAT}")
    whole: dict[str, Any] = structure
    return whole

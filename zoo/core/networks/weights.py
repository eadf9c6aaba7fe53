"""Weights from a file that anyone may have made: read, held against a network, then loaded.

Nothing in the file is executed, and a network gets all of its weights from it or stays as it is.
What is taken from a file beside its tensors as they are, such as a prefix that all names share, is
told in notes.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.core.errors import said
from zoo.core.networks.architecture import MOST_NUMBERS
from zoo.core.networks.structure import printable, read_plain_file

__all__ = ["SUFFIXES", "Weights", "load_weights", "read_weights", "weights_digest"]

_PICKLED = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *_PICKLED)
"""Of the files that are read; the last three are torch's."""

_WRAPPERS = ("state_dict", "model", "model_ema", "state_dict_ema")
"""Under which training scripts keep a network's tensors, beside an optimizer's."""

_LARGEST_FILE = 8 * MOST_NUMBERS  # bytes
_TENSORS = 100_000
_LONGEST_NAME = 1000
_SHOWN = 3  # differences of a kind that a message names
_LIKELY = 12  # networks of timm's that a file which does not fit is held against
_COUNTER = ".num_batches_tracked"  # older files lack it, and it changes no output


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        path: of the file.
        digest: of its content, 16 hexadecimal digits.
        tensors: by state-dict name, on the CPU.
        notes: what was made of the file, each half a sentence; none if it was taken as it is.
    """

    path: Path
    digest: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def fitted(self, model: nn.Module, *, is_new_head_allowed: bool = False) -> Weights:
        """The same with a tensor for each of the network's, which is not touched.

        A prefix that all names share is removed. Counters of batches that the file lacks, and a
        head that is left out, are the network's own.

        Args:
            model: the network that is to have the weights.
            is_new_head_allowed: whether a head of another number of classes is left out, since the
                network's own will be trained; otherwise it is refused.

        Raises:
            ValueError: if they do not fit, with the first differences and what would fit.
        """
        own: dict[str, Tensor] = model.state_dict()
        weights = self._without_prefix(own)
        found = _Comparison.of(own, weights.tensors)
        head = _head_names(model)
        if found.is_of_head(head, own, weights.tensors):
            weights = weights._without_head(head, own, is_new_head_allowed)
        elif found:
            hints = [
                f"; {hint}" for hint in (self._prefix_hint(own), self._name_hint(model)) if hint
            ]
            name = _architecture(model)
            raise ValueError(f"{self.path} does not fit {name}: {found.told()}{''.join(hints)}")
        counters = {name: own[name] for name in own if name.endswith(_COUNTER)}
        return replace(weights, tensors={**counters, **weights.tensors})

    def _without_prefix(self, own: Mapping[str, Tensor]) -> Weights:
        """The same without a prefix that all names share, if more of them fit without it."""
        prefix, _ = _best_prefix(self.tensors, own)
        if not prefix or not all(name.startswith(prefix) for name in self.tensors):
            return self
        tensors = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items()}
        note = f"the prefix {printable(prefix, 100)!r} of its names is left out"
        return replace(self, tensors=tensors, notes=(*self.notes, note))

    def _without_head(
        self, head: Sequence[str], own: Mapping[str, Tensor], is_allowed: bool
    ) -> Weights:
        """The same with the network's own head in place of the file's."""
        classes = {len(self.tensors[name]) for name in head if name in self.tensors}
        its = f"a head of {max(classes)} classes" if classes else "no head"
        needed = max(len(own[name]) for name in head)
        if not is_allowed:
            raise ValueError(
                f"{self.path} has {its} and the network's has {needed}, and a new one would know "
                "nothing: train it for an epoch at least (epochs of [parent], --parent-epochs), or "
                f"give weights with {needed} classes"
            )
        note = f"it has {its}, so the one of {needed} classes is newly drawn"
        tensors = {**self.tensors, **{name: own[name] for name in head}}
        return replace(self, tensors=tensors, notes=(*self.notes, note))

    def _prefix_hint(self, own: Mapping[str, Tensor]) -> str:
        """Which prefix some of the names would have to lose, half a sentence; "" if none."""
        prefix, count = _best_prefix(self.tensors, own)
        if not prefix or all(name.startswith(prefix) for name in self.tensors):
            return ""
        return (
            f"{count} of its {len(self.tensors)} names fit without the prefix "
            f"{printable(prefix, 100)!r}, which the others do not have: save those alone"
        )

    def _name_hint(self, model: nn.Module) -> str:
        """A network of timm's that the tensors fit, head apart, half a sentence; "" if none."""
        for name in _likely_names(self.path.stem, _architecture(model)):
            with torch.random.fork_rng(devices=()), torch.device("meta"):
                likely = timm.create_model(name)
            own = likely.state_dict()
            weights = self._without_prefix(own)
            found = _Comparison.of(own, weights.tensors)
            if not found or found.is_of_head(_head_names(likely), own, weights.tensors):
                return f"it fits {name}: ask for that network"
        return ""


@dataclass(frozen=True)
class _Comparison:
    """Names of the tensors in which a file and a network differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    different: tuple[tuple[str, str], ...]  # the name, and in what

    @classmethod
    def of(cls, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> _Comparison:
        """Compare names, shapes and kinds of numbers."""
        told = ((name, _difference(own[name], given[name])) for name in own if name in given)
        return cls(
            tuple(name for name in own if name not in given and not name.endswith(_COUNTER)),
            tuple(name for name in given if name not in own),
            tuple((name, text) for name, text in told if text),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.different)

    def is_of_head(
        self, head: Sequence[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> bool:
        """Whether nothing differs but that the head is absent or has another number of classes."""
        names = [*self.missing, *(name for name, _ in self.different)]
        if not names or self.unexpected or not set(names) <= set(head):
            return False
        there = [name for name in head if name in given]
        return not there or (
            len(there) == len(head) and all(own[n].shape[1:] == given[n].shape[1:] for n in there)
        )

    def told(self) -> str:
        """The first few differences of each kind."""
        different = [f"{printable(name, 100)} {text}" for name, text in self.different]
        kinds = (
            ("missing", [printable(name, 100) for name in self.missing]),
            ("unexpected", [printable(name, 100) for name in self.unexpected]),
            ("different", different),
        )
        return ", ".join(
            f"{len(texts)} {kind} ({', '.join(texts[:_SHOWN])}{', ...' * (len(texts) > _SHOWN)})"
            for kind, texts in kinds
            if texts
        )


def load_weights(
    model: nn.Module, weights: Weights, *, is_new_head_allowed: bool = False
) -> tuple[str, ...]:
    """Load weights into a network, all or none.

    Args:
        model: the network; its tensors keep their types.
        weights: as `read_weights` returns them.
        is_new_head_allowed: as `Weights.fitted` takes it.

    Returns:
        Notes on what was made of the file, as those of `Weights`.

    Raises:
        ValueError: if they do not fit; the network is as it was then.
    """
    fitted = weights.fitted(model, is_new_head_allowed=is_new_head_allowed)
    model.load_state_dict(dict(fitted.tensors))
    return fitted.notes


def weights_digest(path: str | os.PathLike[str]) -> str:
    """16 hexadecimal digits that name the content of a file of weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file that weights are read from, or too large.
        OSError: if it cannot be read.
    """
    return _digest(_content(Path(path)))


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Return the tensors that a file holds, without executing anything in it.

    Of a training script's file, that is of a dict in which the tensors are one entry, this entry.

    Args:
        path: of a file of safetensors, or of one that `torch.save` wrote (.pth, .pt, .bin).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or too large, or holds more than tensors by name.
        OSError: if it cannot be read.
    """
    chosen = Path(path)
    content = _content(chosen)
    pickled = chosen.suffix.lower() in _PICKLED
    raw = _unpickled(chosen, content) if pickled else _safetensors(chosen, content)
    tensors, notes = _unwrapped(chosen, raw)
    return Weights(chosen, _digest(content), tensors, notes)


def _content(path: Path) -> bytes:
    """The bytes of a file; links are followed, since whoever runs the program chose the path."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no file of weights; known are {', '.join(SUFFIXES)}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a file of weights")
    return read_plain_file(path.resolve(), _LARGEST_FILE)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {printable(said(error))}") from error


def _unpickled(path: Path, content: bytes) -> object:
    """What `torch.save` wrote, by torch's reader that calls nothing but what makes tensors."""
    _refuse_bomb(path, content)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's bytes make of the reader
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds more than tensors, {printable(named[1], 100)} among it, and reading "
                "that would run code: save the network's state_dict() alone"
            ) from error
        told = printable(said(error), 200)
        raise ValueError(f"{path} cannot be read as tensors that torch saved: {told}") from error


def _refuse_bomb(path: Path, content: bytes) -> None:
    """Refuse an archive that becomes larger than any file that is read."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    try:
        size = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist())
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {printable(said(error))}") from error
    if size > _LARGEST_FILE:
        raise ValueError(f"{path} unpacks to {size:,} bytes; at most {_LARGEST_FILE:,} are read")


def _unwrapped(path: Path, raw: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, and notes, from what a file holds."""
    content = _entries(path, raw)
    notes: tuple[str, ...] = ()
    inner = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if inner:
        content = _entries(path, content[inner[0]])
        others = f", not those of {' and '.join(inner[1:])}" if inner[1:] else ""
        notes = (f"the tensors of its entry {inner[0]!r} are taken{others}",)
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            shown = printable(name, 100)
            raise ValueError(
                f"{path}: {shown} is a {type(tensor).__name__}, no tensor; save the network's "
                "state_dict() alone"
            )
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{path}: {printable(name, 100)} is no ordinary tensor with data")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {printable(name, 100)} holds NaN or infinity")
    return cast(dict[str, Tensor], dict(content)), notes


def _entries(path: Path, raw: object) -> Mapping[str, Any]:  # Any: checked one by one
    """A dict of names, of a size that a network's may have."""
    if not isinstance(raw, Mapping) or not raw:
        kind = "nothing" if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
        raise ValueError(f"{path} holds {kind}, no tensors by name; save a state_dict()")
    if len(raw) > _TENSORS:
        raise ValueError(f"{path} holds {len(raw):,} entries; at most {_TENSORS:,} are read")
    for name in raw:
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            told = printable(repr(name), 100)
            raise ValueError(f"{path}: {told} is no name of a tensor")
    return raw


def _difference(own: Tensor, given: Tensor) -> str:
    """In what a tensor of a file differs from the network's; "" if it can be taken."""
    if own.shape != given.shape:
        return f"{tuple(given.shape)}, not {tuple(own.shape)}"
    if own.is_floating_point() != given.is_floating_point() or given.is_complex():
        return f"of {given.dtype}, not {own.dtype}"
    return ""


def _best_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, int]:
    """The prefix without which most names are the network's, and of how many; "" if it is none."""
    counts = Counter({"": sum(name in own for name in given)})
    for name in given:
        ends = [dot.end() for dot in re.finditer(r"\.", name)]
        counts.update(name[:end] for end in ends if name[end:] in own)
    return counts.most_common(1)[0]


def _head_names(model: nn.Module) -> list[str]:
    """State-dict names of the classifier's tensors; none if the network does not tell."""
    host: Any = model  # timm's networks have more than a module
    found = host.get_classifier() if hasattr(host, "get_classifier") else None
    heads = found if isinstance(found, tuple) else (found,)
    paths = [path for path, module in model.named_modules() if any(module is h for h in heads)]
    return [name for name in model.state_dict() if name.rpartition(".")[0] in paths]


def _architecture(model: nn.Module) -> str:
    described: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(described.get("architecture") or type(model).__name__)


def _likely_names(stem: str, asked: str) -> list[str]:
    """Networks of timm's that a file may be of: those it is named after, or like the one asked."""
    known = timm.list_models()
    plain, family = re.sub(r"\W", "_", stem.lower()), re.sub(r"\d+", "", asked)
    named = sorted((name for name in known if name in plain), key=len, reverse=True)
    depths = [name for name in known if re.sub(r"\d+", "", name) == family]
    near = difflib.get_close_matches(asked, known, n=_LIKELY)
    found = dict.fromkeys((*named, *depths, *near))
    return [name for name in found if name != asked][:_LIKELY]

"""Files that can be made anew: kept with a checksum, and set aside once it does not hold.

A sealed file ends with a line that holds the SHA-256 of all before it. So a file that a disk, a
copy or a full cache damaged is never taken for a result, and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
from torch import Tensor

from zoo.core.whole_file import write_whole

__all__ = [
    "check_sealed",
    "read_sealed",
    "read_tensors",
    "seal_of",
    "set_aside",
    "write_sealed",
    "write_tensors",
]

_PART_BYTES = 2**24

_SEAL = b"\nsha256 "
_SEAL_BYTES = len(_SEAL) + 64 + 1  # the digest in hexadecimal digits, and the end of the line

_BROKEN = "its checksum does not hold"


class Digest(Protocol):
    """A hash of hashlib's."""

    def hexdigest(self) -> str:
        """Its digits."""


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file as a whole, with its checksum behind.

    Raises:
        OSError: if it cannot be written.
    """
    write_whole(path, content + seal_of(hashlib.sha256(content)))


def read_sealed(path: Path) -> bytes | None:
    """Return what `write_sealed` wrote; None if there is no such file, or it is damaged.

    A damaged file is set aside with a warning.
    """
    with _faults_set_aside(path):
        whole = path.read_bytes()
        content = whole[:-_SEAL_BYTES]
        if whole[-_SEAL_BYTES:] == seal_of(hashlib.sha256(content)):
            return content
        set_aside(path, _BROKEN)
    return None


def check_sealed(path: Path) -> int | None:
    """Return how many bytes a sealed file holds that is too large to be read at once.

    None if there is no such file, or it is damaged, as `read_sealed`.
    """
    digest = hashlib.sha256()
    with _faults_set_aside(path):
        with path.open("rb") as file:
            size = left = max(0, os.fstat(file.fileno()).st_size - _SEAL_BYTES)
            while left and (part := file.read(min(left, _PART_BYTES))):
                digest.update(part)
                left -= len(part)
            seal = file.read()
        if seal == seal_of(digest):
            return size
        set_aside(path, _BROKEN)
    return None


@contextlib.contextmanager
def _faults_set_aside(path: Path) -> Iterator[None]:
    """Lets the block end early where there is no file; one that cannot be read is set aside."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:  # the disk cannot give it back
        set_aside(path, f"it cannot be read: {error.strerror}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write tensors, and facts about them, as a sealed file.

    Args:
        path: of the file.
        tensors: of any shape, by name; copied to the CPU.
        facts: texts by name.

    Raises:
        OSError: if it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors puts several in another order each time.
    entry = {"facts": json.dumps(dict(facts), sort_keys=True)}
    write_sealed(path, safetensors.torch.save(plain, metadata=entry))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors, on the CPU, and facts that `write_tensors` wrote, by name.

    None if there is no such file, or it is damaged, as `read_sealed`.
    """
    content = read_sealed(path)
    if content is None:
        return None
    # safetensors gives metadata of files only, not of bytes; its header is JSON behind its length.
    size = int.from_bytes(content[:8], "little")
    facts: dict[str, str] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["facts"])
    return safetensors.torch.load(content), facts


def set_aside(path: Path, reason: str) -> None:
    """Take a file out of the way, and warn that what it held is made anew.

    Args:
        path: it gets `.damaged` behind its name.
        reason: half a sentence on what is wrong with it.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(FileNotFoundError):  # another process did the same
        path.replace(aside)
    warnings.warn(
        f"{path} is of no use ({reason}); it was set aside as {aside.name} and is made anew",
        stacklevel=2,
    )


def seal_of(digest: Digest) -> bytes:
    """What stands behind the content of a sealed file.

    Args:
        digest: SHA-256 of the content.
    """
    return _SEAL + digest.hexdigest().encode() + b"\n"

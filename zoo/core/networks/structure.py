"""network.json, which says how the tensors beside it make a network; it may come from a stranger.

Everything in it is held against a type and a bound before anything is made of it, and every refusal
is a ``ValueError`` that names the key.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from zoo.core.networks.check_output import CheckOutput
from zoo.core.networks.model_args import check_model_args, check_model_name

__all__ = ["FORMAT", "STRUCTURE", "DtypeName", "Structure", "printable", "read_plain_file"]

FORMAT = 2
STRUCTURE = "network.json"

DtypeName = Literal[
    "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"
]

_LARGEST_FILE = 2**25  # bytes; that of a ResNet-152 has 2**21
_WIDEST = 2**16  # channels of one group
_GROUPS = 10_000
_TENSORS = 100_000
_PIXELS = 2**24  # numbers in one image, as 3 x 2,048 x 2,048

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Channel = Annotated[int, Field(ge=0, lt=_WIDEST)]


class Structure(BaseModel):
    """How a saved network is made again.

    Attributes:
        format: 2; 1 is that of older versions, without what follows after ``keep``.
        architecture: timm's name of the parent, None if only the parent itself will do.
        args: arguments of ``timm.create_model``.
        needs_parent: why there is no ``architecture``.
        input_size: (C, H, W) of one image.
        inexact: whether the parent's channel groups were traced with ``inexact``.
        parent_widths: channels of the parent's groups, by name. Where the architecture has others,
            it is widened or cut to these first.
        parent_inexact: ``inexact`` of those groups; None if it is ``inexact`` itself.
        keep: kept channels, by group.
        channels_last: whether the network lay in channels_last memory.
        dtypes: type of each tensor by state-dict name.
        frozen: parameters that are not trained (``requires_grad``), by state-dict name; left out of
            the file where there are none, as in those of older versions, which are the parent's.
        check: what the network puts out for fixed images; None if that is not the same twice.
        sha256: of the file of tensors.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1, 2]
    architecture: str | None
    args: dict[str, Any]  # checked key by key below
    needs_parent: Annotated[str, StringConstraints(max_length=2000)] | None = None
    input_size: list[Annotated[int, Field(ge=1, le=_WIDEST)]] = Field(min_length=3, max_length=3)
    inexact: bool
    parent_widths: dict[Name, Annotated[int, Field(ge=1, le=_WIDEST)]] = Field(
        default={}, max_length=_GROUPS
    )
    parent_inexact: bool | None = None
    keep: dict[Name, Annotated[list[Channel], Field(min_length=1, max_length=_WIDEST)]] = Field(
        max_length=_GROUPS
    )
    channels_last: bool
    dtypes: dict[Name, DtypeName] | None = Field(default=None, max_length=_TENSORS)
    frozen: list[Name] | None = Field(default=None, max_length=_TENSORS)
    check: CheckOutput | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]

    @field_validator("architecture")
    @classmethod
    def _no_source(cls, name: str | None) -> str | None:
        # Whether timm knows it is asked where it is made: with its parent given, it need not.
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_.\-]{1,100}", name):
            check_model_name(name, "the name")
            raise ValueError("no name of a model of timm's looks like this")
        return name

    @field_validator("args")
    @classmethod
    def _harmless(cls, args: dict[str, Any]) -> dict[str, Any]:
        return check_model_args(args, "args")

    @field_validator("input_size")
    @classmethod
    def _not_huge(cls, size: list[int]) -> list[int]:
        if math.prod(size) > _PIXELS:
            raise ValueError(
                f"{size} are {math.prod(size):,} numbers; at most {_PIXELS:,} are read"
            )
        return size

    @model_validator(mode="after")
    def _has_dtypes(self) -> Structure:
        if self.format == FORMAT and self.dtypes is None:
            raise ValueError("dtypes: it lacks the types of the tensors")
        return self

    @classmethod
    def read(cls, folder: Path) -> Structure:
        """Return what the file in a folder says.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming the file and the key that is wrong.
        """
        path = folder / STRUCTURE
        if not os.path.lexists(path):
            raise FileNotFoundError(f"{path} does not exist; the folder holds no pruned network")
        content = read_plain_file(path, _LARGEST_FILE)
        try:
            raw = json.loads(
                content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
            )
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else printable(str(error))
            raise ValueError(f"{path} is damaged: {reason}") from error
        if not isinstance(raw, dict):
            raise ValueError(f"{path} is damaged: it is no object with keys")
        version = raw.get("format", FORMAT)
        if type(version) is int and version not in (1, FORMAT):
            told = printable(str(version), 20)
            raise ValueError(f"{path} has format {told}; this version reads 1 and {FORMAT}")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ValueError(f"{path} is damaged: {_explained(error)}") from error

    def text(self) -> str:
        """Return the file's text."""
        # Older versions refuse a key that they do not know, so most files do without it.
        content = self.model_dump(exclude=None if self.frozen else {"frozen"})
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_plain_file(path: Path, most: int) -> bytes:
    """Return the bytes of a file, of nothing else: a pipe would never end, a link leads elsewhere.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ValueError: if it is no plain file, or longer.
        OSError: if it cannot be read.
    """
    if path.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is no plain file but a link, pipe or folder; put a copy in place")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        found = os.fstat(file.fileno())  # of what was opened, whatever the name means by now
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no plain file; put a copy in place")
        if found.st_size > most:
            raise ValueError(f"{path} has {found.st_size:,} bytes; at most {most:,} are read")
        return file.read(most)


def printable(text: str, most: int = 500) -> str:
    """Return a stranger's text for a message: one line, without codes for the terminal."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return shown + ("..." if len(text) > most else "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has the key {name!r} twice")
        found[name] = value
    return found


def _explained(error: ValidationError) -> str:
    """Return the first three errors, each with its key; missing keys count as one."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    missing = sorted(_place(each["loc"]) for each in found if each["type"] == "missing")
    parts = [f"it lacks {', '.join(missing)}"] if missing else []
    for each in found:
        if each["type"] != "missing":
            place = _place(each["loc"])
            message = each["msg"].removeprefix("Value error, ")
            parts.append(f"{place}: {message}" if place else message)
    more = f"; and {len(parts) - 3} more" if parts[3:] else ""
    return printable("; ".join(parts[:3]) + more)


def _place(steps: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in steps)

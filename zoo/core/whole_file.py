"""Write a file as a whole or not at all, whatever happens in between.

What is written goes into a hidden file beside its destination, reaches the disk, and only then gets
its name: neither a kill nor a full disk leaves half a file, and what stood there before stays until
the new file is whole. The hidden name says which process writes it, so that the next writer sweeps
what a killed one left and nothing that is being written.

This module imports the standard library only: the harness loads it where torch is missing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "is_gone",
    "probe",
    "require_place",
    "sweep",
    "this_writer",
    "whole_file",
    "write_new",
    "write_whole",
]

_WRITER = r"(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,9})-[0-9a-f]{8}"

_HIDDEN = re.compile(rf"\..*?(?:\.{_WRITER})?\.tmp")
"""Names of files that are not whole; those of older versions do not say who writes them."""

_NAME_PART = 40
"""Characters of the destination in a hidden name, so that it never is too long for a disk."""

_HOUR, _DAY = 3600.0, 86400.0

_PROBE_BYTES = 64 * 1024
"""More than an ordinary record takes."""

_NO_LINKS = frozenset(
    {
        errno.EPERM,  # exFAT and FAT
        errno.EACCES,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EINVAL,
        errno.EMLINK,
    }
)
"""What a file system answers that has no hard links; any other error of a link is one."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend a hidden path beside ``path``; its file replaces ``path`` if the block ends well.

    A link is followed and stays a link; the permissions of a file that is replaced are kept.

    Args:
        path: where the file is to be; its folder is made if it does not exist.

    Raises:
        OSError: if the file cannot be written, or what stands there is no ordinary file or is
            read-only.
    """
    target = _replaceable(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _hidden_file(target) as hidden:
        yield hidden
        _flush(hidden)
        if target.exists():
            shutil.copymode(target, hidden)
        os.replace(hidden, target)  # noqa: PTH105  (this module's `os` is where tests put faults)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes as a whole file.

    Raises:
        OSError: if the file cannot be written; what stood there before is untouched.
    """
    with whole_file(path) as hidden:
        _write(hidden, content)


def write_new(path: Path, content: str | bytes, *, is_swept: bool = False) -> None:
    """Write a text (as UTF-8) or bytes as a whole file under a name that is free.

    Args:
        path: where the file is to be, in a folder that exists.
        content: what goes in.
        is_swept: the folder was swept when its writer began; to look through it at every file
            would take ever longer as it fills.

    Raises:
        FileExistsError: if there is such a file, or another process is writing it; nothing is
            replaced.
        OSError: if the file cannot be written.
    """
    with _hidden_file(path, is_swept=is_swept) as hidden:
        _write(hidden, content)
        _flush(hidden)
        _name_new(hidden, path)


def sweep(folder: Path, name: str = "") -> list[Path]:
    """Remove the unfinished files of writers that have died; return their paths.

    A file of this machine is removed once the process in its name has ended, or after a day if
    another process has that number now; a file of another machine after an hour without a change.

    Args:
        folder: where to look, not below; it need not exist.
        name: only files that were to become this one; by default any.
    """
    if not folder.is_dir():
        return []
    start = f".{name[:_NAME_PART]}"
    left = [
        path for path in folder.iterdir() if path.name.startswith(start) and _is_abandoned(path)
    ]
    for path in left:
        # Another user's, or swept by another process at this moment: it costs room, no more.
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108  (as above)
    return left


def this_writer() -> str:
    """A new name that tells machine and process, `is_gone` reads it."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_gone(writer: str) -> bool:
    """Whether a process that named itself by `this_writer` is known to have ended.

    False for one of another machine, of which nothing can be known here.

    Raises:
        ValueError: if it is no such name.
    """
    found = re.fullmatch(_WRITER, writer)
    if found is None:
        raise ValueError(f"{writer!r} names no process")
    return found["machine"] == _machine() and not _is_running(int(found["process"]))


def probe(folder: Path) -> None:
    """Find out whether new files can be written into a folder, before there is work to lose.

    Args:
        folder: made if it does not exist.

    Raises:
        OSError: if it cannot be written, or does not give back what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, content = _hidden_path(folder / "probe"), secrets.token_bytes(_PROBE_BYTES)
    try:
        write_new(path, content)
        if path.read_bytes() != content:
            raise OSError(errno.EIO, "the folder does not give back what is written to it", folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  (as above)


def require_place(path: Path) -> None:
    """Refuse a path that no new file can be written to, before there is work to lose.

    Folders that do not exist count as made; unlike `probe`, nothing is written to find out.

    Raises:
        OSError: naming what is in the way.
    """
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way of a folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder cannot be written into", str(folder))


def _replaceable(path: Path) -> Path:
    """The file that a path leads to, whether or not it exists.

    Raises:
        OSError: if it must not be replaced.
    """
    target = path.resolve()
    if not target.exists():
        return target
    if not target.is_file():
        raise OSError(errno.EINVAL, "this is no ordinary file; give the path of a file", str(path))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is read-only", str(path))
    return target


@contextmanager
def _hidden_file(path: Path, *, is_swept: bool = False) -> Iterator[Path]:
    if not is_swept:
        sweep(path.parent, path.name)
    hidden = _hidden_path(path)
    try:
        yield hidden
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as of a write to a full disk
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)  # noqa: PTH108  (as above)


def _hidden_path(path: Path) -> Path:
    """A name that no other writer takes: two threads, or two machines, may share a process id."""
    return path.with_name(f".{path.name[:_NAME_PART]}.{this_writer()}.tmp")


def _write(path: Path, content: str | bytes) -> None:
    rest = memoryview(content.encode() if isinstance(content, str) else content)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_new(hidden: Path, path: Path) -> None:
    """Give a file a name that must be free.

    Raises:
        FileExistsError: if it is not.
    """
    try:
        os.link(hidden, path)  # unlike a rename, it fails if the name is taken
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _name_claimed(hidden, path)


def _name_claimed(hidden: Path, path: Path) -> None:
    """`_name_new` without hard links: the process that creates the claim may give the name.

    The name itself never stands for half a file: a kill leaves a claim, which the next writer takes
    for a name that is not free, and which is swept after an hour.
    """
    claim = path.with_name(f".{path.name}.tmp")
    os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(hidden, path)  # noqa: PTH104  (as above)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(claim)  # noqa: PTH108  (as above)


def _is_abandoned(path: Path) -> bool:
    """Whether a file is hidden and unfinished, and its writer has died."""
    found = _HIDDEN.fullmatch(path.name)
    if found is None:
        return False
    limit = _HOUR
    if found["machine"] == _machine():
        if not _is_running(int(found["process"])):
            return True
        limit = _DAY  # the number may have come to another process since
    try:
        return time.time() - path.lstat().st_mtime > limit
    except FileNotFoundError:  # its writer finished at this moment
        return False


def _is_running(process: int) -> bool:
    if os.name != "posix":  # where signal 0 is no question
        return True
    try:
        os.kill(process, 0)  # sends nothing; tells whether there is such a process
    except ProcessLookupError:
        return False
    except PermissionError:  # there is, of another user
        pass
    return True


@functools.cache
def _machine() -> str:
    """Names the machine, or the container, in which process ids are counted."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]

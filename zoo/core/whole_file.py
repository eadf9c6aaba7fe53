"""Write a file as a whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file", "write_whole"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend a hidden path beside ``path``; its file replaces ``path`` if the block ends well.

    The file is on the disk before it gets its name, so neither a kill nor a full disk leaves half
    a file, and what stood there before stays until the new file is whole.

    Args:
        path: where the file is to be; its folder is made if it does not exist.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random part: two threads of a process, or two machines on one disk, may share a process id.
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield hidden
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes as a whole file.

    Raises:
        OSError: if the file cannot be written; what stood there before is untouched.
    """
    with whole_file(path) as hidden:
        hidden.write_bytes(content.encode() if isinstance(content, str) else content)

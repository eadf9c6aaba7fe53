"""The folder that `zoo prune` writes into: new, empty, or left over by a run that was stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.records.whole_file import require_writable
from zoo.core.networks.save import holds_network
from zoo.core.networks.structure import STRUCTURE

__all__ = ["claimed"]

_LOCK = ".zoo-prune.lock"
_PARTS = ("network.json", "network.safetensors")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Lock a folder for one run; what a stopped run has left in it is removed first.

    The folder is removed again if the block fails and leaves nothing in it.

    Args:
        out: made if it does not exist.

    Raises:
        FileExistsError: if it holds a finished network or files of another kind, is no folder, or
            another run is at work in it.
        OSError: if it cannot be made, or written into.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is no folder; give another --out")
    if out.is_dir():
        _refuse_what_is_not_ours(out)  # before a lock is left in somebody's folder
    is_new = not out.exists()
    lock = FileLock(out / _LOCK, timeout=0)
    try:
        require_writable(out, "--out")
        _acquire(lock, out)
        _refuse_what_is_not_ours(out)  # again: a run may have ended in between
        for path in _left_over(out):
            path.unlink(missing_ok=True)
        yield
    finally:
        if lock.is_locked:
            (out / _LOCK).unlink(missing_ok=True)  # while it is held: nobody else's is removed
            lock.release()
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _acquire(lock: FileLock, out: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(
            f"another zoo prune is at work in {out}; wait for its end or give another --out"
        ) from error


def _refuse_what_is_not_ours(out: Path) -> None:
    if holds_network(out):
        records = [path for path in out.glob("*.json") if path.name != STRUCTURE]
        lacking = "" if records else " (without a record: the run was stopped before it wrote one)"
        raise FileExistsError(
            f"{out} holds a finished network{lacking}; give another --out, or remove the folder "
            "to prune anew"
        )
    ours = {*_left_over(out), out / _LOCK}
    foreign = sorted(path.name for path in out.iterdir() if path not in ours)
    if foreign:
        raise FileExistsError(
            f"{out} exists and holds {foreign[0]!r}, which no stopped zoo prune has left; give "
            "another --out"
        )


def _left_over(out: Path) -> list[Path]:
    """Files that are not whole, and the parts of a network that has only one of the two."""
    hidden = [path for path in out.glob(".*.tmp") if path.is_file()]
    return hidden + [out / name for name in _PARTS if (out / name).is_file()]

"""No writer loses what was there, leaves half a file or litter, whatever breaks and when."""

import errno
import itertools
import os
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import cli
from benchmarks.analysis.findings import Findings
from benchmarks.figures import all_figures as plots
from benchmarks.page import page
from benchmarks.records.files import write_record
from benchmarks.records.record import PhaseCost
from benchmarks.running import parent
from benchmarks.tables import tables
from tests.benchmarks.fabricate import record
from tests.faults import Killed, disk, ended_process
from zoo.core.meter import Spent
from zoo.core.networks import export
from zoo.core.sealed import read_sealed, read_tensors, write_sealed, write_tensors
from zoo.core.supernet import trained_store as store
from zoo.core.whole_file import _machine, probe, sweep, whole_file, write_new, write_whole

RECORDS = [
    record(method, seed=seed, top1=top1 + 0.01 * seed)
    for method, top1 in (("uniform", 0.8), ("taylor", 0.85))
    for seed in range(2)
]
FOUND = Findings.of(RECORDS)
ERRORS = [errno.ENOSPC, errno.EIO]
WAYS = [None, *ERRORS]
"""A kill, a full disk, a broken one."""


def write_parent(folder: Path) -> None:
    torch.manual_seed(0)
    parent._save_parent(folder / "parent.safetensors", torch.nn.Linear(40, 40), PhaseCost())


def write_supernet(folder: Path) -> None:
    trained = store.Trained({"w": torch.arange(500.0)}, {"seen": np.arange(3)})
    store.save_trained(folder / "supernet.safetensors", trained, Spent(), [{"loss": 1.0}])


def write_readme(folder: Path) -> None:
    cli.renew_blocks(folder / "README.md", FOUND)


def write_export(folder: Path) -> None:
    """As `export_network` does, which takes seconds for the program alone."""
    with whole_file(folder / "network.pt2") as hidden, hidden.open("wb") as file:
        file.write(bytes(range(256)) * 50)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: write_whole(folder / "a.txt", "new\n" * 500),
    "record": lambda folder: write_record(folder, record()),
    "parent": write_parent,
    "supernet": write_supernet,
    "latencies": lambda folder: write_sealed(folder / "t.json", b'{"ns": {}}' * 50),
    "tables": lambda folder: tables.write_tables(FOUND, folder),
    "page": lambda folder: page.write_page(FOUND, folder / "p.html", title="t", figures=()),
    "readme": write_readme,
    "export": write_export,
}
"""Everything that writes files; the figures, which are slow, have a test of their own."""


def filled(folder: Path) -> dict[str, bytes]:
    """A folder in which every writer finds an older file; returns what all files hold."""
    folder.mkdir()
    for name in ("a.txt", "t.json", "p.html", "results.md", "results.csv", "results.tex"):
        (folder / name).write_text(f"old {name}\n")
    for name in ("parent.safetensors", "supernet.safetensors", "network.pt2"):
        (folder / name).write_bytes(b"old")
    user = [f"line {number} of the user" for number in range(450)]
    marks = ["<!-- zoo results: begin -->", "<!-- zoo results: end -->"]
    (folder / "README.md").write_text("\n".join([*user, *marks, *user]))
    old = record(status="failed", reason="an older attempt")
    write_record(folder, old)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def check_whole(folder: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    found = contents(folder)
    assert old.keys() <= found.keys() <= new.keys()
    for name, content in found.items():
        assert content in (old.get(name), new[name]), f"{name} is neither old nor new"


@pytest.mark.parametrize("error", WAYS, ids=lambda e: errno.errorcode.get(e, "kill"))
@pytest.mark.parametrize("name", WRITERS)
def test_a_fault_at_any_step_leaves_old_or_new_files_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int | None
) -> None:
    write = WRITERS[name]
    old = filled(tmp_path / "new")
    write(tmp_path / "new")
    new = contents(tmp_path / "new")
    assert new != old and not hidden(tmp_path / "new")
    # Where removing the hidden file fails, it stays: only a kill may come there.
    steps = ("open", "write", "fsync", "link", "replace", "rename")
    steps = (*steps, "unlink") if error is None else steps
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        filled(folder)
        with disk(monkeypatch, at, error, steps) as faulty, suppress(OSError, Killed):
            write(folder)
        if faulty.calls < at:
            break  # it did all its steps before the fault would have come
        check_whole(folder, old, new)
        assert error is None or not hidden(folder)
        if name != "record" or contents(folder) == old:
            write(folder)  # the next start; a record that got its name is not written again
        sweep(folder)
        check_whole(folder, old, new)
        assert contents(folder).keys() == new.keys() and not hidden(folder)
    assert at > 3


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond a number of bytes, whoever writes it; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_disk_that_is_full_in_the_middle_keeps_what_was_there(
    tmp_path: Path, name: str, size: int
) -> None:
    old = filled(tmp_path / "here")
    if name == "readme":
        WRITERS[name](tmp_path / "here")  # makes its records
        old = filled(tmp_path / "there")
        (tmp_path / "here").rename(tmp_path / "gone")
        (tmp_path / "there").rename(tmp_path / "here")
    with room_for(size), pytest.raises(OSError, match=r"File too large: '.*/here/"):
        WRITERS[name](tmp_path / "here")
    assert contents(tmp_path / "here") == old and not hidden(tmp_path / "here")


def test_figures_that_do_not_fit_leave_the_older_ones(tmp_path: Path) -> None:
    paths = plots.draw_figures(Findings.of(RECORDS[:1]), tmp_path)
    before = {path: path.read_bytes() for path in paths}
    assert {path.suffix for path in paths} == {".png", ".pdf"} and all(before.values())
    with room_for(2000), pytest.raises(OSError, match="File too large"):
        plots.draw_figures(FOUND, tmp_path)
    assert {path: path.read_bytes() for path in paths} == before and not hidden(tmp_path)


def test_a_network_that_cannot_be_exported_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export, "_write_program", lambda model, size, path: path.write_bytes(bytes(5000))
    )
    with room_for(1000), pytest.raises(OSError, match="File too large"):
        export.export_network(torch.nn.Flatten(), (3, 8, 8), tmp_path / "n", form="torch-export")
    assert not list(tmp_path.iterdir())


# Names and places.


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    write_new(tmp_path / "a", "first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", "second")
    assert contents(tmp_path) == {"a": b"first"} and not hidden(tmp_path)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_records_are_written_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    probe(tmp_path)
    names = [write_record(tmp_path, record()).id for _ in range(3)]
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]
    assert sorted(contents(tmp_path)) == sorted(f"{name}.json" for name in names)
    assert not hidden(tmp_path)


@pytest.mark.parametrize("error", WAYS, ids=lambda e: errno.errorcode.get(e, "kill"))
def test_a_fault_where_there_are_no_links_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        write_new(folder / "old.json", "old")
        steps = ("open", "write", "fsync", "rename")
        with disk(monkeypatch, at, error, steps) as faulty, suppress(OSError, Killed):
            write_new(folder / "new.json", "new" * 100)
        if faulty.calls < at:
            break
        found = contents(folder)
        assert found.pop("old.json") == b"old"
        assert found in ({}, {"new.json": b"new" * 100})
        assert error is None or not hidden(folder)
    assert at > 4


def test_a_disk_that_fails_for_another_reason_is_not_taken_for_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", break_down)
    with pytest.raises(OSError, match="Input/output"):
        write_new(tmp_path / "a", "content")
    assert not list(tmp_path.iterdir())


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.md", tmp_path / "link.md"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real.md")
    write_whole(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no ordinary file"):
            write_whole(path, "text")
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_as_long_as_a_disk_takes_is_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        write_whole(tmp_path / name, "text")
        write_new(tmp_path / f"m{name[1:]}", "text")
    assert len(contents(tmp_path)) == 4


def test_a_folder_is_tried_with_a_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    with room_for(1000), pytest.raises(OSError, match="File too large"):
        probe(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"zeros")
    with pytest.raises(OSError, match="does not give back"):
        probe(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# What killed writers leave.


def test_only_what_belongs_to_no_living_writer_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other, gone = _machine(), "0" * 8, ended_process()
    mine, hour, day = os.getpid(), 3700, 90000
    files = {  # name -> age in seconds, whether it goes
        f".a.json.{here}-{gone}-00000000.tmp": (0, True),
        f".b.json.{here}-{mine}-00000000.tmp": (hour, False),
        f".c.json.{here}-{mine}-00000000.tmp": (day, True),  # the number came to another process
        f".d.json.{other}-{gone}-00000000.tmp": (0, False),
        f".e.json.{other}-{gone}-00000000.tmp": (hour, True),
        ".20260101-x.json.123.tmp": (0, False),  # of an older version
        ".20260101-y.json.123.tmp": (hour, True),
        ".hidden": (day, False),
        "shown.tmp": (day, False),
        "a.json": (day, False),
    }
    now = tmp_path.stat().st_mtime
    for name, (age, _) in files.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (now - age, now - age))
    swept = {path.name for path in sweep(tmp_path)}
    assert swept == {name for name, (_, goes) in files.items() if goes}
    assert {path.name for path in tmp_path.iterdir()} == files.keys() - swept
    assert sweep(tmp_path / "absent") == []


def test_a_writer_sweeps_what_an_earlier_one_left_of_the_same_file_only(tmp_path: Path) -> None:
    tag = f"{_machine()}-{ended_process()}-00000000.tmp"
    for name in ("README.md", "other.md"):
        (tmp_path / f".{name}.{tag}").write_text("half")
    write_whole(tmp_path / "README.md", "whole")
    assert hidden(tmp_path) == [f".other.md.{tag}"]


# Files with a checksum.


def damages(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    return {
        "empty": b"",
        "zeroed": bytes(len(whole)),
        "zeros inside": whole[:40] + bytes(40) + whole[80:],
        "cut": whole[: len(whole) // 2],
        "without its seal": whole[:-73],
        "one bit": bytes(flipped),
        "longer": whole + b"\n",
        "another": b"<html>not found</html>",
    }


@pytest.mark.parametrize("kind", damages(bytes(100)))
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cached"
    write_sealed(path, bytes(range(200)))
    damaged = damages(path.read_bytes())[kind]
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"cached is of no use .*checksum.*cached\.damaged"):
        assert read_sealed(path) is None
    assert contents(tmp_path) == {"cached.damaged": damaged}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_sealed(path) is None  # no such file: nothing to warn of
        write_sealed(path, b"again")
        assert read_sealed(path) == b"again"


def test_a_file_that_the_disk_cannot_give_back_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sealed(tmp_path / "cached", b"content")

    def break_down(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", break_down)
        with pytest.warns(UserWarning, match="cannot be read: Input/output error"):
            assert read_sealed(tmp_path / "cached") is None
    assert list(contents(tmp_path)) == ["cached.damaged"]


@pytest.mark.parametrize("content", [b"", b"x", bytes(1000)])
def test_a_sealed_file_reads_back(tmp_path: Path, content: bytes) -> None:
    write_sealed(tmp_path / "a", content)
    assert read_sealed(tmp_path / "a") == content


def test_tensors_and_facts_read_back(tmp_path: Path) -> None:
    given = {"a": torch.randn(3, 4).t(), "b": torch.tensor(7), "c": torch.zeros(0)}
    write_tensors(tmp_path / "a", given, {"cost": "{}", "trace": "ü"})
    found = read_tensors(tmp_path / "a")
    assert found is not None and found[1] == {"cost": "{}", "trace": "ü"}
    assert found[0].keys() == given.keys()
    assert all(torch.equal(found[0][name], given[name]) for name in given)

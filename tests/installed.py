"""Small packages that are installed for a test: real metadata in a folder of its own."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.running.new_method import write_method


def install(
    folder: Path, package: str, version: str, pruners: Mapping[str, str], modules: Mapping[str, str]
) -> None:
    """Lay a package and its metadata out as an installer does.

    Args:
        folder: of installed packages.
        package: its name, for import and for the metadata.
        version: of it.
        pruners: entry points, by the pruner's name.
        modules: source texts, by the module's name.
    """
    code = folder / package
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("")
    for name, text in modules.items():
        (code / f"{name}.py").write_text(text)
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {value}" for name, value in pruners.items()]
    (info / "entry_points.txt").write_text("\n".join(["[pruning_zoo.pruners]", *lines, ""]))


def template(folder: Path, name: str) -> str:
    """The source of the pruner that `zoo new-method` writes."""
    write_method(name, folder)
    return (folder / f"{name}.py").read_text()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages are found."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder

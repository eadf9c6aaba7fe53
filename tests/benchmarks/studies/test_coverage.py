"""The sweep over timm's architectures: what it tells of one, and how it goes on after a cut."""

from pathlib import Path

import pytest

from benchmarks.studies import coverage
from benchmarks.studies.coverage import Coverage, Found, cover, sweep, to_markdown

NAMES = ("resnet26", "resnet18", "test_vit")


def test_a_network_is_told_with_its_groups_and_one_with_attention_is_not() -> None:
    found = cover("resnet18")
    assert found is not None
    assert (found.name, found.groups, found.reasons) == ("resnet18", 12, ())
    assert found.reachable > 0.99
    assert cover("test_vit") is None


def test_a_cut_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    part = Found(tmp_path / "part.json")
    before = {"resnet18": Coverage("resnet18", 12, 0.5, 1.25, ("a layer norm (4)",))}
    assert part.read() == {}
    part.write({**before, "test_vit": None})
    rows = sweep(NAMES, part, workers=1)
    assert [row.name for row in rows] == ["resnet18", "resnet26"]
    assert rows[0] == before["resnet18"]
    assert part.read() == {row.name: row for row in rows} | {"test_vit": None}
    assert "| resnet18 | 12 | 50.0 % | 1.2 | a layer norm (4) |" in to_markdown(rows, 3, 9)


def test_what_other_versions_have_found_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Found(tmp_path / "part.json")
    part.write({"test_vit": None})
    assert part.read() == {"test_vit": None}
    monkeypatch.setattr(coverage, "_VERSIONS", "timm 0, torch 0")
    assert part.read() == {}

"""docs/training.md does what it says: its code runs, and its words are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from benchmarks.tracking.tracker import TRACKERS
from tests.core.test_prune import Plain, loader
from zoo.core.training.checkpoint import EPOCH_SHARE, SECONDS

PAGE = Path(__file__).parents[1] / "docs/training.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    prune, told = zoo.prune, list[Any]()

    def shortly(*given: Any, **arguments: Any) -> Any:
        """The same call with few updates; all else as the page has it."""
        assert arguments["recipe"].patience == 3
        arguments["recipe"] = replace(arguments["recipe"], epochs=2)
        settings = {"steps": 2, "lr": 1e-3, "ratios": 3, "reevaluate": 1}
        return prune(*given, **arguments, settings=settings, progress=False)

    monkeypatch.setattr(zoo, "prune", shortly)
    names = {"zoo": zoo, "model": Plain(), "train_loader": loader(), "val_loader": loader(16)}
    names["print"] = lambda *values: told.append(values)
    exec(code, names)
    assert isinstance(names["result"], zoo.PruneResult)
    assert [values[0] for values in told] == ["supernet", "finetune", "finetune"]
    assert told[-1][-1] is not None and not (tmp_path / "kept").exists()


def test_the_words_of_the_page_are_those_of_the_code() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    for event, words in ((zoo.StepEvent, "`StepEvent` ("), (zoo.EpochEvent, "`EpochEvent` (")):
        assert words in page
        assert all(f"`{f.name}`" in page for f in fields(event))
    assert all(name in page for name in TRACKERS)
    assert (SECONDS, SECONDS * EPOCH_SHARE) == (600, 30)  # "ten minutes", "half minute"
    assert len(PAGE.read_text("utf-8").splitlines()) <= 80

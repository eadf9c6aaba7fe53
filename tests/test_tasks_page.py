"""docs/tasks.md runs as it stands, and every method serves the four tasks that it sets."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.core.tracing.outputs import returned_tensors

PAGE = (Path(__file__).parent.parent / "docs/tasks.md").read_text("utf-8")

SECTIONS = ("Regression", "Several labels", "Segmentation", "Detection")


def snippets(title: str) -> list[str]:
    """The code of a section; of what stands before the first one for no title."""
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in parts if part.startswith(title)] if title else parts[:1]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "docs/tasks.md", "exec"), names)
    return names


@cache
def after(title: str) -> dict[str, Any]:
    """The names that a section leaves, its own call of ``zoo.prune`` made."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        names = run("".join(snippets("")), {"timm": __import__("timm"), "nn": torch.nn})
        for snippet in snippets(title):
            run(snippet, names)
    return names


@pytest.mark.parametrize("title", SECTIONS)
def test_every_example_of_the_page_gives_a_smaller_network_and_scores(title: str) -> None:
    names = after(title)
    result: zoo.PruneResult = names["result"]
    assert result.macs <= 0.6 * result.parent_macs
    assert result.params == sum(p.numel() for p in result.model.parameters())
    assert result.params < result.parent_params
    assert result.metric in ("MAE", "F1", "mIoU", "AP50")
    assert 0 <= result.val_score < 10 and 0 <= result.parent_val_score < 10
    assert result.val_top1 is None and result.parent_val_top1 is None


def test_the_page_names_all_that_it_shows() -> None:
    assert [len(snippets(title)) for title in ("", *SECTIONS)] == [1, 1, 1, 2, 1]
    assert len(re.findall(r"```python", PAGE)) == 6


def test_the_detector_that_was_pruned_finds_boxes_and_keeps_its_pyramid() -> None:
    names = after("Detection")
    small, images = names["result"].model, torch.rand(2, 3, 64, 64)
    shapes = {tuple(maps.shape[:2]) for maps in small.backbone(images).values()}
    assert shapes == {(2, 256)}
    assert set(names["detections"][0]) == {"boxes", "labels", "scores"}
    assert list(returned_tensors(names["detections"]))

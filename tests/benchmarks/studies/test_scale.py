"""A simulated sweep: the real driver, workers that die at random, a driver that is stopped."""

from pathlib import Path

import pytest
import yaml

from benchmarks.studies.scale import drive, made_up_cells


@pytest.mark.parametrize(
    ("count", "workers"), [(300, 60), pytest.param(10_000, 1_000, marks=pytest.mark.slow)]
)
def test_every_cell_is_recorded_once_whoever_dies(count: int, workers: int, tmp_path: Path) -> None:
    driven = drive(count, workers, tmp_path)
    assert (driven.settled, driven.twice) == (count, 0)
    assert driven.failures > 0 and driven.runs >= 2


def test_cells_are_distinct() -> None:
    assert len({cell.key for cell in made_up_cells(600)}) == 600


def test_the_cluster_file_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text("utf-8")
    (text,) = [each for each in page.split("```\n") if each.startswith("cluster_name:")]
    cluster = yaml.safe_load(text)
    (folder,) = cluster["file_mounts"]
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert all(folder.removeprefix("~") in line for line in cluster["setup_commands"])

"""Published numbers are read whole, name networks that there are, and are possible."""

from pathlib import Path

import pytest
import timm

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.published import load_published, published_for
from benchmarks.records.cell import Model
from benchmarks.studies.published_page import published_page
from benchmarks.tables.published_table import points_table, published_table
from tests.benchmarks.fabricate import cell, record
from zoo.core.data.datasets import list_datasets
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers its networks with timm)

# MACs of convolutions and linear layers of the unpruned networks, from the table of the README's
# convention; published counters differ by up to five per cent.
FULL = {
    "resnet50": 4_089_184_256,
    "efficientnet_b0": 385_814_752,
    "efficientnet_b1": 686_802_832,
    "resnet56_cifar": 125_485_696,
    "resnet110_cifar": 252_887_680,
}


def test_every_point_names_a_network_and_a_data_set_that_there_are_and_its_source():
    points = load_published()
    assert len(points) > 40
    assert {point.model for point in points} <= {*timm.list_models()}
    assert {point.data for point in points} <= {*list_datasets()}
    assert {point.method for point in points} >= {"knapsack", "pse_net", "stagewise"}
    assert len({point.model_dump_json() for point in points}) == len(points)


def test_a_pruned_network_is_smaller_than_its_parent():
    for point in load_published():
        assert point.macs < 1.05 * FULL.get(point.model, point.macs)
        if point.parent_top1 is not None:
            # Pruned at random to an eighth, ResNet-50 loses fifteen points; nobody gains three.
            assert -0.15 < point.top1 - point.parent_top1 < 0.03


def test_printed_speed_ups_are_those_of_the_source_and_count_from_the_whole_network():
    """PruningBench prints 69.471 for L1 norms at 8x; at 4x it prints 71.685."""
    points = {
        (point.method, round(FULL["resnet50"] / point.macs)): point.top1
        for point in load_published()
        if "PruningBench" in point.source
    }
    assert points["l1_norm", 4] == 0.71685 and points["l1_norm", 8] == 0.69471
    for method in {method for method, _ in points}:
        assert points[method, 2] > points[method, 4] > points[method, 8]


def test_the_abstract_of_pse_net_is_a_point_of_its_network_on_its_data_only():
    asked = cell(model=Model(name="mobilenetv2_100"), data={"name": "imagenet"})
    found = [point for point in published_for(asked) if point.method == "pse_net"]
    assert [(point.macs, point.top1, point.parent_top1) for point in found] == [
        (300_000_000, 0.752, 0.726)
    ]
    assert published_for(cell(model=Model(name="mobilenetv2_100"))) == []


def test_a_network_made_wider_has_no_published_points():
    data = {"name": "imagenet"}
    assert published_for(cell(model=Model(name="mobilenetv2_100"), data=data))
    assert published_for(cell(model=Model(name="mobilenetv2_100", width=2), data=data)) == []


def test_another_image_size_is_another_setting():
    asked = {
        "model": Model(name="efficientnet_b1"),
        "data": {"name": "imagenet", "image_size": 224},
    }
    assert published_for(cell(**asked)) == []
    asked["data"]["image_size"] = 240
    assert len(published_for(cell(**asked))) == 2


def test_what_a_point_has_no_place_for_is_refused(tmp_path):
    path = tmp_path / "published.toml"
    path.write_text('points = [{method = "x", speed = 3}]')
    with pytest.raises(ValueError, match=r"published.toml: points.0: unknown key 'speed'"):
        load_published(path)


def test_the_page_holds_every_point_once_and_is_the_one_in_docs():
    page = published_page(load_published())
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    sections = page.count("\n## ")
    assert len(rows) == len(load_published()) + sections  # each table has a line of headings
    there = (Path(__file__).parents[3] / "docs" / "published.md").read_text("utf-8")
    assert there == page, "stale; renew it with: python -m benchmarks.studies.published_page"


def test_points_stand_in_the_tables_of_records_of_the_same_network_and_data_alone():
    here = {"model": Model(name="resnet110_cifar"), "data": {"name": "cifar10"}}
    table = published_table(
        compare([record(cell=cell(method, **here)) for method in ("uniform", "taylor")])
    )
    chip = "| chip | 140.5 | 94.50 | 93.50 | 1.04 | README of Eclipsess/CHIP_NeurIPS2021 |"
    assert table.count(chip) == 1 and table.count("\n### ") == 1
    assert "hrank" in table and "mobilenet" not in table
    elsewhere = {**here, "data": {"name": "digits"}}
    assert published_table(compare([record(cell=cell(**elsewhere))])) == ""


def test_a_table_of_points_begins_with_the_costliest_and_says_what_was_computed():
    points = [p for p in load_published() if p.model == "resnet50"]
    rows = points_table(points).splitlines()[2:]
    macs = [float(row.split("|")[2].replace("(c)", "").replace(",", "")) for row in rows]
    assert macs == sorted(macs, reverse=True) and len(rows) == len(points)
    computed = sum(point.macs_from == "computed" for point in points)
    assert 0 < sum("(c)" in row for row in rows) == computed < len(rows)

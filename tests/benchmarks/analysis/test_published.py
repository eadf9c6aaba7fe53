"""Published numbers are read whole, name networks that there are, and are possible."""

import pytest
import timm

from benchmarks.analysis.published import load_published, published_for
from benchmarks.records.cell import Model
from tests.benchmarks.fabricate import cell
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
            assert abs(point.top1 - point.parent_top1) < 0.03


def test_the_abstract_of_pse_net_is_a_point_of_its_network_on_its_data_only():
    asked = cell(model=Model(name="mobilenetv2_100"), data={"name": "imagenet"})
    found = [point for point in published_for(asked) if point.method == "pse_net"]
    assert [(point.macs, point.top1, point.parent_top1) for point in found] == [
        (300_000_000, 0.752, 0.726)
    ]
    assert published_for(cell(model=Model(name="mobilenetv2_100"))) == []


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

import copy

import pytest
import timm
import torch
from torch import nn

import zoo
from benchmarks.measuring.footprint import aligned_widths, denormal_share, footprint, peak_bytes
from zoo.core.networks.architecture import Architecture

CPU = torch.device("cpu")


@pytest.mark.parametrize("flushing", [True, False])
def test_denormal_weights_are_counted_whether_or_not_they_are_flushed(flushing):
    weight = torch.tensor([[1.0, 0.0, 1e-40, -1e-41]])
    torch.set_flush_denormal(flushing)
    try:
        assert denormal_share([weight]) == 0.5
        assert denormal_share([weight, torch.ones(4)]) == 0.25
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("flushing", [True, False])
def test_denormal_activations_are_counted_between_modules_too(flushing):
    class Shrinking(nn.Module):
        def forward(self, images):
            small = images.abs() * 1e-40  # all of it denormal: two of the four values below
            return small + 1.0 - small * 1.0

    torch.set_flush_denormal(flushing)
    try:
        found = footprint(Shrinking(), torch.ones(1, 3, 4, 4))
    finally:
        torch.set_flush_denormal(False)
    # abs, its product (denormal), the sum, its product again (denormal), the difference
    assert found.denormal_activations == pytest.approx(2 / 5)
    assert found.has_many_denormals


def test_an_ordinary_network_has_hardly_any_denormal_numbers():
    net = timm.create_model("test_resnet").eval()
    found = footprint(net, torch.randn(1, 3, 32, 32))
    assert found.denormal_weights == 0.0 and found.denormal_activations < 1e-3
    assert not found.has_many_denormals


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("ecaresnet50d", 100),
        ("ecaresnet50d_pruned", 22),
        ("ecaresnet101d_pruned", 17),
        ("efficientnet_b1", 86),
        ("efficientnet_b1_pruned", 32),
        ("efficientnet_b2_pruned", 25),
        ("efficientnet_b3_pruned", 35),
    ],
)
def test_published_networks_have_the_aligned_widths_that_were_counted_independently(name, share):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert round(100 * aligned_widths(net)) == share


def test_bytes_on_disk_are_those_of_the_saved_network(tmp_path):
    net = timm.create_model("test_resnet", num_classes=10)
    space = zoo.ChannelSpace.trace(net, (3, 32, 32))
    config = zoo.SubnetConfig.from_widths(space, {space.groups[0].name: 3})
    result = type("Result", (), {})()
    result.model, result.config, result.space = zoo.rebuild(net, space, config), config, space
    result.architecture = Architecture.of(net)
    zoo.save_pruned(result, tmp_path)
    size = (tmp_path / "network.safetensors").stat().st_size
    assert footprint(result.model.eval(), torch.randn(1, 3, 32, 32)).disk_bytes == size


def test_the_peak_on_a_cpu_is_weights_and_what_lives_at_once():
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(100))

        def forward(self, images):
            second = images + 1  # one size of the images
            third = second * 2  # beside it, the second: the peak
            del second
            return third.sum()

    net, images = Doubling(), torch.ones(4, 3, 64, 64)
    with torch.inference_mode():
        found = peak_bytes(lambda: net(images), net, CPU)
    assert found == pytest.approx(400 + 2 * images.nbytes, abs=100)


def test_a_narrower_network_peaks_lower():
    wide, narrow = nn.Conv2d(3, 64, 3), nn.Conv2d(3, 8, 3)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        peaks = [peak_bytes(lambda net=net: net(images), net, CPU) for net in (wide, narrow)]
    assert peaks[0] > peaks[1] >= 2 * 8 * 30 * 30 * 4


def test_looking_leaves_the_network_alone():
    net = timm.create_model("test_resnet").eval()
    before = copy.deepcopy(net.state_dict())
    footprint(net, torch.randn(1, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())

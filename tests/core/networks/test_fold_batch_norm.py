import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

import zoo
from zoo.core.networks.fold_batch_norm import fold_batch_norm


def lively(net):
    """The network in float64 with batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.1, generator=generator)
    return net.double().eval()


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def assert_same(first, second, size):
    images = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = first(images)
        found = second(images)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet20_cifar", 24),
        ("test_resnet", 32),
        ("test_efficientnet", 32),
        ("mobilenetv3_small_050", 32),
        ("dla46_c", 64),
    ],
)
def test_logits_stay_and_every_batch_norm_behind_a_convolution_goes(name, side):
    net = lively(timm.create_model(name, num_classes=5))
    assert_same(net, fold_batch_norm(net, (3, side, side)), (3, side, side))
    assert not norms(fold_batch_norm(net, (3, side, side))) and norms(net)


def test_parent_and_pruned_are_folded_alike():
    net = lively(timm.create_model("test_efficientnet", num_classes=5))
    space = zoo.ChannelSpace.trace(net, (3, 32, 32))
    widths = {group.name: (group.size + 1) // 2 for group in space.groups}
    small = zoo.rebuild(net, space, zoo.SubnetConfig.from_widths(space, widths)).eval()
    folded = fold_batch_norm(small, (3, 32, 32))
    assert_same(small, folded, (3, 32, 32))
    assert not norms(folded)


def test_batch_norms_in_front_of_a_convolution_stay():
    net = lively(timm.create_model("densenet121", num_classes=5))
    folded = fold_batch_norm(net, (3, 32, 32))
    assert_same(net, folded, (3, 32, 32))
    assert 0 < len(norms(folded)) < len(norms(net))


class Branching(nn.Module):
    """The output of the convolution is read beside its batch norm, or nothing else is wrong."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=how != "plain")
        self.again = self.norm if how == "shared" else nn.BatchNorm2d(4)
        self.how = how

    def forward(self, images):
        made = self.conv(images)
        if self.how == "view":
            return self.norm(made) + made.flatten(1).mean()
        if self.how == "output":
            return self.norm(made), made
        if self.how == "twice":
            return self.norm(made) + self.conv(images * 2)
        if self.how == "shared":
            return self.again(self.norm(made))
        return self.norm(made) + (made if self.how == "sum" else 0)


@pytest.mark.parametrize("how", ["sum", "view", "output", "twice", "shared", "plain"])
def test_what_something_else_depends_on_is_not_folded(how):
    net = lively(Branching(how))
    folded = fold_batch_norm(net, (3, 4, 4))
    assert norms(folded)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(torch.cat(torch.atleast_1d(net(images)), 0)
                       if how == "output" else net(images),
                       torch.cat(torch.atleast_1d(folded(images)), 0)
                       if how == "output" else folded(images))  # fmt: skip


def test_the_network_itself_is_not_touched():
    net = lively(Branching("alone")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold_batch_norm(net, (3, 4, 4))
    assert not folded.norm._buffers and net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class ReadsAgain(nn.Module):
    """Computes with tensors of a convolution or a batch norm beside the layer itself."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.what = what

    def forward(self, images):
        return self.norm(self.conv(images)) * self.get_parameter(self.what).abs().mean()


@pytest.mark.parametrize("what", ["conv.weight", "conv.bias", "norm.weight", "norm.bias"])
def test_a_layer_whose_tensors_are_read_elsewhere_is_not_folded(what):
    net = lively(ReadsAgain(what))
    folded = fold_batch_norm(net, (3, 8, 8))
    assert len(norms(folded)) == 1
    assert_same(net, folded, (3, 8, 8))


class Plain(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv, self.norm = conv(3, 4, 3, bias=False), norm(4)

    def forward(self, images):
        return self.run(images)

    def run(self, images):
        return self.norm(self.conv(images)).relu()


class WithoutBias(nn.Conv2d):
    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, None, self.stride, self.padding)


class Doubling(nn.BatchNorm2d):
    def forward(self, maps):
        return 2 * super().forward(maps)


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def hooked(name):
    net = Plain()
    net.get_submodule(name).register_forward_hook(lambda module, args, output: 2 * output)
    return net


def hooked_before(name):
    net = Plain()
    net.get_submodule(name).register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return net


def parametrized(name):
    net = Plain()
    nn.utils.parametrize.register_parametrization(net.get_submodule(name), "weight", Halved())
    return net


def with_own_forward(name):
    net = Plain()
    layer = net.get_submodule(name)
    before = layer.forward
    layer.forward = lambda maps: 2 * before(maps)
    return net


@pytest.mark.parametrize(
    "net",
    [
        Plain(conv=WithoutBias), Plain(norm=Doubling),
        *(change(name) for change in (hooked, hooked_before, parametrized, with_own_forward)
          for name in ("conv", "norm")),
    ],
)  # fmt: skip
def test_layers_that_do_more_than_torchs_own_are_not_folded(net):
    net = lively(net)
    folded = fold_batch_norm(net, (3, 8, 8))
    assert_same(net, folded, (3, 8, 8))
    assert len(norms(folded)) == 1


class InTwoPlaces(Plain):
    """The same layers by two names, or in a list or function that the module tree does not know."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        conv, norm = self.conv, self.norm
        self.block = nn.Sequential(conv, norm)
        self.layers = [conv, norm]
        self.calls = [lambda images: conv(images), lambda maps: norm(maps)]

    def run(self, images):
        place, _, part = self.how.partition(" ")
        conv, norm = {"block": self.block, "list": self.layers, "function": self.calls}[place]
        first = self.conv if part == "norm" else conv
        second = self.norm if part == "conv" else norm
        return second(first(images)).relu()


@pytest.mark.parametrize("part", ["", " conv", " norm"])
@pytest.mark.parametrize("how", ["block", "list", "function"])
def test_layers_are_folded_wherever_the_network_finds_them(how, part):
    net = lively(InTwoPlaces(how + part))
    folded = fold_batch_norm(net, (3, 8, 8))
    assert_same(net, folded, (3, 8, 8))
    assert not norms(folded) and len(norms(net)) == 1


def test_convolutions_that_pad_as_tensorflow_does_are_folded():
    net = lively(timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=5))
    folded = fold_batch_norm(net, (3, 32, 32))
    assert any(type(module) is Conv2dSame for module in folded.modules())
    assert_same(net, folded, (3, 32, 32))
    assert not norms(folded) and norms(net)


def test_what_code_reads_of_a_folded_layer_beside_its_tensors_is_still_there():
    class Reads(Plain):
        def run(self, images):
            return self.norm(self.conv(images)).view(len(images), self.norm.num_features, -1)

    net = lively(Reads())
    folded = fold_batch_norm(net, (3, 8, 8))
    assert_same(net, folded, (3, 8, 8))
    assert not norms(folded)

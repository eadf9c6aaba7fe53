"""What recorded steps save: steps a second with and without `cuda_graph`, in turns.

``python -m benchmarks.studies.cuda_graphs`` trains on made-up images on the first GPU, and prints
for each network and batch size the median of the rounds' ratios. Needs a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import timm
import torch

from benchmarks.tables.markdown import markdown_table
from zoo.core.data.batches import Batches, ImageTensors, crop_and_flip
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers the networks)
from zoo.core.training.train import Recipe, train

__all__ = ["main", "steps_per_second"]

DEVICE = torch.device("cuda")

PLAIN = Recipe(epochs=1, lr=0.01)

CASES = (
    ("resnet56_cifar", 32, 128, False),
    ("resnet56_cifar", 32, 128, True),
    ("resnet110_cifar", 32, 128, False),
    ("mobilenetv2_100", 224, 128, True),
)
"""Network, side of its images, batch size, bfloat16."""


def steps_per_second(name: str, side: int, batch_size: int, steps: int, recipe: Recipe) -> float:
    """Steps a second of a training, warm-up and recording left out.

    Args:
        name: of timm's network.
        side: of its images, in pixels.
        batch_size: images a step.
        steps: that are timed, a multiple of 4.
        recipe: how to train.
    """
    model = timm.create_model(name, num_classes=10).to(DEVICE)
    # As many images as fit in four batches, drawn again and again: reading is not timed.
    count = 4 * batch_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    augment = crop_and_flip if side <= 64 else None
    images = ImageTensors(pixels, torch.arange(count) % 10, (0.5,) * 3, (0.3,) * 3, augment)
    batches = Batches(images, batch_size, shuffle=True, device=DEVICE)
    seconds = []
    for epochs in (4, 4 + steps // 4):
        torch.cuda.synchronize()
        started = time.perf_counter()
        train(model, batches, replace(recipe, epochs=epochs))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return steps / (seconds[1] - seconds[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.cuda_graphs")
    parser.add_argument(
        "--steps", type=int, default=400, help="timed in each round, a multiple of 4"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("CUDA graphs need a CUDA device, and torch finds none")
    rows = []
    for name, side, batch_size, is_bf16 in CASES:
        plain, graph = (
            replace(PLAIN, batch_size=batch_size, bf16=is_bf16, cuda_graph=is_graph)
            for is_graph in (False, True)
        )
        both = [
            [steps_per_second(name, side, batch_size, options.steps, r) for r in (plain, graph)]
            for _ in range(options.rounds)
        ]
        before, after = (statistics.median(each) for each in zip(*both, strict=True))
        ratio = statistics.median(new / old for old, new in both)
        kind = "bfloat16" if is_bf16 else "float32"
        rows.append(
            [
                name,
                str(side),
                str(batch_size),
                kind,
                f"{before:.0f}",
                f"{after:.0f}",
                f"{ratio:.2f}",
            ]
        )
    head = ["network", "pixels", "batch", "type", "steps/s", "with cuda_graph", "ratio"]
    told = f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}"
    sys.stdout.write(f"{told}\n\n{markdown_table(head, 'lrrlrrr', rows)}")


if __name__ == "__main__":
    main()

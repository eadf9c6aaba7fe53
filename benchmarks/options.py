"""Options of the `zoo` command: their types, limits and words of help.

Imports neither torch nor zoo, so that `zoo --help` answers at once.
"""

import math
import reprlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.tracking.tracker import require_tracker

__all__ = [
    "BatchSize",
    "DataPath",
    "Dataset",
    "Device",
    "Divisor",
    "Download",
    "DryRun",
    "EngineOption",
    "Epochs",
    "Export",
    "Fold",
    "Gpus",
    "ImageSize",
    "Keep",
    "LatencyMs",
    "LatencyRatio",
    "Loaders",
    "Macs",
    "Methods",
    "MinKeep",
    "Minutes",
    "ModelName",
    "Models",
    "OtherDataset",
    "Paper",
    "Params",
    "ParentEpochs",
    "PerGpu",
    "Pretrained",
    "Ratio",
    "Results",
    "Seed",
    "Seeds",
    "SuiteMethods",
    "SuiteName",
    "Track",
    "TrainSize",
    "Weights",
    "Width",
    "Workers",
    "finite",
    "named",
]

# Beyond these a number is a typing error; the library refuses the same ones.
MOST_EPOCHS = 100_000
MOST_PIXELS = 4096
MOST_IMAGES = 1_000_000_000
MOST_SEED = 2**32 - 1


def finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which typer's limits let through.

    Raises:
        typer.BadParameter: naming the value.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def named(value: str | None) -> str | None:
    """Refuse what cannot be the name of a network or data set.

    Raises:
        typer.BadParameter: if it is empty or longer than 200 characters.
    """
    if value is not None and not 0 < len(value) <= 200:
        raise typer.BadParameter(f"{reprlib.repr(value)} is no name; see zoo list.")
    return value


LatencyRatio = Annotated[
    float | None,
    typer.Option(
        callback=finite, help="Budget as a keep ratio of the latency at batch 1, on this device."
    ),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        callback=finite, help="Budget in milliseconds a pass, at batch 1, on this device."
    ),
]
Export = Annotated[
    str | None,
    typer.Option(
        help="Also write onnx, onnx-int8 (calibrated, timed), torch-export (.pt2), or timm (a "
        "folder that needs no zoo), and check its logits."
    ),
]
Fold = Annotated[
    bool,
    typer.Option(
        "--fold-batch-norm",
        help="Fold batch norms into the convolutions before timing and in the export.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Never prune these: a glob over channel groups and modules, such as `'layer4.*'`, or "
        "stem, or skips. May be given several times.",
        show_default=False,
    ),
]
Ratio = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB=SHARE",
        help="How much of these is kept: `'layer1.*=0.8'` the nearest width to that, "
        "`'layer2=0.5:0.9'` at least and at most, 0.5: at least, :0.9 at most. May be given "
        "several times; where patterns meet, all hold.",
        show_default=False,
    ),
]
MinKeep = Annotated[float, typer.Option(help="Least share that any group keeps.", callback=finite)]
Divisor = Annotated[
    int, typer.Option(help="Widths are multiples of it, or whole.", min=1, max=1_000_000)
]
QuietCore = Annotated[
    int | None,
    typer.Option(help="CPU core to time on, one that nothing else uses.", min=0),
]
Distill = Annotated[
    float | None,
    typer.Option(
        help="Fine-tune with cross-entropy and the parent's logits, so weighted, e.g. 1; "
        "else with what the method hands on.",
        min=0,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Start from the weights in a file: .safetensors, or torch's .pth, .pt or .bin.",
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch data that is missing.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what is left to do, and its cost.")]
Width = Annotated[
    float,
    typer.Option(
        min=1, max=8, callback=finite, help="Widen the network before it is trained and pruned."
    ),
]


def tracker(value: str | None) -> str | None:
    """Refuse a tracker that there is not, or whose package is missing.

    Raises:
        typer.BadParameter: saying what to do.
    """
    if value is None:
        return None
    try:
        return require_tracker(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Track = Annotated[
    str | None,
    typer.Option(
        callback=tracker,
        metavar="TRACKER",
        help="Tell tensorboard, mlflow, wandb or trackio of each run; its package is an extra.",
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of records, tables and figures.")]
Paper = Annotated[
    bool,
    typer.Option("--paper", help="Also make what a paper takes: a table and figures for a column."),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Methods that --paper shows, with commas between; one of a file by its class. "
        "Default: all.",
    ),
]
DataPath = Annotated[
    Path | None, typer.Option("--data", help="Folder of a data set that is read from files.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Workers = Annotated[
    int,
    typer.Option(
        min=0,
        max=1024,
        help="Processes of one thread each; several share a GPU. 0: one per core, 1 on a GPU.",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="local: processes of this machine; ray: a Ray cluster, or one that is started here."
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(min=1, max=100_000, help="GPUs to use. Default: 1, of a Ray cluster all."),
]
Loaders = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1024,
        help="Processes that read images of files for each cell; the images are the same for any "
        "number. Default: the cores that each cell has to itself, less one.",
    ),
]
PerGpu = Annotated[int, typer.Option(min=1, max=100, help="Cells that share a GPU.")]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Seeds 0 to N-1 in place of the suite's.", metavar="N"),
]
Models = Annotated[
    list[str] | None,
    typer.Option(help="Only this network of the suite; give it again for more.", metavar="NAME"),
]
SuiteMethods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="Only this method of the suite now; give it again for more.",
        metavar="NAME",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0, callback=finite, help="Start nothing new after so long; run again for the rest."
    ),
]
Macs = Annotated[
    float | None,
    typer.Option(
        callback=finite,
        help="Budget: keep ratio up to 1, or a count. Default 0.5; none if a --ratio is below 1.",
    ),
]
Params = Annotated[
    float | None,
    typer.Option(callback=finite, help="Budget in parameters instead of MACs."),
]
Epochs = Annotated[int, typer.Option(min=0, max=MOST_EPOCHS, help="Epochs of fine-tuning.")]
ParentEpochs = Annotated[
    int,
    typer.Option(
        min=0, max=MOST_EPOCHS, help="Epochs of training before; 0 keeps the weights it has."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_IMAGES, help="Images of a training step. Default 128, or all if fewer."
    ),
]
ImageSize = Annotated[int | None, typer.Option(min=8, max=MOST_PIXELS, help="Side in pixels.")]
TrainSize = Annotated[
    int | None, typer.Option(min=1, max=MOST_IMAGES, help="Training images to use.")
]
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of everything random.")]
SuiteName = Annotated[str, typer.Argument(help="Name of a suite, or path of a .toml file.")]
ModelName = Annotated[
    str, typer.Argument(callback=named, help="Name of a timm model, e.g. resnet20_cifar.")
]
Dataset = Annotated[str, typer.Option(callback=named, help="A data set; see zoo list.")]
OtherDataset = Annotated[
    str | None,
    typer.Option(
        callback=named, help="Another data set in place of the suite's, whole; see zoo list."
    ),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Start from timm's published weights.")
]

"""The forms of a pruned network that `zoo prune --export` writes beside it."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from benchmarks.measuring.measure import measure_files
from benchmarks.records.cell import Cell
from benchmarks.records.plain import counted
from benchmarks.records.runtime import Quantized
from benchmarks.running.parent import Places, splits_of
from benchmarks.running.protocol import Findings
from zoo.core.data.batches import Batches, BatchSource
from zoo.core.networks.export import SUFFIXES, ExportFormat, export_network, onnx_runner
from zoo.core.networks.export_int8 import export_int8
from zoo.core.networks.export_timm import export_timm
from zoo.core.training.top1 import right_answers

__all__ = ["CALIBRATION_IMAGES", "export_as"]

CALIBRATION_IMAGES = 512
"""Images of the search split that ranges of INT8 are measured on, at most: not augmented."""


def export_as(
    form: str, cell: Cell, findings: Findings, places: Places, out: Path
) -> tuple[str, Quantized | None]:
    """Write the fine-tuned network in another form into its folder.

    Args:
        form: one that `zoo.core.networks.export.require` has let through.
        cell: what was run.
        findings: what came of it, the network among it.
        places: where the data lie.
        out: the folder.

    Returns:
        What was written, in a line, and for INT8 what was measured of it.

    Raises:
        ValueError: if the file does not compute what the network computes.
        OSError: if it cannot be written.
    """
    if form == "onnx-int8":
        return _quantized(cell, findings, places, out)
    assert findings.network is not None and findings.input_size is not None
    if form == "timm":
        args = {name: value for name, value in cell.model.args.items() if name != "pretrained"}
        exported = export_timm(findings.network, findings.input_size, out / "timm", model_args=args)
    else:
        known = cast(ExportFormat, form)
        exported = export_network(
            findings.network,
            findings.input_size,
            out / f"network{SUFFIXES[known]}",
            form=known,
            fold=cell.latency.fold_batch_norm,
        )
    return (
        f"exported {exported.path} ({exported.size_bytes:,} bytes); loaded again, its logits "
        f"differ from the network's by {exported.difference:.1g} at most"
    ), None


def _quantized(
    cell: Cell, findings: Findings, places: Places, out: Path
) -> tuple[str, Quantized | None]:
    """Both ONNX files, their accuracy on the test split and their latency."""
    assert findings.network is not None
    splits = splits_of(cell.data, cell.seed, places)
    batch_size = cell.finetune.batch_size
    readers = splits.loaders
    search = Batches(splits.search, batch_size, seed=cell.seed, shuffle=True, workers=readers)
    paths = [out / "network.onnx", out / "network.int8.onnx"]
    exported = export_int8(findings.network, _first_images(search), paths[1], float_path=paths[0])
    test = Batches(splits.test, batch_size, seed=cell.seed, workers=readers)
    top1, same = _answers(paths, test)
    found = Quantized(
        calibration_images=exported.calibration.images,
        deviation=exported.calibration.deviation,
        float_top1=top1[0],
        int8_top1=top1[1],
        same_answer=same,
        float_bytes=exported.float_bytes,
        int8_bytes=exported.size_bytes,
        latency=measure_files(paths[0], paths[1], splits.input_size, cell.latency),
    )
    return _told(paths[1], found), found


def _first_images(source: BatchSource) -> Iterator[Tensor]:
    """Images to calibrate on, batch by batch."""
    left = CALIBRATION_IMAGES
    for images, _ in islice(source.epoch(0), CALIBRATION_IMAGES):
        yield images[:left]
        left -= len(images)
        if left <= 0:
            return


def _answers(paths: list[Path], batches: BatchSource) -> tuple[list[float], float]:
    """Top-1 of some ONNX files, and how often they agree, as fractions."""
    runs = [onnx_runner(path) for path in paths]
    right, same, count = torch.zeros(len(runs)), 0, 0
    for images, labels in batches.epoch(0):
        logits = [run(images) for run in runs]
        right += torch.stack([right_answers(each, labels).sum() for each in logits])
        same += int((logits[0].argmax(1) == logits[1].argmax(1)).sum())
        count += len(labels)
    return (right.double() / count).tolist(), same / count


def _told(path: Path, found: Quantized) -> str:
    times = "; ".join(
        f"batch {each.batch}: {each.parent_ms.median:.2f} ms -> {each.pruned_ms.median:.2f} ms "
        f"({each.verdict})"
        for each in found.latency
    )
    return (
        f"exported {path} ({found.int8_bytes:,} bytes, float32 {found.float_bytes:,}), calibrated "
        f"on {counted(found.calibration_images, 'held-out image')}\n"
        f"ONNX Runtime, float32 -> INT8: test top-1 {found.float_top1:.1%} -> "
        f"{found.int8_top1:.1%}, the same answer for {found.same_answer:.1%}; {times}"
    )

"""A network with 8-bit weights and activations, as one ONNX file for ONNX Runtime.

Static post-training quantization (Jacob et al. 2018, arXiv 1712.05877): the ranges of activations
are measured on given images, each output channel of a weight has a scale of its own, since in
depthwise convolutions these differ by orders of magnitude (Nagel et al. 2019, arXiv 1906.04721).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.networks.export import export_network, onnx_runner, require, require_target
from zoo.core.tracing.copies import copy_network
from zoo.core.whole_file import whole_file, write_whole

__all__ = ["Agreement", "ExportedInt8", "export_int8"]

_PER_CHANNEL = True
_SCALES = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Agreement:
    """How far the INT8 file computes what the network computes, on some images.

    Attributes:
        images: how many.
        same_answer: share of the images (of the positions, where outputs are maps) whose highest
            output is the same.
        deviation: root mean square of the difference of outputs, as a share of how far the
            network's outputs lie from their mean over the images: 0 for the network itself, 1 for a
            file that puts out the same for every image.
    """

    images: int
    same_answer: float
    deviation: float


@dataclass(frozen=True)
class ExportedInt8:
    """An INT8 file that was written, and how well it computes what the network computes.

    Attributes:
        path: of the file.
        size_bytes: its length.
        float_bytes: length of the float32 ONNX file of the same network.
        calibration: agreement on the images that ranges were measured on.
        check: agreement on other images; None if none were given.
    """

    path: Path
    size_bytes: int
    float_bytes: int
    calibration: Agreement
    check: Agreement | None


@checked()
def export_int8(
    model: nn.Module,
    images: Iterable[Tensor],
    path: str | os.PathLike[str],
    *,
    check: Iterable[Tensor] = (),
    float_path: str | os.PathLike[str] | None = None,
) -> ExportedInt8:
    """Write a network as an INT8 ONNX file (QDQ) with ranges from some images, and compare both.

    Batch norms are folded into convolutions, then weights become int8 for each output channel and
    activations uint8. The float32 file is held against the network first, as ``export_network``
    does; the INT8 file is loaded again before it gets its name.

    Whether INT8 is faster depends on the processor: measure it. On x86 without VNNI instructions,
    ONNX Runtime's 8-bit products may saturate, which the agreement on such a machine shows.

    Args:
        model: the network, with one tensor of outputs; it is not touched.
        images: batches (N, C, H, W) to measure ranges on, some hundred images prepared as for
            training without augmentation: ``(images for images, _ in loader)``. All are kept.
        path: of the new file.
        check: other batches, to compare on only.
        float_path: where the float32 ONNX file is to be kept, too.

    Raises:
        ValueError: if a package is missing, images cannot be used, or the INT8 file tells images
            apart no better than one that puts out the same for all; it is not kept. Also if the
            network returns anything but one tensor.
        FileExistsError: if there is such a file.
        OSError: if it cannot be written.
    """
    require("onnx-int8")
    targets = [Path(each) for each in (path, float_path) if each is not None]
    for target in targets:
        require_target(target, "onnx")
    if len({target.absolute() for target in targets}) < len(targets):
        raise ValueError(f"path and float_path are both {path}; give each file a name of its own")
    batches = _usable(images, "images")
    others = _usable(check, "check", like=batches[0])
    if sum(map(len, batches)) < 2:
        raise ValueError("images hold fewer than two images; give some hundred to measure ranges")
    network = copy_network(model).eval().cpu().float()
    network = network.to(memory_format=torch.contiguous_format)
    _require_one_output(network, batches[0][:2])
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        exported = export_network(network, batches[0].shape[1:], plain, fold=True)
        with whole_file(targets[0]) as hidden:
            _quantize(plain, Path(folder), hidden, batches)
            run = onnx_runner(hidden)
            calibration = _compared(network, run, batches)
            checked = _compared(network, run, others) if others else None
            if float_path is not None:
                write_whole(targets[1], plain.read_bytes())
    size = targets[0].stat().st_size
    return ExportedInt8(targets[0], size, exported.size_bytes, calibration, checked)


def _usable(images: Iterable[Tensor], name: str, like: Tensor | None = None) -> list[Tensor]:
    """The batches as float32 on the CPU.

    Raises:
        ValueError: if one is no batch of images, is of another size or holds NaN.
    """
    found = []
    for batch in images:
        if not isinstance(batch, Tensor) or batch.ndim != 4 or not len(batch):
            shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(
                f"{name} yields {shape}, no batch of images (N, C, H, W); give (images for images, "
                "_ in loader)"
            )
        like = batch if like is None else like
        if batch.shape[1:] != like.shape[1:]:
            sizes = tuple(batch.shape[1:]), tuple(like.shape[1:])
            raise ValueError(f"{name} yields images of {sizes[0]} and of {sizes[1]}; give one size")
        plain = batch.detach().cpu().float().contiguous()
        if not bool(plain.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity")
        found.append(plain)
    if like is None:
        raise ValueError(f"{name} yields no image; give some hundred to measure ranges on")
    return found


def _require_one_output(network: nn.Module, images: Tensor) -> None:
    """Refuse a network that returns anything but one tensor, shape (N, C, ...).

    Raises:
        ValueError: naming what it returns.
    """
    with torch.no_grad():
        outputs = network(images)
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"the network puts out a {type(outputs).__name__}; one tensor (N, C, ...) is compared: "
            "let its forward method return that alone, or write float32 with export_network"
        )


def _quantize(plain: Path, folder: Path, target: Path, batches: Sequence[Tensor]) -> None:
    """Write the INT8 form of an ONNX file.

    Raises:
        ValueError: if nothing in it became INT8.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch.numpy()}

    prepared = folder / "prepared.onnx"
    with _quiet():
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # shapes are known already
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=_PER_CHANNEL,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    if not kinds.issuperset(_SCALES):
        raise ValueError("ONNX Runtime found nothing in the network that it can quantize")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the quantizer logs: advice to prepare the file, which it is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _compared(
    network: nn.Module, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> Agreement:
    """How far a file computes what a network computes.

    Raises:
        ValueError: if it tells images apart no better than one constant.
    """
    with torch.no_grad():
        wanted = torch.cat([network(batch) for batch in batches]).double()
    found = torch.cat([run(batch) for batch in batches]).double()
    if wanted.ndim < 2:
        raise ValueError(f"the network puts out {tuple(wanted.shape)}; (N, C, ...) is compared")
    same = (wanted.argmax(1) == found.argmax(1)).double().mean()
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    error = (found - wanted).square().mean().sqrt()
    deviation = float(error / spread) if spread > 0 else float(error > 0)
    if not deviation < 1:
        raise ValueError(
            f"the INT8 file's outputs differ from the network's by {deviation:.2g} of what images "
            "make them differ; it was not kept. Give more images, prepared as for training"
        )
    return Agreement(len(wanted), float(same), deviation)

"""A network as one file for other runtimes, read back and held against the network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.core.arguments import checked
from zoo.core.networks.fold_batch_norm import fold_batch_norm
from zoo.core.tracing.copies import copy_network
from zoo.core.tracing.entry import image_size
from zoo.core.whole_file import require_place, whole_file

__all__ = [
    "SUFFIXES",
    "ExportFormat",
    "Exported",
    "export_network",
    "onnx_runner",
    "onnx_session",
    "require",
    "require_target",
]

ExportFormat = Literal["onnx", "torch-export"]

SUFFIXES: Mapping[ExportFormat, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": _ONNX,
    "onnx-int8": _ONNX,
    "torch-export": (),
    "timm": (),
}
"""What each form of an export needs beside the library itself; the last has files of its own."""
_TOLERANCE = 1e-4
"""Of the largest number of an output: float32 sums of some thousand terms in another order."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how well it computes what the network computes.

    Attributes:
        path: of the file.
        size_bytes: its length.
        difference: largest difference between two logits (or other outputs), on random images.
    """

    path: Path
    size_bytes: int
    difference: float


@checked("form")
def export_network(
    model: nn.Module,
    input_size: Sequence[int],
    path: str | os.PathLike[str],
    *,
    form: ExportFormat = "onnx",
    fold: bool = False,
) -> Exported:
    """Write a network as ONNX or as a ``torch.export`` program, for any number of images.

    The file is loaded again before it gets its name, and its logits on random images are compared
    with those of the network as it was given; a file that computes anything else is not kept. Of a
    network that returns a tuple or a dict, all tensors are written and compared, in their order.
    An ONNX file calls its output ``logits``, or those of a dict as its keys.

    Args:
        model: the network; it is not touched.
        input_size: (C, H, W) of one image.
        path: of the new file.
        form: what to write.
        fold: whether batch norms go into the convolutions before them.

    Raises:
        ValueError: if a package is missing, the path ends as another kind of file does, or the
            file's outputs are not those of the network.
        FileExistsError: if there is such a file.
        OSError: if it cannot be written.
    """
    target = Path(path)
    image_size(input_size)  # (C, H, W), or an error
    require(form)
    if form not in SUFFIXES:
        other = {"timm": "zoo.export_timm", "onnx-int8": "zoo.export_int8"}[str(form)]
        raise ValueError(f"{form!r} is written by {other}; here, form is {' or '.join(SUFFIXES)}")
    require_target(target, form)
    network = _plain(model)
    written = fold_batch_norm(network, input_size) if fold else network
    write, load = (_write_onnx, _load_onnx) if form == "onnx" else (_write_program, _load_program)
    with whole_file(target) as hidden:
        write(written, input_size, hidden)
        difference = _compared(network, load(hidden), input_size)
    return Exported(target, target.stat().st_size, difference)


def require_target(target: Path, form: ExportFormat) -> None:
    """Refuse a path that a form of export cannot be written to, before there is work to lose.

    Raises:
        ValueError: if it ends as another kind of file does.
        FileExistsError: if there is such a file.
        OSError: if no file can be written there.
    """
    named = [known for known, suffix in SUFFIXES.items() if suffix == target.suffix]
    if target.suffix and form not in named:
        other = f"give form={named[0]!r}, or " if named else ""
        raise ValueError(
            f"{target.name} would hold {form}; {other}end it with {SUFFIXES[form]}, or with nothing"
        )
    if target.exists():
        raise FileExistsError(f"{target} exists; choose another name or remove it")
    require_place(target)


def require(name: str) -> str:
    """Return the name of a form of export, once it is known that it can be written.

    Raises:
        ValueError: if there is no such form, or naming the packages that are missing and the
            command that installs them.
    """
    if name not in _PACKAGES:
        *others, last = _PACKAGES
        raise ValueError(f"unknown export format {name!r}; use {', '.join(others)} or {last}")
    missing = [each for each in _PACKAGES[name] if importlib.util.find_spec(each) is None]
    if missing:
        raise ValueError(
            f"{name} needs {', '.join(missing)}, which {'are' if missing[1:] else 'is'} not "
            f"installed: pip install {' '.join(missing)} (or pip install -e '.[onnx]')"
        )
    return name


def onnx_session(path: Path, threads: int) -> Any:  # Any: onnxruntime is untyped and optional
    """Return an ONNX Runtime session on the CPU: all optimisations, fixed threads, no denormals.

    The first session of a process switches denormal numbers off in the thread that makes it, too,
    and in all threads that this one starts later; so a thread of its own makes it.

    Args:
        path: of an ONNX file.
        threads: that one operator may use.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in all its threads
    with ThreadPoolExecutor(max_workers=1) as pool:
        make = partial(onnxruntime.InferenceSession, providers=["CPUExecutionProvider"])
        return pool.submit(make, path, options).result()


def onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what computes logits (N, ...) of images (N, C, H, W) with an ONNX file, one thread.

    Args:
        path: of a file that ``export_network`` or ``export_int8`` has written.
    """
    run = _load_onnx(path)
    return lambda images: run(images)[0]


def _load_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    session = onnx_session(path, threads=1)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.as_tensor(each) for each in session.run(None, {"images": images.numpy()})]

    return run


def _plain(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode and the ordinary memory format."""
    plain = copy_network(model).eval().cpu()
    return plain.to(memory_format=torch.contiguous_format)


def _images(count: int, input_size: Sequence[int]) -> Tensor:
    return torch.randn(count, *input_size, generator=torch.Generator().manual_seed(0))


def _any_batch() -> tuple[dict[int, Any]]:  # Any: torch leaves Dim untyped
    return ({0: torch.export.Dim("batch")},)


def _write_onnx(model: nn.Module, input_size: Sequence[int], path: Path) -> None:
    images = _images(2, input_size)
    with torch.no_grad():
        names = _output_names(model(images))
    torch.onnx.export(
        model,
        (images,),
        path,
        dynamo=True,
        dynamic_shapes=_any_batch(),
        external_data=False,
        input_names=["images"],
        output_names=names,
        verbose=False,
    )


def _output_names(outputs: object) -> list[str] | None:
    """Names of what a network returns; None for those that torch gives."""
    if isinstance(outputs, Tensor):
        return ["logits"]
    if not isinstance(outputs, Mapping) or "images" in outputs:  # the name of the input
        return None
    is_flat = all(isinstance(each, Tensor) for each in outputs.values())
    return list(map(str, outputs)) if is_flat else None


def _write_program(model: nn.Module, input_size: Sequence[int], path: Path) -> None:
    images = (_images(2, input_size),)
    program = torch.export.export(model, images, dynamic_shapes=_any_batch())
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(program, file)


def _load_program(path: Path) -> Callable[[Tensor], Any]:
    with path.open("rb") as file:
        module: nn.Module = torch.export.load(file).module()
    return module


def _compared(
    model: nn.Module, loaded: Callable[[Tensor], Any], input_size: Sequence[int]
) -> float:
    """Largest difference of outputs on a batch of another size than the one that was exported.

    Raises:
        ValueError: if it is above the tolerance, or numbers or shapes of outputs differ.
    """
    images = _images(3, input_size)
    with torch.no_grad():
        expected, found = _tensors(model(images)), _tensors(loaded(images))
    if not expected or len(found) != len(expected):
        raise ValueError(
            f"the exported file gives {len(found)} tensors, the network {len(expected)}; it was "
            "not kept"
        )
    named = (
        [f"values of output {n}" for n in range(1, len(found) + 1)]
        if len(found) > 1
        else ["logits"]
    )
    return max(map(_difference, named, expected, found))


def _tensors(outputs: object) -> list[Tensor]:
    """The tensors that a network returns, of any shape, as torch's exporters order them."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _difference(name: str, expected: Tensor, found: Tensor) -> float:
    """Largest difference of two tensors, which are to have one shape.

    Raises:
        ValueError: if it is above the tolerance, or the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(
            f"the exported file gives {name} of shape {tuple(found.shape)}, the network "
            f"{tuple(expected.shape)}; it was not kept"
        )
    if not expected.numel():
        return 0.0
    wanted = expected.double()  # class indices and masks are compared as numbers
    difference = float((found.double() - wanted).abs().max())
    limit = _TOLERANCE * float(wanted.abs().max())
    if not difference <= limit:
        raise ValueError(
            f"the exported file's {name} differ from the network's by {difference:.2g}, more than "
            f"{limit:.2g}; it was not kept"
        )
    return difference

"""A pruned network as a folder that needs torch, timm and safetensors, and nothing of this library.

timm makes the network at its own widths; what differs after that are numbers that its modules hold,
such as the ``out_channels`` of a convolution, and the sizes of its tensors. So the folder holds the
tensors, a table of those numbers, and a short Python file that puts both into timm's network.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from zoo.core.arguments import checked
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.architecture import Architecture, make
from zoo.core.networks.check_output import check_output, different_operator, different_output
from zoo.core.networks.export import Exported
from zoo.core.tracing.copies import copy_network, named_modules
from zoo.core.whole_file import require_place, write_whole

__all__ = ["export_timm"]

_SCRIPT, _WIDTHS, _TENSORS = "network.py", "widths.json", "weights.safetensors"

_TEMPLATE = '''\
"""@NAME@, pruned: @KEPT@ parameters, where timm's has @FULL@.

Needs torch, timm and safetensors, and the two files beside this one:

    from network import load_network

    model = load_network()  # a torch.nn.Module in eval mode, to run or to train on

Made with timm @TIMM@ and torch @TORCH@.
"""

import json
from pathlib import Path

@IMPORTS@

ARCHITECTURE = "@NAME@"
ARGS = @ARGS@
INPUT_SIZE = @SIZE@  # channels, height and width of an image that it was pruned for
HERE = Path(__file__).parent


def load_network() -> nn.Module:
    """Return the pruned network with its weights."""
    model = timm.create_model(ARCHITECTURE, **ARGS)
    held = json.loads((HERE / "@WIDTHS@").read_text())
    for path, sizes in held["modules"].items():
        module = model.get_submodule(path)
        for name, size in sizes.items():  # such as in_channels of a convolution
            setattr(module, name, type(getattr(module, name))(size))
    for path, widths in held["features"].items():  # what timm tells of feature maps
        infos = model.get_submodule(path).feature_info
        for info, channels in zip(getattr(infos, "info", infos), widths):
            info["num_chs"] = channels
    tensors = load_file(HERE / "@TENSORS@")
    for name, tensor in tensors.items():  # load_state_dict asks for tensors of equal size
        path, _, last = name.rpartition(".")
        getattr(model.get_submodule(path), last).data = tensor
    saved = model.state_dict().keys()
    model.load_state_dict({name: t for name, t in tensors.items() if name in saved})  # strict
    return model.eval()


if __name__ == "__main__":
    network = load_network()
    print(sum(p.numel() for p in network.parameters()), "parameters")
    dtype = next(network.parameters()).dtype
    print(network(torch.zeros(1, *INPUT_SIZE, dtype=dtype)).shape)
'''


@checked()
def export_timm(
    model: nn.Module,
    input_size: tuple[int, int, int],
    directory: str | os.PathLike[str],
    *,
    model_args: Mapping[str, object] | None = None,
) -> Exported:
    """Write a network of timm's, pruned or not, as a folder that runs without this library.

    The folder gets ``network.py`` with the function ``load_network``, and beside it
    ``weights.safetensors`` and ``widths.json``; nothing in it is a pickle. Before ``network.py`` is
    written, its text is run, and what it makes is held against the given network: operator by
    operator in eval and training mode, and by what both put out for fixed images.

    A network that this library adds to timm, such as ``resnet20_cifar``, takes the file that
    defines it along.

    Args:
        model: the network; it is not touched.
        input_size: (C, H, W) of one image.
        directory: made if it does not exist.
        model_args: what timm made the network with, where timm does not keep it.

    Returns:
        The path of ``network.py``, the bytes of all files, and the largest difference between two
        values of what both networks put out for the fixed images.

    Raises:
        UnsupportedModel: if it is not timm's network with other widths: it was not made by timm, or
            a layer was replaced after that; the message names it.
        FileExistsError: if the folder holds such files already.
        OSError: if it cannot be written.
    """
    folder = Path(directory)
    for name in (_SCRIPT, _WIDTHS, _TENSORS):
        _refuse_existing(folder / name)
    require_place(folder / _SCRIPT)
    network = copy_network(model).eval().cpu()
    architecture = Architecture.of(network, **(model_args or {}))
    if architecture.name is None:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise UnsupportedModel(
            f"{kind} was not made by timm, so no plain timm file can make it; use "
            "zoo.export_network, or zoo.save_pruned"
        )
    made = make(architecture.name, architecture.args).eval()
    widths, tensors = _widths(network, made), _tensors(network, made)
    script, companions = _script(network, made, architecture, input_size)
    files: dict[str, str | bytes] = {
        _TENSORS: safetensors.torch.save(tensors),
        _WIDTHS: _json(widths),
        **companions,
    }
    for name in (_SCRIPT, *files):
        _refuse_existing(folder / name)
    is_new = not folder.exists()
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
        difference = _verified(network, _run(script, folder), input_size)
        write_whole(folder / _SCRIPT, script)
    except BaseException:
        for name in files:
            (folder / name).unlink(missing_ok=True)
        if is_new and folder.is_dir():
            folder.rmdir()
        raise
    size = sum((folder / name).stat().st_size for name in (_SCRIPT, *files))
    return Exported(folder / _SCRIPT, size, difference)


def _widths(network: nn.Module, made: nn.Module) -> dict[str, dict[str, Any]]:
    """Numbers that modules of the network hold and timm's do not, and widths of feature maps."""
    ours, theirs = dict(named_modules(network)), dict(named_modules(made))
    modules: dict[str, dict[str, Any]] = {}
    features: dict[str, list[int | None]] = {}
    for path in sorted({*ours, *theirs}):
        mine, its = ours.get(path), theirs.get(path)
        if mine is None or its is None or type(mine) is not type(its):
            kinds = ["nothing" if m is None else type(m).__name__ for m in (mine, its)]
            raise UnsupportedModel(
                f"{path} is {kinds[0]}, where timm makes {kinds[1]}: it was replaced after timm "
                "made the network, so no plain timm file can make it; use zoo.export_network, or "
                "zoo.save_pruned"
            )
        held = dict(_changed(mine, its))
        if held:
            modules[path] = held
        told = _feature_widths(mine)
        if told != _feature_widths(its):
            features[path] = told
    return {"modules": modules, "features": features}


def _changed(mine: nn.Module, its: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and values of the numbers and texts that a module holds and its twin does not."""
    theirs = vars(its)
    for name, value in vars(mine).items():
        if name == "training" or name not in theirs or type(value) is not type(theirs[name]):
            continue  # what matters of that shows in the operators
        if _is_plain(value) and value != theirs[name]:
            yield name, list(value) if isinstance(value, tuple) else value


def _is_plain(value: object) -> bool:
    """Whether a value is a number or text, or a row of them, so that its type makes it again."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, bool | int | str):
        return True
    return type(value) in (list, tuple, torch.Size) and all(
        type(each) in (bool, int, float, str)
        for each in value  # type: ignore[attr-defined]
    )


def _feature_widths(module: nn.Module) -> list[int | None]:
    infos: Any = getattr(module, "feature_info", None)
    infos = getattr(infos, "info", infos)
    return [info.get("num_chs") for info in infos] if isinstance(infos, list) else []


def _tensors(network: nn.Module, made: nn.Module) -> dict[str, Tensor]:
    """The state of a network, and those other buffers that timm makes in another way."""
    state = dict(network.state_dict())
    theirs = dict(made.named_buffers())
    for name, buffer in network.named_buffers():
        twin = theirs.get(name)
        if name not in state and (
            twin is None or twin.dtype != buffer.dtype or not torch.equal(twin, buffer)
        ):
            state[name] = buffer
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def _script(
    network: nn.Module,
    made: nn.Module,
    architecture: Architecture,
    input_size: tuple[int, int, int],
) -> tuple[str, dict[str, str]]:
    """The text of the Python file, and texts of modules that it imports, by the files' names."""
    assert architecture.name is not None
    home = timm.model_entrypoint(architecture.name).__module__
    companions, imports = {}, ["import timm", "import torch", *_FROM]
    if home.startswith("zoo."):
        short = home.rpartition(".")[2]
        companions[f"{short}.py"] = inspect.getsource(sys.modules[home])
        imports.insert(0, f"import {short}  # the file beside this one adds it to timm's networks")
    elif not home.startswith("timm."):
        imports.insert(0, f"import {home}  # adds the network to those of timm")
    counts = [sum(p.numel() for p in net.parameters()) for net in (network, made)]
    marks = {
        "NAME": _tagged(network, architecture.name),
        "KEPT": f"{counts[0]:,}",
        "FULL": f"{counts[1]:,}",
        "TIMM": timm.__version__,
        "TORCH": torch.__version__,
        "IMPORTS": "\n".join(imports),
        "ARGS": pformat(architecture.args, width=90, sort_dicts=False),
        "SIZE": repr(tuple(input_size)),
        "WIDTHS": _WIDTHS,
        "TENSORS": _TENSORS,
    }
    text = _TEMPLATE
    for mark, value in marks.items():
        text = text.replace(f"@{mark}@", value)
    return text, companions


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another folder or remove it")


_FROM = ("from safetensors.torch import load_file", "from torch import nn")


def _tagged(network: nn.Module, name: str) -> str:
    """The name with the tag of its weights, which tells how images are to be prepared."""
    described: Any = getattr(network, "pretrained_cfg", None) or {}
    tag = described.get("tag")
    known = timm.list_models(f"{name}.*", pretrained=True, include_tags=True)
    return f"{name}.{tag}" if f"{name}.{tag}" in known else name


def _run(script: str, folder: Path) -> nn.Module:
    """The network that the file's text makes; modules of this library are at hand already."""
    lines = [line for line in script.splitlines() if "# the file beside this one" not in line]
    names: dict[str, Any] = {"__file__": str(folder / _SCRIPT), "__name__": "network"}
    exec(compile("\n".join(lines), _SCRIPT, "exec"), names)
    with torch.random.fork_rng(devices=()):
        network: nn.Module = names["load_network"]()
    return network


def _verified(network: nn.Module, loaded: nn.Module, input_size: tuple[int, int, int]) -> float:
    """Largest difference of two values that both networks put out for the fixed images.

    Raises:
        UnsupportedModel: if they are two networks.
    """
    differs = different_operator(network, loaded, input_size)
    wanted = check_output(network, input_size)
    found = check_output(loaded, input_size, wanted.dtype)
    differs = differs or different_output(wanted, found)
    if differs is not None:
        raise UnsupportedModel(
            f"timm's network at these widths has {differs}; the network was changed after timm "
            "made it, or made with arguments that timm does not keep: give these as model_args"
        )
    both = zip(wanted.values, found.values, strict=True)
    pairs = [pair for rows in both for pair in zip(*rows, strict=True) if None not in pair]
    return max((abs(a - b) for a, b in pairs), default=0.0)  # type: ignore[operator]


def _json(widths: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, one line for each module."""
    parts = []
    for key, rows in widths.items():
        lines = [f"\n  {json.dumps(path)}: {json.dumps(row)}" for path, row in rows.items()]
        parts.append(f" {json.dumps(key)}: {{{','.join(lines)}}}")
    return "{\n" + ",\n".join(parts) + "\n}\n"

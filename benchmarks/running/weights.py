"""Files of weights that parents start from; cells know them by the digest of their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.records.cell import Cell, Model
from benchmarks.records.plain import in_markup

if TYPE_CHECKING:
    from torch import nn

    from zoo.core.networks.weights import Weights

__all__ = [
    "WeightFiles",
    "check_weights",
    "digested",
    "start_from_weights",
    "tell_weights",
    "weight_files",
]

WeightFiles = tuple[tuple[str, Path], ...]
"""The digest of a file's content, and where the file lies."""

LONGEST_LINE = 1000
"""Characters of a line on a file that are shown."""


def weight_files(models: Sequence[Model]) -> WeightFiles:
    """The files of a suite's models.

    Raises:
        FileNotFoundError: if one does not exist.
        ValueError: if it is no file that weights are read from.
        OSError: if it cannot be read.
    """
    from zoo.core.networks.weights import weights_digest

    paths = [Path(model.weights).expanduser() for model in models if model.weights is not None]
    return tuple((weights_digest(path), path) for path in paths)


def digested(model: Model) -> Model:
    """A suite's model as its cells have it: weights named by content.

    Raises:
        FileNotFoundError: as `weight_files`.
        ValueError: the same.
        OSError: the same.
    """
    files = weight_files([model])
    return model.model_copy(update={"weights": files[0][0]}) if files else model


def check_weights(cell: Cell, model: "nn.Module", files: WeightFiles) -> tuple[str, ...]:
    """Hold the weights of a cell against its network, which stays as it is.

    Args:
        cell: says which weights.
        model: its parent, untrained.
        files: those at hand.

    Returns:
        What is made of the file beside taking it as it is, a line each; none without weights.

    Raises:
        ValueError: if the file does not fit, or is not the one that the run was planned with.
        OSError: if it cannot be read.
    """
    if cell.model.weights is None:
        return ()
    path = _path(cell, files)
    fitted = _read(cell, path).fitted(model, is_new_head_allowed=cell.parent.epochs > 0)
    return tuple(f"weights of {cell.model.title}, {path}: {note}" for note in fitted.notes)


def tell_weights(lines: Sequence[str], console: Console) -> None:
    """Show what `check_weights` returned."""
    for line in lines:
        console.print(in_markup(line, LONGEST_LINE), soft_wrap=True)


def start_from_weights(cell: Cell, model: "nn.Module", files: WeightFiles) -> None:
    """Load the weights of a cell into its parent, in place, all or none; without any do nothing.

    Args:
        cell: as `check_weights` takes it, and the others too.
        model: the parent.
        files: those at hand.

    Raises:
        ValueError: as `check_weights`.
        OSError: the same.
    """
    from zoo.core.networks.weights import load_weights

    if cell.model.weights is not None:
        weights = _read(cell, _path(cell, files))
        load_weights(model, weights, is_new_head_allowed=cell.parent.epochs > 0)


def _path(cell: Cell, files: WeightFiles) -> Path:
    for digest, path in files:
        if digest == cell.model.weights:
            return path
    raise ValueError(
        f"the weights of {cell.model.title} with digest {cell.model.weights} are not at hand: "
        "their file changed since the run was planned; run again"
    )


def _read(cell: Cell, path: Path) -> "Weights":
    """The file's tensors, if it is what it was when the run was planned."""
    from zoo.core.networks.weights import read_weights

    weights = read_weights(path)
    if weights.digest != cell.model.weights:
        raise ValueError(f"{path} changed since the run was planned; run again")
    return weights

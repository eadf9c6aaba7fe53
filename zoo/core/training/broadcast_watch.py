"""Notice outputs and targets that meet image by other image, because one of them lacks a dimension.

Outputs of shape (N, 1) and targets of shape (N,) broadcast to (N, N): every output is held against
every target, and the least error is that of predicting the mean. Most losses do that in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.core.data.inputs import tensors_of
from zoo.core.tracing.outputs import returned_tensors

__all__ = ["BroadcastWatch"]

Shape = tuple[int, ...]

_REDUCING = {
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss",
    "kl_div", "hinge_embedding_loss", "multilabel_soft_margin_loss", "dist",
}  # fmt: skip
"""Functions that broadcast and return a number; of others the shape of what they return tells."""

_KEEPING = {
    "abs", "add", "bfloat16", "cat", "clamp", "clone", "concat", "contiguous", "cpu", "cuda",
    "detach", "div", "double", "exp", "expm1", "float", "half", "log", "log1p", "mul", "neg", "pow",
    "relu", "reshape", "rsub", "sigmoid", "softplus", "sqrt", "square", "squeeze", "sub", "tanh",
    "to", "type", "type_as", "unsqueeze", "view",
}  # fmt: skip
"""Functions after which a tensor still is the outputs, or the targets, with an entry each."""


class BroadcastWatch(TorchFunctionMode):
    """Watches what is computed while it is entered.

    Attributes:
        found: shapes of outputs and targets that were broadcast, of the first time; None so far.
    """

    def __init__(self, outputs: object = (), targets: object = ()) -> None:
        super().__init__()
        self.found: tuple[Shape, Shape] | None = None
        self._sides: dict[int, tuple[Tensor, bool]] = {}  # by id; True for outputs
        self.add(outputs, targets)

    def add(self, outputs: object, targets: object) -> None:
        """Watch further outputs and targets, in whatever they are held."""
        for is_output, tensors in ((True, returned_tensors(outputs)), (False, tensors_of(targets))):
            for tensor in tensors:
                self._sides[id(tensor)] = (tensor, is_output)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Watch while the context is open, in which torch does not warn of the same itself."""
        with warnings.catch_warnings(), self:
            warnings.filterwarnings("ignore", "Using a target size", UserWarning)
            yield

    @property
    def told(self) -> str:
        """What was found and the way out, as the rest of a sentence; "" if nothing was."""
        if self.found is None:
            return ""
        outputs, targets = self.found
        long, short = ("outputs", "targets") if len(outputs) > len(targets) else (
            "targets", "outputs")  # fmt: skip
        way = f"give both one shape, such as {long}.squeeze(1) or {short}.unsqueeze(1)"
        return (
            f"holds outputs of shape {outputs} against targets of shape {targets}, which "
            f"broadcasts: each image's output meets the targets of all {outputs[0]}; {way}"
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, and look at what it was given and returned."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = list(self._known((args, kwargs)))
        if name in _REDUCING:
            self._compare(given, None)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and given:
            self._compare(given, tuple(result.shape))
            sides = {is_output for _, is_output in given}
            if name in _KEEPING and len(sides) == 1:
                self._sides[id(result)] = (result, sides.pop())
        return result

    def _known(self, value: object) -> Iterator[tuple[Tensor, bool]]:
        for tensor in tensors_of(value):
            if id(tensor) in self._sides:
                yield self._sides[id(tensor)]

    def _compare(self, given: Sequence[tuple[Tensor, bool]], shape: Shape | None) -> None:
        """Note outputs and targets that are broadcast to a shape, or to any if that is unknown."""
        for outputs, is_output in given:
            for targets, is_other in given:
                if is_output and not is_other and self.found is None:
                    together = _broadcast(outputs, targets)
                    if together is not None and shape in (None, together):
                        self.found = tuple(outputs.shape), tuple(targets.shape)


def _broadcast(outputs: Tensor, targets: Tensor) -> Shape | None:
    """The shape in which images of one stand against other images; None if they do not."""
    if outputs.ndim == targets.ndim or not (outputs.ndim and targets.ndim):
        return None
    if len(outputs) != len(targets) or len(outputs) < 2:
        return None
    try:
        return np.broadcast_shapes(outputs.shape, targets.shape)
    except ValueError:
        return None

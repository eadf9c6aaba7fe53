"""One training over several processes, each with its part of every batch.

Processes that torch.distributed joins (``torchrun``) run the same program. A training takes the
part of a batch that its rank stands for, weights its loss by its images, and averages gradients;
batch normalisation takes its statistics over all parts. So it computes what one process would, up
to rounding, with any number of ranks, where the loss is a mean over images. A loss that divides by
the variance of a batch, as feature distillation does, takes that of each part. What is no training,
such as a search, rank 0 does alone and tells the others; where a search trains a supernet, it
summons them for that.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from zoo.core.child_process import packable
from zoo.core.data.inputs import Inputs, count_images, rows_of, rows_of_rank
from zoo.core.errors import Diverged

__all__ = [
    "alone",
    "copy_from_rank_0",
    "decided",
    "joined",
    "largest",
    "mean_over_ranks",
    "my_part",
    "rank",
    "replica",
    "sum_over_ranks",
    "summoned",
    "synchronised",
    "world",
]

T = TypeVar("T")

_depth = 0
"""How many `alone` are open in this process."""

_are_waiting = False
"""Whether the other ranks wait in a `decided` that lets them work beside this one, rank 0."""

_WORK = b""
"""Told in place of an answer: work beside rank 0 now, and wait on."""


def world() -> int:
    """How many processes train together; 1 outside of a process group, and inside `alone`."""
    is_joined = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if is_joined and not _depth else 1


def rank() -> int:
    """The ordinal of this process among those that train together."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """While the context is open, this process trains and decides by itself."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


@contextmanager
def joined() -> Iterator[None]:
    """Inside `alone`: while this context is open, all ranks train together again."""
    global _depth, _are_waiting
    before = _depth, _are_waiting
    _depth, _are_waiting = 0, False
    try:
        yield
    finally:
        _depth, _are_waiting = before


@contextmanager
def summoned() -> Iterator[None]:
    """In what rank 0 decides: while it is open, the others do what they were given for that.

    All run it together. Nothing happens where nobody waits for it; see `decided`.
    """
    if not _are_waiting:
        yield
        return
    dist.broadcast_object_list([_WORK], src=0)
    with joined():
        yield


def decided(make: Callable[[], T], beside: Callable[[], object] | None = None) -> T:
    """What rank 0 makes, in every process; what it raises is raised in all of them.

    Args:
        make: called in rank 0, or here if there is one process. What it returns is pickled.
        beside: what the other ranks do each time that `make` opens `summoned`.
    """
    if world() == 1:
        return make()
    if rank() == 0:
        return _told(make, are_waiting=beside is not None)
    answer: list[Any] = [_WORK]
    while True:
        dist.broadcast_object_list(answer, src=0)
        if answer[0] != _WORK or beside is None:
            break
        with suppress(Diverged):  # every rank sees the same loss, and rank 0 tells of it
            beside()
    value, error = pickle.loads(answer[0])
    if error is not None:
        raise error
    return cast(T, value)


def _told(make: Callable[[], T], *, are_waiting: bool) -> T:
    """In rank 0: make something, and tell the others what it is or what was raised."""
    global _are_waiting
    value, error, before = None, None, _are_waiting
    _are_waiting = are_waiting
    try:
        with alone():
            value = make()
        packed = pickle.dumps((value, None))
    except (Exception, SystemExit) as raised:  # the others wait for an answer
        error = raised
        told = packable(raised) if isinstance(raised, Exception) else raised
        packed = pickle.dumps((None, told))
    finally:
        _are_waiting = before
    dist.broadcast_object_list([packed], src=0)
    if error is not None:
        raise error
    return cast(T, value)


def my_part(inputs: Inputs, targets: Any, whole: int | None = None) -> tuple[Inputs, Any, float]:
    """This rank's part of a batch, and what its mean loss counts in the mean over ranks.

    Args:
        inputs: of N images, the batch that all ranks drew.
        targets: of the same; every tensor and list has an entry for each image.
        whole: images of the batch, if these are this rank's part of it already.

    Returns:
        Neighbouring images, as many in every rank as can be; their targets; and their share of N
        times the number of ranks, which is 1 if all have as many.

    Raises:
        ValueError: if there are fewer images than ranks, or something has no entry for each.
    """
    ranks = world()
    if ranks == 1:
        return inputs, targets, 1.0
    count = count_images(inputs)
    if whole is not None:
        return inputs, targets, count * ranks / whole
    rows = rows_of_rank(count, rank(), ranks)
    mine, wanted = (rows_of(each, count, rows) for each in (inputs, targets))
    return mine, wanted, (rows.stop - rows.start) * ranks / count


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a value, each rank's weighted already; the value itself in one process."""
    if world() == 1:
        return value
    return sum_over_ranks(value) / world()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of all ranks' values, the same in each; the value itself in one process."""
    if world() == 1:
        return value
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def largest(value: int | None) -> int | None:
    """The largest of all ranks' values; None if no rank has one."""
    if world() == 1:
        return value
    found: list[int | None] = [None] * world()
    dist.all_gather_object(found, value)
    return max((each for each in found if each is not None), default=None)


def copy_from_rank_0(module: nn.Module) -> None:
    """Overwrite parameters and buffers of a module, in place, with those of rank 0."""
    if world() == 1:
        return
    with torch.no_grad():
        for tensor in module.state_dict().values():
            sent = tensor.contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def replica(module: nn.Module) -> nn.Module:
    """The module, with gradients averaged over the ranks where there are several.

    Args:
        module: on its device; its parameters have to be the same in every rank, and are made so.
    """
    if world() == 1:
        return module
    # Statistics are the same in all ranks already; torch 2.14 has another name for the option.
    known = inspect.signature(DistributedDataParallel).parameters
    option = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
    options: dict[str, Any] = {option: False, "find_unused_parameters": True}
    return DistributedDataParallel(module, **options)


def synchronised() -> AbstractContextManager[object]:
    """While it is open, batch normalisation in training mode sees the batches of all ranks."""
    return _Synchronised() if world() > 1 else nullcontext()


class _Sum(torch.autograd.Function):
    """The sum over ranks; each rank's gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        del ctx
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: object, *outer: Tensor) -> Tensor:
        del ctx
        return sum_over_ranks(outer[0])


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total


class _Synchronised(TorchFunctionMode):
    """Replaces ``F.batch_norm``, which torch's and timm's modules call, and sliced ones, too.

    So no module is exchanged, and none has to be put back. torch's own SyncBatchNorm runs on GPUs
    alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002  (as torch names it)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` with statistics over the batches of all ranks."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, input.dim())]
    shape = [1, -1] + [1] * (input.dim() - 2)
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    counted = wide.new_tensor([float(input.numel() // input.shape[1])])
    sums = _summed(torch.cat([wide.sum(dims), counted]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(shape)
    squares = _summed(centred.square().sum(dims))
    variance = squares / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = squares / (count - 1).clamp(min=1)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    out = centred * scale.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(input.dtype)

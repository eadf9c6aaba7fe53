"""One training over several processes, each with its part of every batch.

Processes that torch.distributed joins (``torchrun``) run the same program. A training takes the
part of a batch that its rank stands for, weights its loss by its images, and averages gradients;
batch normalisation takes its statistics over all parts. So it computes what one process would, up
to rounding, with any number of ranks, where the loss is a mean over images. A loss that divides by
the variance of a batch, as feature distillation does, takes that of each part. What is no training,
such as a search, rank 0 does alone and tells the others; where a search trains a supernet or scores
many subnets, it summons them for that.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
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
    "Beside",
    "all_parts",
    "alone",
    "copy_from_rank_0",
    "decided",
    "each_of_all",
    "gathered",
    "joined",
    "largest",
    "mean_over_ranks",
    "mine_of",
    "my_part",
    "rank",
    "replica",
    "require_alike",
    "sum_over_ranks",
    "summoned",
    "synchronised",
    "world",
]

T = TypeVar("T")

Beside = Callable[..., object]
"""Does what rank 0 summons the others for: takes its name, then what was given for it."""

_LONG = timedelta(days=30)
"""How long a rank waits for what rank 0 decides: a search may take days."""


@dataclass
class _Waiting:
    """The other ranks, which wait in a `decided` that lets them work beside this one, rank 0.

    Attributes:
        by: for whose work they wait.
        known: the weights that they were given last.
        are_lost: whether they may be anywhere, since work beside them broke in this process.
    """

    by: object
    known: Mapping[str, Tensor] | None = None
    are_lost: bool = False


@dataclass(frozen=True)
class _Work:
    """Told in place of an answer: work beside rank 0 now, and wait on.

    Attributes:
        name: of the work.
        given: for this work alone.
        weights: that it is done on, pickled; empty for those that were told last, and
            None if it needs none.
    """

    name: str
    given: tuple[Any, ...]
    weights: bytes | None


_depth = 0
"""How many `alone` are open in this process."""

_waiting: _Waiting | None = None
"""Those who wait for this process to decide; None if nobody does, or not for work."""

_raised_in_all: BaseException | None = None
"""What `each_of_all` has raised last: every rank has raised the same, and none is lost."""

_talk: tuple[Any, Any] | None = None
"""The group of all processes, and the one of the same that talks about decisions."""


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
    global _depth, _waiting
    before = _depth, _waiting
    _depth, _waiting = 0, None
    try:
        yield
    finally:
        _depth, _waiting = before


@contextmanager
def summoned(
    by: object, name: str, *given: object, on: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """In what rank 0 decides: while it is open, the others do the same work beside it.

    Nothing happens where nobody waits for work of this one; see `decided`.

    Args:
        by: whose work it is, such as the method.
        name: of the work.
        given: for it, pickled.
        on: weights that it is done on, by name; they are sent where others were given last, so
            they must not change. They arrive on the CPU.
    """
    waiting = _waiting
    if waiting is None or waiting.by != by:
        yield
        return
    _tell(_Work(name, given, None if on is None else _packed(on, waiting)))
    with joined():
        try:
            yield
        except BaseException as error:
            # Every rank sees the same loss, and what all have raised.
            waiting.are_lost = not isinstance(error, Diverged) and error is not _raised_in_all
            raise


def _packed(weights: Mapping[str, Tensor], waiting: _Waiting) -> bytes:
    """Weights, pickled on the CPU; empty if those who wait have them."""
    if weights is waiting.known:
        return b""
    waiting.known = weights
    return pickle.dumps({name: weight.detach().cpu() for name, weight in weights.items()})


def decided(make: Callable[[], T], beside: Beside | None = None, by: object = None) -> T:
    """What rank 0 makes, in every process; what it raises is raised in all of them.

    Where it breaks in work that the others do beside it, they are not told: they may have broken
    as well, or may wait in that work, and the process should end.

    Args:
        make: called in rank 0, or here if there is one process. What it returns is pickled.
        beside: what the other ranks do each time that `make` opens `summoned`. It gets what that
            was given, and then the weights, if it was given any.
        by: for whose work the others wait.
    """
    if world() == 1:
        return make()
    _talking()  # made by all together
    if rank() == 0:
        return _told(make, _Waiting(by) if beside is not None else None)
    weights: Mapping[str, Tensor] = {}
    while isinstance(answer := _heard(), _Work) and beside is not None:
        if answer.weights:
            weights = pickle.loads(answer.weights)
        on = () if answer.weights is None else (weights,)
        try:
            beside(answer.name, *answer.given, *on)
        except Exception as broken:
            # Every rank sees the same loss, and what all have raised; rank 0 tells of it.
            if not isinstance(broken, Diverged) and broken is not _raised_in_all:
                raise
    value, error = answer
    if error is not None:
        raise error
    return cast(T, value)


def _told(make: Callable[[], T], waiting: _Waiting | None) -> T:
    """In rank 0: make something, and tell the others what it is or what was raised."""
    global _waiting
    value, error, before = None, None, _waiting
    _waiting = waiting
    try:
        with alone():
            value = make()
        packed = pickle.dumps((value, None))
    except (Exception, SystemExit) as raised:  # the others wait for an answer
        if waiting is not None and waiting.are_lost:
            raise
        error = raised
        told = packable(raised) if isinstance(raised, Exception) else raised
        packed = pickle.dumps((None, told))
    finally:
        _waiting = before
    _tell(packed)
    if error is not None:
        raise error
    return cast(T, value)


def _tell(message: bytes | _Work) -> None:
    """In rank 0: tell the others."""
    packed = message if isinstance(message, bytes) else pickle.dumps(message)
    dist.broadcast_object_list([packed], src=0, group=_talking())


def _heard() -> Any:
    """In another rank: what rank 0 tells."""
    heard: list[Any] = [b""]
    dist.broadcast_object_list(heard, src=0, group=_talking())
    return pickle.loads(heard[0])


def _talking() -> Any:
    """The group that talks about decisions: on the CPU, and without a limit of minutes."""
    global _talk
    everyone = dist.group.WORLD
    if _talk is None or _talk[0] is not everyone:
        _talk = everyone, dist.new_group(backend="gloo", timeout=_LONG)
    return _talk[1]


def mine_of(costs: Sequence[int], busy: int = 0) -> list[bool]:
    """Which pieces of work are this rank's: the dearest first, each to the rank with least to do.

    Args:
        costs: of each piece.
        busy: what rank 0 has to do beside them.
    """
    loads = [0] * world()
    loads[0] = busy
    owners = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += costs[place]
    return [owner == rank() for owner in owners]


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


def all_parts(mine: Tensor, whole: int) -> Tensor:
    """All rows of a batch of which each rank has read its part, in every rank.

    Args:
        mine: this rank's rows, of those that `rows_of_rank` tells.
        whole: rows of the batch.
    """
    parts = [rows_of_rank(whole, each, world()) for each in range(world())]
    sizes = [rows.stop - rows.start for rows in parts]
    padded = mine.new_zeros(max(sizes), *mine.shape[1:])
    padded[: len(mine)] = mine
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])


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
    return max((each for each in gathered(value) if each is not None), default=None)


def each_of_all(part: Callable[[], T]) -> list[T]:
    """What each rank makes, by rank, in all of them; what one raises is raised in all.

    Args:
        part: called in every rank; must not exchange anything.
    """
    global _raised_in_all
    made: tuple[T | None, Exception | None]
    try:
        made = part(), None
    except Exception as error:
        made = None, packable(error)
    found = gathered(made)
    for _, raised in found:
        if raised is not None:
            _raised_in_all = raised
            raise raised
    return [cast(T, value) for value, _ in found]


def require_alike(digests: Mapping[str, str]) -> None:
    """Refuse processes that were given different things to work on together.

    Args:
        digests: of what this one was given, by what it is.

    Raises:
        ValueError: in every rank, naming what differs and the way out.
    """
    everywhere = gathered(dict(digests))
    differ = [name for name in digests if len({each[name] for each in everywhere}) > 1]
    if differ:
        raise ValueError(
            f"the processes were given different {' and '.join(differ)}: give each the same "
            "network and the same loaders of whole batches, of which it takes its part"
        )


def gathered(value: T) -> list[T]:
    """What each rank has, by rank; pickled. A list of the value itself in one process."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value, group=_talking())
    return found


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

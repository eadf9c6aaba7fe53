"""Latency of a network and its pruned form, measured in interleaved rounds.

Each round times parent, pruned, parent, one block of passes each, so that both see the same drift
of clocks and neighbours and their ratio is paired; the second parent gives the control ratio, which
would be 1 on a quiet machine. Parent and pruned swap places from round to round. On a CPU
`torch.utils.benchmark.Timer` does the timing, at a fixed thread count and with denormal numbers
flushed to zero; on CUDA events stand around blocks of passes, with one synchronisation at the end
of a block. Nothing is fused and nothing is compiled, for parent and pruned alike.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmarks.record import Latency, Measured, Quartiles

__all__ = ["denormal_share", "measure_pair", "quartiles"]

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

BlockTimer = Callable[[int], float]
"""Milliseconds of one pass, averaged over a block of that many passes."""


def measure_pair(
    parent: nn.Module,
    pruned: nn.Module,
    input_size: tuple[int, int, int],
    *,
    latency: Latency,
    device: str = "cpu",
) -> tuple[Measured, ...]:
    """Latency of both networks at every batch of the settings.

    Args:
        parent: the unpruned network; copied, so mode and memory format stay as they are.
        pruned: the smaller one; copied as well.
        input_size: (C, H, W) of an image.
        latency: batches, rounds and block lengths.
        device: a torch device; anything but CUDA is timed as a CPU.
    """
    nets = [_prepared(net, latency, device) for net in (parent, pruned)]
    with _quiet(latency.threads) as flushed, torch.inference_mode():
        return tuple(
            _measure_batch(nets[0], nets[1], input_size, batch, latency, device, flushed)
            for batch in latency.batches
        )


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles by linear interpolation."""
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
    return Quartiles(q25=float(low), median=float(median), q75=float(high))


def denormal_share(net: nn.Module) -> float:
    """Share of weights that are denormal numbers, which slow a CPU down unless flushed."""
    weights = torch.cat([p.detach().flatten().cpu() for p in net.parameters()])
    # Compared as integers: with flushing on, a denormal number already compares equal to zero.
    bits = weights.float().view(torch.int32) & 0x7FFFFFFF
    return float(((bits > 0) & (bits < 0x00800000)).double().mean())


def _measure_batch(
    parent: nn.Module,
    pruned: nn.Module,
    input_size: tuple[int, int, int],
    batch: int,
    latency: Latency,
    device: str,
    flushed: bool,
) -> Measured:
    images = _images(batch, input_size, latency, device)
    timers = [_block_timer(net, images, latency.threads) for net in (parent, pruned)]
    warmups = [_warm_up(timer, latency.warmup_ms) for timer in timers]
    # Both networks run blocks of equally many passes, sized by the slower one.
    slower_ms = max(pass_ms for _, pass_ms in warmups)
    passes = max(1, math.ceil(latency.block_ms / slower_ms))
    rounds = [_round(timers, passes, swap=index % 2 == 1) for index in range(latency.rounds)]
    return Measured(
        batch=batch,
        parent_ms=quartiles([full for full, _, _ in rounds]),
        pruned_ms=quartiles([small for _, small, _ in rounds]),
        ratio=quartiles([small / full for full, small, _ in rounds]),
        control=quartiles([again / full for full, _, again in rounds]),
        passes_per_block=passes,
        warmup_passes=sum(count for count, _ in warmups),
        rounds=latency.rounds,
        dtype=str(images.dtype).removeprefix("torch."),
        memory_format=latency.memory_format,
        threads=latency.threads,
        flush_denormal=flushed,
        parent_peak_bytes=_peak_bytes(parent, images),
        pruned_peak_bytes=_peak_bytes(pruned, images),
    )


def _round(timers: Sequence[BlockTimer], passes: int, swap: bool) -> tuple[float, float, float]:
    """One block each of parent, pruned and parent again; swapped, the pruned one goes first."""
    parent, pruned = timers
    if swap:
        small = pruned(passes)
        return parent(passes), small, parent(passes)
    return parent(passes), pruned(passes), parent(passes)


def _block_timer(net: nn.Module, images: Tensor, threads: int) -> BlockTimer:
    if images.device.type == "cuda":
        return _cuda_timer(net, images)
    timer = Timer("net(images)", globals={"net": net, "images": images}, num_threads=threads)
    return lambda passes: 1e3 * timer.timeit(passes).mean


def _cuda_timer(net: nn.Module, images: Tensor) -> BlockTimer:
    def block_ms(passes: int) -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(passes):
            net(images)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / passes

    return block_ms


def _warm_up(timer: BlockTimer, warmup_ms: float) -> tuple[int, float]:
    """Runs until the time is up and two passes agree within a tenth; (passes, last ms a pass)."""
    last, passes, spent = math.inf, 0, 0.0
    while True:
        now = timer(1)
        passes, spent = passes + 1, spent + now
        settled = abs(now - last) <= 0.1 * now
        if spent >= warmup_ms and (settled or spent >= 4 * warmup_ms):
            return passes, now
        last = now


def _prepared(net: nn.Module, latency: Latency, device: str) -> nn.Module:
    memory_format = MEMORY_FORMATS[latency.memory_format]
    return copy.deepcopy(net).eval().to(device=device, memory_format=memory_format)  # type: ignore[call-overload,no-any-return]


def _images(batch: int, input_size: tuple[int, int, int], latency: Latency, device: str) -> Tensor:
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))
    return images.to(device).contiguous(memory_format=MEMORY_FORMATS[latency.memory_format])


def _peak_bytes(net: nn.Module, images: Tensor) -> int | None:
    """Peak allocation during one pass on CUDA, weights included; unknown on a CPU."""
    if images.device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(images.device)
    net(images)
    return torch.cuda.max_memory_allocated(images.device)


@contextlib.contextmanager
def _quiet(threads: int) -> Iterator[bool]:
    """Fixes the thread count and flushes denormal numbers; tells whether flushing is supported."""
    threads_before, flushed_before = torch.get_num_threads(), _flushes_denormal()
    torch.set_num_threads(threads)
    try:
        yield torch.set_flush_denormal(True)
    finally:
        torch.set_flush_denormal(flushed_before)
        torch.set_num_threads(threads_before)


def _flushes_denormal() -> bool:
    """Torch can set the flag but not read it, so a denormal number is multiplied by one."""
    return not float(torch.full((1,), 1e-40).mul(1.0)) > 0

"""Runtime of a network and its pruned form, measured in interleaved rounds.

Each round times the parent, the pruned network and a second copy of the parent, one block of passes
each, so that all see the same drift of clocks and neighbours and their ratios are paired. The
second copy gives the control ratio, which would be 1 on a quiet machine: the noise floor. The order
within a round goes through all six in turn. A ratio is the median over rounds, with an interval.

On a CPU `torch.utils.benchmark.Timer` does the timing, at a fixed thread count and with denormal
numbers flushed to zero in every thread; on CUDA events stand around blocks of passes, with one
synchronisation at the end of a block. Warm-up lasts until the last windows agree. The main way is
eager float32; further ones are measured the same way. Batch norms are folded for parent and pruned
alike, or for neither.
"""

import contextlib
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmarks.measuring.footprint import footprint, peak_bytes
from benchmarks.records.plain import visible, without_folders
from benchmarks.records.runtime import (
    LEAST_PROCESSOR_SHARE,
    Footprint,
    Latency,
    Measured,
    MemoryFormat,
    Quartiles,
    Runtime,
    Side,
    Way,
    median_interval,
)
from zoo.core.cost.timing_thread import in_quiet_thread
from zoo.core.networks.export import export_network, onnx_session, require
from zoo.core.networks.fold_batch_norm import fold_batch_norm

__all__ = ["Runtimes", "measure_files", "measure_pair", "quartiles"]

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 0, 2))
"""Orders of parent (0), pruned (1) and the parent's copy (2), round by round."""

WINDOWS = 10
"""Into which the warm-up time is divided; the last three have to agree."""
AGREEMENT = 1.1
LEAST_SECONDS = 0.05
"""Of running, from which on the share of a processor is judged; less ends within a time slice."""
LONGEST_REASON = 1000
"""Characters."""

SIDES: tuple[Side, Side] = ("parent", "pruned")

Pass = Callable[[], object]
Ready = Callable[[Tensor], Pass]
"""Makes a pass over some images."""
BlockTimer = Callable[[int], float]
"""Milliseconds of one pass, averaged over a block of that many passes."""


class MissingRuntime(Exception):
    """A way of running that the device or the installation lacks."""


@dataclass(frozen=True)
class Runtimes:
    """What was measured of a pair; the fields are those of a record.

    Attributes:
        latency: the main way, at every batch of the settings.
        further_latency: the other ways, each at every batch.
        left_out: other ways that could not be measured, and why.
        footprint: what each network takes beside time.
    """

    latency: tuple[Measured, ...] = ()
    further_latency: tuple[Measured, ...] = ()
    left_out: Mapping[Way, str] = field(default_factory=dict)
    footprint: Mapping[Side, Footprint] = field(default_factory=dict)


@dataclass(frozen=True)
class _Setting:
    """One way of running on a device, and what is known of the pair before the clock starts."""

    latency: Latency
    device: torch.device
    way: Way | None
    has_many_denormals: bool

    @property
    def runtime(self) -> Runtime:
        runtimes: dict[Way | None, Runtime] = {
            "compile": "compile",
            "onnxruntime": "onnxruntime",
            "cuda_graph": "cuda_graph",
        }
        return runtimes.get(self.way, "eager")

    @property
    def memory_format(self) -> MemoryFormat:
        if self.way == "contiguous" or self.way == "channels_last":
            return self.way
        return "contiguous" if self.way == "onnxruntime" else self.latency.memory_format

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.way == "bfloat16" else "float32"


def measure_pair(
    parent: nn.Module,
    pruned: nn.Module,
    input_size: tuple[int, int, int],
    *,
    latency: Latency,
    device: str = "cpu",
    pruned_size: tuple[int, int, int] | None = None,
) -> Runtimes:
    """Runtime of both networks at every batch and in every way of the settings.

    Args:
        parent: the unpruned network; copied, so mode and memory format stay as they are.
        pruned: the smaller one; copied as well.
        input_size: (C, H, W) of an image.
        latency: batches, rounds, block lengths, and what to measure beside the main way.
        device: a torch device; anything but CUDA is timed as a CPU.
        pruned_size: (C, H, W) of the smaller network's images, where they are of another size.
    """
    sizes = (input_size, pruned_size or input_size, input_size)
    place = torch.device(device)
    nets = [copy.deepcopy(net).eval().to(place) for net in (parent, pruned, parent)]
    batch = min(latency.batches)
    taken = [
        footprint(net, _images(batch, size, "contiguous", place))
        for net, size in zip(nets[:2], sizes[:2], strict=True)
    ]
    if latency.fold_batch_norm:
        nets = [fold_batch_norm(net, size) for net, size in zip(nets, sizes, strict=True)]
    suspicious = any(each.has_many_denormals for each in taken)
    further: list[Measured] = []
    left_out: dict[Way, str] = {}
    main = _measure_way(nets, sizes, _Setting(latency, place, None, suspicious))
    for way in latency.ways(device):
        try:
            further += _measure_way(nets, sizes, _Setting(latency, place, way, suspicious))
        except MissingRuntime as error:
            left_out[way] = without_folders(str(error))
        except Exception as error:  # a compiler or runtime beside torch: the main way still counts
            left_out[way] = _told(error)
    return Runtimes(main, tuple(further), left_out, dict(zip(SIDES, taken, strict=True)))


def measure_files(
    float_file: Path, int8_file: Path, input_size: tuple[int, int, int], latency: Latency
) -> tuple[Measured, ...]:
    """Runtime of two ONNX files of one network at every batch, both run by ONNX Runtime on the CPU.

    Args:
        float_file: the float32 form; it stands for the parent.
        int8_file: the INT8 form; it stands for the pruned network.
        input_size: (C, H, W) of an image.
        latency: batches, rounds and block lengths; batch norms of the files are folded already.
    """
    setting = _Setting(latency, torch.device("cpu"), "onnxruntime", has_many_denormals=False)
    ready = [_session(path, latency.threads) for path in (float_file, int8_file, float_file)]
    timed = _timed(ready, [input_size] * len(ready), setting)
    told = {"dtype": "int8", "batch_norm_folded": True}
    return tuple(found.model_copy(update=told) for found in timed)


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles by linear interpolation."""
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
    return Quartiles(q25=float(low), median=float(median), q75=float(high))


def _told(error: Exception) -> str:
    """Kind and first line of an error, without the folders of this machine."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {visible(without_folders(line), LONGEST_REASON)}"


def _measure_way(
    nets: Sequence[nn.Module], sizes: Sequence[tuple[int, int, int]], setting: _Setting
) -> tuple[Measured, ...]:
    """One way at every batch."""
    _require_way(setting)
    if setting.way == "compile":  # torch keeps a few compiled forms, then runs a class eagerly
        torch.compiler.reset()
    nets = [_laid_out(net, setting) for net in nets]
    ready = [_ready(net, size, setting) for net, size in zip(nets, sizes, strict=True)]
    timed = _timed(ready, sizes, setting)
    if setting.runtime != "eager":
        return timed
    # Kernels that are chosen by time may be those with large buffers: that is no need of a network.
    with _settled(setting.device, is_chosen_by_time=False), torch.inference_mode():
        return tuple(
            found.model_copy(update=_peaks(nets, ready, images, setting.device))
            for found, images in zip(timed, _batches(sizes, setting), strict=True)
        )


def _timed(
    ready: Sequence[Ready], sizes: Sequence[tuple[int, int, int]], setting: _Setting
) -> tuple[Measured, ...]:
    """Times at every batch, in a thread of its own that flushes denormal numbers."""

    def measured(flushed: bool) -> tuple[Measured, ...]:
        with _settled(setting.device), torch.inference_mode():
            return tuple(
                _measure_batch(ready, images, setting, flushed)
                for images in _batches(sizes, setting)
            )

    return in_quiet_thread(measured, threads=setting.latency.threads)


def _batches(sizes: Sequence[tuple[int, int, int]], setting: _Setting) -> Iterator[list[Tensor]]:
    """Images for each network, batch by batch of the settings; the same in every call."""
    for batch in setting.latency.batches:
        yield [_images(batch, size, setting.memory_format, setting.device) for size in sizes]


def _peaks(
    nets: Sequence[nn.Module],
    ready: Sequence[Ready],
    images: Sequence[Tensor],
    device: torch.device,
) -> dict[str, int]:
    """The most that one pass of each network allocates; outside of the thread that is timed."""
    return {
        f"{side}_peak_bytes": peak_bytes(make(batch), net, device)
        for side, net, make, batch in zip(SIDES, nets, ready, images, strict=False)
    }


def _measure_batch(
    ready: Sequence[Ready], images: Sequence[Tensor], setting: _Setting, flushed: bool
) -> Measured:
    latency = setting.latency
    passes = [make(batch) for make, batch in zip(ready, images, strict=True)]
    timers = [_block_timer(run, setting.device, latency.threads) for run in passes]
    warm = [_warm_up(timer, latency.warmup_ms) for timer in timers]
    # All run blocks of equally many passes, sized by the slowest one.
    block = max(1, math.ceil(latency.block_ms / max(each.pass_ms for each in warm)))
    began, ran = time.perf_counter(), time.thread_time()
    rounds = [_round(timers, block, index) for index in range(latency.rounds)]
    had = _processor_share(setting, time.perf_counter() - began, time.thread_time() - ran)
    ratio = [small / full for full, small, _ in rounds]
    control = [again / full for full, _, again in rounds]
    return Measured(
        batch=len(images[0]),
        parent_ms=quartiles([full for full, _, _ in rounds]),
        pruned_ms=quartiles([small for _, small, _ in rounds]),
        ratio=quartiles(ratio),
        control=quartiles(control),
        ratio_interval=median_interval(ratio),
        control_interval=median_interval(control),
        passes_per_block=block,
        warmup_passes=sum(each.passes for each in warm),
        settled=all(each.settled for each in warm),
        rounds=latency.rounds,
        dtype=setting.dtype,
        memory_format=setting.memory_format,
        threads=latency.threads,
        flush_denormal=flushed,
        runtime=setting.runtime,
        batch_norm_folded=latency.fold_batch_norm,
        **_tf32(setting),
        processor_share=had,
        suspect=_suspicion(setting, flushed, had),
    )


def _tf32(setting: _Setting) -> dict[str, bool | None]:
    """Whether float32 inputs of convolutions and of products are rounded to TF32, on CUDA."""
    if setting.device.type != "cuda" or setting.dtype != "float32":
        return {}
    return {
        "tf32": torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        "tf32_products": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }


def _processor_share(setting: _Setting, seconds: float, ran: float) -> float | None:
    """The share of some time that this thread had a processor; None where that tells nothing."""
    if setting.device.type == "cuda" or setting.latency.threads > 1 or ran < LEAST_SECONDS:
        return None
    return min(1.0, ran / seconds)


def _suspicion(setting: _Setting, flushed: bool, had: float | None) -> str | None:
    if had is not None and had < LEAST_PROCESSOR_SHARE:
        return f"it had a processor {100 * had:.0f} % of the time: something else ran there"
    if flushed or setting.device.type == "cuda" or not setting.has_many_denormals:
        return None
    return "many numbers are denormal, see the footprint, and not every thread flushes them"


def _round(timers: Sequence[BlockTimer], passes: int, index: int) -> tuple[float, float, float]:
    """One block each of parent, pruned and the parent's copy, in the order of the round."""
    spent = {which: timers[which](passes) for which in ORDERS[index % len(ORDERS)]}
    return spent[0], spent[1], spent[2]


def _block_timer(run: Pass, device: torch.device, threads: int) -> BlockTimer:
    if device.type == "cuda":
        return _cuda_timer(run)
    timer = Timer("run()", globals={"run": run}, num_threads=threads)
    return lambda passes: 1e3 * timer.timeit(passes).mean


def _cuda_timer(run: Pass) -> BlockTimer:
    def block_ms(passes: int) -> float:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(passes):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / passes

    return block_ms


@dataclass(frozen=True)
class _Warm:
    passes: int
    pass_ms: float
    settled: bool


def _warm_up(timer: BlockTimer, warmup_ms: float) -> _Warm:
    """Run windows until the time is up and the last three agree within a tenth.

    Gives up after four times the time, and at least five windows.
    """
    windows: list[float] = []
    size, passes, spent = 1, 0, 0.0
    while True:
        windows.append(timer(size))
        passes, spent = passes + size, spent + size * windows[-1]
        last = windows[-3:]
        settled = len(last) == 3 and max(last) <= AGREEMENT * min(last)
        if spent >= warmup_ms and settled:
            return _Warm(passes, windows[-1], True)
        if spent >= 4 * warmup_ms and len(windows) >= 5:
            return _Warm(passes, windows[-1], False)
        size = max(1, math.ceil(warmup_ms / WINDOWS / windows[-1]))


def _require_way(setting: _Setting) -> None:
    """Refuse a way of running that the device or the installation lacks.

    Raises:
        MissingRuntime: saying what is missing.
    """
    on_cuda = setting.device.type == "cuda"
    if setting.way == "cuda_graph" and not on_cuda:
        raise MissingRuntime("CUDA graphs need a CUDA device")
    if setting.way == "onnxruntime":
        if on_cuda:
            raise MissingRuntime("ONNX Runtime is timed on the CPU only")
        try:
            require("onnx")
        except ValueError as error:
            raise MissingRuntime(str(error)) from error


def _laid_out(net: nn.Module, setting: _Setting) -> nn.Module:
    """The network in the memory format and the type of the setting; a copy where that is another.

    Cast once, as it would be for use: autocast would cast weights in every pass that is timed.
    """
    if setting.way == "onnxruntime":  # an exported file has its own
        return net
    laid_out = net.to(memory_format=MEMORY_FORMATS[setting.memory_format])
    return laid_out if setting.way != "bfloat16" else copy.deepcopy(laid_out).to(torch.bfloat16)


def _ready(net: nn.Module, input_size: tuple[int, int, int], setting: _Setting) -> Ready:
    """What makes passes over images in the way of the setting."""
    if setting.way == "onnxruntime":
        return _onnx(net, input_size, setting.latency.threads)
    if setting.way == "compile":
        compiled = torch.compile(net, dynamic=False, fullgraph=True)  # or an error
        return lambda images: partial(compiled, images)
    if setting.way == "bfloat16":
        return lambda images: partial(net, images.to(torch.bfloat16))
    if setting.way == "cuda_graph":
        return lambda images: _captured(net, images)
    return lambda images: partial(net, images)


def _captured(net: nn.Module, images: Tensor) -> Pass:
    """The replay of a pass as one CUDA graph: what is left of its time without launches."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what a first pass sets up must not be captured
        for _ in range(3):
            net(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(images)
    return graph.replay


def _onnx(net: nn.Module, input_size: tuple[int, int, int], threads: int) -> Ready:
    with tempfile.TemporaryDirectory() as folder:
        path = export_network(net, input_size, Path(folder) / "network.onnx").path
        return _session(path, threads)


def _session(path: Path, threads: int) -> Ready:
    session = onnx_session(path, threads)

    def ready(images: Tensor) -> Pass:
        binding = session.io_binding()
        binding.bind_cpu_input("images", images.numpy())
        binding.bind_output("logits")
        return partial(session.run_with_iobinding, binding)

    return ready


def _images(
    batch: int,
    input_size: tuple[int, int, int],
    memory_format: MemoryFormat,
    device: torch.device,
) -> Tensor:
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))
    return images.to(device).contiguous(memory_format=MEMORY_FORMATS[memory_format])


@contextlib.contextmanager
def _settled(device: torch.device, *, is_chosen_by_time: bool = True) -> Iterator[None]:
    """On CUDA: makes the device the current one, and says how cuDNN chooses kernels."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_chosen_by_time
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = before

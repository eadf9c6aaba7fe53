"""What a network takes beside time: bytes on disk, bytes at the peak, widths that kernels like."""

import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.records.runtime import Footprint, aligned_share
from zoo.core.cost.timing_thread import in_quiet_thread

__all__ = ["aligned_widths", "denormal_share", "footprint", "peak_bytes"]

# The profiler that counts allocations announces its start and stop on standard error.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def footprint(net: nn.Module, images: Tensor) -> Footprint:
    """What a network takes beside time.

    Args:
        net: in eval mode.
        images: one batch, shape (N, C, H, W), on the network's device. Activations are counted on a
            CPU only, since denormal numbers do not slow a GPU down.
    """
    on_cpu = images.device.type == "cpu"
    return Footprint(
        disk_bytes=_disk_bytes(net),
        aligned_widths=aligned_widths(net),
        denormal_weights=denormal_share(list(net.parameters())),
        denormal_activations=_denormal_activations(net, images) if on_cpu else None,
    )


def aligned_widths(net: nn.Module) -> float:
    """Share of the 2D convolutions whose number of output channels is a multiple of 8."""
    widths = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    return aligned_share(widths)


def denormal_share(tensors: list[Tensor]) -> float:
    """Share of denormal numbers, which slow a CPU down; tensors of any shape."""
    counted = [_count_denormals(tensor.detach().cpu()) for tensor in tensors]
    return sum(found for found, _ in counted) / max(1, sum(size for _, size in counted))


def peak_bytes(run: Callable[[], object], net: nn.Module, device: torch.device) -> int:
    """Bytes of the weights, and the most that one pass holds allocated beside them.

    On CUDA its allocator tells; on a CPU torch's profiler sees every allocation and release of
    torch's allocator in this thread. What a library allocates for itself is not seen.

    Args:
        run: one pass.
        net: whose pass it is.
        device: where it runs.
    """
    tensors = {id(t): t for t in (*net.parameters(), *net.buffers())}
    weights = sum(tensor.nbytes for tensor in tensors.values())
    return weights + (_cuda_rise(run, device) if device.type == "cuda" else _cpu_rise(run))


def _cuda_rise(run: Callable[[], object], device: torch.device) -> int:
    run()  # what a first pass sets up and keeps, such as libraries' buffers, is not a pass's own
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_rise(run: Callable[[], object]) -> int:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        profile_memory=True,
        acc_events=True,  # of one cycle they are the same; torch 2.11 warns without
    ) as profiler:
        run()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def _disk_bytes(net: nn.Module) -> int:
    """Length of the file that `zoo.save_pruned` keeps the tensors in."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
    return len(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _denormal_activations(net: nn.Module, images: Tensor) -> float:
    """Share among all float32 values that a pass computes where nothing is flushed."""

    def counted(_: bool) -> float:
        with torch.inference_mode(), _Activations() as seen:
            net(images)
        share: float = seen.denormal / max(1, seen.values)
        return share

    return in_quiet_thread(counted, threads=1, flush=False)


class _Activations(TorchDispatchMode):
    """Counts the values that operators return, and the denormal ones among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.denormal = self.values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float32:
                found, size = _count_denormals(leaf)
                self.denormal, self.values = self.denormal + found, self.values + size
        return result


def _count_denormals(tensor: Tensor) -> tuple[int, int]:
    """How many numbers are denormal, and how many there are.

    Compared as integers: where numbers are flushed, a denormal one compares equal to zero.
    """
    bits = tensor.float().contiguous().view(torch.int32) & 0x7FFFFFFF
    return int(((bits > 0) & (bits < 0x00800000)).sum()), bits.numel()

"""The part of a record that concerns runtime: how it is measured, what came out, and where.

Fields that were added later have neutral defaults, so that older records stay readable and keep
the names of their cells. What was not measured is null.

This module imports neither torch nor zoo, so that tables and figures can be drawn anywhere.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from benchmarks.records.bounds import Brief, Bytes, Finite, Milliseconds, Name, Share, Some, Text
from benchmarks.records.strict import Many, Strict

__all__ = [
    "LEAST_PROCESSOR_SHARE",
    "MANY_DENORMALS",
    "Environment",
    "Footprint",
    "Interval",
    "Latency",
    "Measured",
    "MemoryFormat",
    "PredictedLatency",
    "Quantized",
    "Quartiles",
    "Runtime",
    "Side",
    "Way",
    "aligned_share",
    "fingerprint",
    "median_interval",
    "realised_share",
]

MemoryFormat = Literal["contiguous", "channels_last"]
Runtime = Literal["eager", "compile", "onnxruntime", "cuda_graph"]
Side = Literal["parent", "pruned"]
Way = Literal["contiguous", "channels_last", "bfloat16", "compile", "onnxruntime", "cuda_graph"]
"""One change to the main way, which is eager float32 in the memory format of the settings."""

ALIGNMENT = 8
"""Channels: NVIDIA's advice for tensor cores at 16 bits, and what CPU kernels block by."""
LEVEL = 0.95
LEAST_RATIO = 1e-9
MANY_DENORMALS = 1e-3
"""Share of denormal numbers above which times are not to be trusted unless they are flushed."""
LEAST_PROCESSOR_SHARE = 0.9
"""Share of the time below which a timing was disturbed: something else ran where it did."""
MOST_DRIFT = 0.1
"""Difference of the parent to its own copy from which on a measured time is noise."""
THEORETICAL_GAIN = 1.1
"""Ratio of MACs below which there is no theoretical gain worth dividing by."""


class Latency(Strict):
    """How latency is measured: batches, interleaved rounds, and milliseconds in a timed block.

    The smallest batch gives latency, the largest throughput; both are the same for all rows of a
    table. `further` ways are measured beside the main one, where they are installed and the device
    has them; null stands for those that belong to the device: none on a CPU, bfloat16 and
    the other memory format on CUDA.
    """

    batches: Many[Annotated[int, Field(ge=1, le=65_536)]] = Field(default=(1, 32), min_length=1)
    rounds: int = Field(default=15, ge=3, le=10_000)
    block_ms: float = Field(default=20.0, gt=0, le=1e6)
    warmup_ms: float = Field(default=50.0, gt=0, le=1e6)
    threads: int = Field(default=1, ge=1, le=10_000)
    memory_format: MemoryFormat = "channels_last"
    fold_batch_norm: bool = False
    further: Many[Way] | None = None

    @model_validator(mode="after")
    def refuse_repetition(self) -> "Latency":
        """Refuse a way that is the main one, and a way or batch that stands twice.

        Raises:
            ValueError: naming it.
        """
        for place, batch in enumerate(self.batches):
            if batch in self.batches[:place]:
                raise ValueError(f"batches: {batch} stands twice; take one out")
        for place, way in enumerate(self.further or ()):
            if way == self.memory_format:
                raise ValueError(f"further: {way!r} is the main way's memory format; take it out")
            if way in (self.further or ())[:place]:
                raise ValueError(f"further: {way!r} stands twice; take one out")
        return self

    def ways(self, device: str) -> tuple[Way, ...]:
        """What is measured beside the main way on a device."""
        if self.further is not None:
            return self.further
        if not device.startswith("cuda"):
            return ()
        return ("bfloat16", self.other_format)

    @property
    def other_format(self) -> MemoryFormat:
        """The memory format that the main way does not have."""
        return "contiguous" if self.memory_format == "channels_last" else "channels_last"


class Quartiles(Strict):
    """Lower quartile, median and upper quartile over rounds, of times or of their ratio."""

    q25: Milliseconds
    median: Milliseconds
    q75: Milliseconds

    @model_validator(mode="after")
    def keep_their_order(self) -> "Quartiles":
        """Refuse quartiles that do not rise.

        Raises:
            ValueError: naming them.
        """
        if not self.q25 <= self.median <= self.q75:
            raise ValueError(f"quartiles {self.q25}, {self.median}, {self.q75} do not rise")
        return self


class Interval(Strict):
    """Two ends that hold the true median with a probability of at least `level`."""

    low: Finite
    high: Finite
    level: Share

    @model_validator(mode="after")
    def keep_their_order(self) -> "Interval":
        """Refuse an interval that ends before it begins.

        Raises:
            ValueError: naming its ends.
        """
        if self.low > self.high:
            raise ValueError(f"interval from {self.low} to {self.high} ends before it begins")
        return self


def _above_zero(interval: Interval) -> Interval:
    """Refuse what is no interval of a ratio of two times.

    Raises:
        ValueError: naming its lower end.
    """
    if interval.low < LEAST_RATIO:
        raise ValueError(f"a ratio of {interval.low} is below {LEAST_RATIO}")
    return interval


Ratios = Annotated[Interval, AfterValidator(_above_zero)]
"""An interval of a ratio of two times."""


class Measured(Strict):
    """Latency of one pass at one batch, measured in interleaved rounds.

    `ratio` is pruned over parent, paired by round; `control` the same for a second copy of the
    parent, the floor below which a ratio says nothing. Each has the interval of its median, null
    where there are too few rounds for one. `settled` tells whether every warm-up ended because its
    last windows agreed; `suspect` why the times are not to be trusted, if they are not. Peak bytes
    are those of one pass, weights included. `tf32` and `tf32_products` say whether convolutions and
    products of matrices in float32 rounded their inputs to TF32; null where there is no such thing.
    `processor_share` is the share of the rounds' time in which the one thread that was timed had a
    processor; null with more threads, on a GPU, and where the rounds are too short to tell.
    """

    batch: Some
    parent_ms: Quartiles
    pruned_ms: Quartiles
    ratio: Quartiles
    control: Quartiles
    passes_per_block: Some
    warmup_passes: Annotated[int, Field(ge=0, le=10**12)]
    rounds: Some
    dtype: Name
    memory_format: Name
    threads: Some
    flush_denormal: bool
    parent_peak_bytes: Bytes | None = None
    pruned_peak_bytes: Bytes | None = None
    runtime: Runtime = "eager"
    ratio_interval: Ratios | None = None
    control_interval: Ratios | None = None
    batch_norm_folded: bool = False
    tf32: bool | None = None
    tf32_products: bool | None = None
    settled: bool | None = None
    processor_share: Share | None = None
    suspect: Text | None = None

    @model_validator(mode="after")
    def hold_the_medians(self) -> "Measured":
        """Refuse an interval without its median: its ends are rounds on either side of it.

        Raises:
            ValueError: naming both.
        """
        for name, found, ends in (
            ("ratio", self.ratio, self.ratio_interval),
            ("control", self.control, self.control_interval),
        ):
            if ends and not ends.low <= found.median <= ends.high:
                raise ValueError(
                    f"{name}_interval from {ends.low} to {ends.high} does not hold its median, "
                    f"{found.median}"
                )
        return self

    @property
    def ratio_limits(self) -> tuple[float, float]:
        """Least and largest median of the ratio that the two networks' quartiles allow.

        In three of four rounds the pruned network took at least its lower quartile, in three of
        four the parent at most its upper one, so in half of the rounds both; and the other way
        round.
        """
        parent, pruned = self.parent_ms, self.pruned_ms
        return pruned.q25 / parent.q75, pruned.q75 / parent.q25

    @property
    def speedup(self) -> float:
        """The parent's time over the pruned network's, median of paired rounds."""
        return 1 / self.ratio.median

    @property
    def speedup_interval(self) -> Interval | None:
        """The interval of the speed-up's median."""
        return _inverted(self.ratio_interval)

    @property
    def floor_interval(self) -> Interval | None:
        """The same of the parent against its own copy: speed-ups inside it say nothing."""
        return _inverted(self.control_interval)

    @property
    def verdict(self) -> Literal["faster", "slower", "within noise", "suspect", "too few rounds"]:
        """What the speed-up says in view of its interval and of the noise floor's."""
        speed, floor = self.speedup_interval, self.floor_interval
        if self.suspect:
            return "suspect"
        if speed is None or floor is None:
            return "too few rounds"
        if speed.low > max(1.0, floor.high):
            return "faster"
        return "slower" if speed.high < min(1.0, floor.low) else "within noise"

    @property
    def is_noise(self) -> bool:
        """Whether the parent against its own copy is off by more than 10 %, or it is suspect."""
        return bool(self.suspect) or abs(1 / self.control.median - 1) > MOST_DRIFT

    @property
    def is_disturbed(self) -> bool:
        """Whether something else ran on the processor that it was timed on."""
        return self.processor_share is not None and self.processor_share < LEAST_PROCESSOR_SHARE

    @property
    def way(self) -> str:
        """How the networks ran, in words; records that differ in it are never averaged."""
        folded = ", batch norm folded" if self.batch_norm_folded else ""
        runtime = "" if self.runtime == "eager" else f"{self.runtime}, "
        rounded = {"convolutions": self.tf32, "products": self.tf32_products}
        names = [name for name, is_rounded in rounded.items() if is_rounded]
        tf32 = f" with TF32 {' and '.join(names)}" if names else ""
        return f"{runtime}{self.dtype}{tf32}, {self.memory_format}{folded}"


class PredictedLatency(Strict):
    """Latency that a search was limited in, and what the networks then took, in milliseconds.

    Predicted is what operator times, measured one by one before, add up to; measured are the
    medians of `Measured` at the same batch.
    """

    batch: Some
    limit_ms: Milliseconds
    parent_ms: Milliseconds
    pruned_ms: Milliseconds
    measured_parent_ms: Milliseconds | None = None
    measured_pruned_ms: Milliseconds | None = None

    @property
    def error(self) -> float | None:
        """Prediction over measurement of the pruned network, less 1; None before it is timed."""
        if self.measured_pruned_ms is None:
            return None
        return self.pruned_ms / self.measured_pruned_ms - 1


class Quantized(Strict):
    """The pruned network as a float32 and as an INT8 ONNX file, both run by ONNX Runtime.

    Accuracies are those of the test split; `same_answer` is the share of its images that both files
    answer alike. `deviation` is the root mean square difference of INT8's outputs from the
    network's on the images that ranges were measured on, as a share of how far these outputs lie
    from their mean. In `latency` the float32 file stands for the parent, and the INT8 file for the
    pruned network.
    """

    calibration_images: Some
    deviation: Share
    float_top1: Share
    int8_top1: Share
    same_answer: Share
    float_bytes: Bytes
    int8_bytes: Bytes
    latency: Many[Measured] = Field(default=(), max_length=1000)


class Footprint(Strict):
    """What a network takes beside time.

    `disk_bytes` is the length of its weights as one safetensors file; `aligned_widths` the share of
    its convolutions whose number of output channels is a multiple of 8; the others the shares of
    denormal numbers among its weights and among all values that one pass of random images computes
    without flushing, null where that was not looked at.
    """

    disk_bytes: Bytes
    aligned_widths: Share
    denormal_weights: Share
    denormal_activations: Share | None = None

    @property
    def has_many_denormals(self) -> bool:
        """Whether a processor that does not flush them would be slowed down."""
        return max(self.denormal_weights, self.denormal_activations or 0.0) > MANY_DENORMALS


class Environment(Strict):
    """Where it ran, without anything that names a machine or a person.

    `workers` cells ran beside each other, each trained by `ranks` processes together.
    """

    python: Brief
    torch: Brief
    timm: Brief
    numpy: Brief
    cuda: Brief | None = None
    driver: Brief | None = None
    gpu: Brief | None = None
    cpu: Brief | None = None
    cores: Some | None = None
    threads: Some
    workers: Some
    ranks: Some = 1
    deterministic: bool
    commit: Brief | None = None
    dirty: bool | None = None
    system: Brief | None = None
    instructions: Brief | None = None
    cudnn: Some | None = None

    def processor(self, device: str) -> str:
        """Name of what ran the networks, for a torch device."""
        return (self.gpu if device.startswith("cuda") else self.cpu) or "unknown hardware"


def fingerprint(environment: Environment, device: str, threads: int) -> str:
    """Names what a time depends on beside the network: times of two names are never merged.

    It covers the processor that the networks ran on, the torch release with the kernels it chose,
    and what shared the processor. On a CPU: its model, cores and the instructions that torch uses,
    the threads of a pass, and how many cells ran side by side. On CUDA: the GPU, its driver, CUDA
    and cuDNN. Python, NumPy and timm are left out, since no kernel comes from them, and clocks and
    temperatures too, since they move within a run and rounds are paired against that.

    Args:
        environment: what a record says of it.
        device: a torch device.
        threads: of a pass on a CPU.

    Returns:
        `cpu-` or `cuda-` and eight hexadecimal digits.
    """
    on_gpu = device.startswith("cuda")
    fields = ["torch", "system", "workers"]
    fields += ["gpu", "driver", "cuda", "cudnn"] if on_gpu else ["cpu", "cores", "instructions"]
    known = environment.model_dump(mode="json", include=set(fields))
    if not on_gpu:
        known["threads"] = threads
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    kind = "cuda" if on_gpu else "cpu"
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def median_interval(values: Sequence[float]) -> Interval | None:
    """The narrowest interval between order statistics that holds the population's median at 95 %.

    The number of draws below the median is binomial with one half, whatever the distribution; so
    the interval between the k-th smallest and the k-th largest of n draws holds the median with
    probability 1 - 2 P(fewer than k below). Six draws are the fewest that reach 95 %.

    Args:
        values: independent draws.

    Returns:
        None if even the whole range of so few draws does not reach the level.
    """
    ordered, count = sorted(values), len(values)
    missed, found = 0.0, None
    for cut in range((count + 1) // 2):
        missed += 2 * math.comb(count, cut) / 2**count
        if 1 - missed < LEVEL:
            break
        found = Interval(low=ordered[cut], high=ordered[-1 - cut], level=1 - missed)
    return found


def realised_share(speedup: float, macs_ratio: float) -> float | None:
    """Share of the theoretical gain that was realised: (speed-up - 1) / (MACs ratio - 1).

    The theoretical speed-up is the ratio of the MACs, parent over pruned. 0: as slow as the parent;
    1: as much faster as it has fewer MACs; below 0: slower.

    Args:
        speedup: the parent's time over the pruned network's.
        macs_ratio: the parent's MACs over the pruned network's.

    Returns:
        None where the ratio of MACs is below 1.1, so that there is hardly a gain to realise.
    """
    if macs_ratio < THEORETICAL_GAIN:
        return None
    return (speedup - 1) / (macs_ratio - 1)


def aligned_share(widths: Sequence[int]) -> float:
    """Share of some widths that are multiples of 8; 0 if there are none."""
    return sum(width % ALIGNMENT == 0 for width in widths) / max(1, len(widths))


def _inverted(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    return Interval(low=1 / interval.high, high=1 / interval.low, level=interval.level)

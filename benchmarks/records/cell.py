"""A cell: what a run is asked for, and the key that its settings give it.

A cell is one method on one network, data set, budget and seed. Its hash is taken over the canonical
settings with defaults left out, so a new setting with a neutral default keeps old records
reachable.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic import Strict as Typed

from benchmarks.records.bounds import (
    Name,
    Options,
    Share,
)
from benchmarks.records.plain import counted
from benchmarks.records.runtime import (
    Latency,
)
from benchmarks.records.strict import Many, Strict

__all__ = [
    "MOST_BUDGET",
    "MOST_SEED",
    "PARENT",
    "RECALIBRATION_BATCHES",
    "REFERENCE",
    "BudgetMetric",
    "BudgetValue",
    "Cell",
    "Data",
    "Finish",
    "Model",
    "Origin",
    "Rules",
    "Sample",
    "Schedule",
    "Start",
    "as_ratio_or_count",
    "network_name",
]


MOST_BUDGET = 10**15
"""Multiply-adds, parameters or milliseconds; counts above are not exact in a float either."""


MOST_SEED = 2**32 - 1


RECALIBRATION_BATCHES = 8
"""As in the library. The keys of cells leave defaults out, so a new number renames old records."""


Start = Literal["inherited", "scratch"]

Finish = Literal["common", "own"]
"""How a decision is finished. "common": on the parent's weights, with the loss that the suite names
for all; "own": on the weights and with the loss that the method hands on."""

REFERENCE = "uniform"
"""The method that differences are taken to."""

PARENT = "parent"
"""Stands in the place of a method where the parent itself is fine-tuned, as a control."""


FREE = {"method", "origin", "settings", "budget", "metric", "seed", "scratch", "longer"}
"""Fields in which the cells of a comparison differ."""


def as_ratio_or_count(value: object) -> object:
    """A budget of at most 1 is a float keep ratio, a larger one an integer count if it is whole.

    Raises:
        ValueError: if it is not positive, or above `MOST_BUDGET`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not 0 < value <= MOST_BUDGET:  # nor is a NaN
        raise ValueError(
            f"budget {reprlib.repr(value)} is not positive and at most {MOST_BUDGET:.0e}; give a "
            "keep ratio in (0, 1] or a count above 1"
        )
    return round(value) if value > 1 and value == round(value) else float(value)


BudgetMetric = Literal["macs", "params", "latency", "latency_ms"]
"""What a budget limits; of "latency" it is a keep ratio, of "latency_ms" milliseconds a pass."""


BudgetValue = Annotated[float | int, BeforeValidator(as_ratio_or_count)]


class Model(Strict):
    """A timm model, the keyword arguments it is created with, and how much wider it is made.

    The parent of a cell is the network with `width` times the channels: a keep ratio is a share of
    that one's cost, so a wide parent asks for a budget in absolute numbers.

    `weights` name a file that the parent, wide or not, takes its weights from before it is trained:
    in a suite by its path, in a cell by the digest of its content, which is filled in when a run is
    planned; see `zoo.core.networks.weights.weights_digest`.
    """

    name: Name
    args: Options = {}
    width: float = Field(default=1.0, ge=1, le=8)
    weights: str | None = Field(default=None, min_length=1, max_length=4096)

    @model_validator(mode="after")
    def start_once(self) -> Model:
        """Refuse timm's published weights beside those of a file.

        Raises:
            ValueError: if both are asked for.
        """
        if self.weights is not None and self.args.get("pretrained"):
            raise ValueError("both pretrained and weights, which are two starts; give one")
        return self

    @property
    def title(self) -> str:
        """The name, with the width where it is not the model's own."""
        return self.name if self.width == 1 else f"{self.name} x {self.width:g}"


class Data(Strict):
    """A data set and how much of it is used; null leaves the choice to the data set.

    `digest` names the content of a set that is read from a folder, where its name does not tell it;
    see `zoo.core.data.folders.files_digest`. It is filled in when a run is planned.
    """

    name: Name
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    image_size: int | None = Field(default=None, ge=8, le=100_000)
    train_size: int | None = Field(default=None, ge=1, le=10**12)
    search_size: int | None = Field(default=None, ge=1, le=10**12)
    test_size: int | None = Field(default=None, ge=1, le=10**12)

    @property
    def title(self) -> str:
        """What readers are told: of a folder whose content is known, what it holds."""
        return _KNOWN_FOLDERS.get(self.digest or "", self.name)


_KNOWN_FOLDERS = {"bf8a1c0046482d35": "CIFAR-10 (JPEG copy)"}
"""Content of folders, by digest: `imagefolder` does not tell that pixels are not the original's."""


def network_name(model: Model, data: Data) -> str:
    """A network with its data, these by content and size, in a suite as in its cells.

    Left out are arguments, weights and numbers of images: two networks may share a name.
    """
    content = f" {data.digest}" if data.digest else ""
    size = f" at {data.image_size} px" if data.image_size else ""
    return f"{model.title} on {data.name}{content}{size}"


class Schedule(Strict):
    """A training recipe; the fields and defaults are those of `zoo.core.training.train.Recipe`."""

    epochs: int = Field(ge=0, le=1_000_000)
    batch_size: int = Field(default=128, ge=1, le=10**9)
    lr: float = Field(default=0.1, gt=0, le=1e6)
    optimizer: Name = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, le=1e6)
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: Many[Annotated[float, Field(ge=0, le=1e6)]] = (0.5, 0.75)
    warmup_epochs: float = Field(default=0.0, ge=0, le=1e6)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    channels_last: bool = True
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    clip_grad: float | None = Field(default=None, gt=0, le=1e12)
    patience: int | None = Field(default=None, ge=1, le=1_000_000)
    bf16: bool = False
    cuda_graph: bool = False


Pair = Annotated[tuple[Share, Share], Typed(False)]
"""The lowest and the highest; also from the list that JSON and TOML give."""


class Rules(Strict):
    """Which widths are legal: smallest keep ratio, divisor of every width, bounds by pattern.

    `keep` are patterns of groups and modules that are never pruned. `ratios` are keep ratios by
    pattern: a number, or the lowest and the highest. What a pattern means, the library says.
    """

    min_keep: float = Field(default=0.1, gt=0, le=1)
    divisor: int = Field(default=1, ge=1, le=1_000_000)
    keep: Many[Name] = Field(default=(), max_length=1000)
    ratios: dict[Name, Share | Pair] = Field(default={}, max_length=1000)

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        # Names of supernets are made of it, and those without patterns were there before these.
        bounds = ("keep", "ratios")
        return [(n, value) for n, value in super().__repr_args__() if value or n not in bounds]


class Sample(Strict):
    """Configurations inside a narrow band of cost, the same for every method and seed.

    `low` and `high` are shares of the parent's cost. If `inner`, only channels inside blocks go and
    the blocks' interfaces stay whole, since that is all that some methods can score.
    """

    count: int = Field(default=20, ge=2, le=1000)
    low: float = Field(gt=0, le=1)
    high: float = Field(gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    inner: bool = False

    @model_validator(mode="after")
    def order_the_band(self) -> Sample:
        """Refuse a band that ends before it begins.

        Raises:
            ValueError: if `low` is above `high`.
        """
        if self.low > self.high:
            raise ValueError(f"low, {self.low}, is above high, {self.high}")
        return self


class Origin(Strict):
    """Where a method from outside comes from: an installed package, or a file by its content."""

    package: Name | None = None
    version: Name | None = None
    file: Name | None = None
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")

    @model_validator(mode="after")
    def name_one_source(self) -> Origin:
        """Refuse anything but a package with its version, or a file with its digest.

        Raises:
            ValueError: if there are more or fewer.
        """
        given = tuple(self.model_dump(exclude_none=True))
        if given not in (("package", "version"), ("file", "digest")):
            raise ValueError("a package with its version is needed, or a file with its digest")
        if self.file is not None and re.search(r"[/\\]", self.file):
            raise ValueError(f"file {self.file!r} has a folder; give its name alone")
        return self

    @property
    def edition(self) -> str:
        """What tells it from another state of the same package or file."""
        return f"{self.version or self.digest}"


class Cell(Strict):
    """What is asked: one method at one budget on one trained network with one seed.

    With a `sample` the cell is part of a ranking: a `member` of the sample is trained alone, by its
    ordinal, and without a `member` the method scores the whole sample. `start` says which weights
    the pruned network is trained from: those the method hands on, or newly drawn ones. With
    `scratch` it is trained from newly drawn ones under that recipe, in place of fine-tuning, beside
    cells that are fine-tuned.

    A decision is finished in the ways of `finishes`, an "own" one only where it differs from the
    common one. `distill` is the weight of the divergence from the parent's logits in the common
    loss, beside cross-entropy. A control that is fine-tuned for `longer` spends what the dearest
    method spends on search and fine-tuning together. `origin` says where a method comes from that
    is none of this package.
    """

    protocol: int = Field(ge=1, le=1000)
    model: Model
    data: Data
    method: Name
    settings: Options = {}
    metric: BudgetMetric = "macs"
    budget: BudgetValue
    seed: int = Field(ge=0, lt=2**63)
    parent: Schedule
    finetune: Schedule
    rules: Rules = Rules()
    recalibration_batches: int = Field(default=RECALIBRATION_BATCHES, ge=1, le=1_000_000)
    latency: Latency = Latency()
    device: Name = "cpu"
    start: Start = "inherited"
    sample: Sample | None = None
    member: int | None = Field(default=None, ge=0)
    scratch: Schedule | None = None
    finishes: Many[Finish] = Field(default=("common", "own"), min_length=1)
    distill: float = Field(default=0.0, ge=0, le=1e6)
    longer: int | None = Field(default=None, ge=1, le=1_000_000)  # epochs
    origin: Origin | None = None

    @field_validator("model")
    @classmethod
    def name_weights_by_content(cls, model: Model) -> Model:
        """Refuse weights that are named by a path, which would mean something on one machine only.

        Raises:
            ValueError: if they are not named by a digest.
        """
        if model.weights is not None and not re.fullmatch("[0-9a-f]{16}", model.weights):
            raise ValueError("weights: 16 hexadecimal digits of the file's content are needed")
        return model

    @model_validator(mode="after")
    def belong_to_the_sample(self) -> Cell:
        """Refuse a member that its sample does not have.

        Raises:
            ValueError: naming it.
        """
        count = self.sample.count if self.sample else 0
        if self.member is not None and self.member >= count:
            raise ValueError(
                f"member {self.member} of a sample of {counted(count, 'configuration')}"
            )
        return self

    @property
    def last_training(self) -> Schedule:
        """The recipe of the network that is tested last."""
        if self.longer is not None:
            return self.finetune.model_copy(update={"epochs": self.longer})
        return self.scratch or self.finetune

    @property
    def is_redrawn(self) -> bool:
        """Whether that network starts from newly drawn weights."""
        return self.scratch is not None or self.start == "scratch"

    @property
    def limits_latency(self) -> bool:
        """Whether the budget is one of latency, predicted at the first of the batches."""
        return self.metric in ("latency", "latency_ms")

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that name this cell."""
        return _digest(self._named())

    @property
    def parent_key(self) -> str:
        """Names the trained parent: every cell with this key starts from the same weights."""
        fields = {"protocol", "model", "data", "parent", "seed", "device"}
        return _digest(self._named(include=fields))

    @property
    def parent_file(self) -> str:
        """Name of the file that keeps the trained parent."""
        return f"{self.model.name.replace('/', '_')}-{self.parent_key}.safetensors"

    @property
    def supernet_key(self) -> str:
        """Names all that a supernet is trained from, beside its method's own settings."""
        given = f"{self.parent_key} {self.finetune.batch_size} {self.rules!r} {self.metric}"
        given += f" {self.latency!r}" if self.limits_latency else ""
        given += f" {self.origin!r}" if self.origin else ""
        return hashlib.sha256(given.encode()).hexdigest()[:8]

    @property
    def variant(self) -> str:
        """Names the cell without its seed: records that share it are repetitions of each other.

        How much longer a control is fine-tuned follows from what its seed's methods cost.
        """
        of_the_seed = {"seed", "longer"}
        named = self._named(exclude=of_the_seed)
        return _digest(named if self.longer is None else {**named, "longer": True})

    @property
    def comparison(self) -> str:
        """Names what is held equal: cells that share it differ in method, budget and seed only.

        A method's networks may beside that be trained from scratch, or longer, and say so by name.
        """
        return _digest(self._named(exclude=FREE))

    @property
    def setting(self) -> str:
        """Names the comparison, whatever kind of device its networks are trained on."""
        return _digest(self._named(exclude={*FREE, "device"}))

    @property
    def recipe(self) -> str:
        """Names what a suite holds equal over its networks and data sets."""
        return _digest(self._named(exclude={*FREE, "device", "model", "data"}))

    @property
    def ranking(self) -> str:
        """Names the sample and the parents: scores and trainings that share it belong together."""
        held = {"protocol", "model", "data", "parent", "rules", "metric", "sample", "device"}
        return _digest(self._named(include=held))

    def _named(
        self, include: set[str] | None = None, exclude: set[str] | None = None
    ) -> dict[str, Any]:  # Any: plain JSON
        """The settings that are not defaults; which GPU of a machine it is, is none of them."""
        named = self.model_dump(
            mode="json", exclude_defaults=True, include=include, exclude=exclude
        )
        if "device" in named:
            named["device"] = self.device.partition(":")[0]
        return named

    @property
    def label(self) -> str:
        """`method-model-data-budget-seed`, fit for a file name and a progress line."""
        budget = f"{self.metric}{self.budget:g}"
        model = self.model.title.replace(" ", "")
        parts = [self.method, model, self.data.name, budget, f"s{self.seed}"]
        if self.sample is not None:
            parts.append("scores" if self.member is None else f"member{self.member}")
        return "-".join(re.sub("[/:]", "_", part) for part in parts)


def _digest(settings: Mapping[str, Any]) -> str:  # Any: plain JSON
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

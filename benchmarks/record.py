"""The schema of a run: a cell says what was asked, a record what came of it.

A cell is one method on one network, data set, budget and seed. Its hash is taken over the canonical
settings with defaults left out, so a new setting with a neutral default keeps old records
reachable. A record is written once, as a whole, and never edited; a correction is a new record that
names the one it supersedes. What was not measured is null. Fractions are fractions and one
multiply-add is one MAC; per cent appear only in tables.

This module imports neither torch nor zoo, so that tables and figures can be drawn anywhere.
"""

import contextlib
import hashlib
import itertools
import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from benchmarks.runtime import (
    Environment,
    Footprint,
    Latency,
    Measured,
    PredictedLatency,
    Quartiles,
    Side,
    Way,
    fingerprint,
)
from benchmarks.strict import Many, Strict, explain

__all__ = [
    "PHASES",
    "BudgetMetric",
    "Cell",
    "DamagedRecord",
    "Data",
    "Environment",
    "Footprint",
    "Group",
    "Latency",
    "Measured",
    "Model",
    "Phase",
    "PhaseCost",
    "PredictedLatency",
    "Quartiles",
    "Record",
    "Rules",
    "Sample",
    "Schedule",
    "Size",
    "Start",
    "Status",
    "Top1",
    "current_records",
    "load_record",
    "load_records",
    "write_numbered",
    "write_record",
]

SCHEMA = 1
"""Version of the fields below; raised when a field changes its meaning."""

MOST_BUDGET = 10**15
"""Multiply-adds, parameters or milliseconds; counts above are not exact in a float either."""

MOST_SEED = 2**32 - 1

Start = Literal["inherited", "scratch"]
Status = Literal["ok", "infeasible", "failed", "cancelled"]
Phase = Literal["baseline", "scoring", "supernet", "search", "finetune"]
PHASES: tuple[Phase, ...] = ("baseline", "scoring", "supernet", "search", "finetune")


Identified = TypeVar("Identified", bound=Strict)
"""A model with a field `id`."""


class DamagedRecord(ValueError):
    """A record file that cannot be read back as it was written."""


def as_ratio_or_count(value: object) -> object:
    """A budget of at most 1 is a float keep ratio, a larger one an integer count if it is whole."""
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
    """

    name: str
    args: dict[str, JsonValue] = {}
    width: float = Field(default=1.0, ge=1, le=8)

    @property
    def title(self) -> str:
        """The name, with the width where it is not the model's own."""
        return self.name if self.width == 1 else f"{self.name} x {self.width:g}"


class Data(Strict):
    """A data set and how much of it is used; null leaves the choice to the data set.

    `digest` names the content of a set that is read from a folder, where its name does not tell it;
    see `zoo.core.data.files_digest`. It is filled in when a run is planned.
    """

    name: str
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    image_size: int | None = Field(default=None, ge=8)
    train_size: int | None = Field(default=None, ge=1)
    search_size: int | None = Field(default=None, ge=1)
    test_size: int | None = Field(default=None, ge=1)


class Schedule(Strict):
    """A training recipe; the fields and defaults are those of `zoo.core.train.Recipe`."""

    epochs: int = Field(ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, gt=0)
    optimizer: str = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: Many[float] = (0.5, 0.75)
    warmup_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    channels_last: bool = True
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    clip_grad: float | None = Field(default=None, gt=0)


class Rules(Strict):
    """Which widths are legal: a floor as keep ratio and a divisor."""

    min_keep: float = Field(default=0.1, gt=0, le=1)
    divisor: int = Field(default=1, ge=1)


class Sample(Strict):
    """Configurations inside a narrow band of cost, the same for every method and seed.

    `low` and `high` are shares of the parent's cost. If `inner`, only channels inside blocks go and
    the blocks' interfaces stay whole, since that is all that some methods can score.
    """

    count: int = Field(default=20, ge=2)
    low: float = Field(gt=0, le=1)
    high: float = Field(gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    inner: bool = False

    @model_validator(mode="after")
    def order_the_band(self) -> "Sample":
        """Refuses a band that ends before it begins.

        Raises:
            ValueError: if `low` is above `high`.
        """
        if self.low > self.high:
            raise ValueError(f"low, {self.low}, is above high, {self.high}")
        return self


class Cell(Strict):
    """What is asked: one method at one budget on one trained network with one seed.

    With a `sample` the cell is part of a ranking: a `member` of the sample is trained alone, by its
    ordinal, and without a `member` the method scores the whole sample. `start` says which weights
    the pruned network is trained from: those the method hands on, or newly drawn ones. With
    `scratch` it is trained from newly drawn ones under that recipe, in place of fine-tuning, beside
    cells that are fine-tuned.
    """

    protocol: int
    model: Model
    data: Data
    method: str
    settings: dict[str, JsonValue] = {}
    metric: BudgetMetric = "macs"
    budget: BudgetValue
    seed: int = Field(ge=0)
    parent: Schedule
    finetune: Schedule
    rules: Rules = Rules()
    recalibration_batches: int = Field(default=8, ge=1)
    latency: Latency = Latency()
    device: str = "cpu"
    start: Start = "inherited"
    sample: Sample | None = None
    member: int | None = Field(default=None, ge=0)
    scratch: Schedule | None = None

    @property
    def last_training(self) -> Schedule:
        """The recipe of the network that is tested last."""
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
        return _digest(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def parent_key(self) -> str:
        """Names the trained parent: every cell with this key starts from the same weights."""
        fields = {"protocol", "model", "data", "parent", "seed", "device"}
        return _digest(self.model_dump(mode="json", exclude_defaults=True, include=fields))

    @property
    def parent_file(self) -> str:
        """Name of the file that keeps the trained parent."""
        return f"{self.model.name.replace('/', '_')}-{self.parent_key}.safetensors"

    @property
    def supernet_key(self) -> str:
        """Names all that a supernet is trained from, beside its method's own settings."""
        given = f"{self.parent_key} {self.finetune.batch_size} {self.rules!r} {self.metric}"
        given += f" {self.latency!r}" if self.limits_latency else ""
        return hashlib.sha256(given.encode()).hexdigest()[:8]

    @property
    def variant(self) -> str:
        """Names the cell up to its seed: records that share it are repetitions of each other."""
        return _digest(self.model_dump(mode="json", exclude_defaults=True, exclude={"seed"}))

    @property
    def comparison(self) -> str:
        """Names what is held equal: cells that share it differ in method, budget and seed only.

        A method's networks may beside that be trained from scratch, and say so by name.
        """
        free = {"method", "settings", "budget", "metric", "seed", "scratch"}
        return _digest(self.model_dump(mode="json", exclude_defaults=True, exclude=free))

    @property
    def ranking(self) -> str:
        """Names the sample and the parents: scores and trainings that share it belong together."""
        held = {"protocol", "model", "data", "parent", "rules", "metric", "sample", "device"}
        return _digest(self.model_dump(mode="json", exclude_defaults=True, include=held))

    @property
    def label(self) -> str:
        """`method-model-data-budget-seed`, fit for a file name and a progress line."""
        budget = f"{self.metric}{self.budget:g}"
        model = self.model.title.replace(" ", "")
        parts = [self.method, model, self.data.name, budget, f"s{self.seed}"]
        if self.sample is not None:
            parts.append("scores" if self.member is None else f"member{self.member}")
        return "-".join(part.replace("/", "_") for part in parts)


class PhaseCost(Strict):
    """What one phase spent; null where the device cannot tell."""

    images: int = 0
    macs_forward: int = 0
    macs_backward: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def macs(self) -> int:
        """Forward and backward together."""
        return self.macs_forward + self.macs_backward


class Size(Strict):
    """Exact cost of the parent, the limit that the budget set, and what was reached.

    The limit is in MACs, parameters or, for a budget of latency, nanoseconds.
    """

    full_macs: int
    full_params: int
    limit: int
    macs: int | None = None
    params: int | None = None


class Top1(Strict):
    """Test accuracy as fractions: of the parent, after surgery, recalibrated, fine-tuned."""

    parent: float | None = None
    pruned: float | None = None
    recalibrated: float | None = None
    finetuned: float | None = None


class Group(Strict):
    """A channel group: its full size and how many channels were kept."""

    name: str
    size: int
    kept: int
    stage: int | None = None


class Record(Strict):
    """What came of a cell.

    `latency` is the main way of running at every batch, `further_latency` the other ways of the
    settings, `left_out` those that could not be measured and why. Times of records with different
    fingerprints are never put into one figure; see `runs_on` for records older than the field.
    """

    id: str
    schema_version: int = SCHEMA
    utc: str
    suite: str
    cell: Cell
    status: Status
    reason: str | None = None
    supersedes: str | None = None
    method_settings: dict[str, JsonValue] = {}
    images: dict[Literal["train", "search", "test"], int] = {}
    size: Size | None = None
    top1: Top1 = Top1()
    spent: dict[Phase, PhaseCost] = {}
    seconds: float | None = None
    latency: Many[Measured] = ()
    predicted_latency: PredictedLatency | None = None
    further_latency: Many[Measured] = ()
    left_out: dict[Way, str] = {}
    footprint: dict[Side, Footprint] = {}
    groups: Many[Group] = ()
    config: dict[str, JsonValue] | None = None
    trace: Many[dict[str, JsonValue]] = ()
    scores: Many[float] = ()
    environment: Environment
    fingerprint: str | None = None

    @model_validator(mode="after")
    def require_a_reason(self) -> "Record":
        """Every status but ok carries a reason.

        Raises:
            ValueError: if it is missing.
        """
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a record with status {self.status} needs a reason")
        return self

    @property
    def runs_on(self) -> str:
        """The device fingerprint, made up from what is known where a record does not hold it."""
        return self.fingerprint or fingerprint(
            self.environment, self.cell.device, self.cell.latency.threads
        )


def write_record(folder: Path, record: Record) -> Record:
    """Writes a record as a whole, under a name that did not exist, and returns it with its id.

    A second attempt at the same cell on the same day gets `-2` after the hash.

    Raises:
        OSError: if the folder cannot be written.
    """
    stem = f"{record.utc[:10].replace('-', '')}-{record.cell.label}-{record.cell.key}"
    return write_numbered(folder, stem, record)


def write_numbered(folder: Path, stem: str, record: Identified) -> Identified:
    """Writes anything with an `id` as JSON under the first of `stem`, `stem-2`, ... that is free.

    The text goes to a hidden file beside its destination and is then linked to the final name,
    which fails if that exists; so a kill at any moment leaves whole records only.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        name = stem if attempt == 1 else f"{stem}-{attempt}"
        named = record.model_copy(update={"id": name})
        with contextlib.suppress(FileExistsError):
            _write_new(folder / f"{name}.json", named.model_dump_json(indent=1) + "\n")
            return named
    raise AssertionError("count() does not end")


def load_record(path: Path) -> Record:
    """Reads one record.

    Raises:
        DamagedRecord: if the text is not a whole record of a schema version known here.
    """
    try:
        record = Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DamagedRecord(
            f"{path} is not a whole record ({explain(error)}); move it away and run the suite again"
        ) from error
    if record.schema_version > SCHEMA:
        raise DamagedRecord(
            f"{path} has schema version {record.schema_version}, this program reads up to "
            f"{SCHEMA}; update the program"
        )
    return record


def load_records(folder: Path) -> list[Record]:
    """All records of a folder in order of their ids; none if there is no such folder.

    Raises:
        DamagedRecord: naming the first file that cannot be read.
    """
    return [load_record(path) for path in sorted(folder.glob("[!.]*.json"))]


def current_records(records: Sequence[Record]) -> list[Record]:
    """One record per cell: none that is superseded, an ok one if there is one, else the latest."""
    replaced = {record.supersedes for record in records}
    chosen: dict[str, Record] = {}
    for record in records:
        if record.id in replaced:
            continue
        best = chosen.get(record.cell.key)
        if best is None or _rank(record) >= _rank(best):
            chosen[record.cell.key] = record
    return list(chosen.values())


def _rank(record: Record) -> tuple[bool, str]:
    return record.status == "ok", record.utc


def _digest(settings: Mapping[str, Any]) -> str:  # Any: plain JSON
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_new(path: Path, text: str) -> None:
    with _hidden_file(path) as hidden:
        with hidden.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(hidden, path)


@contextlib.contextmanager
def _hidden_file(path: Path) -> Iterator[Path]:
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield hidden
    finally:
        hidden.unlink(missing_ok=True)

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
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from benchmarks.bounds import (
    Brief,
    Bytes,
    Count,
    Finite,
    Name,
    Options,
    Seconds,
    Share,
    Sized,
    Text,
)
from benchmarks.plain import visible
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
from benchmarks.whole_file import write_new

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
    "Loaded",
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
    "Unread",
    "current_records",
    "load_record",
    "load_records",
    "read_bounded",
    "read_folder",
    "write_numbered",
    "write_record",
]

SCHEMA = 1
"""Version of the fields below; raised when a field changes its meaning."""

TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"
"""Of a time as records hold it, in the order of time."""

MOST_BYTES = 256 * 2**20
"""Of a record's file; published ones have a fifth of a megabyte."""
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

    name: Name
    args: Options = {}
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

    name: Name
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    image_size: int | None = Field(default=None, ge=8, le=100_000)
    train_size: int | None = Field(default=None, ge=1, le=10**12)
    search_size: int | None = Field(default=None, ge=1, le=10**12)
    test_size: int | None = Field(default=None, ge=1, le=10**12)


class Schedule(Strict):
    """A training recipe; the fields and defaults are those of `zoo.core.train.Recipe`."""

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


class Rules(Strict):
    """Which widths are legal: a floor as keep ratio and a divisor."""

    min_keep: float = Field(default=0.1, gt=0, le=1)
    divisor: int = Field(default=1, ge=1, le=1_000_000)


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
    recalibration_batches: int = Field(default=8, ge=1, le=1_000_000)
    latency: Latency = Latency()
    device: Name = "cpu"
    start: Start = "inherited"
    sample: Sample | None = None
    member: int | None = Field(default=None, ge=0)
    scratch: Schedule | None = None

    @model_validator(mode="after")
    def belong_to_the_sample(self) -> "Cell":
        """Refuses a member that its sample does not have.

        Raises:
            ValueError: naming it.
        """
        count = self.sample.count if self.sample else 0
        if self.member is not None and self.member >= count:
            raise ValueError(f"member {self.member} of a sample of {count} configurations")
        return self

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

    images: Count = 0
    macs_forward: Count = 0
    macs_backward: Count = 0
    seconds: Seconds = 0.0
    peak_bytes: Bytes | None = None

    @property
    def macs(self) -> int:
        """Forward and backward together."""
        return self.macs_forward + self.macs_backward


class Size(Strict):
    """Exact cost of the parent, the limit that the budget set, and what was reached.

    The limit is in MACs, parameters or, for a budget of latency, nanoseconds.
    """

    full_macs: Sized
    full_params: Sized
    limit: Count
    macs: Sized | None = None
    params: Sized | None = None

    @model_validator(mode="after")
    def refuse_growth(self) -> "Size":
        """Refuses a pruned network that is larger than its parent.

        Raises:
            ValueError: naming both numbers.
        """
        for name, kept, full in (
            ("MACs", self.macs, self.full_macs),
            ("parameters", self.params, self.full_params),
        ):
            if kept is not None and kept > full:
                raise ValueError(f"{kept} {name} are kept of {full}")
        return self


class Top1(Strict):
    """Test accuracy as fractions: of the parent, after surgery, recalibrated, fine-tuned."""

    parent: Share | None = None
    pruned: Share | None = None
    recalibrated: Share | None = None
    finetuned: Share | None = None


class Group(Strict):
    """A channel group: its full size and how many channels were kept."""

    name: Brief
    size: int = Field(ge=1, le=10**7)
    kept: int = Field(ge=1)
    stage: int | None = Field(default=None, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def refuse_growth(self) -> "Group":
        """Refuses more kept channels than there are.

        Raises:
            ValueError: naming both numbers.
        """
        if self.kept > self.size:
            raise ValueError(f"{self.kept} channels are kept of {self.size}")
        return self


class Record(Strict):
    """What came of a cell.

    `latency` is the main way of running at every batch, `further_latency` the other ways of the
    settings, `left_out` those that could not be measured and why. Times of records with different
    fingerprints are never put into one figure; see `runs_on` for records older than the field.
    """

    id: Brief
    schema_version: int = Field(default=SCHEMA, ge=1, le=1_000_000)
    utc: str = Field(pattern=TIME, max_length=40)
    suite: Brief
    cell: Cell
    status: Status
    reason: Text | None = None
    supersedes: Brief | None = None
    method_settings: Options = {}
    images: dict[Literal["train", "search", "test"], Count] = {}
    size: Size | None = None
    top1: Top1 = Top1()
    spent: dict[Phase, PhaseCost] = {}
    seconds: Seconds | None = None
    latency: Many[Measured] = Field(default=(), max_length=1000)
    predicted_latency: PredictedLatency | None = None
    further_latency: Many[Measured] = Field(default=(), max_length=1000)
    left_out: dict[Way, Text] = {}
    footprint: dict[Side, Footprint] = {}
    groups: Many[Group] = Field(default=(), max_length=2000)
    config: dict[str, JsonValue] | None = None
    trace: Many[dict[str, JsonValue]] = ()
    scores: Many[Finite] = ()
    environment: Environment
    fingerprint: Brief | None = None

    @model_validator(mode="after")
    def require_a_reason(self) -> "Record":
        """Every status but ok carries a reason.

        Raises:
            ValueError: if it is missing.
        """
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a record with status {self.status} needs a reason")
        return self

    @model_validator(mode="after")
    def replace_another(self) -> "Record":
        """Refuses a record that supersedes itself: it would count nowhere.

        Raises:
            ValueError: naming it.
        """
        if self.id and self.supersedes == self.id:
            raise ValueError("supersedes names the record itself")
        return self

    @model_validator(mode="after")
    def score_the_whole_sample(self) -> "Record":
        """Refuses scores that are not one for each configuration of the sample.

        Raises:
            ValueError: naming both numbers.
        """
        sample, scores = self.cell.sample, len(self.scores)
        is_scored = self.status == "ok" and sample is not None and self.cell.member is None
        if is_scored and sample is not None and scores != sample.count:
            raise ValueError(f"{scores} scores for {sample.count} configurations")
        return self

    @model_validator(mode="after")
    def keep_channels_that_there_are(self) -> "Record":
        """Refuses a configuration that says otherwise than the groups.

        Raises:
            ValueError: naming the group.
        """
        for group in self.groups if self.config else ():
            kept = (self.config or {}).get(group.name)
            if kept is not None and not _fits(kept, group):
                raise ValueError(
                    f"config: {visible(group.name, 60)!r} does not hold {group.kept} different "
                    f"channels of {group.size}"
                )
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

    A kill at any moment leaves whole records only.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        name = stem if attempt == 1 else f"{stem}-{attempt}"
        named = record.model_copy(update={"id": name})
        with contextlib.suppress(FileExistsError):
            write_new(folder / f"{name}.json", named.model_dump_json(indent=1) + "\n")
            return named
    raise AssertionError("count() does not end")


@dataclass(frozen=True)
class Unread:
    """A file in a folder of records that is no record.

    Attributes:
        name: of the file.
        reason: why, in a line.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{visible(self.name, 120)}: {visible(self.reason, 400)}"


class Loaded(NamedTuple):
    """What a folder holds: records in order of their ids, and files that could not be read."""

    records: list[Record]
    unread: list[Unread]


def load_record(path: Path) -> Record:
    """Reads one record.

    Raises:
        DamagedRecord: if it is not a file that holds a whole record of a schema version known here.
        OSError: if it cannot be opened.
    """
    try:
        return _parsed(path)
    except _NoRecord as error:
        raise DamagedRecord(f"{path} {error}") from error


def load_records(folder: Path) -> list[Record]:
    """All records of a folder in order of their ids; none if there is no such folder.

    Raises:
        DamagedRecord: naming the first file that cannot be read.
    """
    return [load_record(path) for path in _files(folder)]


def read_folder(folder: Path) -> Loaded:
    """All records of a folder, and the files that are none: those are left out and named.

    Raises:
        OSError: if the folder cannot be read.
    """
    loaded = Loaded([], [])
    for path in _files(folder):
        try:
            loaded.records.append(_parsed(path))
        except _NoRecord as error:
            loaded.unread.append(Unread(path.name, str(error)))
        except OSError as error:
            loaded.unread.append(Unread(path.name, f"cannot be read: {error.strerror}"))
    return loaded


def read_bounded(path: Path) -> bytes:
    """The bytes of a regular file of a bearable size; never waits, as opening a FIFO would.

    Raises:
        DamagedRecord: if it is something else.
        OSError: if it cannot be opened.
    """
    try:
        return _content(path)
    except _NoRecord as error:
        raise DamagedRecord(f"{path} {error}") from error


class _NoRecord(ValueError):
    """Says what is wrong with a file, without its name."""


def _files(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix == ".json" and p.name[0] != ".")


def _parsed(path: Path) -> Record:
    try:
        record = Record.model_validate_json(_content(path))
    except ValidationError as error:
        raise _NoRecord(
            f"is not a whole record ({explain(error)}); move it away and run the suite again"
        ) from error
    if record.schema_version > SCHEMA:
        raise _NoRecord(
            f"has schema version {record.schema_version}, this program reads up to "
            f"{SCHEMA}; update the program"
        )
    return record


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _NoRecord("is no file but a pipe or device; move it away")
        if found.st_size > MOST_BYTES:
            raise _NoRecord(
                f"has {found.st_size:,} bytes, a record at most {MOST_BYTES:,}; move it away"
            )
        return file.read(MOST_BYTES)


def _open_at_once(path: str, flags: int) -> int:
    """Does not wait for somebody to write into a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _fits(kept: JsonValue, group: Group) -> bool:
    """Whether a list holds as many different channels of a group as it keeps."""
    if not isinstance(kept, list) or len(kept) != group.kept:
        return False
    channels = [c for c in kept if isinstance(c, int) and 0 <= c < group.size]
    return len({*channels}) == group.kept


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

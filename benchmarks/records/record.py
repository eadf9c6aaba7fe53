"""The schema of a run: a cell (see `cell`) says what was asked, a record what came of it.

A record is written once, as a whole, and never edited; a correction is a new record that
names the one it supersedes. What was not measured is null. Fractions are fractions and one
multiply-add is one MAC; per cent appear only in tables.

This module imports neither torch nor zoo, so that tables and figures can be drawn anywhere.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from benchmarks.records.bounds import (
    Brief,
    Bytes,
    Count,
    Finite,
    Options,
    Seconds,
    Share,
    Sized,
    Some,
    Text,
    Time,
)
from benchmarks.records.cell import Cell
from benchmarks.records.contrast import Primary
from benchmarks.records.plain import counted, visible
from benchmarks.records.runtime import (
    Environment,
    Footprint,
    Measured,
    PredictedLatency,
    Quantized,
    Side,
    Way,
    fingerprint,
)
from benchmarks.records.strict import Many, Strict

__all__ = [
    "DECIDING",
    "PHASES",
    "SETTLED",
    "TOTAL",
    "Group",
    "HandedOn",
    "Phase",
    "PhaseCost",
    "Record",
    "Size",
    "Status",
    "Top1",
    "spent_macs",
]

SCHEMA = 1
"""Version of the fields below; raised when a field changes its meaning."""


Status = Literal["ok", "infeasible", "failed", "cancelled"]
SETTLED: tuple[Status, ...] = ("ok", "infeasible")
"""Cells with these outcomes are not run again."""
Phase = Literal["baseline", "scoring", "supernet", "search", "finetune", "finetune_own"]
PHASES: tuple[Phase, ...] = (
    "baseline",
    "scoring",
    "supernet",
    "search",
    "finetune",
    "finetune_own",
)
DECIDING: tuple[Phase, ...] = ("scoring", "supernet", "search")
"""Phases that a method spends on its decision, before fine-tuning."""

TOTAL: tuple[Phase, ...] = (*DECIDING, "finetune")
"""What a pruned network costs beyond its parent, under the common finish."""

HandedOn = Literal["weights", "loss"]


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
        """Refuse a pruned network that is larger than its parent.

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
    """Test accuracy as fractions: of the parent, after surgery, recalibrated, fine-tuned.

    From protocol 2 on, all but `own` are of the parent's weights, and `finetuned` is the common
    finish; in protocol 1 they are of the weights and the loss that the method handed on. `own` is
    the method's own finish, null where that is the common one.
    """

    parent: Share | None = None
    pruned: Share | None = None
    recalibrated: Share | None = None
    finetuned: Share | None = None
    own: Share | None = None


class Group(Strict):
    """A channel group: its full size and how many channels were kept."""

    name: Brief
    size: int = Field(ge=1, le=10**7)
    kept: int = Field(ge=1)
    stage: int | None = Field(default=None, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def refuse_growth(self) -> "Group":
        """Refuse more kept channels than there are.

        Raises:
            ValueError: naming both numbers.
        """
        if self.kept > self.size:
            raise ValueError(f"kept channels: {self.kept} of {self.size}")
        return self


class TimedOn(Strict):
    """Where a network was timed after all training, or would be put beside those that were."""

    device: Brief
    environment: Environment
    fingerprint: Brief


class Record(Strict):
    """What came of a cell.

    `input_size` is the (C, H, W) of an image; with it and `num_classes` the network can be made
    again without the data, to be timed (see `timing`); a cell of protocol 1 was timed when it ran.
    `latency` is the main way of running at every batch, `further_latency` the other ways of the
    settings, `left_out` those that could not be measured and why. Times of records with different
    fingerprints are never put into one panel; see `runs_on` for records older than the field.
    `handed_on` is what the method hands on beside its decision: trained weights, a loss, or both.
    `primary` are the contrasts that the suite had named when the cell was run. `environment`
    and `fingerprint` are those of the training; `timed_on` is in no file: it comes with the times,
    see `benchmarks.records.join`.
    """

    id: Brief
    schema_version: int = Field(default=SCHEMA, ge=1, le=1_000_000)
    utc: Time
    suite: Brief
    primary: Many[Primary] = Field(default=(), max_length=100)
    cell: Cell
    status: Status
    reason: Text | None = None
    supersedes: Brief | None = None
    method_settings: Options = {}
    images: dict[Literal["train", "search", "test"], Count] = {}
    input_size: Many[Some] | None = Field(default=None, min_length=3, max_length=3)
    num_classes: Some | None = None
    size: Size | None = None
    top1: Top1 = Top1()
    handed_on: Many[HandedOn] = ()
    spent: dict[Phase, PhaseCost] = {}
    seconds: Seconds | None = None
    latency: Many[Measured] = Field(default=(), max_length=1000)
    predicted_latency: PredictedLatency | None = None
    further_latency: Many[Measured] = Field(default=(), max_length=1000)
    left_out: dict[Way, Text] = {}
    footprint: dict[Side, Footprint] = {}
    quantized: Quantized | None = None
    groups: Many[Group] = Field(default=(), max_length=2000)
    config: dict[str, JsonValue] | None = None
    trace: Many[dict[str, JsonValue]] = ()
    scores: Many[Finite] = ()
    environment: Environment
    fingerprint: Brief | None = None
    timed_on: TimedOn | None = Field(default=None, exclude=True)

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
        """Refuse a record that supersedes itself: it would count nowhere.

        Raises:
            ValueError: naming it.
        """
        if self.id and self.supersedes == self.id:
            raise ValueError("supersedes names the record itself")
        return self

    @model_validator(mode="after")
    def score_the_whole_sample(self) -> "Record":
        """Refuse scores that are not one for each configuration of the sample.

        Raises:
            ValueError: naming both numbers.
        """
        sample, scores = self.cell.sample, len(self.scores)
        is_scored = self.status == "ok" and sample is not None and self.cell.member is None
        if is_scored and sample is not None and scores != sample.count:
            raise ValueError(
                f"{counted(scores, 'score')} for {counted(sample.count, 'configuration')}"
            )
        return self

    @model_validator(mode="after")
    def keep_channels_that_there_are(self) -> "Record":
        """Refuse a configuration whose kept channels are not those that the groups count.

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
        if self.timed_on is not None:
            return self.timed_on.fingerprint
        return self.fingerprint or fingerprint(
            self.environment, self.cell.device, self.cell.latency.threads
        )

    @property
    def processor(self) -> str:
        """Name of what the networks ran on when they were timed, or else trained."""
        on = self.timed_on
        return self.trained_on if on is None else on.environment.processor(on.device)

    @property
    def trained_on(self) -> str:
        """Name of the processor that trained it: another one trains another parent of a seed."""
        return self.environment.processor(self.cell.device)

    @property
    def timed_by(self) -> str:
        """Fingerprint of the device in whose table it stands; empty if it was timed nowhere yet.

        Without times, a network that was trained by a later release, or with more cells beside it,
        is the same; one of protocol 1 was timed where and when it was trained.
        """
        is_timed = self.timed_on is not None or bool(self.latency) or self.cell.protocol < 2
        return self.runs_on if is_timed else ""

    @property
    def is_timed_where_trained(self) -> bool:
        """Whether its times, if it has any, are those of the kind of processor that trained it."""
        on = self.timed_on
        if on is None:
            return True
        kinds = {name.partition(":")[0] for name in (on.device, self.cell.device)}
        return len(kinds) == 1 and self.processor == self.trained_on


def spent_macs(record: Record, phases: Sequence[Phase]) -> int:
    """Multiply-adds of some phases, forward and backward."""
    return sum(record.spent[phase].macs for phase in phases if phase in record.spent)


def _fits(kept: JsonValue, group: Group) -> bool:
    """Whether a list holds as many different channels of a group as it keeps."""
    if not isinstance(kept, list) or len(kept) != group.kept:
        return False
    channels = [c for c in kept if isinstance(c, int) and 0 <= c < group.size]
    return len({*channels}) == group.kept

"""Records of cells that several machines trained, and timings of their networks on devices."""

from __future__ import annotations

from benchmarks.records.join import network_key
from benchmarks.records.record import Group, Record
from benchmarks.records.runtime import Environment, Latency, fingerprint
from benchmarks.records.timing import Timing
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured
from tests.benchmarks.fabricate import record as made_up_record

ABACUS = ENVIRONMENT.model_copy(update={"workers": 1})
BETA = ABACUS.model_copy(update={"cpu": "Beta 7"})
GPU = ABACUS.model_copy(update={"gpu": "GPU 9", "cpu": "its host"})


def trained(
    method: str = "uniform",
    budget: float = 0.5,
    seed: int = 0,
    *,
    on: Environment = ABACUS,
    kept: int = 4,
    asked: dict[str, object] | None = None,
    **changes: object,
) -> Record:
    """A record of protocol 2, not timed.

    Args:
        method: of the cell.
        budget: of the cell.
        seed: of the cell.
        on: what trained it.
        kept: channels of its first group, which name the network.
        asked: further settings of the cell.
        changes: further fields of the record.
    """
    settings = {"protocol": 2, "latency": Latency(batches=(1, 8)), **(asked or {})}
    made = cell(method, budget, seed, **settings)
    groups = (Group(name="stem", size=8, kept=kept), Group(name="blocks.0", size=16, kept=12))
    fields: dict[str, object] = {
        "cell": made, "groups": groups, "latency": (), "input_size": (3, 8, 8), "num_classes": 10,
        "environment": on, "fingerprint": fingerprint(on, made.device, 1),
    }  # fmt: skip
    return made_up_record(**{**fields, **changes})  # type: ignore[arg-type]


def timing(
    of: Record, ratio: float = 0.5, *, on: Environment = ABACUS, device: str = "cpu"
) -> Timing:
    """A timing of a record's network, `ratio` of its parent's 10 ms at batch 1, half that at 8."""
    return Timing(
        id="x",
        utc="2026-01-02T00:00:00Z",
        network=network_key(of) or "",
        label=of.cell.label,
        device=device,
        latency=(measured(1, ratio), measured(8, ratio / 2)),
        environment=on,
        fingerprint=fingerprint(on, device, 1),
    )

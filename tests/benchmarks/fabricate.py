"""Records made up for tests of what reads records; every number in them is chosen by hand."""

from benchmarks.records.cell import Cell, Data, Model, Schedule
from benchmarks.records.record import Group, PhaseCost, Record, Size, Status, Top1
from benchmarks.records.runtime import Environment, Latency, Measured, Quartiles
from benchmarks.running.suite import PROTOCOL

ENVIRONMENT = Environment(
    python="3.11.0",
    torch="2.11.0",
    timm="1.0.20",
    numpy="2.0.0",
    cpu="Abacus 3000",
    cores=2,
    threads=1,
    workers=2,
    deterministic=False,
    commit="0" * 40,
    dirty=False,
)


def cell(method: str = "uniform", budget: float = 0.5, seed: int = 0, **changes: object) -> Cell:
    """A cell whose network, data and recipes are the same in every call."""
    fields: dict[str, object] = {
        "protocol": 1,
        "model": Model(name="tiny_net"),
        "data": Data(name="digits"),
        "method": method,
        "budget": budget,
        "seed": seed,
        "parent": Schedule(epochs=3),
        "finetune": Schedule(epochs=2),
        "latency": Latency(batches=(1, 8)),
    }
    return Cell.model_validate({**fields, **changes})


TINY = Data(name="digits", image_size=16, train_size=64, search_size=32, test_size=32)
FEW = Schedule(epochs=1, batch_size=32)


def tiny_cell(method: str = "uniform", **changes: object) -> Cell:
    """A cell of the current protocol that runs in a second."""
    fields: dict[str, object] = {
        "protocol": PROTOCOL,
        "model": Model(name="test_resnet"),
        "data": TINY,
        "parent": FEW,
        "finetune": FEW,
        "latency": Latency(batches=(1,), rounds=3, block_ms=0.1, warmup_ms=0.1),
    }
    return cell(method, **{**fields, **changes})  # type: ignore[arg-type]


def measured(batch: int, ratio: float) -> Measured:
    """A parent that takes 10 ms, and a pruned network that takes `ratio` of that."""
    return Measured(
        batch=batch,
        parent_ms=Quartiles(q25=9.0, median=10.0, q75=11.0),
        pruned_ms=Quartiles(q25=9 * ratio, median=10 * ratio, q75=11 * ratio),
        ratio=Quartiles(q25=ratio, median=ratio, q75=ratio),
        control=Quartiles(q25=0.99, median=1.0, q75=1.01),
        passes_per_block=4,
        warmup_passes=8,
        rounds=3,
        dtype="float32",
        memory_format="channels_last",
        threads=1,
        flush_denormal=True,
    )


def record(
    method: str = "uniform",
    budget: float = 0.5,
    seed: int = 0,
    *,
    top1: float = 0.8,
    status: Status = "ok",
    reason: str | None = None,
    **changes: object,
) -> Record:
    """A record of 1,000,000 MACs and 2,000 parameters brought down to the budget exactly."""
    asked = changes.pop("cell", None) or cell(method, budget, seed)
    assert isinstance(asked, Cell)
    budget = asked.budget
    size = Size(full_macs=1_000_000, full_params=2_000, limit=round(budget * 1_000_000))
    fields: dict[str, object] = {
        "id": f"20260101-{asked.label}-{asked.key}",
        "utc": "2026-01-01T12:00:00+00:00",
        "suite": "made_up",
        "cell": asked,
        "status": status,
        "reason": reason,
        "size": size,
        "environment": ENVIRONMENT,
    }
    if status == "ok":
        reached = {"macs": size.limit, "params": round(budget * 2_000)}
        fields |= {
            "size": size.model_copy(update=reached),
            "top1": Top1(parent=0.9, pruned=0.1, recalibrated=0.3, finetuned=top1),
            "spent": {
                "baseline": PhaseCost(images=30, macs_forward=10**12, macs_backward=2 * 10**12),
                "scoring": PhaseCost(images=5, macs_forward=10**12, seconds=1.5),
                "search": PhaseCost(macs_forward=5 * 10**11, seconds=0.5),
                "finetune": PhaseCost(images=20, macs_forward=10**11, macs_backward=2 * 10**11),
            },
            "latency": (measured(1, 0.8), measured(8, 0.5)),
            "groups": (
                Group(name="stem", size=8, kept=4, stage=None),
                Group(name="blocks.0.conv1", size=16, kept=12, stage=0),
            ),
            "seconds": 12.0,
        }
    return Record.model_validate({**fields, **changes})

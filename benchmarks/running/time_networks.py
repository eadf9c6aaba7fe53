"""The phase after all training: measure the runtime of the networks that records tell of.

A network is made again from its record, with weights drawn anew, since time does not depend on
them. One process measures, one pair of networks after the other, and nothing is trained beside it.
Networks that a device has been timed with already are left out, so a second device or a stopped
run costs what is missing. Where something else ran on the processor all the same, the times say so,
stand greyed, and are taken again by the next call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from benchmarks.measuring.environment import capture
from benchmarks.records.cell import Cell, Data, Model, Schedule
from benchmarks.records.files import current_records, read_folder, write_numbered
from benchmarks.records.join import TIMINGS, network_key, read_timings
from benchmarks.records.plain import counted, in_markup
from benchmarks.records.record import Record
from benchmarks.records.runtime import fingerprint
from benchmarks.records.timing import Timing
from benchmarks.records.whole_file import probe, sweep
from benchmarks.running.engine import LocalMachine, Machines, answer
from benchmarks.running.network import unloaded, untrained
from benchmarks.running.plan import Job
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.datasets import Outline
from zoo.core.networks.rebuild import rebuild

__all__ = ["Untimed", "time_networks", "untimed"]


@dataclass(frozen=True)
class Untimed:
    """A record whose networks have no timing on a device yet, and their name."""

    record: Record
    network: str


def untimed(records: Iterable[Record], timings: Sequence[Timing], name: str) -> list[Untimed]:
    """One record for each pair of networks that a device was not timed with, or was disturbed at.

    Args:
        records: of cells; those that no network can be made from are left out.
        timings: what has been measured.
        name: fingerprint of the device.
    """
    done = {
        timing.network
        for timing in timings
        if timing.fingerprint == name and not timing.is_disturbed
    }
    found: dict[str, Untimed] = {}
    for record in current_records(list(records)):
        key = network_key(record)
        if key is not None and key not in done and not record.latency:
            found.setdefault(key, Untimed(record, key))
    return list(found.values())


def time_networks(
    job: Job,
    console: Console,
    machines: Machines | None = None,
    *,
    device: str = "cpu",
    keys: Collection[str] | None = None,
) -> int:
    """Measure what a device was not timed with yet, until the job's time is up.

    Args:
        job: where the records lie, and until when a new pair is begun.
        console: where progress is shown.
        machines: where timings run, one at a time and alone; this one if None.
        device: a torch device.
        keys: of the cells to look at; all if None.

    Returns:
        How many pairs of networks are left.

    Raises:
        OSError: if the results folder cannot be written.
    """
    folder = job.results / TIMINGS
    probe(folder)
    sweep(folder)
    # As they were written: joined to the times of another device they would look timed.
    found = read_folder(job.records, Record).records
    records = [record for record in found if keys is None or record.cell.key in keys]
    timings, _ = read_timings(job.results)
    engine = (machines or LocalMachine()).start(1, is_quiet=True)
    try:
        environment = answer(engine, capture, 1, device)
        todo: list[Untimed] = []
        for threads in sorted({record.cell.latency.threads for record in records}):
            same = [record for record in records if record.cell.latency.threads == threads]
            todo += untimed(same, timings, fingerprint(environment, device, threads))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        if not todo:
            return 0
        left, disturbed = len(todo), 0
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"timing on {device}", total=len(todo))
            for each in todo:
                if job.is_over:
                    break
                try:
                    timing, stem = answer(engine, _time, each, device)
                    write_numbered(folder, stem, timing)
                    left -= 1
                    disturbed += timing.is_disturbed
                except Exception as error:  # one pair's failure is no other's
                    name = in_markup(each.record.cell.label)
                    progress.console.print(
                        f"[red]not timed[/] {name}: {in_markup(str(error), 500)}"
                    )
                progress.advance(task)
        if disturbed:
            console.print(_told_disturbed(disturbed, job))
    finally:
        engine.stop()
    return left


def _told_disturbed(count: int, job: Job) -> str:
    """What to do about timings that were disturbed, in the console's markup."""
    return (
        f"[yellow]disturbed: {counted(count, 'network')}[/]; something else ran on the processor, "
        "so their times are marked. When nothing else runs, take them again: "
        f"zoo time {in_markup(str(job.results))}"
    )


def _time(asked: Untimed, device: str) -> tuple[Timing, str]:
    """In the worker: one pair of networks, from its record to its timing and that one's name."""
    # It loads torch's build tools, which warn where there is no CUDA; workers have silenced them.
    from benchmarks.measuring.measure import measure_pair

    record, cell = asked.record, asked.record.cell
    assert record.input_size is not None and record.num_classes is not None
    channels, height, width = record.input_size
    input_size = (channels, height, width)
    model = cell.model.model_dump_json()
    parent, space = _parent(model, cell.data.name, input_size, record.num_classes)
    config = SubnetConfig.from_json(cast(dict[str, list[int]], record.config or {}))
    pruned = rebuild(parent, space, config)
    runtimes = measure_pair(parent, pruned, input_size, latency=cell.latency, device=device)
    environment = capture(workers=1, device=device)
    timing = Timing(
        id="",
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        network=asked.network,
        label=cell.label,
        device=device,
        environment=environment,
        fingerprint=fingerprint(environment, device, cell.latency.threads),
        **vars(runtimes),
    )
    return timing, f"{timing.utc[:10].replace('-', '')}-{cell.label}-{asked.network}"


@lru_cache(maxsize=1)
def _parent(
    model: str, data: str, input_size: tuple[int, int, int], num_classes: int
) -> tuple[nn.Module, ChannelSpace]:
    """The network of a record, with new weights, and its groups; neighbours share it."""
    cell = Cell(
        protocol=1,
        model=Model.model_validate_json(model),
        data=Data(name=data),
        method="uniform",
        budget=1.0,
        seed=0,
        parent=Schedule(epochs=0),
        finetune=Schedule(epochs=0),
    )
    network = untrained(unloaded(cell), Outline(num_classes, input_size, num_train=0)).eval()
    return network, ChannelSpace.trace(network, input_size)

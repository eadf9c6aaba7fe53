"""What is missing or off in a folder of records that someone hands in.

Every check holds numbers of a record against others that follow from it: costs are counted again
from the kept channels, spending from images and MACs, a ratio of times is held against the times,
and an accuracy is a whole number of answers.
A record that was changed by hand would have to be changed everywhere at once, and its name, which
follows from its settings, still tells of what it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from benchmarks.records.cell import PARENT, REFERENCE, Cell, Data, Model, Schedule
from benchmarks.records.files import current_records, faulty_links
from benchmarks.records.join import read_results
from benchmarks.records.plain import counted, told_budget
from benchmarks.records.record import Phase, PhaseCost, Record
from benchmarks.records.runtime import Environment
from benchmarks.running.network import unloaded, untrained
from benchmarks.running.suite import PROTOCOL
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.datasets import Outline

__all__ = ["Fault", "check_submission"]

BACKWARD = 2
"""Passes forward that a pass backward costs."""

ANSWER = 1e-6
"""How far from a whole number of right answers an accuracy may be, for rounding."""

ROUNDING = 1.05
"""How far a ratio may be beyond what the quartiles allow: of few rounds they lie between two."""


class Fault(NamedTuple):
    """What is off, and where: the id of a record, or the name of a method's row."""

    where: str
    text: str


def check_submission(folder: Path) -> tuple[int, list[Fault]]:
    """Read the records of a folder and look for what is missing or off.

    Args:
        folder: of results, or of records alone.

    Returns:
        The number of records that count, and the faults; none if the folder can be handed in.

    Raises:
        ValueError: if there is no such folder.
        OSError: if the folder cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a folder of results")
    records, unread = read_results(folder)
    copies = current_records(records)  # one for each device that timed it
    current = list({record.id: record for record in copies}.values())
    faults = [Fault(folder.name, line) for line in map(str, unread)]
    if not current:
        faults.append(Fault(folder.name, "no record in it; make some with: zoo run SUITE"))
    faults += [Fault(record.id, text) for record, text in faulty_links(records)]
    faults += dict.fromkeys(Fault(each.id, text) for each in copies for text in _faults_of(each))
    faults += _parents(current)
    faults += _rows(current)
    return len(current), faults


def _faults_of(record: Record) -> Iterator[str]:
    """What is off in one record by itself."""
    cell = record.cell
    if cell.protocol != PROTOCOL:
        yield f"protocol {cell.protocol}; run it anew under protocol {PROTOCOL}"
    date = record.utc[:10].replace("-", "")
    stem = f"{date}-{cell.label}-{cell.key}"
    if record.id != stem and not record.id.startswith(f"{stem}-"):
        yield f"its settings and date are those of {stem}: it was changed after it was written"
    if not _is_committed(record.environment):
        yield "run from a checkout with changes of its own; commit them, then run it anew"
    on = record.timed_on if record.latency else None
    if on is not None and not _is_committed(on.environment):
        yield (
            "timed from a checkout with changes of its own; commit them, take its file out of "
            "timings, then run: zoo time FOLDER"
        )
    if record.status != "ok":
        return
    yield from _missing(record)
    yield from _answers(record)
    yield from _times(record)
    if cell.sample is None:
        yield from _costs(record)
        yield from _spending(record)


def _is_committed(environment: Environment) -> bool:
    return environment.commit is not None and environment.dirty is False


def _missing(record: Record) -> Iterator[str]:
    """Parts of a record that the tables need."""
    parts = {
        "size": record.size, "config": record.config is not None, "groups": record.groups,
        "input_size": record.input_size, "num_classes": record.num_classes,
        "spent": record.spent, "top1.finetuned": record.top1.finetuned is not None,
    }  # fmt: skip
    absent = [name for name, found in parts.items() if not found]
    if absent and record.cell.sample is None:
        yield f"no {', '.join(absent)}"


def _answers(record: Record) -> Iterator[str]:
    """Accuracies that are no whole number of right answers."""
    tested = record.images.get("test")
    if not tested:
        yield "the number of test images is not told"
        return
    for name, share in record.top1:
        if share is not None and abs(share * tested - round(share * tested)) > ANSWER * tested:
            images = counted(tested, "image")
            yield f"top1.{name}, {share}, is no whole number of answers to {images}"


def _times(record: Record) -> Iterator[str]:
    """Ratios of times that the times themselves do not allow."""
    quantized = record.quantized.latency if record.quantized else ()
    for found in (*record.latency, *record.further_latency, *quantized):
        low, high = found.ratio_limits
        if not low / ROUNDING <= found.ratio.median <= high * ROUNDING:
            yield (
                f"at batch {found.batch}, {found.way}, the ratio of times is "
                f"{found.ratio.median:.4g}; its times allow {low:.4g} to {high:.4g}"
            )


def _costs(record: Record) -> Iterator[str]:
    """Costs that differ from a count on the network that the record tells of."""
    if record.size is None or record.config is None or record.input_size is None:
        return
    channels, height, width = record.input_size
    try:
        cost = _cost_model(
            record.cell.model.model_dump_json(), record.cell.data.name,
            (channels, height, width), record.num_classes or 0,
        )  # fmt: skip
        config = SubnetConfig.from_json(cast(dict[str, list[int]], record.config))
        counted = {
            "full_macs": cost.full_macs, "full_params": cost.full_params,
            "macs": cost.macs(config), "params": cost.params(config),
        }  # fmt: skip
    except (ValueError, RuntimeError) as error:
        yield f"its network cannot be made again: {error}"
        return
    for name, number in counted.items():
        told = getattr(record.size, name)
        if told != number:
            yield f"size.{name} is {told:,}, counted from its channels: {number:,}"
    if record.cell.metric == "macs" and counted["macs"] > record.size.limit:
        yield f"{counted['macs']:,} MACs are above its limit of {record.size.limit:,}"


@lru_cache(maxsize=8)
def _cost_model(
    model: str, data: str, input_size: tuple[int, int, int], num_classes: int
) -> CostModel:
    """Of a record's parent; records of one network share it."""
    cell = Cell.model_validate(
        {
            "protocol": PROTOCOL, "model": Model.model_validate_json(model),
            "data": Data(name=data), "method": REFERENCE, "budget": 1.0, "seed": 0,
            "parent": Schedule(epochs=0), "finetune": Schedule(epochs=0),
        }
    )  # fmt: skip
    network = untrained(unloaded(cell), Outline(num_classes, input_size, num_train=0))
    return CostModel(ChannelSpace.trace(network, input_size))


def _spending(record: Record) -> Iterator[str]:
    """Training that does not add up: images by epochs, and MACs by images."""
    size, train = record.size, record.images.get("train")
    if size is None or size.macs is None or not train:
        return
    teacher = size.full_macs if record.cell.distill else 0
    phases: tuple[tuple[Phase, Schedule, int, int], ...] = (
        ("baseline", record.cell.parent, size.full_macs, 0),
        ("finetune", record.cell.last_training, size.macs, teacher),
    )
    for phase, recipe, macs, beside in phases:
        if recipe.patience is not None:  # when it ended, and what judging it cost, follow from none
            continue
        spent = record.spent.get(phase, PhaseCost())
        images = recipe.epochs * (train - train % min(recipe.batch_size, train))
        if spent.images != images:
            trained = counted(recipe.epochs, "epoch")
            yield f"{phase}: {spent.images:,} images; {trained} would take {images:,}"
            continue
        forward, backward = images * (macs + beside), BACKWARD * images * macs
        if (spent.macs_forward, spent.macs_backward) != (forward, backward):
            yield (
                f"{phase}: {spent.macs_forward:,} MACs forward and {spent.macs_backward:,} "
                f"backward, its images cost {forward:,} and {backward:,}"
            )


def _parents(records: Iterable[Record]) -> Iterator[Fault]:
    """Records of one parent that do not agree on its accuracy."""
    first: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.status != "ok" or record.cell.sample is not None:
            continue
        other = first.setdefault((record.cell.parent_key, record.trained_on), record)
        if other.top1.parent != record.top1.parent:
            yield Fault(
                record.id,
                f"its parent has top-1 {record.top1.parent}, in {other.id} {other.top1.parent}",
            )


def _rows(records: Sequence[Record]) -> Iterator[Fault]:
    """Rows whose seeds are not those of uniform width, or that have no control beside them."""
    controls: dict[tuple[object, ...], set[int]] = {}
    rows: dict[tuple[object, ...], set[int]] = {}
    names: dict[tuple[object, ...], str] = {}
    for record in records:
        cell = record.cell
        if cell.sample is not None or cell.method == PARENT:
            continue
        task = (cell.comparison, record.trained_on, cell.metric, cell.budget)
        rows.setdefault((*task, cell.variant), set()).add(cell.seed)
        names[*task, cell.variant] = (
            f"{cell.method} at {told_budget(cell.budget, cell.metric)} on {cell.model.name}"
        )
        if cell.method == REFERENCE and not cell.settings and cell.longer is None:
            controls.setdefault(task, set()).add(cell.seed)
    for row, found in rows.items():
        for text in _seed_faults(found, controls.get(row[:-1])):
            yield Fault(names[row], text)


def _seed_faults(found: set[int], control: set[int] | None) -> Iterator[str]:
    if control is None:
        yield f"no control: run {REFERENCE} at the same budget on this machine"
        return
    if missing := sorted(control - found):
        yield f"seeds {missing} are missing"
    if alone := sorted(found - control):
        yield f"{REFERENCE} has no seeds {alone}"

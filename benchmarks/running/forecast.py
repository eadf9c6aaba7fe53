"""What cells will cost, before they are run and without their data.

Training can be known before: three times a network's MACs for every image and epoch, and a
teacher's once. Searches, methods' own finishes, tests and timing cannot; where records of other
seeds lie in the results folder, their seconds say what whole cells take.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.records.cell import PARENT, REFERENCE, Cell, Schedule
from benchmarks.records.files import current_records, read_folder
from benchmarks.records.plain import asked_budget, counted, in_cell, in_markup
from benchmarks.records.rates import MACS_PER_SECOND, hours, training_macs
from benchmarks.records.record import Record
from benchmarks.running.costs import rules_of
from benchmarks.running.network import unloaded, untrained
from benchmarks.running.plan import Job
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.datasets import Outline, outline
from zoo.core.supernet.blocks import cut_blocks

__all__ = ["HEADINGS", "NetworkCost", "cost_row", "forecast", "forecast_lines", "show_forecast"]

HEADINGS = ("network", "MMACs", "cells", "parents, T", "tuning, T")
"""Of `cost_row`; T are tera-MACs, forward and backward."""


@dataclass(frozen=True)
class NetworkCost:
    """One network of a suite.

    Attributes:
        title: the network and its images.
        macs: of one image.
        cells: that start from it.
        parent_macs: of training its parents, forward and backward; trained ones cost nothing.
        finetune_macs: of the common finish of its cells, at their budgets, a teacher's passes among
            it; what finishes of methods' own cost follows from what they hand on.
        floor: share of the MACs in the smallest legal subnet.
        inner_floor: the same if only channels inside blocks may go; 1 if blocks have none.
        unreachable: budgets below the smallest legal subnet.
    """

    title: str
    macs: int
    cells: int
    parent_macs: int
    finetune_macs: int
    floor: float
    inner_floor: float
    unreachable: tuple[float, ...]


def forecast(cells: Sequence[Cell], cache: Path | None = None) -> list[NetworkCost]:
    """What the trainings of cells will cost, one entry for each network and size of its images.

    Args:
        cells: what is to be run.
        cache: folder of trained parents; those that lie there cost nothing.

    Raises:
        ValueError: if a budget is above a network's cost, or a head does not fit its data.
    """
    by_network: dict[str, list[Cell]] = {}
    for cell in cells:
        by_network.setdefault(_title(cell), []).append(cell)
    costs = []
    for title, group in by_network.items():
        known = outline(group[0].data.name, **_sizes(group[0]))
        if known is not None:
            costs.append(_network_cost(title, group, known, cache))
    return costs


def forecast_lines(
    cells: Sequence[Cell],
    costs: Sequence[NetworkCost],
    workers: int,
    records: Sequence[Record] = (),
) -> list[str]:
    """A forecast in words: hours by a stated rate, seconds of records, floors of the budgets.

    Args:
        cells: what is to be run.
        costs: their `forecast`.
        workers: processes that share the work.
        records: of earlier runs, other seeds of the same cells among them.
    """
    if not cells:
        return []
    lines = _trainings(cells, costs, workers) if costs else []
    unknown = {cell.data.name for cell in cells if outline(cell.data.name) is None}
    lines += [
        f"{name} is known from its files only, so what it costs is not counted."
        for name in sorted(unknown)
    ]
    lines += _from_records(cells, records, workers)
    return lines + [_floors(cost) for cost in costs]


def _trainings(cells: Sequence[Cell], costs: Sequence[NetworkCost], workers: int) -> list[str]:
    """What the trainings cost, what they take at a stated rate, and what comes on top."""
    device = cells[0].device
    own = "methods' own finishes, " if any(map(_may_finish_its_own_way, cells)) else ""
    rate = MACS_PER_SECOND[device.partition(":")[0]] / 1e9
    macs = sum(cost.parent_macs + cost.finetune_macs for cost in costs)
    took = hours(macs, device, workers)
    where = (
        "of one GPU" if device != "cpu" else f"with {counted(workers, 'worker')} on as many cores"
    )
    parents, tuned = (
        _tera(sum(getattr(cost, part) for cost in costs))
        for part in ("parent_macs", "finetune_macs")
    )
    return [
        f"Tera-MACs forward and backward: {parents} for parents, {tuned} for fine-tuning.",
        f"At {rate:,g} GMACs a second: {_duration(took)} {where}. Searches, {own}tests and timing "
        "come on top; what they take cannot be known before.",
    ]


def show_forecast(console: Console, cells: Sequence[Cell], job: Job) -> None:
    """Print the cells that are left to do, and what they will cost.

    Args:
        console: where to.
        cells: what is to be run.
        job: says where trained parents and records lie, and how many workers there are.
    """
    for cell in cells:
        console.print(f"  {cell.key} {in_markup(cell.label)}", highlight=False)
    costs = forecast(cells, job.cache)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(*map(in_cell, cost_row(cost)))
    if costs:
        console.print(table)
    for line in forecast_lines(cells, costs, job.workers, read_folder(job.records, Record).records):
        console.print(in_markup(line, 500), highlight=False)


def cost_row(cost: NetworkCost) -> tuple[str, ...]:
    """The cells of one network's row, in the order of `HEADINGS`."""
    trainings = (_tera(cost.parent_macs), _tera(cost.finetune_macs))
    return (cost.title, f"{cost.macs / 1e6:.4g}", str(cost.cells), *trainings)


def _network_cost(
    title: str, cells: Sequence[Cell], known: Outline, cache: Path | None
) -> NetworkCost:
    model = untrained(unloaded(cells[0]), known)
    space = ChannelSpace.trace(model, known.input_size)
    cost = CostModel(space)
    parents = {cell.parent_key: cell for cell in cells}
    missing = [
        cell
        for cell in parents.values()
        if cache is None or not (cache / cell.parent_file).is_file()
    ]
    least = rules_of(cells[0].rules).minimums(space)
    inner = {name for block in cut_blocks(model, space) for name in block.groups}
    whole = [
        int(width) if group.name in inner else group.size
        for group, width in zip(space.groups, least, strict=True)
    ]
    floor, inner_floor = cost.macs_of_widths([least.tolist(), whole]) / cost.full_macs
    return NetworkCost(
        title=title,
        macs=cost.full_macs,
        cells=len(cells),
        parent_macs=sum(_training(cell.parent, cost.full_macs, known) for cell in missing),
        finetune_macs=sum(
            _training(
                cell.last_training,
                _most_macs(cell, cost),
                known,
                teacher_macs=cost.full_macs if cell.distill else 0,
            )
            for cell in cells
            if not (cell.sample and cell.member is None)  # which scores, and trains nothing
        ),
        floor=float(floor),
        inner_floor=float(inner_floor),
        unreachable=tuple(
            sorted(
                {cell.budget for cell in cells if _most_macs(cell, cost) < floor * cost.full_macs}
            )
        ),
    )


def _training(schedule: Schedule, macs: int, known: Outline, *, teacher_macs: int = 0) -> int:
    """MACs of a whole schedule; an epoch leaves out the images that fill no batch.

    Args:
        schedule: epochs and images of a batch.
        macs: of one image.
        known: of the data.
        teacher_macs: of a teacher's pass for one image, which goes forward only; 0 for none.
    """
    images = known.num_train // schedule.batch_size * schedule.batch_size * schedule.epochs
    return training_macs(macs, images) + teacher_macs * images


def _may_finish_its_own_way(cell: Cell) -> bool:
    """Whether a second training follows if the method hands on weights or a loss."""
    is_control = cell.method in (PARENT, REFERENCE)
    return "own" in cell.finishes and not (is_control or cell.sample or cell.is_redrawn)


def _most_macs(cell: Cell, cost: CostModel) -> int:
    """The most MACs that the budget leaves; of another metric, the same share of the parent's."""
    if cell.metric in ("macs", "params"):
        budget = Budget.parse(cell.budget, cost, metric=cell.metric)
        return round(cost.full_macs * budget.limit / budget.full(cost))
    return round(cost.full_macs * (cell.budget if cell.metric == "latency" else 1))


def _from_records(cells: Sequence[Cell], records: Sequence[Record], workers: int) -> list[str]:
    """What cells took with other seeds, if any did."""
    took: dict[str, list[float]] = {}
    for record in current_records(list(records)):
        if record.status == "ok" and record.seconds:
            took.setdefault(record.cell.variant, []).append(record.seconds)
    known = [took[cell.variant] for cell in cells if cell.variant in took]
    if not known:
        return []
    total = sum(sum(seconds) / len(seconds) for seconds in known) / workers / 3600
    return [
        f"Of {counted(len(known), 'cell')} there are records of other seeds: by their seconds "
        f"{_duration(total)} with {counted(workers, 'worker')}, searches and all but parents in it."
    ]


def _floors(cost: NetworkCost) -> str:
    least = f"{cost.title}: smallest subnet {100 * cost.floor:.1f} % of the MACs"
    if cost.inner_floor < 1:
        least += f", {100 * cost.inner_floor:.1f} % with the interfaces of blocks whole"
    if cost.unreachable:
        least += f"; out of reach of all methods: {', '.join(map(asked_budget, cost.unreachable))}"
    return least + "."


def _duration(taken: float) -> str:
    if taken < 2 / 60:
        return f"{3600 * taken:.0f} seconds"
    return f"{60 * taken:.0f} minutes" if taken < 2 else f"{taken:,.0f} hours"


def _tera(macs: int) -> str:
    return f"{macs / 1e12:.3g}" if macs < 1e15 else f"{macs / 1e12:,.0f}"


def _title(cell: Cell) -> str:
    size = cell.data.image_size
    return f"{cell.model.title}, {cell.data.title}" + (f" {size} px" if size else "")


def _sizes(cell: Cell) -> dict[str, int | None]:
    return cell.data.model_dump(include={"image_size", "train_size", "search_size"})

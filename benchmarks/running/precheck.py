"""Checks of a suite before anything is trained.

A suite is first held against names, types and ranges (`check_suite`), which builds nothing. Then
the networks that are left to run are made once, without weights, and see an empty batch
(`check_cells`): what timm refuses, an image too small for a network, a budget above its cost or
below its smallest subnet, a batch above the training images.
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from benchmarks.records.cell import PARENT, Cell, Data, Schedule
from benchmarks.records.plain import counted
from benchmarks.running.suite import Suite
from benchmarks.running.suite_names import SuiteFaults, name_faults
from benchmarks.running.weights import WeightFiles, check_weights, digested

if TYPE_CHECKING:
    from torch import nn

    from zoo.core.data.datasets import Outline

__all__ = [
    "MOST_CELLS",
    "Sources",
    "check_cells",
    "check_data",
    "check_size",
    "check_suite",
    "name_files",
    "named",
    "outlined",
]


class Sources(Protocol):
    """Where data sets and weights that are read from files lie; `Job` and `Places` say it."""

    @property
    def data(self) -> Path | None:
        """Their folder, if one was given."""

    @property
    def cache(self) -> Path:
        """Where trained parents and operator times are kept."""

    @property
    def is_download_allowed(self) -> bool:
        """Whether sets that can be fetched may be."""

    @property
    def weights(self) -> WeightFiles:
        """Files that parents start from."""


MOST_CELLS = 100_000
"""Of a suite; the largest of the package has some hundreds."""


def check_suite(suite: Suite) -> None:
    """Refuse names that do not exist and numbers that cannot work, all of them at once.

    Args:
        suite: what to run.

    Raises:
        SuiteFaults: with the places in the suite, and the ways out.
    """
    given = suite.model_dump(exclude={"seeds"})
    if faults := [*name_faults(given), *_number_faults(suite)]:
        raise SuiteFaults("", faults)


def _number_faults(suite: Suite) -> Iterator[str]:
    """Numbers of a suite that cannot work, each with its place."""
    from benchmarks.running.costs import rules_of
    from benchmarks.running.parent import recipe_of
    from zoo.core.data.datasets import list_datasets, outline
    from zoo.core.settings import MOST

    sizes = [
        partial(outline, **_sizes(suite.seen_by(model, data)))
        for model, data in product(suite.models, suite.datasets)
        if data.name in list_datasets()
    ]
    checks: list[tuple[str, Callable[[], object]]] = [("", check) for check in sizes]
    checks += [("rules: ", partial(rules_of, suite.rules))]
    checks += [(f"{at}: ", partial(recipe_of, each)) for at, each in _schedules(suite).items()]
    for place, check in checks:
        try:
            check()
        except ValueError as error:
            yield f"{place}{error}"
    for place, number in _whole_numbers(suite.model_dump(exclude={"budgets", "seeds", "datasets"})):
        if number > MOST:
            yield f"{place}: {reprlib.repr(number)} is above {MOST:,}; no run so long would end"


def check_size(suite: Suite, methods: int, scorers: int) -> None:
    """Refuse absurd counts of cells.

    Args:
        suite: what to run.
        methods: how many methods and variants it prunes with.
        scorers: how many score the sample of its ranking.

    Raises:
        ValueError: with the count, and the way out.
    """
    each = len(suite.budgets) * methods
    if suite.ranking is not None:
        each += scorers + suite.ranking.sample.count
    parents = len(suite.models) * len(suite.datasets) * len(suite.seeds)
    if parents * each > MOST_CELLS:
        raise ValueError(
            f"{parents * each:,} cells are asked for, {each:,} for each of {parents:,} networks, "
            f"data sets and seeds; a suite has {MOST_CELLS:,} at most: take fewer seeds or budgets"
        )


def name_files(suite: Suite, path: Path | None) -> Suite:
    """The suite with its data sets and weights named after the content of their files.

    Raises:
        ValueError: if a folder is given and no data set is read from one, if a digest that the
            suite asks for is not that of the folder, or if two files hold the same weights.
        FileNotFoundError: if the folder holds no such data set, or a file of weights is not there.
        OSError: if a file cannot be read.
    """
    check_data(suite.datasets, path)
    datasets = tuple(named(data, path) for data in suite.datasets)
    models = tuple(map(digested, suite.models))
    for place, model in enumerate(models):
        if model in models[:place]:
            raise ValueError(f"{suite.models[place]!r} has the weights of another; take one out")
    return suite.model_copy(update={"datasets": datasets, "models": models})


def check_data(datasets: Sequence[Data], path: Path | None) -> None:
    """Refuse a folder that none of the data sets would be read from.

    Raises:
        ValueError: naming them.
    """
    from zoo.core.data.folders import is_from_files

    if path is not None and not any(is_from_files(data.name) for data in datasets):
        names = ", ".join(dict.fromkeys(data.name for data in datasets))
        raise ValueError(
            f"--data {path} would not be read: {names} is made in memory; add --dataset, such as "
            "imagefolder, or leave --data out"
        )


def named(data: Data, path: Path | None) -> Data:
    """A data set with the digest of its files, where it is read from a folder of images.

    Raises:
        ValueError: if it has another digest already.
        FileNotFoundError: if the folder holds no such data set.
    """
    from zoo.core.data.folders import files_digest

    found = None if path is None else files_digest(data.name, path)
    if found is None:
        return data
    if data.digest not in (None, found):
        raise ValueError(
            f"{path} holds other files than the suite asks for: digest {found}, not {data.digest}"
        )
    return data.model_copy(update={"digest": found})


def check_cells(cells: Sequence[Cell], places: Sources | None = None) -> tuple[str, ...]:
    """Make every network once, pass an empty batch through it, check weights, budgets, batches.

    A network that cannot be pruned is no error here: its records say so, and other cells run. Nor
    is a budget that is too low for some of several networks.

    Args:
        cells: what is to be run.
        places: where the sets and weights lie that are read from files; None to go by what the
            names of sets tell, to leave weights alone, and to time no operators.

    Returns:
        What is made of files of weights beside taking them as they are, and budgets that will be
        recorded as infeasible, a line each.

    Raises:
        ValueError: naming the network, file or data set, what is wrong, and the way out;
            `InfeasibleBudget` for a budget that no network meets, and a network that meets none.
        FileNotFoundError: if files are not there, and may not be fetched.
    """
    from zoo.core.errors import InfeasibleBudget

    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        key = cell.model.model_dump_json(), cell.data.model_dump_json()
        groups.setdefault(key, []).append(cell)
    found = [_check_group(group, places) for group in groups.values()]
    reached = {asked for each in found for asked in each.reached}
    for asked in {asked: None for each in found for asked in each.infeasible}:
        if asked not in reached:
            told = [each.infeasible[asked] for each in found if asked in each.infeasible]
            more = f" (and of {counted(len(told) - 1, 'more network')})" if len(told) > 1 else ""
            raise InfeasibleBudget(f"{told[0]}{more}; nothing was run")
    return tuple(line for each in found for line in (*each.notes, *each.lines))


_Asked = tuple[str, float]
"""What a budget limits, and its number."""


@dataclass(frozen=True)
class _Checked:
    """What came of the cells of one network on one data set.

    Attributes:
        notes: on its weights.
        reached: budgets that its smallest subnet meets, or that could not be checked.
        infeasible: the others, with the reason.
    """

    notes: tuple[str, ...] = ()
    reached: frozenset[_Asked] = frozenset()
    infeasible: Mapping[_Asked, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The budgets that this network alone cannot meet, in words."""
        return [f"{reason}; recorded as infeasible" for reason in self.infeasible.values()]


def _check_group(cells: Sequence[Cell], places: Sources | None) -> _Checked:
    """The same for the cells of one network on one data set.

    Raises:
        ValueError: as `check_cells`.
    """
    from benchmarks.running.network import unloaded, untrained
    from zoo.core.errors import InfeasibleBudget, UnsupportedModel

    cell = cells[0]
    known = outlined(cell.data, places)
    every = frozenset(map(_asked, filter(_is_pruned, cells)))
    if known is None:
        return _Checked(reached=every)
    for each in cells:
        _check_recipes(each, known.num_train)
    try:
        model = untrained(unloaded(cell), known)
    except UnsupportedModel:
        return _Checked(reached=every)
    told = () if places is None else check_weights(cell, model, places.weights)
    _check_image_size(cell, model, known.input_size)
    infeasible = _infeasible(cells, model, known.input_size, places)
    if every and infeasible.keys() == every:
        raise InfeasibleBudget(infeasible[max(every)])
    return _Checked(told, every - infeasible.keys(), infeasible)


def _is_pruned(cell: Cell) -> bool:
    return cell.method != PARENT


def _asked(cell: Cell) -> _Asked:
    return cell.metric, cell.budget


def outlined(data: Data, places: Sources | None) -> "Outline | None":
    """Shape of a data set, from its name or, if it is read from a folder, from its files.

    Args:
        data: the set and how much of it is used.
        places: where files lie; None to look at no files.

    Returns:
        None if only the files would tell and none are looked at.

    Raises:
        ValueError: for an unknown name, or sizes that the set cannot give.
        FileNotFoundError: if files are not there, and may not be fetched.
    """
    from zoo.core.data.datasets import Outline, load_splits, outline
    from zoo.core.data.folders import is_from_files

    known = outline(**_sizes(data))
    may_fetch = places is not None and places.is_download_allowed and known is not None
    if places is None or may_fetch or not is_from_files(data.name):
        return known
    splits = load_splits(path=places.data, **_sizes(data))
    return Outline(splits.num_classes, splits.input_size, len(cast(Sized, splits.train)))


def _check_recipes(cell: Cell, num_train: int) -> None:
    """Refuse a batch that the training images do not fill once, and CUDA graphs without CUDA."""
    import torch

    from zoo.core.training.captured import check_capture

    recipes = {"parent": cell.parent, "finetune": cell.finetune, "scratch": cell.scratch}
    for place, recipe in recipes.items():
        if recipe is None or (place == "parent" and recipe.epochs == 0):
            continue
        if recipe.batch_size > num_train:
            raise ValueError(
                f"{place}: batch_size {recipe.batch_size} is above the "
                f"{counted(num_train, 'training image')} of {cell.data.name}; lower it (of "
                "zoo prune: --batch-size) or add images"
            )
        if recipe.cuda_graph:
            check_capture(torch.device(cell.device), True, place)


def _check_image_size(cell: Cell, model: "nn.Module", input_size: tuple[int, int, int]) -> None:
    """Refuse a network that images of this size cannot pass, in training or evaluation mode."""
    import torch

    from zoo.core.errors import said

    count = min(2, cell.finetune.batch_size)
    try:
        with torch.no_grad():
            model.train()(torch.zeros(count, *input_size))
            model.eval()(torch.zeros(1, *input_size))
    except Exception as error:  # a network is foreign code
        args = f", or other args than {cell.model.args}" if cell.model.args else ""
        raise ValueError(
            f"{cell.model.title} does not run on {counted(count, 'image')} of {input_size[1]} x "
            f"{input_size[2]} pixels of {cell.data.name}: {said(error)}; give "
            f"another image size (image_size, --image-size) or batch{args}"
        ) from error


def _infeasible(
    cells: Sequence[Cell],
    model: "nn.Module",
    size: tuple[int, int, int],
    places: Sources | None,
) -> dict[_Asked, str]:
    """Budgets below the smallest subnet that patterns and rules leave, each with the reason.

    Args:
        cells: of one network on one data set.
        model: the network, on the CPU.
        size: (C, H, W) of an image.
        places: where operator times are kept; None to take none, and to leave latency unchecked.

    Raises:
        ValueError: for a budget above the network's cost, and patterns that mean nothing in it.
    """
    from benchmarks.running.costs import cost_model, rules_of
    from zoo.core.channels.space import ChannelSpace
    from zoo.core.cost.budget import Budget
    from zoo.core.errors import InfeasibleBudget, UnsupportedModel
    from zoo.core.method.problem import require_feasible

    try:
        space = ChannelSpace.trace(model, size)
    except UnsupportedModel:
        return {}
    title = f"{cells[0].model.title} on {cells[0].data.name}"
    distinct = {(_asked(cell), repr(cell.rules)): cell for cell in cells if _is_pruned(cell)}
    found = {}
    try:
        for (asked, _), cell in distinct.items():
            rules = rules_of(cell.rules)
            rules.legal(space)
            if not space.groups or (cell.limits_latency and places is None):
                continue
            folder = None if places is None else places.cache / "latency"
            timed = model.to(cell.device) if cell.limits_latency else model
            cost = cost_model(cell, timed, space, folder)
            budget = Budget.parse(cell.budget, cost, metric=cell.metric)
            try:
                require_feasible(budget, cost, rules)
            except InfeasibleBudget as error:
                found[asked] = f"{title}: {error}"
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from error
    return found


def _whole_numbers(value: object, place: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number in settings, with its place."""
    if isinstance(value, int):
        yield place, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _whole_numbers(inner, f"{place}.{key}".removeprefix("."))
    if isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _whole_numbers(inner, f"{place}.{number}")


def _schedules(suite: Suite) -> dict[str, Schedule]:
    """All recipes of a suite, by their places."""
    found = {"parent": suite.parent, "finetune": suite.finetune}
    for place, variant in enumerate(suite.variants):
        if variant.scratch is not None:
            found[f"variants.{place}.scratch"] = variant.scratch
    if suite.ranking is not None:
        found["ranking.train"] = suite.ranking.train
    return found


def _sizes(data: Data) -> dict[str, Any]:  # Any: a name and numbers
    """The arguments that a data set is outlined and loaded with."""
    return data.model_dump(exclude={"digest"})

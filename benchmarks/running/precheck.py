"""Checks of a suite before anything is trained.

A suite is first held against names, types and ranges (`check_suite`), which builds nothing. Then
the networks that are left to run are made once, without weights, and see an empty batch
(`check_cells`): what timm refuses, an image too small for a network, a budget above its cost, a
batch above the training images.
"""

import reprlib
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from benchmarks.records.cell import Cell, Data, Rules, Schedule
from benchmarks.records.strict import suggest
from benchmarks.running.suite import Suite
from benchmarks.running.weights import WeightFiles, check_weights, digested

if TYPE_CHECKING:
    from torch import nn

    from zoo.core.data.datasets import Outline

__all__ = [
    "MOST_CELLS",
    "Sources",
    "check_cells",
    "check_data",
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
    def is_download_allowed(self) -> bool:
        """Whether sets that can be fetched may be."""

    @property
    def weights(self) -> WeightFiles:
        """Files that parents start from."""


MOST_CELLS = 100_000
"""Of a suite; the largest of the package has some hundreds."""


def check_suite(suite: Suite, methods: int, scorers: int) -> None:
    """Refuse names that do not exist, numbers that cannot work, and absurd counts of cells.

    Args:
        suite: what to run.
        methods: how many methods and variants it prunes with.
        scorers: how many score the sample of its ranking.

    Raises:
        ValueError: with the place in the suite, and the way out.
    """
    from benchmarks.running.network import model_args
    from zoo.core.data.datasets import list_datasets, outline
    from zoo.core.settings import MOST

    each = len(suite.budgets) * methods
    if suite.ranking is not None:
        each += scorers + suite.ranking.sample.count
    parents = len(suite.models) * len(suite.datasets) * len(suite.seeds)
    if parents * each > MOST_CELLS:
        raise ValueError(
            f"{parents * each:,} cells are asked for, {each:,} for each of {parents:,} networks, "
            f"data sets and seeds; a suite has {MOST_CELLS:,} at most: take fewer seeds or budgets"
        )
    for model in suite.models:
        model_args(model)
        for data in suite.datasets:
            if data.name not in list_datasets():
                raise ValueError(
                    f"unknown dataset {data.name!r}; {suggest(data.name, list_datasets())}"
                )
            outline(**_sizes(suite.seen_by(model, data)))
    _check_rules(suite.rules)
    given = suite.model_dump(exclude={"budgets", "seeds", "datasets"})
    for place, number in _whole_numbers(given):
        if number > MOST:
            raise ValueError(
                f"{place}: {reprlib.repr(number)} is above {MOST:,}; no run so long would end"
            )
    for place, schedule in _schedules(suite).items():
        _check_recipe(place, schedule)


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

    A network that cannot be pruned is no error here: its records say so, and other cells run.

    Args:
        cells: what is to be run.
        places: where the sets and weights lie that are read from files; None to go by what the
            names of sets tell, and to leave weights alone.

    Returns:
        What is made of files of weights beside taking them as they are, a line each.

    Raises:
        ValueError: naming the network, file or data set, what is wrong, and the way out.
        FileNotFoundError: if files are not there, and may not be fetched.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        key = cell.model.model_dump_json(), cell.data.model_dump_json()
        groups.setdefault(key, []).append(cell)
    return tuple(line for group in groups.values() for line in _check_group(group, places))


def _check_group(cells: Sequence[Cell], places: Sources | None) -> tuple[str, ...]:
    """The same for the cells of one network on one data set."""
    from benchmarks.running.network import unloaded, untrained
    from zoo.core.errors import UnsupportedModel

    cell = cells[0]
    known = outlined(cell.data, places)
    if known is None:
        return ()
    for each in cells:
        _check_batches(each, known.num_train)
    try:
        model = untrained(unloaded(cell), known)
    except UnsupportedModel:
        return ()
    told = () if places is None else check_weights(cell, model, places.weights)
    _check_image_size(cell, model, known.input_size)
    absolute = [each for each in cells if each.metric in ("macs", "params") and each.budget > 1]
    if absolute or any(each.rules.keep or each.rules.ratios for each in cells):
        _check_control(cells, absolute, model, known.input_size)
    return told


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


def _check_batches(cell: Cell, num_train: int) -> None:
    """Refuse a batch that the training images do not fill once."""
    recipes = {"parent": cell.parent, "finetune": cell.finetune, "scratch": cell.scratch}
    for place, recipe in recipes.items():
        if recipe is None or (place == "parent" and recipe.epochs == 0):
            continue
        if recipe.batch_size > num_train:
            raise ValueError(
                f"{place}: batch_size {recipe.batch_size} is above the {num_train} training images "
                f"of {cell.data.name}; lower it (of zoo prune: --batch-size) or add images"
            )


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
            f"{cell.model.title} does not run on {count} images of {input_size[1]} x "
            f"{input_size[2]} pixels of {cell.data.name}: {said(error)}; give "
            f"another image size (image_size, --image-size) or batch{args}"
        ) from error


def _check_control(
    cells: Sequence[Cell],
    absolute: Sequence[Cell],
    model: "nn.Module",
    size: tuple[int, int, int],
) -> None:
    """Refuse budgets above the network's cost, and patterns that mean nothing in it.

    Args:
        cells: of one network on one data set.
        absolute: those whose budget is a number of what it limits.
        model: the network.
        size: (C, H, W) of an image.

    Raises:
        ValueError: naming the network, what is wrong, and the way out.
    """
    from benchmarks.running.costs import rules_of
    from zoo.core.channels.space import ChannelSpace
    from zoo.core.cost.budget import Budget
    from zoo.core.cost.cost_model import CostModel
    from zoo.core.errors import UnsupportedModel

    try:
        cost = CostModel(ChannelSpace.trace(model, size))
    except UnsupportedModel:
        return
    title = f"{cells[0].model.title} on {cells[0].data.name}"
    distinct = {repr(cell.rules): cell.rules for cell in cells}
    try:
        for cell in absolute:
            Budget.parse(cell.budget, cost, metric=cell.metric)
        for rules in distinct.values():
            rules_of(rules).legal(cost.space)
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from error


def _check_rules(rules: Rules) -> None:
    from benchmarks.running.costs import rules_of

    try:
        rules_of(rules)
    except ValueError as error:
        raise ValueError(f"rules: {error}") from error


def _check_recipe(place: str, schedule: Schedule) -> None:
    from benchmarks.running.parent import recipe_of

    try:
        recipe_of(schedule)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


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

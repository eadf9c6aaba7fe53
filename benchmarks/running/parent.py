"""The trained parent of a cell, from the cache if it was trained before."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.records.cell import Cell, Data, Schedule
from benchmarks.records.record import PhaseCost
from benchmarks.running.kept import parent_checkpoints
from benchmarks.running.methods import MethodFiles
from benchmarks.running.network import seeded, untrained
from benchmarks.running.weights import WeightFiles, start_from_weights
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, Sample
from zoo.core.data.datasets import Splits, load_splits
from zoo.core.data.metered import MeteredBatches
from zoo.core.meter import Meter
from zoo.core.method.shared_search import largest_peaks
from zoo.core.preflight import check_batch
from zoo.core.sealed import read_tensors, set_aside, write_tensors
from zoo.core.training.checkpoint import SECONDS, Checkpoints
from zoo.core.training.early_stopping import Validation
from zoo.core.training.events import Watch
from zoo.core.training.ranks import copy_from_rank_0, decided
from zoo.core.training.train import Recipe, evaluate, train

__all__ = [
    "Parent",
    "Places",
    "fixed_batches",
    "laid_out",
    "look_ahead",
    "parent_for",
    "recipe_of",
    "search_top1",
    "splits_for_all",
    "splits_of",
    "train_batches",
]


_NOBODY = Watch()


@dataclass(frozen=True)
class Places:
    """Folders of a run; they are no part of a record.

    Attributes:
        cache: where trained parents are kept.
        data: where data sets that need files lie, or None.
        is_download_allowed: whether data sets that can be fetched may be.
        weights: files that parents start from.
        methods: files that methods are read from.
        checkpoint_seconds: between two checkpoints of a training.
        loaders: processes that read images of files for a cell.
    """

    cache: Path
    data: Path | None = None
    is_download_allowed: bool = False
    weights: WeightFiles = ()
    methods: MethodFiles = ()
    checkpoint_seconds: float = SECONDS
    loaders: int = 0


@dataclass(frozen=True)
class Parent:
    """A trained network, and what its training cost."""

    model: nn.Module
    cost: PhaseCost


def parent_for(cell: Cell, places: Places, watch: Watch = _NOBODY) -> Parent:
    """The trained parent of a cell, from the cache if it was trained before.

    One with weights from a file starts from them; without epochs they are what it has. A training
    that was cut goes on from its checkpoint. Where several processes train, rank 0 reads and writes
    the files.

    Args:
        cell: says which.
        places: where it is kept, and the data lie.
        watch: who is told of its training.

    Raises:
        ValueError: if the model or data set does not exist or they do not match, or weights do not
            fit the model.
        OSError: if a file cannot be read.
        Diverged: if its loss is not finite.
    """
    splits = splits_for_all(cell, places)
    model = untrained(cell, splits)
    path = places.cache / cell.parent_file
    cost = decided(partial(_load_parent, path, model))
    if cost is None:
        decided(partial(start_from_weights, cell, model, places.weights))
    copy_from_rank_0(model)
    if cost is None:
        look_ahead(cell, cell.parent, model, splits)
        checkpoints = parent_checkpoints(cell, places)
        cost = _train_parent(cell, model, splits, checkpoints, watch)
        decided(partial(_save_parent, path, model, cost))
        decided(checkpoints.remove)
    return Parent(laid_out(model, cell.parent).eval(), cost)


@functools.lru_cache(maxsize=2)
def splits_of(data: Data, seed: int, places: Places) -> Splits:
    """The splits of a data set; cached, since neighbouring cells of a process share them.

    Args:
        data: the set and how much of it is used.
        seed: of the search split and of drawn subsets.
        places: where files lie, and whether they may be fetched.
    """
    sizes = data.model_dump(exclude={"name", "digest"})
    splits = load_splits(
        data.name,
        path=places.data,
        seed=seed,
        download=places.is_download_allowed,
        cache=places.cache / "decoded",
        **sizes,
    )
    return replace(splits, loaders=places.loaders)


def splits_for_all(cell: Cell, places: Places) -> Splits:
    """The splits of a cell's data in every rank; rank 0 may fetch them, before the others look."""
    decided(lambda: bool(splits_of(cell.data, cell.seed, places)))
    return splits_of(cell.data, cell.seed, places)


def look_ahead(cell: Cell, schedule: Schedule, model: nn.Module, splits: Splits) -> None:
    """Refuse a network that cannot process its first training batch, before any work.

    Args:
        cell: whose data they are.
        schedule: says the size of the batch.
        model: the network.
        splits: of the data.

    Raises:
        ValueError: with what was expected.
    """
    batch = next(train_batches(cell, schedule, replace(splits, loaders=0)).epoch(0))
    check_batch(model, batch, f"{cell.data.name}'s training images")


def _train_parent(
    cell: Cell, model: nn.Module, splits: Splits, checkpoints: Checkpoints, watch: Watch
) -> PhaseCost:
    if cell.parent.epochs == 0:
        return PhaseCost()
    meter = Meter(cell.device)
    macs = CostModel(ChannelSpace.trace(model, splits.input_size)).full_macs
    batches = train_batches(cell, cell.parent, splits)
    with meter.phase("baseline"), seeded(cell):
        train(
            model,
            batches,
            recipe_of(cell.parent),
            meter=meter,
            macs_per_image=macs,
            validation=search_top1(cell, splits, meter, macs),
            watch=watch,
            checkpoints=checkpoints,
        )
    largest_peaks(meter)
    return PhaseCost.model_validate(meter.spent["baseline"].to_json())


def search_top1(cell: Cell, splits: Splits, meter: Meter, macs: int) -> Validation:
    """Top-1 on the search split, by which the epochs of a recipe with `patience` are judged.

    Args:
        cell: says size of a batch and device.
        splits: of the data.
        meter: charged for images and passes.
        macs: multiply-adds of the network that is trained, for one image.
    """
    batches = fixed_batches(cell, splits, splits.search)
    metered = MeteredBatches(batches, meter, macs_per_image=macs)
    return Validation(lambda network: evaluate(network, metered))


def _save_parent(path: Path, model: nn.Module, cost: PhaseCost) -> None:
    write_tensors(path, model.state_dict(), {"cost": cost.model_dump_json()})


def _load_parent(path: Path, model: nn.Module) -> PhaseCost | None:
    """Load a parent's weights and what its training cost; None if there is no file that fits."""
    found = read_tensors(path)
    if found is None:
        return None
    tensors, facts = found
    if _forms(tensors) != _forms(model.state_dict()):  # timm's network may change with its release
        set_aside(path, "its tensors are not those of the network")
        return None
    try:
        cost = PhaseCost.model_validate_json(facts.get("cost", ""))
    except ValidationError:
        set_aside(path, "it does not say what its training cost")
        return None
    model.load_state_dict(tensors)
    return cost


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def train_batches(cell: Cell, schedule: Schedule, splits: Splits) -> Batches:
    """Return shuffled training batches, the same ones for every method of a cell's seed.

    Args:
        cell: says seed and device.
        schedule: says the size of a batch.
        splits: of the data.
    """
    return Batches(
        splits.train,
        schedule.batch_size,
        seed=cell.seed,
        shuffle=True,
        drop_last=True,
        device=cell.device,
        workers=splits.loaders,
    )


def fixed_batches(cell: Cell, splits: Splits, dataset: Dataset[Sample]) -> Batches:
    """Return all images of a split in its own order.

    Args:
        cell: says seed, device and the size of a batch.
        splits: of the data.
        dataset: one of them.
    """
    return Batches(
        dataset,
        cell.finetune.batch_size,
        seed=cell.seed,
        device=cell.device,
        workers=splits.loaders,
    )


def recipe_of(schedule: Schedule) -> Recipe:
    """Return the schedule of a record as the recipe that the training loop takes."""
    return Recipe(**schedule.model_dump())


def laid_out(model: nn.Module, schedule: Schedule) -> nn.Module:
    """The network in the memory format of its recipe."""
    if not schedule.channels_last:
        return model
    return model.to(memory_format=torch.channels_last)

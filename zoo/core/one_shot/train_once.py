"""Train a supernet once for all budgets, by all ranks where several processes train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner
from zoo.core.supernet.trained_store import Trained, load_trained, save_trained
from zoo.core.training.ranks import largest, summoned

__all__ = ["train_metered", "train_once"]


def train_once(
    problem: Problem,
    settings: Mapping[str, object],
    train: Callable[[], Trained],
    by: Pruner | None = None,
) -> Trained:
    """A trained supernet, from the problem's store if the same was trained before.

    Its cost is charged to the phase "supernet" either way, and what it traced is traced again; one
    row more says whether it was reused, and under which key, which records of one training share.
    Ranks that wait for this one's decision are summoned to train along, see `OneShot.train_along`.

    Args:
        problem: gives store and meter.
        settings: all that decides the outcome beside parent, data, seed and device; JSON values.
        train: does the work, inside the phase.
        by: the method, which has `train_along`; None to train in rank 0 alone.
    """
    if problem.store is None:
        return train_metered(problem, train, by)
    with problem.store.locked(settings) as path:
        kept = load_trained(path, problem.meter.device)
        if kept is not None:
            trained, spent, rows = kept
            trained = _laid_out(trained, problem.model)
            problem.meter.add("supernet", spent)
            problem.trace_rows += rows
        else:
            trained = _train_and_save(problem, path, train, by)
    problem.trace("supernet", key=path.stem, reused=kept is not None)
    return trained


def _train_and_save(
    problem: Problem, path: Path, train: Callable[[], Trained], by: Pruner | None
) -> Trained:
    """Train into the store; a checkpoint lies beside the file, for whichever cell comes next."""
    before, outer = len(problem.trace_rows), problem.checkpoints
    problem.checkpoints = own = None if outer is None else outer.beside(path)
    try:
        trained = train_metered(problem, train, by)
    finally:
        problem.checkpoints = outer
    spent = problem.meter.spent["supernet"]
    save_trained(path, trained, spent, problem.trace_rows[before:])
    if own is not None:
        own.remove()
    return trained


def train_metered(
    problem: Problem, train: Callable[[], Trained], by: Pruner | None = None
) -> Trained:
    """A supernet trained in its phase, by all ranks together; the peak is the largest of them."""
    with summoned(by, "train_along"):
        with problem.phase("supernet") as spent:
            trained = train()
        spent.peak_bytes = largest(spent.peak_bytes)
    return trained


def _laid_out(trained: Trained, model: nn.Module) -> Trained:
    """A loaded supernet in the memory layout in which it was trained, that of the parent.

    Convolutions of other layouts add in another order: a search would score otherwise by whether it
    trained the supernet or found it.
    """
    own = {name: weight.detach() for name, weight in model.named_parameters()}
    weights = {
        name: torch.empty_like(own[name]).copy_(weight) if name in own else weight
        for name, weight in trained.weights.items()
    }
    return Trained(weights, trained.records)

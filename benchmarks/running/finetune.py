"""Fine-tune a cell's network under its recipe, metered, seeded and kept if it is cut."""

from torch import nn

from benchmarks.records.cell import Cell
from benchmarks.records.record import Phase
from benchmarks.running.network import seeded
from benchmarks.running.parent import recipe_of, search_top1, train_batches
from zoo.core.channels.config import SubnetConfig
from zoo.core.data.datasets import Splits
from zoo.core.method.problem import Problem
from zoo.core.training.train import TrainingLoss, train

__all__ = ["fine_tuned"]


def fine_tuned(
    cell: Cell,
    problem: Problem,
    student: nn.Module,
    config: SubnetConfig,
    splits: Splits,
    loss: TrainingLoss | None,
    *,
    phase: Phase = "finetune",
) -> nn.Module:
    """The network after training, in place, under the cell's recipe.

    Args:
        cell: says recipe and seed.
        problem: gives cost and meter, knows who is told and where checkpoints are kept.
        student: the network.
        config: the channels that it kept.
        splits: of the data; epochs of a recipe with `patience` are judged on the search split.
        loss: None for cross-entropy.
        phase: what is charged.
    """
    meter, macs, recipe = problem.meter, problem.cost.macs(config), recipe_of(cell.last_training)
    validation = search_top1(cell, splits, meter, macs)
    with meter.phase(phase), seeded(cell):
        losses = train(
            student,
            train_batches(cell, cell.last_training, splits),
            recipe,
            loss=loss,
            meter=meter,
            macs_per_image=macs,
            validation=validation,
            watch=problem.watch,
            checkpoints=problem.checkpoints,
        )
    if recipe.patience is not None:  # how far it came; otherwise the recipe says so
        scores, best = validation.scores, validation.best_epoch
        problem.trace(phase, losses=list(losses), scores=scores, best_epoch=best)
    return student.eval()

"""How much a one-shot method trains and scores: what it costs, and what the data ask for."""

from __future__ import annotations

from zoo.core.method.problem import Problem

__all__ = [
    "affordable_evaluations",
    "enough_steps",
    "middle_macs",
    "search_effort",
    "training_effort",
]

ENOUGH_EPOCHS = 10
"""Passes over the training images after which a supernet that starts trained has seen enough."""

LEAST_STEPS = 100

LEAST_EVALUATIONS = 50


def enough_steps(problem: Problem, most: int) -> int:
    """Updates of a supernet that are enough for the data: ten epochs, at least 100 updates.

    Args:
        problem: gives the data.
        most: never more than these.
    """
    return min(most, max(LEAST_STEPS, ENOUGH_EPOCHS * len(problem.data.training)))


def affordable_evaluations(one: int, training: int, most: int) -> int:
    """Candidates that can be scored for what the training costs, at least 50.

    Args:
        one: multiply-adds that it takes to score one.
        training: those of training the supernet.
        most: never more than these.
    """
    return min(most, max(LEAST_EVALUATIONS, training // max(1, one)))


def training_effort(problem: Problem, steps: int, macs_per_image: int) -> int:
    """Multiply-adds of a training.

    Args:
        problem: gives the data.
        steps: updates.
        macs_per_image: multiply-adds of the forward passes for one image of a batch.
    """
    batches = problem.data.training
    images = steps * batches.num_images // len(batches)
    return 3 * images * macs_per_image  # backward counts twice


def search_effort(problem: Problem, count: int, images: int, share: float) -> int:
    """Multiply-adds of scoring.

    Args:
        problem: gives the network.
        count: candidates.
        images: that each is scored with, recalibration included.
        share: multiply-adds of a candidate, as a share of the parent's.
    """
    return round(count * images * share * problem.cost.full_macs)


def middle_macs(problem: Problem) -> tuple[int, int]:
    """Multiply-adds of the narrowest subnet and of one with all groups halfway."""
    least, widest = problem.narrowest, problem.widest
    found = problem.cost.macs_of_widths([least.tolist(), ((least + widest) // 2).tolist()])
    return int(found[0]), int(found[1])

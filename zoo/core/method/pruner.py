"""The interface of every pruner, and what it returns.

A pruner is a frozen dataclass of hyperparameters in a module of its own, in `zoo/` (a method) or
in `baselines/`; the module's name is the pruner's name and the module's docstring is its card.
Nothing is registered: `zoo.core.method.discovery` walks the two folders.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.method.effort import Efforts
from zoo.core.method.planted import Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.settings import check_settings
from zoo.core.training.gradients import guard_against
from zoo.core.training.task import CLASSIFICATION, Task
from zoo.core.training.train import TrainingLoss

__all__ = ["Pruner", "Subnet", "conclude", "missing_packages", "require_packages", "unpruned"]


@dataclass(frozen=True)
class Subnet:
    """What a search decides.

    Attributes:
        config: the kept channels of every group.
        weights: full-size state dict to take values from instead of the parent's, or None.
    """

    config: SubnetConfig
    weights: Mapping[str, Tensor] | None = None


class Pruner(ABC):
    """A channel-pruning method; subclasses are frozen dataclasses of its hyperparameters.

    What a hyperparameter may be is in its annotation, limits included.

    Attributes:
        known_exceptions: contract checks that the class is known to fail, by name, each with its
            reason; `zoo.core.contract.checks` expects exactly these to fail.
        requires: packages beyond those of the library that a search needs, by the name that is
            imported: what is installed.
    """

    known_exceptions: ClassVar[Mapping[str, str]] = {}
    requires: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        guard_against(cls)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Refuse settings that cannot work, as the pruner is made.

        Raises:
            ValueError: with the setting and what it may be.
        """
        check_settings(self)

    @abstractmethod
    def search(self, problem: Problem) -> Subnet:
        """Decide which channels stay; the problem's model is read-only.

        Raises:
            InfeasibleBudget: if no legal subnet fits the budget.
        """

    def loss(
        self,
        teacher: nn.Module,
        student: nn.Module,
        space: ChannelSpace,
        config: SubnetConfig,
        task: Task = CLASSIFICATION,
    ) -> TrainingLoss | None:
        """Loss to fine-tune the rebuilt student with, or None for the task's loss alone.

        Args:
            teacher: the unpruned parent.
            student: the rebuilt network.
            space: the parent's channel groups.
            config: the channels that the student kept.
            task: gives the loss of outputs and targets, label smoothing included.
        """
        del teacher, student, space, config, task
        return None

    def check_task(self, task: Task, space: ChannelSpace) -> None:
        """Refuse a task that the method cannot serve, before any work.

        Args:
            task: with a loss of its own, or cross-entropy.
            space: the parent's channel groups.

        Raises:
            UnsupportedModel: with the way out.
        """
        del space
        way_out = self.comparing()
        if way_out and not task.is_comparable:
            raise UnsupportedModel(f"{task.incomparable} {type(self).__name__} compares: {way_out}")

    def comparing(self) -> str:
        """What to do where no outputs can be compared with a teacher's; "" if none need be."""
        return ""

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """What the method expects of some configurations; higher is better.

        Only the order counts. What a supernet or a teacher's features cost is charged.

        Raises:
            NotImplementedError: if the method compares no configurations.
        """
        del problem, configs
        raise NotImplementedError(f"{type(self).__name__} scores no configurations")

    def effort(self, problem: Problem) -> Efforts:
        """What a search of this problem will cost, about, by phase; empty if it is next to nothing.

        Args:
            problem: nothing of it is spent.
        """
        del problem
        return {}

    def scaled(self, problem: Problem, given: Collection[str]) -> Self:
        """The same method with as much effort as the data ask for, in settings that nobody gave.

        Args:
            problem: gives network and data; nothing of it is spent.
            given: names of settings that stay as they are.
        """
        del problem, given
        return self

    @classmethod
    def can_score(cls) -> bool:
        """Whether the method has `scores`."""
        return cls.scores is not Pruner.scores

    @classmethod
    def tiny(cls) -> Self:
        """Settings small enough for the contract."""
        return cls()

    @classmethod
    def golden(cls) -> Golden:
        """A fixed tiny problem with one right answer, by default the planted one."""
        return planted_golden()


def missing_packages(cls: type[Pruner]) -> tuple[str, ...]:
    """What a class needs to search and is not installed, by the names that are installed."""
    return tuple(
        package for name, package in cls.requires.items() if importlib.util.find_spec(name) is None
    )


def require_packages(cls: type[Pruner]) -> None:
    """Refuse a pruner whose packages are not installed.

    Raises:
        ValueError: naming them, and the command that installs them.
    """
    if missing := missing_packages(cls):
        raise ValueError(
            f"{cls.__module__.rpartition('.')[2]} needs {', '.join(missing)}, which "
            f"{'are' if missing[1:] else 'is'} not installed: pip install "
            f"{' '.join(missing)} (or pip install -e '.[peers]')"
        )


def unpruned(problem: Problem) -> Subnet | None:
    """Open a search: the whole network where the budget allows it, else None.

    Raises:
        InfeasibleBudget: if even the smallest legal subnet is over budget.
    """
    problem.check_feasible()
    return conclude(problem, SubnetConfig.full()) if problem.is_full else None


def conclude(
    problem: Problem, config: SubnetConfig, weights: Mapping[str, Tensor] | None = None
) -> Subnet:
    """End a search: trace the configuration and its cost as the last row.

    Args:
        problem: what was asked.
        config: the channels to keep.
        weights: full-size state dict to take values from instead of the parent's, by name.

    Returns:
        The decision.
    """
    problem.trace(
        "result",
        config=config.to_json(),
        macs=problem.cost.macs(config),
        params=problem.cost.params(config),
    )
    return Subnet(config, weights)

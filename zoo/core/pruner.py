"""The interface of every pruner, what it returns, and how pruners are found.

A pruner is a frozen dataclass of hyperparameters in a module of its own, in `zoo/` (a method) or
in `baselines/`; the module's name is the pruner's name and the module's docstring is its card.
Nothing is registered: `list_pruners` walks the two folders.
"""

import importlib
import inspect
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from zoo.core.config import SubnetConfig
from zoo.core.errors import unknown_name
from zoo.core.planted import Golden, planted_golden
from zoo.core.problem import Problem
from zoo.core.settings import Range, check_settings
from zoo.core.space import ChannelSpace
from zoo.core.train import TrainingLoss

__all__ = [
    "CARD_HEADINGS",
    "Kind",
    "Pruner",
    "Subnet",
    "card",
    "card_steps",
    "conclude",
    "create_pruner",
    "get_pruner",
    "kind_of",
    "list_pruners",
    "pruners_of",
]

CARD_HEADINGS = ("Paper", "Idea", "Steps", "Deviations", "Unknowns", "Cost", "Names")

Kind = Literal["method", "baseline"]

_PACKAGES: Mapping[str, Kind] = {"zoo": "method", "baselines": "baseline"}


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

    Attributes:
        known_exceptions: contract checks that the class is known to fail, by name, each with its
            reason; `zoo.core.checks` expects exactly these to fail.
        ranges: what numbers settings may be, by name; types follow from the annotations.
    """

    known_exceptions: ClassVar[Mapping[str, str]] = {}
    ranges: ClassVar[Mapping[str, Range]] = {}

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Refuse settings that cannot work, as the pruner is made.

        Raises:
            ValueError: with the setting and what it may be.
        """
        check_settings(self, self.ranges)

    @abstractmethod
    def search(self, problem: Problem) -> Subnet:
        """Decide which channels stay; the problem's model is read-only.

        Raises:
            InfeasibleBudget: if no legal subnet fits the budget.
        """

    def loss(
        self, teacher: nn.Module, student: nn.Module, space: ChannelSpace
    ) -> TrainingLoss | None:
        """Loss to fine-tune the rebuilt `student` with, or None for plain cross-entropy."""
        del teacher, student, space
        return None

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """What the method expects of some configurations; higher is better.

        Only the order counts. What a supernet or a teacher's features cost is charged.

        Raises:
            NotImplementedError: if the method compares no configurations.
        """
        del problem, configs
        raise NotImplementedError(f"{type(self).__name__} scores no configurations")

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


def conclude(
    problem: Problem, config: SubnetConfig, weights: Mapping[str, Tensor] | None = None
) -> Subnet:
    """End a search: the returned subnet, with the config and its cost as the last trace row."""
    problem.trace(
        "result",
        config=config.to_json(),
        macs=problem.cost.macs(config),
        params=problem.cost.params(config),
    )
    return Subnet(config, weights)


@cache
def _discovered() -> dict[str, type[Pruner]]:
    """Pruner classes by name: the one public Pruner that each module of the folders defines."""
    found: dict[str, type[Pruner]] = {}
    for package_name in _PACKAGES:
        package = importlib.import_module(package_name)
        for info in pkgutil.iter_modules(package.__path__):
            if info.ispkg or info.name.startswith("_"):
                continue
            classes = pruners_of(importlib.import_module(f"{package_name}.{info.name}"))
            if len(classes) > 1 or (classes and info.name in found):
                raise ImportError(f"more than one pruner is named {info.name!r}; split the module")
            if classes:
                found[info.name] = classes[0]
    return found


def pruners_of(module: ModuleType) -> tuple[type[Pruner], ...]:
    """The public pruner classes that a module itself defines."""
    return tuple(
        cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls)
        and issubclass(cls, Pruner)
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
        and not name.startswith("_")
    )


def list_pruners(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of all pruners in alphabetical order, methods first; of one `kind` if given."""
    names = sorted(_discovered(), key=lambda name: (kind_of(get_pruner(name)) != "method", name))
    return tuple(name for name in names if kind in (None, kind_of(get_pruner(name))))


def get_pruner(name: str) -> type[Pruner]:
    """The class of a pruner.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
    """
    found = _discovered()
    if name not in found:
        raise unknown_name("pruner", name, found)
    return found[name]


def kind_of(cls: type[Pruner]) -> Kind:
    """What a class counts as: a method in `zoo/`, a baseline in `baselines/` or elsewhere."""
    return _PACKAGES.get(cls.__module__.partition(".")[0], "baseline")


def create_pruner(name: str, **settings: object) -> Pruner:
    """A pruner with some hyperparameters changed from their defaults.

    Raises:
        ValueError: for an unknown name or setting, with the nearest ones, or a setting that
            cannot work.
    """
    cls = get_pruner(name)
    known = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise unknown_name(f"setting of {name}", setting, known)
    try:
        return cls(**settings)
    except ValueError as error:
        raise ValueError(f"settings of {name}: {error}") from error


def card(cls: type[Pruner]) -> dict[str, str]:
    """The card in the docstring of the pruner's module, by heading.

    Raises:
        ValueError: if a heading is missing, empty, repeated or out of order.
    """
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    pattern = rf"^({'|'.join(CARD_HEADINGS)}):"
    _, *parts = re.split(pattern, text, flags=re.MULTILINE)
    headings = tuple(parts[0::2])
    if headings != CARD_HEADINGS:
        raise ValueError(
            f"the card of {cls.__module__} has the headings {headings}; "
            f"it needs exactly {CARD_HEADINGS}, in this order"
        )
    bodies = {
        name: inspect.cleandoc(body) for name, body in zip(headings, parts[1::2], strict=True)
    }
    for heading, body in bodies.items():
        if not body:
            raise ValueError(f"the card of {cls.__module__} says nothing under {heading}")
    return bodies


def card_steps(cls: type[Pruner]) -> tuple[str, ...]:
    """The numbered steps of the card.

    Raises:
        ValueError: if the steps are not numbered 1, 2, ... or the card does not parse.
    """
    parts = re.split(r"^(\d+)\. ", card(cls)["Steps"], flags=re.MULTILINE)
    numbers = [int(number) for number in parts[1::2]]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"the steps in the card of {cls.__module__} are numbered {numbers}")
    return tuple(" ".join(body.split()) for body in parts[2::2])

"""What leaves a network keeps its channels, however it is wrapped or hidden."""

from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel

SIZE = (3, 8, 8)
CLASSES = 10


@dataclass
class Output:
    logits: Tensor
    rest: list[object] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    logits: Tensor


class Custom:
    def __init__(self, logits: Tensor) -> None:
        self._hidden = {"a": [logits]}
        self.myself = self


class Slots:
    __slots__ = ("logits", "unset")

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Mangled:
    __slots__ = ("__logits",)

    def __init__(self, logits: Tensor) -> None:
        self.__logits = logits


class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: a dictionary whose items are attributes, too."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits


class Labelled(Tensor):
    """A subclass, which is another object for the same storage."""


class Unpacked:
    """An iterable that makes its parts when asked, from something that cannot be looked into."""

    def __init__(self, logits: Tensor) -> None:
        self.get = memoryview(b"").tobytes
        self.parts = {"closed": _closed_over(logits)}


def _closed_over(logits: Tensor) -> object:
    class Holder:
        @property
        def value(self) -> Tensor:
            return logits

    return Holder()


Pair = namedtuple("Pair", ["logits", "features"])
STASH: dict[str, Any] = {}


def attached(logits: Tensor) -> Tensor:
    other = logits.new_zeros(())
    other.logits = logits  # type: ignore[attr-defined]
    return other


def stashed(logits: Tensor) -> Tensor:
    STASH["logits"] = logits
    return logits.new_zeros(())


WRAPPERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x,),
    "named tuple": lambda x: Pair(x, None),
    "nested": lambda x: {"a": [{"b": (1, "text", None, deque([x]))}]},
    "set": lambda x: {x},
    "dataclass": Output,
    "dataclass in a list": lambda x: [Output(torch.zeros(()), [Output(x)])],
    "slotted dataclass": Slotted,
    "custom class": Custom,
    "slots": Slots,
    "mangled slots": Mangled,
    "namespace": lambda x: SimpleNamespace(out=SimpleNamespace(logits=x)),
    "model output": ModelOutput,
    "distribution": lambda x: torch.distributions.Categorical(logits=x, validate_args=False),
    "attribute of a tensor": attached,
    "subclass": lambda x: x.as_subclass(Labelled),
    "data": lambda x: x.data,
    "detached view": lambda x: x.detach().view(-1),
    "closure of a property": Unpacked,
    "global": stashed,
    "storage": lambda x: x.untyped_storage(),
}


class Wrapped(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, CLASSES)
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.head(self.stem(images).mean((2, 3))))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_is_returned_keeps_its_channels(kind: str) -> None:
    space = ChannelSpace.trace(Wrapped(WRAPPERS[kind]), SIZE)
    STASH.clear()
    assert {g.name: g.size for g in space.groups} == {"stem": 6}
    assert [(p.where, p.channels) for p in space.pinned] == [("head", CLASSES)]


def twice(x: Tensor) -> Any:
    yield x
    yield x


LATER: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "generator": (twice, "a generator"),
    "expression": (lambda x: {"aux": (y for y in (x,))}, r"a generator as \['aux'\]"),
    "map": (lambda x: map(torch.relu, [x]), "a map"),
    "function": (lambda x: lambda: x.relu(), "a function"),
    "partial": (lambda x: [partial(torch.relu, x)], r"a partial as \[0\]"),
    "in an object": (lambda x: SimpleNamespace(late=iter([x])), "a list_iterator as late"),
}


@pytest.mark.parametrize("kind", LATER)
def test_what_does_its_work_later_is_refused_by_its_type(kind: str) -> None:
    wrap, message = LATER[kind]
    with pytest.raises(UnsupportedModel, match=message):
        ChannelSpace.trace(Wrapped(wrap), SIZE)


class KeptOnSelf(nn.Module):
    """An auxiliary output that a loss reads from the network, and one deep in a child's list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.aux = nn.Linear(6, 7)
        self.mid = nn.Conv2d(6, 4, 1)
        self.more = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, CLASSES)
        self.child = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        self.aux_logits = self.aux(features.mean((2, 3)))
        middle = self.mid(features)
        self.child.seen = [{"map": middle.relu()}]
        return self.head(self.more(middle).mean((2, 3)))


def test_what_a_module_keeps_after_the_pass_is_an_output() -> None:
    space = ChannelSpace.trace(KeptOnSelf(), SIZE)
    assert {g.name for g in space.groups} == {"stem", "more"}
    reasons = {p.where: p.reason for p in space.pinned}
    assert reasons["head"] == "output of the network"
    assert reasons["aux"].startswith("kept after the pass")


def test_circles_of_references_are_no_outputs() -> None:
    class Circle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 1)
            self.head = nn.Linear(6, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            features: list[Any] = [self.stem(images)]
            features.append(features)
            return self.head(features[0].mean((2, 3)))

    assert {g.name for g in ChannelSpace.trace(Circle(), SIZE).groups} == {"stem"}

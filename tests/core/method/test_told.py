"""What is given is told apart by what it does, and the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.method.told import told


def defined(source: str, **names: Any) -> Any:
    """The value that a script calls `it`, as a process has it that runs this script."""
    space = {"torch": torch, "F": F, "nn": nn, "__name__": "script", **names}
    exec(source, space)
    return space["it"]


@dataclass
class Weighted:
    weight: float
    error: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weight * self.error(outputs, targets)


class Scaled:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weight * F.l1_loss(outputs, targets)


LOOP = "def it(a, n=3):\n    return a if n == 0 else it(a, n - {})\n"
INNER = "def it(a):\n    return [(lambda: x {} 2)() for x in a]\n"
HELPED = "def helper(a):\n    return a {} 1\ndef it(a):\n    return helper(a)\n"
ATTRIBUTES = "class Own:\n    def __call__(self, a):\n        return a {} 1\nit = Own()\n"

PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "code": (lambda: defined("it = lambda a: a + 1"), lambda: defined("it = lambda a: a - 1")),
    "constant": (lambda: defined("it = lambda a: a + 1"), lambda: defined("it = lambda a: a + 2")),
    "name": (
        lambda: defined("it = lambda a, b: F.l1_loss(a, b)"),
        lambda: defined("it = lambda a, b: F.mse_loss(a, b)"),
    ),
    "inner code": (lambda: defined(INNER.format("+")), lambda: defined(INNER.format("*"))),
    "recursion": (lambda: defined(LOOP.format(1)), lambda: defined(LOOP.format(3))),
    "helper": (lambda: defined(HELPED.format("+")), lambda: defined(HELPED.format("-"))),
    "default": (lambda: defined("it = lambda a=1: a"), lambda: defined("it = lambda a=2: a")),
    "keyword": (lambda: defined("it = lambda *, a=1: a"), lambda: defined("it = lambda *, a=2: a")),
    "number": (
        lambda: defined("it = lambda a: a * w", w=1),
        lambda: defined("it = lambda a: a * w", w=2),
    ),
    "closure": (lambda: of(torch.ones(2)), lambda: of(torch.zeros(2))),
    "inner closure": (lambda: of(of(1)), lambda: of(of(2))),
    "list": (lambda: of([1, {"a": 2}]), lambda: of([1, {"a": 3}])),
    "partial": (lambda: partial(F.l1_loss, reduction="sum"), lambda: partial(F.l1_loss)),
    "method": (lambda: Scaled(1).__call__, lambda: Scaled(2).__call__),
    "dataclass": (lambda: Weighted(1, F.l1_loss), lambda: Weighted(1, F.mse_loss)),
    "object": (lambda: Scaled(1), lambda: Scaled(2)),
    "call": (lambda: defined(ATTRIBUTES.format("+")), lambda: defined(ATTRIBUTES.format("-"))),
    "module": (
        lambda: nn.CrossEntropyLoss(torch.ones(2)),
        lambda: nn.CrossEntropyLoss(2 * torch.ones(2)),
    ),
    "setting": (lambda: nn.CrossEntropyLoss(), lambda: nn.CrossEntropyLoss(label_smoothing=0.1)),
    "builtin": (lambda: torch.add, lambda: torch.sub),
}


def of(value: Any) -> Callable[[Any], Any]:
    return lambda other: (value, other)


@pytest.mark.parametrize("kind", PAIRS)
def test_what_does_something_else_is_told_apart(kind: str) -> None:
    one, other = PAIRS[kind]
    assert told(one()) == told(one())  # made anew
    assert told(one()) != told(other())


def test_lines_and_calls_change_nothing() -> None:
    plain = defined("def it(a):\n    return a + 1\n")
    before = told(plain)
    for number in range(1000):  # Python adapts its code to what it has seen
        plain(number)
    assert told(plain) == before
    assert told(defined("import os\n\n\ndef it(a):\n\n    return a + 1  # more\n")) == before


SCRIPT = """
import torch
from functools import partial
from torch import nn
from torch.nn import functional as F
from zoo.core.method.told import told

def make(loss, weights):
    return lambda a, b: loss(a, b) if a.kind in {"one", "two", "three", "four"} else weights

class Own:
    def __init__(self, names):
        self.names, self.other = names, object()
    def __call__(self, a, b):
        return make(a, b)

names = {"red", "green", "blue", "black"}
given = make(F.cross_entropy, torch.ones(3)), Own(names), nn.L1Loss(), partial(F.l1_loss, b=names)
for each in given:
    print(told(each))
"""


def test_another_process_tells_the_same() -> None:
    def run(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first = run("1")
    assert len(set(first.split())) == 4 and run("2") == first

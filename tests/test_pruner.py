"""Finding pruners, creating them, and reading their cards."""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from zoo.core.method.card import CARD_HEADINGS, card, card_steps
from zoo.core.method.discovery import create_pruner, get_pruner, kind_of, list_pruners, pruners_of
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet

SEVEN = {"knapsack", "uniform", "random_search", "l1_norm", "bn_scale", "taylor", "fpgm"}


def test_walk_finds_the_pruners_of_both_folders() -> None:
    assert set(list_pruners()) >= SEVEN
    assert "knapsack" in list_pruners("method") and "knapsack" not in list_pruners("baseline")
    kinds = (list_pruners(kind) for kind in ("method", "baseline", "peer"))
    assert list_pruners() == tuple(name for names in kinds for name in names)


def test_kind_follows_from_the_folder() -> None:
    assert kind_of(get_pruner("knapsack")) == "method"
    assert kind_of(get_pruner("uniform")) == "baseline"


def test_settings_reach_the_pruner() -> None:
    assert create_pruner("random_search", samples=7) == get_pruner("random_search")(samples=7)


@pytest.mark.parametrize(
    ("name", "settings", "nearest"),
    [
        ("knapsak", {}, "knapsack"),
        ("Taylor", {}, "taylor"),
        ("knapsack", {"gama": 1}, "gamma"),
        ("bn_scale", {"epoch": 1}, "epochs"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, settings: dict[str, int], nearest: str) -> None:
    with pytest.raises(ValueError, match=nearest):
        create_pruner(name, **settings)


@pytest.mark.parametrize("name", list_pruners())
def test_card_says_something_under_every_heading(name: str) -> None:
    assert tuple(card(get_pruner(name))) == CARD_HEADINGS
    assert len(card_steps(get_pruner(name))) >= 2


@pytest.mark.parametrize("name", list_pruners())
def test_the_file_of_a_pruner_shows_its_own_search(name: str) -> None:
    assert "search" in vars(get_pruner(name))


def pruner_with_card(text: str) -> type[Pruner]:
    """A pruner class in a module of its own with that docstring."""
    module = ModuleType("carded", text)

    @dataclass(frozen=True)
    class Carded(Pruner):
        def search(self, problem: Problem) -> Subnet:
            raise NotImplementedError

    Carded.__module__ = "carded"
    module.Carded = Carded  # type: ignore[attr-defined]
    sys.modules["carded"] = module
    return Carded


@pytest.fixture(autouse=True)
def no_module_left() -> object:
    yield
    sys.modules.pop("carded", None)


BODIES = dict.fromkeys(CARD_HEADINGS, "text") | {"Steps": "\n    1. `a`: x\n    2. `b`: y"}


def card_text(bodies: dict[str, str]) -> str:
    return "Title.\n\n" + "\n\n".join(f"{heading}: {body}" for heading, body in bodies.items())


def test_steps_are_read_in_order_with_their_continuation_lines() -> None:
    steps = "\n    1. `a`: first\n       goes on\n    2. `b`: second"
    cls = pruner_with_card(card_text(BODIES | {"Steps": steps}))
    assert card_steps(cls) == ("`a`: first goes on", "`b`: second")


@pytest.mark.parametrize("heading", CARD_HEADINGS)
def test_missing_heading_is_refused(heading: str) -> None:
    bodies = {name: body for name, body in BODIES.items() if name != heading}
    with pytest.raises(ValueError, match="headings"):
        card(pruner_with_card(card_text(bodies)))


def test_empty_heading_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknowns"):
        card(pruner_with_card(card_text(BODIES | {"Unknowns": ""})))


def test_headings_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        card(pruner_with_card(card_text(dict(reversed(BODIES.items())))))


def test_steps_numbered_wrongly_are_refused() -> None:
    with pytest.raises(ValueError, match="numbered"):
        card_steps(pruner_with_card(card_text(BODIES | {"Steps": "\n    1. `a`\n    3. `b`"})))


def test_module_offers_only_the_pruners_it_defines() -> None:
    cls = pruner_with_card(card_text(BODIES))
    module = sys.modules["carded"]
    module.Imported = get_pruner("uniform")  # type: ignore[attr-defined]
    assert pruners_of(module) == (cls,)

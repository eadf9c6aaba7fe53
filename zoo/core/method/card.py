"""The card of a method: its module's docstring, read by headings."""

from __future__ import annotations

import inspect
import re

from zoo.core.method.pruner import Pruner

__all__ = ["CARD_HEADINGS", "card", "card_steps"]


CARD_HEADINGS = ("Paper", "Idea", "Steps", "Deviations", "Unknowns", "Cost", "Names")


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
            f"the card of {cls.__name__} has the headings {headings}; "
            f"it needs exactly {CARD_HEADINGS}, in this order"
        )
    bodies = {
        name: inspect.cleandoc(body) for name, body in zip(headings, parts[1::2], strict=True)
    }
    for heading, body in bodies.items():
        if not body:
            raise ValueError(f"the card of {cls.__name__} says nothing under {heading}")
    return bodies


def card_steps(cls: type[Pruner]) -> tuple[str, ...]:
    """The numbered steps of the card.

    Raises:
        ValueError: if the steps are not numbered 1, 2, ... or the card does not parse.
    """
    parts = re.split(r"^(\d+)\. ", card(cls)["Steps"], flags=re.MULTILINE)
    numbers = [int(number) for number in parts[1::2]]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"the steps in the card of {cls.__name__} are numbered {numbers}")
    return tuple(" ".join(body.split()) for body in parts[2::2])

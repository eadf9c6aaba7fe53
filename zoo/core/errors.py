"""The errors of the library: each says what, where, and what to do instead."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable

__all__ = ["Diverged", "InfeasibleBudget", "UnsupportedModel", "said", "unknown_name"]


_SHOWN = 8  # names, where none is near


class InfeasibleBudget(ValueError):
    """No legal configuration of the network meets the budget."""


class UnsupportedModel(ValueError):
    """The network cannot be pruned correctly; the message names the module."""


class Diverged(RuntimeError):
    """A training loss became NaN or infinite; the message names the step."""


def said(error: BaseException) -> str:
    """What somebody else's exception says, in a line; of a wordless assertion, what it asserts."""
    text = str(error).split("\n")[0].rstrip(".")
    if " " in text:
        return text
    # torch's own assertions are made in `_assert`, which says nothing of what they are about.
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name != "_assert"]
    line = frames[-1].line if frames and not text else text
    return f"{type(error).__name__}: {line}".removesuffix(": ")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """An error for a name that does not exist, with the nearest ones, or some if none is near.

    Args:
        kind: what was looked up, such as `"dataset"`.
        name: the name that was asked for.
        known: every name that exists.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    nearest = [
        lowered[match] for match in difflib.get_close_matches(name.lower(), list(lowered), n=3)
    ]
    if nearest:
        return ValueError(
            f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, nearest))}?"
        )
    listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return ValueError(f"unknown {kind} {name!r}; known: {listed or 'none'}")

"""The errors of the library: each says what, where, and what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["Diverged", "InfeasibleBudget", "UnsupportedModel", "first_line", "unknown_name"]


class InfeasibleBudget(ValueError):
    """No legal configuration of the network meets the budget."""


class UnsupportedModel(ValueError):
    """The network cannot be pruned correctly; the message names the module."""


class Diverged(RuntimeError):
    """A training loss became NaN or infinite; the message names the step."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for half a sentence; its type where it says nothing."""
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """An error for a name that does not exist, with the nearest ones that do.

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
    hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else "no name is close."
    listed = ", ".join(names) if names else "none"
    return ValueError(f"unknown {kind} {name!r}; {hint} Known: {listed}")

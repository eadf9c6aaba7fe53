"""Bounds on what groups keep: which groups a pattern means, and which widths it leaves them.

A pattern is a glob, as in a shell, over the names of groups and over module paths. A module means
all groups whose channels it, or a part of it, makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from zoo.core.channels.channel_group import PRODUCERS, ChannelGroup, Member
from zoo.core.errors import unknown_name

__all__ = ["WORDS", "Bound", "Ratio", "bounded_widths", "fewest", "found_groups", "parse_ratio"]

Ratio = float | tuple[float, float]
"""A keep ratio that is kept exactly, or the lowest and the highest."""

WORDS: Mapping[str, Callable[[ChannelGroup], bool]] = MappingProxyType(
    {"stem": lambda group: group.stage == 0, "skips": lambda group: group.residual}
)
"""What a pattern stands for beside globs, where nothing is called so: the first stage as timm
counts them, and the streams that additions join."""

_ROUNDING = 1e-9  # of a product with a ratio, see `fewest`


@dataclass(frozen=True)
class Bound:
    """The keep ratios that a pattern allows the groups it means.

    Attributes:
        pattern: see the module.
        low, high: lowest and highest keep ratio; if equal, the legal width nearest to it is meant.
        told: the bound in words, for messages.
    """

    pattern: str
    low: float
    high: float
    told: str

    @classmethod
    def keep(cls, pattern: str) -> Bound:
        """Every channel stays."""
        return cls(pattern, 1.0, 1.0, f"keep {pattern!r}")

    @classmethod
    def of_ratio(cls, pattern: str, ratio: Ratio) -> Bound:
        """The bound of an exact ratio, or of the lowest and the highest."""
        low, high = ratio if isinstance(ratio, tuple) else (ratio, ratio)
        text = f"{low:g}" if low == high else f"{low:g}:{high:g}"
        return cls(pattern, low, high, f"ratio {pattern!r} = {text}")

    def allowed(self, legal: Sequence[int], size: int) -> tuple[int, ...]:
        """Those of a group's legal widths that the bound leaves, ascending.

        Args:
            legal: ascending, at least one.
            size: channels of the group.
        """
        if self.low == self.high:  # of two that are as near, the wider
            return (min(legal, key=lambda width: (abs(width - self.low * size), -width)),)
        low = fewest(self.low, size)
        high = math.floor(self.high * size + _ROUNDING)
        return tuple(width for width in legal if low <= width <= high)


def fewest(ratio: float, size: int) -> int:
    """The smallest number of channels that is at least a share of a group's."""
    # 0.07 * 100 is 7.000000000000001, whose ceiling would be 8.
    return math.ceil(ratio * size - _ROUNDING)


def parse_ratio(given: object) -> Ratio:
    """The ratio that a number, a pair, or a text stands for.

    Args:
        given: 0.8 keeps exactly that share, (0.5, 0.9) from a half to nine tenths; as text "0.8",
            "0.5:0.9", "0.5:" for at least and ":0.9" for at most.

    Raises:
        ValueError: if it is none of these, or not within 0 to 1.
    """
    try:
        ends = _ends(given)
    except (TypeError, ValueError):
        ends = ()
    # NaN is within no range.
    if len(ends) != 2 or not (0 <= ends[0] <= ends[1] <= 1 and ends[1] > 0):
        raise ValueError(
            f"{given!r} is no ratio of what is kept; give 0.8 for exactly that, or the lowest and "
            "the highest within 0 to 1: (0.5, 0.9), in a file [0.5, 0.9], as text 0.5:0.9"
        )
    low, high = ends
    return low if low == high else (low, high)


def _ends(given: object) -> tuple[float, ...]:
    if isinstance(given, str):
        low, colon, high = given.partition(":")
        return (float(low or 0), float(high or 1)) if colon else (float(low),) * 2
    if isinstance(given, int | float) and not isinstance(given, bool):
        return (float(given),) * 2
    if isinstance(given, Sequence) and not any(isinstance(end, bool | str) for end in given):
        return tuple(float(end) for end in given)
    return ()


def found_groups(pattern: str, groups: Sequence[ChannelGroup]) -> tuple[int, ...]:
    """Ordinals of the groups that a pattern means; none if it matches nothing."""
    found = [i for i, g in enumerate(groups) if any(fnmatchcase(n, pattern) for n in _names(g))]
    if not found and pattern in WORDS:
        found = [i for i, group in enumerate(groups) if WORDS[pattern](group)]
    return tuple(found)


def bounded_widths(
    groups: Sequence[ChannelGroup], legal: Sequence[tuple[int, ...]], bounds: Sequence[Bound]
) -> tuple[tuple[int, ...], ...]:
    """The widths of every group that all bounds on it allow, ascending; the tighter bound wins.

    Args:
        groups: of the network.
        legal: widths of each group that are legal without bounds, ascending.
        bounds: on what is kept.

    Raises:
        ValueError: if a pattern matches nothing, with the nearest names; if a bound, or two of
            them together, leave a group no width.
    """
    on_group: list[list[Bound]] = [[] for _ in groups]
    for bound in bounds:
        for ordinal in _groups_meant(bound.pattern, groups):
            on_group[ordinal].append(bound)
    return tuple(map(_common, groups, legal, on_group))


def _groups_meant(pattern: str, groups: Sequence[ChannelGroup]) -> tuple[int, ...]:
    found = found_groups(pattern, groups)
    if not found:
        words = [word for word in WORDS if found_groups(word, groups)]
        known = {name for group in groups for name in _names(group)}
        raise unknown_name("channel group or module", pattern, known.union(words))
    return found


def _names(group: ChannelGroup) -> Iterator[str]:
    """The names that a pattern may match: of the group, its makers, and what holds them."""
    yield group.name
    for member in group.members:
        path = member.tensor.rpartition(".")[0] if _makes(member) else ""
        while path:
            yield path
            path = path.rpartition(".")[0]


def _makes(member: Member) -> bool:
    return member.role in PRODUCERS


def _common(
    group: ChannelGroup, legal: tuple[int, ...], bounds: Sequence[Bound]
) -> tuple[int, ...]:
    """The widths that all bounds on a group allow."""
    if not bounds:
        return legal
    allowed = [bound.allowed(legal, group.size) for bound in bounds]
    for bound, widths in zip(bounds, allowed, strict=True):
        if not widths:
            raise ValueError(
                f"{bound.told} leaves group {group.name!r} of {group.size} channels no legal "
                f"width; those near it are {_nearest(legal, bound, group.size)}: widen the bounds, "
                "or change min_keep or divisor"
            )
    common = tuple(width for width in legal if all(width in widths for widths in allowed))
    if not common:  # then two of them exclude each other, since each leaves a run of widths
        one, other = next(
            (bounds[i], bounds[j])
            for j in range(len(bounds))
            for i in range(j)
            if not set(allowed[i]) & set(allowed[j])
        )
        makers = dict.fromkeys(m.tensor.rpartition(".")[0] for m in group.members if _makes(m))
        raise ValueError(
            f"{one.told} and {other.told} leave group {group.name!r} of {group.size} channels no "
            f"common width; change one of them. What makes these channels: {', '.join(makers)}"
        )
    return common


def _nearest(legal: Sequence[int], bound: Bound, size: int) -> str:
    below = [width for width in legal if width < bound.low * size]
    above = [width for width in legal if width > bound.high * size]
    return " and ".join(map(str, [*below[-1:], *above[:1]]))

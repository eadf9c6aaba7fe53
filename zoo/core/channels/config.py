"""SubnetConfig: which channels of every group stay. WidthRules: which widths are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import lt
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from zoo.core.arguments import check_argument, fields_checked
from zoo.core.channels.channel_group import ChannelGroup
from zoo.core.channels.width_bounds import Bound, Ratio, bounded_widths, fewest, parse_ratio
from zoo.core.errors import unknown_name
from zoo.core.settings import check_settings

__all__ = ["HasGroups", "SubnetConfig", "WidthRules"]


class HasGroups(Protocol):
    """Anything with channel groups, such as a space."""

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The prunable groups, in order of execution."""


@dataclass(frozen=True)
class SubnetConfig:
    """The kept channels of every channel group; a value that can be hashed and compared.

    Args:
        keep: kept channel indices by group name, each strictly ascending. Groups left out keep all
            their channels.

    Raises:
        ValueError: if an entry is empty, negative, or not strictly ascending.
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keep = {name: tuple(map(int, self.keep[name])) for name in sorted(self.keep)}
        for name, kept in keep.items():
            if not kept:
                raise ValueError(f"group {name!r} keeps no channel; keep at least one")
            if kept[0] < 0 or not all(map(lt, kept, kept[1:])):
                raise ValueError(
                    f"group {name!r}: kept channels must be unique, ascending and not negative, "
                    f"got {kept[:8]}{'...' if len(kept) > 8 else ''}"
                )
        object.__setattr__(self, "keep", keep)

    def __hash__(self) -> int:
        return hash(tuple(self.keep.items()))

    @classmethod
    def full(cls) -> SubnetConfig:
        """Return the configuration that keeps everything."""
        return cls({})

    @classmethod
    def from_widths(cls, space: HasGroups, widths: Mapping[str, int]) -> SubnetConfig:
        """Return the configuration that keeps the first ``widths[name]`` channels of each group.

        Raises:
            TypeError: if a width is no whole number.
            ValueError: if a group is unknown or a width is outside 1 to the group's size.
        """
        keep = {}
        check_argument("widths", widths, Mapping)
        sizes = {group.name: group.size for group in space.groups}
        for name, width in widths.items():
            if name not in sizes:
                raise unknown_name("channel group", name, sizes)
            size = sizes[name]
            if not isinstance(width, int):  # of numpy, too
                check_argument(f"width of {name!r}", width, int)
            if not 1 <= width <= size:
                raise ValueError(f"group {name!r}: width {width} is outside 1 to {size}")
            keep[name] = tuple(range(int(width)))
        return cls(keep)

    def indices(self, group: ChannelGroup) -> tuple[int, ...]:
        """Return the kept channels of ``group``, all of them if it is not mentioned."""
        return self.keep.get(group.name, tuple(range(group.size)))

    def widths(self, space: HasGroups) -> np.ndarray:
        """Return the kept count of each group, int64, shape (G,), in the order of the space."""
        # Not by `indices`, which makes a tuple of every group that is full.
        return np.array(
            [len(self.keep[g.name]) if g.name in self.keep else g.size for g in space.groups],
            dtype=np.int64,
        )

    def check(self, space: HasGroups) -> None:
        """Raise ``ValueError`` if a group is unknown to ``space`` or a channel out of range."""
        sizes = {group.name: group.size for group in space.groups}
        for name, kept in self.keep.items():
            if name not in sizes:
                raise unknown_name("channel group", name, sizes)
            if kept[-1] >= sizes[name]:
                raise ValueError(
                    f"group {name!r}: channel {kept[-1]} does not exist, it has {sizes[name]}"
                )

    def to_json(self) -> dict[str, list[int]]:
        """Return a JSON value from which ``from_json`` makes an equal configuration."""
        return {name: list(kept) for name, kept in self.keep.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, list[int]]) -> SubnetConfig:
        """Return the configuration that ``to_json`` wrote."""
        check_argument("value", value, Mapping)
        return cls({name: tuple(kept) for name, kept in value.items()})


@fields_checked
@dataclass(frozen=True)
class WidthRules:
    """Which widths a search may give a group: at least a floor, a multiple of a divisor, in bounds.

    The full width of a group is allowed unless a bound excludes it, also where it is no multiple of
    the divisor.

    Args:
        min_keep: smallest keep ratio of a group, above 0 and at most 1. The default protects a
            tenth of every group, as the benchmark of Torch-Pruning does.
        divisor: widths are multiples of this many channels.
        keep: patterns of groups that are never pruned: globs over names of groups and over module
            paths, "stem" or "skips" (see `zoo.core.channels.width_bounds`).
        ratios: keep ratios by pattern: a number keeps the legal width nearest to that share, of two
            as near the wider; a pair holds the lowest and the highest. Where patterns meet in a
            group, it keeps to all of them.

    Raises:
        ValueError: if a value is outside its limits, or a ratio is below ``min_keep``.
    """

    min_keep: Annotated[float, Field(gt=0, le=1)] = 0.1
    divisor: Annotated[int, Field(ge=1)] = 1
    keep: tuple[str, ...] = ()
    ratios: Mapping[str, Ratio] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)
        if not isinstance(self.ratios, Mapping):
            raise ValueError(
                f"ratios is {self.ratios!r}; give some by pattern, {{'layer1.*': 0.8}}"
            )
        ratios = {pattern: parse_ratio(ratio) for pattern, ratio in self.ratios.items()}
        object.__setattr__(self, "ratios", ratios)
        for bound in self.bounds:
            if bound.high < self.min_keep:
                raise ValueError(f"{bound.told} is below min_keep, {self.min_keep}; lower min_keep")

    def __hash__(self) -> int:
        return hash((self.min_keep, self.divisor, self.keep, tuple(sorted(self.ratios))))

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What the patterns ask for, in their order."""
        kept = [Bound.keep(pattern) for pattern in self.keep]
        return (*kept, *(Bound.of_ratio(*each) for each in self.ratios.items()))

    @property
    def narrow(self) -> bool:
        """Whether a ratio asks for less than the whole of something; then no budget is needed."""
        return any(bound.high < 1 for bound in self.bounds)

    def without(self, bound: Bound) -> WidthRules:
        """The same rules less one bound."""
        keep = tuple(p for p in self.keep if Bound.keep(p) != bound)
        ratios = {p: r for p, r in self.ratios.items() if Bound.of_ratio(p, r) != bound}
        return replace(self, keep=keep, ratios=ratios)

    def steps(self, size: int) -> tuple[int, ...]:
        """Return the legal widths of a group of ``size`` channels that has no bounds, ascending."""
        floor = max(1, fewest(self.min_keep, size))
        minimum = min(size, -(-floor // self.divisor) * self.divisor)
        return (*range(minimum, size, self.divisor), size)

    def legal(self, space: HasGroups) -> tuple[tuple[int, ...], ...]:
        """Return all legal widths of every group, ascending and never 0.

        Raises:
            ValueError: if a pattern matches nothing, or bounds leave a group no width.
        """
        steps = [self.steps(group.size) for group in space.groups]
        return bounded_widths(space.groups, steps, self.bounds)

    def minimums(self, space: HasGroups) -> np.ndarray:
        """Return the smallest legal width of every group, int64, shape (G,)."""
        return np.array([widths[0] for widths in self.legal(space)], dtype=np.int64)

    def allow_whole(self, space: HasGroups) -> bool:
        """Whether the network may stay as it is, if its cost is no concern."""
        pairs = zip(self.legal(space), space.groups, strict=True)
        return all(widths[-1] == group.size for widths, group in pairs)

    def check(self, space: HasGroups, config: SubnetConfig) -> None:
        """Raise ``ValueError`` if ``config`` does not fit ``space`` and these rules."""
        config.check(space)
        chosen = config.widths(space).tolist()
        for group, width, legal in zip(space.groups, chosen, self.legal(space), strict=True):
            steps = self.steps(group.size)
            if width < steps[0]:
                raise ValueError(
                    f"group {group.name!r} keeps {width} of {group.size} channels, below the "
                    f"minimum of {steps[0]}; lower min_keep ({self.min_keep})"
                )
            if width not in steps:
                raise ValueError(
                    f"group {group.name!r}: width {width} is no multiple of {self.divisor}"
                )
            if width not in legal:
                raise ValueError(
                    f"group {group.name!r} keeps {width} of {group.size} channels; its bounds "
                    f"allow {legal[0]} to {legal[-1]}"
                )

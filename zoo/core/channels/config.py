"""SubnetConfig: which channels of every group stay. WidthRules: which widths are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import lt
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from zoo.core.channels.channel_group import ChannelGroup
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
            ValueError: if a group is unknown or a width is outside 1 to the group's size.
        """
        keep = {}
        sizes = {group.name: group.size for group in space.groups}
        for name, width in widths.items():
            if name not in sizes:
                raise unknown_name("channel group", name, sizes)
            size = sizes[name]
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
        return cls({name: tuple(kept) for name, kept in value.items()})


@dataclass(frozen=True)
class WidthRules:
    """Which widths a search may give a group: at least a floor, and a multiple of a divisor.

    The full width of a group is always allowed, also where it is no multiple of the divisor.

    Args:
        min_keep: smallest keep ratio of a group, above 0 and at most 1. The default protects a
            tenth of every group, as the benchmark of Torch-Pruning does.
        divisor: widths are multiples of this many channels.
    """

    min_keep: Annotated[float, Field(gt=0, le=1)] = 0.1
    divisor: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        check_settings(self)

    def minimum(self, size: int) -> int:
        """Return the smallest legal width of a group of ``size`` channels, never 0."""
        # 0.07 * 100 is 7.000000000000001, whose ceiling would be 8.
        floor = max(1, int(np.ceil(self.min_keep * size - 1e-9)))
        return min(size, -(-floor // self.divisor) * self.divisor)

    def minimums(self, space: HasGroups) -> np.ndarray:
        """Return the smallest legal width of every group, int64, shape (G,)."""
        return np.array([self.minimum(group.size) for group in space.groups], dtype=np.int64)

    def legal(self, size: int) -> tuple[int, ...]:
        """Return all legal widths of a group of ``size`` channels, ascending."""
        steps = range(self.minimum(size), size, self.divisor)
        return (*steps, size)

    def round(self, width: int, size: int) -> int:
        """Return the largest legal width at most ``width``, or the minimum if there is none."""
        if width >= size:
            return size
        return max(self.minimum(size), width // self.divisor * self.divisor)

    def check(self, space: HasGroups, config: SubnetConfig) -> None:
        """Raise ``ValueError`` if ``config`` does not fit ``space`` and these rules."""
        config.check(space)
        for group, width in zip(space.groups, config.widths(space).tolist(), strict=True):
            if width < self.minimum(group.size):
                raise ValueError(
                    f"group {group.name!r} keeps {width} of {group.size} channels, below the "
                    f"minimum of {self.minimum(group.size)}; lower min_keep ({self.min_keep})"
                )
            if width != group.size and width % self.divisor:
                raise ValueError(
                    f"group {group.name!r}: width {width} is no multiple of {self.divisor}"
                )

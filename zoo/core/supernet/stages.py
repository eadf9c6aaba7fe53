"""Stages: contiguous parts of a network, cut where one tensor goes from module to module.

A stage fed with the full network's features can be trained and scored alone. Groups that lie in one
stage are *inner*; a group made in one stage and read in the next is at the *junction* of the two;
groups that reach further are held at full width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

from torch import Tensor, nn

from zoo.core.channels.channel_group import PRODUCERS, ChannelGroup
from zoo.core.channels.channel_table import is_in
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.inputs import Inputs
from zoo.core.errors import UnsupportedModel
from zoo.core.supernet.module_chain import Call, inner_groups, read_links
from zoo.core.supernet.supernet import Supernet

__all__ = ["MOST_STAGES", "Stage", "StageRunner", "cut_stages", "free_names", "stage_costs"]

MOST_STAGES = 4
"""Stages where no number is asked for: with more, junctions that stay wide leave little free."""


@dataclass(frozen=True)
class Stage:
    """Modules that run one after the other.

    Attributes:
        modules: module paths in order of execution; the whole network is ``("",)``.
        inner: names of the groups that lie wholly in them.
        junction: names of the groups that it makes, and that only it and the next stage read.
    """

    modules: tuple[str, ...]
    inner: tuple[str, ...]
    junction: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """Path of the module that returns the stage's output."""
        return self.modules[-1]


def cut_stages(
    model: nn.Module, space: ChannelSpace, count: int | None = None
) -> tuple[Stage, ...]:
    """Cut a network into stages, each with inner groups; the last one ends with the logits.

    Cuts lie where timm's ``feature_info`` ends a stage. If there are too many
    cuts, minimise the costliest stage; if there are too few, the costliest stage is cut between its
    blocks, as evenly as can be.

    Args:
        model: the network that ``space`` was traced from; not touched.
        space: its channel groups.
        count: number of stages; None for as many as ``feature_info`` gives, at most `MOST_STAGES`,
            and for one where the network is no chain.

    Raises:
        ValueError: if the network cannot be cut into so many stages.
        UnsupportedModel: if it is no chain of modules, so that it cannot be cut at all.
    """
    if count is not None and count < 1:
        raise ValueError(f"stages is {count}; it must be at least 1")
    whole = (Stage(("",), tuple(group.name for group in space.groups)),)
    if count == 1 or (space.part and count is None):
        return whole
    if space.part:
        raise UnsupportedModel(
            f"a part of {type(model).__name__} alone is pruned, {space.part!r}, which is searched "
            "as one stage; use stages=1"
        )
    chain, root, counts = read_links(model, space.size)
    broken = _broken(chain, root, counts)
    if broken:
        if count is None:
            return whole
        raise UnsupportedModel(
            f"{type(model).__name__} is no chain of modules at {broken!r}: it cannot be cut into "
            "stages; use stages=1"
        )
    cutter = _Cutter(space, tuple(link.path for link in chain))
    cuts = cutter.cuts(count)
    return cutter.stages(cuts) if cuts else whole


def free_names(stages: Sequence[Stage], is_junction_free: bool) -> tuple[str, ...]:
    """Names of the groups that may be narrowed: the inner ones, and those at junctions if free."""
    return tuple(
        name
        for stage in stages
        for name in (*stage.inner, *(stage.junction if is_junction_free else ()))
    )


def stage_costs(space: ChannelSpace, stage: Stage) -> CostModel:
    """The cost model of a stage's layers alone; only its multiply-adds mean anything."""
    products = tuple(p for p in space.table.products if is_in(f"{p[0]}.", stage.modules))
    return CostModel(replace(space, table=replace(space.table, products=products)))


class StageRunner:
    """Runs the stages of subnets, each on features of the full network. Nothing is charged.

    Args:
        supernet: of the network.
        stages: as `cut_stages` returns them.
    """

    def __init__(self, supernet: Supernet, stages: Sequence[Stage]) -> None:
        self.supernet = supernet
        self.stages = tuple(stages)

    def features(
        self, images: Inputs, values: Mapping[str, Tensor], *, training: bool
    ) -> list[Any]:
        """F_0 to F_K of the full network: the images, the outputs of the stages, its own last.

        Where a part of the network is pruned, the last is an `Answer`.

        Args:
            images: shape (N, C, H, W), or other inputs.
            values: parameters and buffers of the full network.
            training: use batch statistics, and update those in ``values``.
        """
        full = SubnetConfig.full()
        found = [images]
        for index in range(len(self.stages)):
            found.append(self._left(index, found[-1], full, values, training=training))
        return found

    def _left(
        self,
        index: int,
        entering: Any,
        config: SubnetConfig,
        values: Mapping[str, Tensor],
        *,
        training: bool,
    ) -> Any:
        """What leaves a stage: an `Answer` where a part of the network is pruned."""
        if self.supernet.space.part:  # one stage, which is the whole network
            return self.supernet.answer(entering, config, values, training=training)
        modules = self.stages[index].modules
        return self.supernet.through(modules, entering, config, values, training=training)

    def output(
        self,
        index: int,
        entering: Any,
        config: SubnetConfig,
        values: Mapping[str, Tensor],
        *,
        training: bool,
    ) -> Any:
        """G_k: what a stage of a subnet makes of the full network's features.

        Args:
            index: of the stage.
            entering: F_(k-1), shape (N, C, H, W), with all channels; those that the subnet lacks
                are left out.
            config: what is kept.
            values: the subnet's parameters and buffers, at least those of the stage.
            training: use batch statistics, and update those in ``values``.

        Returns:
            The stage's output, with the channels that the subnet keeps; see `features`.
        """
        narrow = self.narrowed(index, entering, config)
        return self._left(index, narrow, config, values, training=training)

    def narrowed(self, index: int, features: Any, config: SubnetConfig) -> Any:
        """Select the channels that a subnet keeps from what enters a stage; logits stay whole.

        Args:
            index: of the stage that the features enter; the number of stages for the logits.
            features: F_k of the full network, shape (N, C, H, W), its inputs or its outputs.
            config: what is kept.
        """
        if not 0 < index < len(self.stages):
            return features
        _, axis = self.supernet.space.table.outputs[self.stages[index - 1].output]
        return features if axis is None else self.supernet.kept(config).select(features, 1, axis)


@dataclass(frozen=True)
class _Cutter:
    """Chooses cuts; a cut is the number of links before it."""

    space: ChannelSpace
    paths: tuple[str, ...]

    def cuts(self, count: int | None) -> tuple[int, ...]:
        given = self._given()
        if count is None:
            count = min(MOST_STAGES, len(given) + 1)
        if count - 1 <= len(given):
            choices = combinations(given, count - 1)  # few: feature_info names five stages or so
            return min((c for c in choices if self._is_sound(c)), key=self._costliest)
        cuts = given
        while len(cuts) < count - 1:
            cuts = self._split(cuts)
        return cuts

    def stages(self, cuts: Sequence[int]) -> tuple[Stage, ...]:
        parts = list(self._parts(cuts))
        inner = [inner_groups(self.space, modules) for modules in parts]
        names = [tuple(group.name for group in groups) for groups in inner]
        junctions = [*(self._junction(a, b) for a, b in pairwise(parts)), ()]
        return tuple(Stage(*each) for each in zip(parts, names, junctions, strict=True))

    def _given(self) -> tuple[int, ...]:
        """Cuts of feature_info, without those that would leave a stage empty."""
        cuts: tuple[int, ...] = ()
        for end in self.space.stages:
            inside = [i for i, path in enumerate(self.paths, 1) if is_in(f"{path}.", (end,))]
            if inside and self._is_sound((*cuts, inside[-1])):
                cuts = (*cuts, inside[-1])
        return cuts

    def _parts(self, cuts: Sequence[int]) -> Iterator[tuple[str, ...]]:
        for start, end in pairwise((0, *cuts, len(self.paths))):
            yield self.paths[start:end]

    def _is_sound(self, cuts: Sequence[int]) -> bool:
        """Whether every stage has inner groups, and every cut is at the output of one tensor."""
        outputs = self.space.table.outputs
        return all(self.paths[cut - 1] in outputs for cut in cuts) and all(
            inner_groups(self.space, modules) for modules in self._parts(cuts)
        )

    def _split(self, cuts: tuple[int, ...]) -> tuple[int, ...]:
        """One cut more, in the costliest stage that can be cut, as evenly as can be."""
        tried = [tuple(sorted({*cuts, at})) for at in range(1, len(self.paths))]
        sound = [new for new in tried if len(new) > len(cuts) and self._is_sound(new)]
        if not sound:
            raise ValueError(
                f"the network has at most {len(cuts) + 1} stages with channels of their own; "
                f"lower stages to {len(cuts) + 1} or less"
            )
        return min(sound, key=self._sorted_costs)

    def _sorted_costs(self, cuts: Sequence[int]) -> list[int]:
        return sorted(
            (
                stage_costs(self.space, Stage(modules, ())).full_macs
                for modules in self._parts(cuts)
            ),
            reverse=True,
        )

    def _costliest(self, cuts: Sequence[int]) -> int:
        return self._sorted_costs(cuts)[0]

    def _junction(self, made: Sequence[str], read: Sequence[str]) -> tuple[str, ...]:
        both = (*made, *read)
        inner = {g.name for modules in (made, read) for g in inner_groups(self.space, modules)}
        return tuple(
            group.name
            for group in inner_groups(self.space, both)
            if group.name not in inner and _is_made_in(group, made)
        )


def _is_made_in(group: ChannelGroup, modules: Sequence[str]) -> bool:
    return all(is_in(m.tensor, modules) for m in group.members if m.role in PRODUCERS)


def _broken(chain: Sequence[Call], root: Call, counts: Mapping[str, int]) -> str | None:
    """Path of the first module that is not fed by the one before it alone; None for a chain."""
    before = root.entered
    for link in chain:
        if before is None or link.entered != before or counts[link.path] > 1:
            return link.path
        before = link.left
    return None if before == root.left else chain[-1].path

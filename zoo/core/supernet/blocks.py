"""Blocks: parts of a network with fixed interfaces, whose inner channels can go independently.

The network is read as a chain of modules, from one pass on the meta device: a module that only
hands the output of each part to the next is taken apart, unless all its parameters are one block
for timm's ``group_matcher``. What is left are residual units, inverted residuals and single layers.
A link of the chain in which whole channel groups lie is a block; the layers between blocks form
plain runs, which end at a pooling layer, and such a run is a block if whole groups lie in it.

The groups that lie in a block are read and written by nobody else, so its input and output keep
their widths, and its cost depends on its own widths alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.channels.channel_group import ChannelGroup
from zoo.core.channels.channel_table import is_in
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import Inputs, call, mapped
from zoo.core.supernet.module_chain import Call, inner_groups, read_links
from zoo.core.supernet.supernet import Supernet, run_through

__all__ = ["Block", "BlockRunner", "block_macs", "check_interfaces", "cut_blocks"]


@dataclass(frozen=True)
class Block:
    """Modules that run one after the other, and the channel groups that lie wholly in them.

    Attributes:
        modules: module paths in order of execution; the whole network is ``("",)``.
        coordinates: names of the inner groups that shrink together, one tuple per free width. A
            group that lies in a gate on another group's channels follows that group.
    """

    modules: tuple[str, ...]
    coordinates: tuple[tuple[str, ...], ...]

    @property
    def output(self) -> str:
        """Path of the module that returns the block's output."""
        return self.modules[-1]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all inner groups."""
        return tuple(name for names in self.coordinates for name in names)


def cut_blocks(model: nn.Module, space: ChannelSpace) -> tuple[Block, ...]:
    """The blocks of a network in order of execution; groups outside of them are interfaces.

    Args:
        model: the network that `space` was traced from; not touched.
        space: its channel groups.
    """
    chain, _, counts = read_links(model, space.size)
    runs = _runs(space, chain)
    blocks = []
    for links in runs:
        modules = tuple(link.path for link in links)
        inner = inner_groups(space, modules)
        if inner and counts[modules[0]] == 1 == counts[modules[-1]]:
            blocks.append(Block(modules, _coordinates(inner)))
    if not blocks and space.groups:
        blocks.append(Block((space.part,), _coordinates(space.groups)))
    return tuple(blocks)


def check_interfaces(
    space: ChannelSpace, inner: Collection[str], configs: Sequence[SubnetConfig]
) -> None:
    """Refuse configurations that narrow an interface between parts that are scored alone.

    Args:
        space: the groups.
        inner: names of the groups that may be narrowed.
        configs: what is to be scored.

    Raises:
        ValueError: with the first such group.
    """
    for config in configs:
        for group in space.groups:
            if group.name not in inner and len(config.indices(group)) < group.size:
                raise ValueError(
                    f"group {group.name!r} is an interface between parts that are scored alone, "
                    "and has to stay whole; only configurations that narrow inner groups have "
                    "scores here"
                )


def block_macs(space: ChannelSpace, block: Block) -> int:
    """Multiply-adds of one image through a block at full width."""
    table = space.table
    return sum(
        factor * math.prod(len(table.axes[axis].group) for axis in axes)
        for module, factor, axes in table.products
        if is_in(f"{module}.", block.modules)
    )


class BlockRunner:
    """Runs blocks one by one, at any widths, on inputs taken from a pass over the network.

    BatchNorm uses the statistics that it is given, so a block at full width with the network's
    own tensors repeats the network. Nothing is charged.

    Args:
        model: the network; not touched.
        space: its channel space.
        blocks: as `cut_blocks` returns them.
    """

    def __init__(self, model: nn.Module, space: ChannelSpace, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self.supernet = Supernet(model, space)

    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the blocks use."""
        modules = [path for block in self.blocks for path in block.modules]
        names = self.supernet.space.table.parameters
        return tuple(name for name in names if is_in(name, modules))

    def features(
        self,
        images: Inputs,
        config: SubnetConfig | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs of every block, in one pass over a subnet.

        Args:
            images: shape (N, C, H, W), or other inputs.
            config: widths of the subnet; the full network if None.
            weights: full-size tensors to use instead of the network's own.

        Returns:
            Inputs and outputs, most often a tensor for each block, without gradients.
        """
        config = config or SubnetConfig.full()
        entered: dict[str, Any] = {}
        left: dict[str, Any] = {}
        values = self.supernet.sliced(config, weights)
        with (
            torch.no_grad(),
            self.supernet.running(config, values) as network,
            _hooked(network, self.blocks, entered, left),
        ):
            call(network, images)
        inputs = [entered[block.modules[0]] for block in self.blocks]
        return inputs, [left[block.output] for block in self.blocks]

    def run(
        self,
        inputs: Mapping[int, Any],
        config: SubnetConfig,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[int, Any]:
        """Outputs of single blocks at the widths of a subnet.

        Args:
            inputs: what enters each block to run, by its ordinal.
            config: gives the widths; those outside of a block do not matter to it.
            weights: full-size tensors, by name; gradients reach them.

        Returns:
            What each block returns, of the width that it has in the full network.
        """
        values = self.supernet.sliced(config, weights)
        with self.supernet.running(config, values) as network:
            return {
                index: run_through(network, self.blocks[index].modules, features)
                for index, features in inputs.items()
            }


@contextmanager
def _hooked(
    skeleton: nn.Module,
    blocks: Sequence[Block],
    entered: dict[str, Any],
    left: dict[str, Any],
) -> Iterator[None]:
    """Keep copies of what enters the first and leaves the last module of each block."""
    handles = []
    for block in blocks:
        first, last = block.modules[0], block.output

        def enter(
            _module: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            path: str = first,
        ) -> None:
            inputs = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else kwargs or args
            entered[path] = mapped(inputs, _copied)

        def leave(
            _module: nn.Module, _inputs: tuple[Any, ...], output: Any, path: str = last
        ) -> None:
            left[path] = mapped(output, _copied)

        first_module = skeleton.get_submodule(first)
        handles.append(first_module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(skeleton.get_submodule(last).register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _runs(space: ChannelSpace, chain: Sequence[Call]) -> Iterator[list[Call]]:
    """Links with inner groups one by one, the links between them run by run."""
    run: list[Call] = []
    for link in chain:
        is_unit = bool(inner_groups(space, (link.path,)))
        is_linked = bool(run) and link.entered is not None and run[-1].left == link.entered
        if run and (is_unit or not is_linked):
            yield run
            run = []
        if is_unit:
            yield [link]
            continue
        run.append(link)
        if link.is_pooling:
            yield run
            run = []
    if run:
        yield run


def _coordinates(inner: Sequence[ChannelGroup]) -> tuple[tuple[str, ...], ...]:
    """Inner groups by free width: those within a gate on one other inner group follow it."""
    leaders: dict[str, str] = {}
    for group in inner:
        home = _home(group)
        others = [
            other.name
            for other in inner
            if _home(other) != home
            and is_in(home, (_home(other),))
            and any(is_in(member.tensor, (home,)) for member in other.members)
        ]
        if len(others) == 1:
            leaders[group.name] = others[0]
    followers: dict[str, list[str]] = {
        group.name: [group.name] for group in inner if group.name not in leaders
    }
    for name, leader in leaders.items():
        followers.setdefault(leader, []).append(name)
    return tuple(tuple(names) for names in followers.values())


def _home(group: ChannelGroup) -> str:
    """Path of the innermost module that holds all members of a group, ``""`` for the network."""
    paths = [member.tensor.split(".")[:-2] for member in group.members]
    shared = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)

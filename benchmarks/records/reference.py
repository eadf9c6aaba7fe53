"""The record of two published networks, measured against each other.

Imports neither torch nor zoo.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import Field, model_validator

from benchmarks.records.bounds import Brief, Name, Sized, Text, Time, moment
from benchmarks.records.runtime import Environment, Footprint, Latency, Measured, Side, Way
from benchmarks.records.strict import Many, Strict

__all__ = ["Cost", "Fixed", "Pair", "Reference", "newest_of_pairs"]


class Fixed(Strict):
    """A network of timm at an input size."""

    name: str
    size: int = Field(ge=32)

    def __str__(self) -> str:
        return f"{self.name} @ {self.size}"


class Pair(Strict):
    """A network and what it is measured against."""

    relation: Literal["same", "pruned", "peer"]
    network: Fixed
    reference: Fixed
    note: str = ""


class Cost(Strict):
    """Exact cost of one image."""

    macs: Sized
    params: Sized


class Reference(Strict):
    """What was measured of a pair; written once.

    The sides are those of `Measured`: the reference stands in the parent's place and the network in
    that of the pruned one, whatever their relation is.
    """

    id: Brief
    schema_version: int = 1
    utc: Time
    pair: Pair
    settings: Latency
    device: Name
    cost: dict[Side, Cost]
    latency: Many[Measured]
    further_latency: Many[Measured] = ()
    left_out: dict[Way, Text] = {}
    footprint: dict[Side, Footprint]
    environment: Environment
    fingerprint: Brief

    @model_validator(mode="after")
    def measure_both_sides_at_every_batch(self) -> "Reference":
        """Refuse a record that lacks a number of the tables.

        Raises:
            ValueError: naming what is missing.
        """
        for name, sides in (("cost", self.cost), ("footprint", self.footprint)):
            if missing := {*get_args(Side)} - {*sides}:
                raise ValueError(f"{name}: nothing of {' and '.join(sorted(missing))}")
        ways = {found.way for found in self.further_latency}
        main = [found.batch for found in self.latency]
        further = [
            [found.batch for found in self.further_latency if found.way == way] for way in ways
        ]
        for batches in (main, *further):
            if {*self.settings.batches} - {*batches}:
                raise ValueError(f"timed at {batches}, not at all of {self.settings.batches}")
        return self

    @property
    def macs_ratio(self) -> float:
        """MACs of the reference over those of the network."""
        return self.cost["parent"].macs / self.cost["pruned"].macs


def newest_of_pairs(records: Iterable[Reference]) -> list[Reference]:
    """The newest record of each pair, device fingerprint and settings; ordered by their first."""
    found: dict[tuple[str, str, str], Reference] = {}
    for record in sorted(records, key=lambda each: (moment(each.utc), each.id)):
        place = record.fingerprint, record.settings.model_dump_json()
        found[(*place, record.pair.model_dump_json())] = record
    return [*found.values()]

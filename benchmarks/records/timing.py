"""The schema of a timing: what was measured of a network and its parent on one device.

Time does not depend on weights, nor on which channels of a group were kept: it belongs to a network
and a device. So networks are timed after all training, one process and nothing beside it, and a
device can be added later; see `benchmarks.running.time_networks`. Cells of protocol 1 hold times of
their own, measured while others were trained beside them.

This module imports neither torch nor zoo, so that tables and figures can be drawn anywhere.
"""

from __future__ import annotations

from pydantic import Field

from benchmarks.records.bounds import Brief, Text, Time
from benchmarks.records.record import SCHEMA
from benchmarks.records.runtime import Environment, Footprint, Measured, Side, Way
from benchmarks.records.strict import Many, Strict

__all__ = ["Timing"]


class Timing(Strict):
    """What was measured of one pruned network and its parent on one device.

    `network` names the pair and how it was measured, see `benchmarks.records.join`; `label` tells a
    reader one of the cells that it belongs to. The other fields are those of `Record`.
    """

    id: Brief
    schema_version: int = Field(default=SCHEMA, ge=1, le=1_000_000)
    utc: Time
    network: str = Field(pattern="^[0-9a-f]{16}$")
    label: Brief
    device: Brief
    latency: Many[Measured] = Field(min_length=1, max_length=1000)
    further_latency: Many[Measured] = Field(default=(), max_length=1000)
    left_out: dict[Way, Text] = {}
    footprint: dict[Side, Footprint] = {}
    environment: Environment
    fingerprint: Brief

    @property
    def is_disturbed(self) -> bool:
        """Whether something else ran on the processor at any batch, in any way."""
        return any(each.is_disturbed for each in (*self.latency, *self.further_latency))

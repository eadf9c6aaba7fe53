"""Published networks, measured by our code: ``python -m benchmarks.studies.references``.

Reads the pairs of baselines/references.toml, measures each in interleaved rounds, writes a record
for each, once, and draws docs/references.md from all records. Networks have newly drawn weights,
since time does not depend on them; denormal numbers, which it could depend on, are flushed and
counted.
"""

import argparse
import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import get_args

import timm
import torch
from pydantic import Field
from rich.progress import track
from torch import nn

from benchmarks.measuring.environment import capture
from benchmarks.measuring.measure import measure_pair
from benchmarks.records.files import read_folder, write_numbered
from benchmarks.records.plain import in_markdown
from benchmarks.records.reference import Cost, Fixed, Pair, Reference, newest_of_pairs
from benchmarks.records.runtime import (
    Interval,
    Latency,
    Measured,
    Side,
    Way,
    fingerprint,
    realised_share,
)
from benchmarks.records.strict import Many, Strict
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.markdown import Written, markdown_table
from benchmarks.tables.unread import unread_markdown
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel

__all__ = [
    "References",
    "load_references",
    "main",
    "measure_reference",
    "to_markdown",
    "write_reference",
]

INTRODUCTION = """\
# Published networks, measured by the same code

Written by `python -m benchmarks.studies.references` from the records in `results/references`; the
pairs stand in `baselines/references.toml`.

timm holds the shapes of five networks that the authors of *Knapsack Pruning with Inner
Distillation* (arXiv 2002.08258) pruned themselves. The abstract claims a faster runtime on GPUs.
Here these networks run against their parents, and against networks of equal MACs, on the device
that each section names; what holds on one device need not hold on another.

- *MACs ratio*: MACs of the reference over those of the network; the theoretical speed-up.
- *Speed-up*: time of the reference over that of the network, median of rounds in which both are
  timed in turn, with an interval that holds the true median with at least 95 %.
- *Noise floor*: the same for a second copy of the reference in place of the network. A network is
  called faster or slower only if the two intervals do not touch and 1 lies outside of its own.
- *Realised*: (speed-up - 1) / (MACs ratio - 1), the share of the theoretical gain that was
  realised; none where the MACs ratio is below 1.1.
- *Widths x 8*: share of the 2D convolutions whose number of output channels is a multiple of 8.
- *On disk*: the weights as one safetensors file. *Peak*: weights and the most that one pass of the
  largest batch holds allocated beside them.
"""


class References(Strict):
    """The fields of baselines/references.toml."""

    latency: Latency
    pairs: Many[Pair] = Field(min_length=1)


def load_references() -> References:
    """The pairs of baselines/references.toml, checked."""
    text = resources.files("baselines").joinpath("references.toml").read_text("utf-8")
    return References.model_validate(tomllib.loads(text))


def measure_reference(pair: Pair, settings: Latency, device: str) -> Reference:
    """Measure a pair.

    Args:
        pair: the two networks, each at its input size.
        settings: batches, rounds and block lengths.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        RuntimeError: if timm does not have a network.
    """
    reference, network = _create(pair.reference), _create(pair.network)
    sizes = [(3, fixed.size, fixed.size) for fixed in (pair.reference, pair.network)]
    found = measure_pair(
        reference, network, sizes[0], latency=settings, device=device, pruned_size=sizes[1]
    )
    environment = capture(workers=1, device=device)
    return Reference(
        id="",
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        pair=pair,
        settings=settings,
        device=device,
        cost={"parent": _cost(reference, sizes[0]), "pruned": _cost(network, sizes[1])},
        environment=environment,
        fingerprint=fingerprint(environment, device, settings.threads),
        **vars(found),
    )


def to_markdown(records: Iterable[Reference]) -> str:
    """The page: a section for each device fingerprint and settings, the newest record of each pair.

    Records of different fingerprints are never put into one table.
    """
    sections: dict[tuple[str, str], list[Reference]] = {}
    for record in newest_of_pairs(records):
        place = record.fingerprint, record.settings.model_dump_json()
        sections.setdefault(place, []).append(record)
    parts = [_section(rows) for rows in sections.values()]
    return "\n".join([INTRODUCTION, *(parts or ["Nothing has been measured yet.\n"])])


def _create(fixed: Fixed) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(fixed.name, pretrained=False)
    return model.eval()


def _cost(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    cost = CostModel(ChannelSpace.trace(model, input_size))
    return Cost(macs=cost.full_macs, params=cost.full_params)


def _section(rows: Sequence[Reference]) -> str:
    """Everything that was measured on one device under the same settings."""
    first = rows[0]
    parts = [f"## {in_markdown(_device(first))}\n\n{in_markdown(_where(first))}\n"]
    ways = dict.fromkeys(m.way for row in rows for m in (*row.latency, *row.further_latency))
    for way in ways:
        parts += [f"### Pairs, {in_markdown(way)}\n", _pair_table(rows, way)]
    parts += [_notes(rows), "### Networks\n", _network_table(rows)]
    return "\n".join(parts)


def _pair_table(rows: Sequence[Reference], way: str) -> str:
    batches = rows[0].settings.batches
    per_batch = ("Speed-up, batch {}", "Noise floor", "Realised", "Verdict")
    heads = ["Network", "Reference", "MACs ratio"]
    heads += [head.format(batch) for batch in batches for head in per_batch]
    lines = []
    for row in rows:
        found = {m.batch: m for m in (*row.latency, *row.further_latency) if m.way == way}
        if not found:
            continue
        cells = [_marked(row), str(row.pair.reference), f"{row.macs_ratio:.2f}"]
        for batch in batches:
            cells += _speed_cells(found[batch], row.macs_ratio)
        lines.append(cells)
    return markdown_table(heads, "ll" + "r" * (len(heads) - 2), lines)


def _speed_cells(measured: Measured, macs_ratio: float) -> list[str]:
    share = realised_share(measured.speedup, macs_ratio)
    return [
        f"{measured.speedup:.2f} {_shown(measured.speedup_interval)}".strip(),
        _shown(measured.floor_interval) or "–",
        "–" if share is None else f"{100 * share:.0f} %",
        measured.verdict,
    ]


def _network_table(rows: Sequence[Reference]) -> str:
    """Every network once, as the first pair that holds it measured it."""
    small, large = min(rows[0].settings.batches), max(rows[0].settings.batches)
    heads = ["Network", "MMACs", "Parameters", "Widths x 8, %", "On disk, MB"]
    heads += [f"ms, batch {small}", f"Images/s, batch {large}", "Peak, MB"]
    seen: dict[str, list[str]] = {}
    sides: tuple[tuple[Side, str], ...] = (("parent", "reference"), ("pruned", "network"))
    for row in rows:
        for side, name in sides:
            fixed = str(getattr(row.pair, name))
            seen.setdefault(fixed, [fixed, *_network_cells(row, side, small, large)])
    return markdown_table(heads, "l" + "r" * (len(heads) - 1), seen.values())


def _network_cells(row: Reference, side: Side, small: int, large: int) -> list[str]:
    measured = {found.batch: found for found in row.latency}
    ms = {batch: getattr(found, f"{side}_ms").median for batch, found in measured.items()}
    peak = getattr(measured[large], f"{side}_peak_bytes")
    taken = row.footprint[side]
    return [
        f"{row.cost[side].macs / 1e6:,.0f}",
        f"{row.cost[side].params:,}",
        f"{100 * taken.aligned_widths:.0f}",
        f"{taken.disk_bytes / 1e6:.1f}",
        f"{ms[small]:.1f}",
        f"{1e3 * large / ms[large]:.1f}",
        "–" if peak is None else f"{peak / 1e6:.0f}",
    ]


def _marked(row: Reference) -> str:
    """The network, marked where the pair is A/A or has a note."""
    mark = " (A/A)" if row.pair.relation == "same" else " (*)" if row.pair.note else ""
    return Written(f"{in_markdown(str(row.pair.network))}{mark}")


def _notes(rows: Sequence[Reference]) -> str:
    lines = [
        f"(*) {in_markdown(f'{row.pair.network} against {row.pair.reference}: {row.pair.note}')}.\n"
        for row in rows
        if row.pair.note
    ]
    left_out = {(way, reason) for row in rows for way, reason in row.left_out.items()}
    lines += [f"Left out: {way}, {in_markdown(reason)}.\n" for way, reason in sorted(left_out)]
    unsettled = sum(not m.settled for row in rows for m in (*row.latency, *row.further_latency))
    if unsettled:
        lines.append(f"Warm-ups that ended before their windows agreed: {unsettled}.\n")
    return "\n".join(lines)


def _device(row: Reference) -> str:
    return f"{row.environment.processor(row.device)} ({row.fingerprint})"


def _where(row: Reference) -> str:
    where, settings = row.environment, row.settings
    if row.device.startswith("cuda"):
        detail = f"driver {where.driver}, CUDA {where.cuda}, cuDNN {where.cudnn}"
    else:
        threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
        flushed = all(found.flush_denormal for found in row.latency)
        detail = f"{threads}, {where.instructions}, "
        detail += "denormal numbers flushed" if flushed else "denormal numbers not flushed"
    return (
        f"{detail}; torch {where.torch}, timm {where.timm}; {settings.rounds} rounds of blocks of "
        f"at least {settings.block_ms:g} ms."
    )


def _shown(interval: Interval | None) -> str:
    return f"({interval.low:.2f}–{interval.high:.2f})" if interval else ""


def main() -> None:
    """Measure the pairs, write a record for each, and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/references"))
    parser.add_argument("--output", type=Path, default=Path("docs/references.md"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--only", default="", help="pairs whose network's name holds this")
    parser.add_argument("--batches", nargs="+", type=int, help="instead of the list's")
    parser.add_argument("--further", nargs="*", default=None, choices=get_args(Way))
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    asked = load_references()
    further = None if arguments.further is None else tuple(arguments.further)
    batches = tuple(arguments.batches or asked.latency.batches)
    settings = asked.latency.model_copy(update={"further": further, "batches": batches})
    pairs = [pair for pair in asked.pairs if arguments.only in pair.network.name]
    for pair in track([] if arguments.page_only else pairs, "Measuring"):
        write_reference(arguments.results, measure_reference(pair, settings, arguments.device))
    found = read_folder(arguments.results, Reference)
    page = "\n".join(filter(None, [to_markdown(found.records), unread_markdown(found.unread)]))
    write_whole(arguments.output, page)


def write_reference(folder: Path, record: Reference) -> Reference:
    """Write a record under a name that did not exist, and return it with its id."""
    pair = record.pair
    sides = "-".join(f"{fixed.name}_{fixed.size}" for fixed in (pair.network, pair.reference))
    stem = f"{record.utc[:10].replace('-', '')}-{sides}-{record.fingerprint}"
    return write_numbered(folder, stem, record)


if __name__ == "__main__":
    main()

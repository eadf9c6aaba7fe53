"""How much of timm's networks can be pruned: ``python -m benchmarks.studies.coverage``.

Traces every architecture that timm registers, and writes docs/coverage.md; started again after a
cut, it goes on. A network counts as convolutional if it has at least eight convolutions wider than
1 x 1 and multiplies no two activations (attention).
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import timm
import torch

from benchmarks.tables.markdown import Written, markdown_table
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.errors import UnsupportedModel
from zoo.core.progress import show_progress
from zoo.core.whole_file import write_whole

__all__ = ["Coverage", "Found", "cover", "main", "sweep", "to_markdown"]

_ATTENTION = re.compile(r"aten\.(bmm|baddbmm|_?scaled_dot_product\w*|_flash\w*)\.")
_SPATIAL_CONVOLUTIONS = 8
_VERSIONS = f"timm {timm.__version__}, torch {torch.__version__.split('+')[0]}"


@dataclass(frozen=True)
class Coverage:
    """What can be pruned of one architecture.

    Attributes:
        name: timm's name.
        groups: number of channel groups.
        reachable: share of the MACs that goes when every group keeps one channel.
        seconds: processor time of the trace.
        reasons: why channels are pinned, most channels first; or why there is no space at all.
    """

    name: str
    groups: int
    reachable: float
    seconds: float
    reasons: tuple[str, ...]


def cover(name: str) -> Coverage | None:
    """Return the coverage of an architecture, None if it is not convolutional."""
    torch.set_num_threads(1)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated names, which timm still lists
        model = timm.create_model(name).eval()
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    if sum(max(kernel) > 1 for kernel in kernels) < _SPATIAL_CONVOLUTIONS:
        return None
    started = time.process_time()
    try:
        space = ChannelSpace.trace(model, size)
    except UnsupportedModel as error:
        return Coverage(name, 0, 0.0, 0.0, (str(error).split(". ")[0],))
    seconds = time.process_time() - started
    if any(_ATTENTION.match(op.name) for op in space.trace_record.ops):
        return None
    cost = CostModel(space)
    one = np.ones((1, len(space.groups)), dtype=np.int64)
    reachable = 1 - int(cost.macs_of_widths(one)[0]) / cost.full_macs
    return Coverage(name, len(space.groups), reachable, seconds, tuple(_reasons(space)))


def _reasons(space: ChannelSpace) -> Iterable[str]:
    """Yield the reasons without the module they occur in, most channels first."""
    counted: dict[str, int] = {}
    for pinned in space.pinned:
        reason = re.sub(r" in [\w.\[\]]+(?= |$)", "", pinned.reason)
        if reason != "output of the network":
            counted[reason] = counted.get(reason, 0) + pinned.channels
    for reason in sorted(counted, key=lambda reason: -counted[reason]):
        yield f"{reason} ({counted[reason]})"
    if not counted and not space.groups:
        yield "every channel is tied to the output of the network"


def to_markdown(rows: Sequence[Coverage], looked_at: int, registered: int) -> str:
    """Return the table of coverage, with a summary above it.

    Args:
        rows: the convolutional networks.
        looked_at: how many registered names were looked at.
        registered: how many there are.
    """
    traced = [row for row in rows if row.groups]
    shares = np.array([row.reachable for row in traced])
    slowest = max(rows, key=lambda row: row.seconds)
    lines = [
        "# Coverage of timm's convolutional networks",
        "",
        f"Written by `python -m benchmarks.studies.coverage` with {_VERSIONS}.",
        "",
        f"{looked_at} of timm's {registered} names were looked at. "
        f"Of {len(rows)} convolutional architectures {len(traced)} have prunable groups. The share "
        "of MACs that can be reached (that goes when every group keeps one channel) is above 99 % "
        f"in {int((shares > 0.99).sum())} of them, above 90 % in {int((shares > 0.9).sum())}, and "
        f"below 50 % in {int((shares < 0.5).sum())}. The slowest trace took "
        f"{slowest.seconds:.1f} s on one core ({slowest.name}). A network counts as "
        f"convolutional if it has at least {_SPATIAL_CONVOLUTIONS} convolutions "
        "wider than 1 x 1 and no attention. In brackets: "
        "pinned channels; the outputs of the network are always pinned and left out.",
        "",
    ]
    headings = ("network", "groups", "reachable MACs", "trace, s", "pinned because")
    return "\n".join([*lines, markdown_table(headings, "lrrrl", map(_cells, rows))])


def _cells(row: Coverage) -> tuple[str, ...]:
    share, reasons = f"{100 * row.reachable:.1f} %", Written("; ".join(row.reasons))
    return Written(row.name), f"{row.groups}", share, f"{row.seconds:.1f}", reasons


def _family_by_family(pattern: str) -> list[str]:
    """Return the first architecture of every family of timm, then the second ones, and so on."""
    families = [timm.list_models(pattern, module=family) for family in timm.list_modules()]
    rounds = zip_longest(*families)
    return list(dict.fromkeys(name for names in rounds for name in names if name is not None))


@dataclass(frozen=True)
class Found:
    """What a sweep has found so far, on a file beside its page, so that it goes on after a cut.

    Attributes:
        path: of the file. One that other versions of timm or torch wrote is begun anew.
    """

    path: Path

    def read(self) -> dict[str, Coverage | None]:
        """The coverage of the networks looked at, by name; None if not convolutional."""
        held = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        rows = held["rows"] if held.get("with") == _VERSIONS else {}
        return {
            name: row and Coverage(**{**row, "reasons": tuple(row["reasons"])})
            for name, row in rows.items()
        }

    def write(self, rows: Mapping[str, Coverage | None]) -> None:
        """Write down what `read` is to return."""
        held = {name: row and asdict(row) for name, row in rows.items()}
        write_whole(self.path, json.dumps({"with": _VERSIONS, "rows": held}))


def sweep(names: Sequence[str], found: Found, workers: int) -> list[Coverage]:
    """Cover the architectures that were not yet.

    Args:
        names: of all architectures.
        found: what an earlier, cut sweep has found; the rest is added.
        workers: processes of one thread each.

    Returns:
        The convolutional ones by name.
    """
    rows = found.read()
    left = [name for name in names if name not in rows]
    with ProcessPoolExecutor(workers) as pool, show_progress() as (tell, _):
        for name, row in zip(left, pool.map(cover, left), strict=True):
            rows[name] = row
            found.write(rows)
            tell("Tracing", len(rows), len(names))
    wanted = (rows[name] for name in sorted(names))
    return [row for row in wanted if row is not None]


def main() -> None:
    """Trace all architectures and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="*", help="which architectures, with wildcards")
    parser.add_argument("--output", type=Path, default=Path("docs/coverage.md"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    names = _family_by_family(arguments.models)
    found = Found(arguments.output.with_suffix(".part.json"))
    rows = sweep(names, found, arguments.workers)
    table = to_markdown(rows, len(names), len(timm.list_models()))
    write_whole(arguments.output, table)
    found.path.unlink()


if __name__ == "__main__":
    main()

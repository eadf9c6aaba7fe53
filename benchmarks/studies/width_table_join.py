"""Join the trainings of a width table: ``python -m benchmarks.studies.width_table_join FOLDER``.

Takes the files that `benchmarks.studies.width_table` has written into one or more folders, checks
every line against the networks that the settings name, and writes the table: the largest of the
study's grids of which every network has all its seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from rich.console import Console

from benchmarks.studies.width_table import WidthStudy
from benchmarks.studies.width_table_file import (
    TABLE,
    Trained,
    Trainings,
    read_parts,
    write_trainings,
)
from zoo.core.cost.cost_model import CostModel

__all__ = ["LICENCE", "check", "joined", "main"]

LICENCE = "MIT"
"""Of the table, as of the repository."""


def check(study: WidthStudy, rows: Iterable[Trained]) -> None:
    """Refuse trainings that the study cannot have made.

    Args:
        study: says which networks and seeds there are.
        rows: of its trainings, in any order.

    Raises:
        ValueError: for a network or a seed that is none of the study's, a training that is there
            twice, costs that are not the network's, or more right answers than images.
    """
    space = study.space()
    cost = CostModel(space)
    known = {widths for grid in study.grids(space) for widths in grid}
    seen = set[tuple[tuple[int, ...], int]]()
    images = None
    for row in rows:
        told = f"widths {'-'.join(map(str, row.widths))}, seed {row.seed}"
        if row.widths not in known or not 0 <= row.seed < study.seeds:
            raise ValueError(f"{told}: the study has no such training")
        if (row.widths, row.seed) in seen:
            raise ValueError(f"{told}: there are two such trainings; remove one file or line")
        seen.add((row.widths, row.seed))
        counted = (
            int(cost.macs_of_widths([row.widths])[0]),
            int(cost.params_of_widths([row.widths])[0]),
        )
        if (row.macs, row.params) != counted:
            raise ValueError(
                f"{told}: {row.macs} MACs and {row.params} parameters are stated, the network has "
                f"{counted[0]} and {counted[1]}"
            )
        images = images or row.images
        if row.images != images or not 0 <= row.right <= images:
            raise ValueError(
                f"{told}: {row.right} of {row.images} answers right, of {images} images"
            )


def joined(study: WidthStudy, rows: Sequence[Trained]) -> Trainings:
    """The largest grid of the study of which every network has all its seeds, sorted by widths.

    Raises:
        ValueError: if `check` refuses a training, or no grid is whole.
    """
    check(study, rows)
    space = study.space()
    count = dict[tuple[int, ...], int]()
    for row in rows:
        count[row.widths] = count.get(row.widths, 0) + 1
    kept = set[tuple[int, ...]]()
    grids = study.grids(space)
    for grid in grids:
        missing = sum(count.get(widths, 0) < study.seeds for widths in grid)
        if missing:
            break
        kept.update(grid)
    if not kept:
        raise ValueError(
            f"{missing} of the {len(grids[0])} networks of the smallest grid lack a seed; train on "
            "with benchmarks.studies.width_table"
        )
    none = study.no_trainings(space)
    settings = {**none.settings, "licence": LICENCE, "joined": date.today().isoformat()}
    taken = [row for row in rows if row.widths in kept]
    taken.sort(key=lambda row: (row.widths, row.seed))
    return replace(none, settings=settings, rows=tuple(taken))


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the files of some folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="where the files of the parts are")
    parser.add_argument("--table", type=Path, default=TABLE, help="what to write")
    asked = parser.parse_args(arguments)
    study = WidthStudy()
    none = study.no_trainings(study.space())
    rows = [row for folder in asked.folders for row in read_parts(folder, none)]
    try:
        table = joined(study, rows)
    except ValueError as error:
        parser.error(str(error))
    write_trainings(asked.table, table)
    Console().print(
        f"{len(table.rows)} of {len(rows)} trainings are in {asked.table}: "
        f"{len(table.rows) // study.seeds} networks"
    )


if __name__ == "__main__":
    main()

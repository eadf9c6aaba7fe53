"""What papers and other projects print: ``python -m benchmarks.studies.published_page``.

Writes docs/published.md from baselines/published.toml.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.analysis.published import Point, load_published
from benchmarks.records.plain import in_markdown
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.published_table import CAVEAT, points_table

__all__ = ["main", "published_page"]

INTRODUCTION = f"""\
# Published points

Written by `python -m benchmarks.studies.published_page` from `baselines/published.toml`; do not
edit.

{CAVEAT}

They are drawn as hollow markers in the figures of accuracy against MACs and parameters, and stand
in `tables/published.md`, wherever `zoo report` finds records of the same network, data and image
size, as with the suites `imagenet`, `imagenet-mobile` and `cifar10`.

- *Unpruned*: accuracy of the unpruned network in the same source. Compare losses rather than
  accuracies: parents differ by more than most methods do.
- *MMACs*: as the source counts them. Most write FLOPs for what is meant here, and counters differ
  by one to five per cent.
- *Source*: what the numbers were read from. Where it is not the authors' own text, it says so, and
  a note tells where two versions of a text differ.
"""


def published_page(points: Sequence[Point]) -> str:
    """The page as Markdown: one section for each network and data set, in their order."""
    sections: dict[str, list[Point]] = {}
    for point in points:
        sections.setdefault(f"{point.model} on {point.data}", []).append(point)
    tables = [
        f"## {in_markdown(title)}\n\n{points_table(found)}"
        for title, found in sorted(sections.items())
    ]
    return "\n".join([INTRODUCTION, *tables])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=published_page.__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/published.md"))
    write_whole(parser.parse_args(arguments).path, published_page(load_published()))


if __name__ == "__main__":
    main()

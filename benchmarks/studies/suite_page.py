"""Every suite, its purpose, command and cost: ``python -m benchmarks.studies.suite_page``.

Writes docs/suites.md from the suite files and the forecast that a dry run shows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.whole_file import write_whole
from benchmarks.running.forecast import HEADINGS, cost_row, forecast, forecast_lines
from benchmarks.running.plan import plan_suite
from benchmarks.running.suite import Suite, list_suites, load_suite
from benchmarks.tables.markdown import markdown_table

__all__ = ["main", "suite_section", "suites_page"]

CORES = 2
"""Default CPU cores for suites that set no options."""

INTRODUCTION = """\
# Suites

Written by `python -m benchmarks.studies.suite_page` from `benchmarks/suites`; do not edit.

A suite is a file that says which networks, data, budgets, seeds and methods are compared. Its
cells are independent, and each leaves one record: a run that was stopped, or that broke, is taken
up by giving its command again. `zoo run SUITE --dry-run` shows what is left to do and what that
costs, without the data and without a GPU, and adds what whole cells took where the results hold
records of other seeds. (Cells of `fashion_mnist`, `imagefolder` and `imagenet`, data that are known
by their content, count as left if `--data` is not given.)

- `--seeds N` runs the seeds 0 to N-1 in place of the suite's: `zoo run quick --seeds 3`.
- `--minutes M` starts nothing new after M minutes, finishes what is running and reports: a long
  suite is run in parts by giving the same command with the same `--results` again. Trained parents
  and supernets lie in the hidden folder `.cache` of the results; where parts run on different
  machines it has to go along, or they are trained anew.
- `--model NAME` runs one network of the suite. All cells of a network and seed are run one after
  the other and belong on one machine: the same seed on another kind of processor is another parent,
  and its rows stand in a table of their own.
- `--method NAME` runs one method of the suite now, and leaves the others to a later run: the cells
  are the same, and the longer controls wait for all of them.
- `--workers N` with `--device cuda` runs N cells beside each other on one GPU, which a single small
  network leaves mostly idle. Networks are timed at the end, one process alone.
- `--dataset NAME --data PATH` puts another data set in the place of the suite's.

**Costs.** Training a network counts three times its MACs for every image and epoch, in tera-MACs
(T) below; a pruned network counts with all that its budget leaves, and where it is fine-tuned with
distillation the parent's forward passes count, too. Time follows from a stated rate: 2 tera-MACs a
second of a GPU, 25 giga-MACs a second of a core. Networks as small as those of `quick` and
`fashion` are bound by overhead and stay far below the rate of a core. Searches, tests and timing
come on top, and so do finishes of methods' own: where a method hands on weights or a loss, each
cell is fine-tuned a second time. The longer controls, whose length the records tell, are not
counted either. Plan several times as much. Methods that keep the interfaces of blocks whole (`bnp`,
and `stagewise` where it keeps them) cannot go below the second of the two smallest subnets; at such
budgets their records say *infeasible*, and so do the tables.
"""


def suites_page() -> str:
    """The page as Markdown."""
    sections = [suite_section(name, load_suite(name)) for name in list_suites()]
    return "\n".join([INTRODUCTION, *sections])


def suite_section(name: str, suite: Suite) -> str:
    """A suite's heading, purpose, command and cost."""
    options = suite.options.split()
    device = _option(options, "--device", "cpu")
    workers = int(_option(options, "--workers", str(CORES)))
    results = "" if "--results" in options else f"--results results/{name} "
    command = f"zoo run {name} {results}" + (suite.options or f"--workers {CORES}")
    cells = plan_suite(name, suite, device=device, is_run_here=False).cells
    costs = forecast(cells)
    table = markdown_table(HEADINGS, "l" + "r" * (len(HEADINGS) - 1), map(cost_row, costs))
    table = f"{table}\n" if costs else ""
    lines = "\n".join(f"- {line}" for line in forecast_lines(cells, costs, workers))
    text = f"{suite.title}."
    return f"## {name}\n\n{text}\n\n```\n{command}\n```\n\n{len(cells)} cells.\n\n{table}{lines}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=suites_page.__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path("docs/suites.md"))
    write_whole(parser.parse_args(arguments).path, suites_page())


def _option(options: Sequence[str], name: str, otherwise: str) -> str:
    """The value that follows an option."""
    return options[options.index(name) + 1] if name in options else otherwise


if __name__ == "__main__":
    main()

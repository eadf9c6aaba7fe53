"""How much of a method is its teacher: decisions and losses apart.

`python -m benchmarks.studies.teachers` reads the records of the suites `fashion` and
`fashion-teachers` in `results` and writes `docs/teachers.md` and `docs/teachers.png`. Each decision
was fine-tuned from the parent's weights with cross-entropy, with cross-entropy and distillation of
the parent's logits, and with what its method hands on. First come the primary contrasts of
`fashion-teachers`, in the words of its report.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks.analysis.comparison import Row, compare, one_a_seed
from benchmarks.analysis.names import method_name
from benchmarks.analysis.uncertainty import ERROR, Estimate, estimate, holm, paired, shown
from benchmarks.figures.style import legend_below, look, new_panels, set_title
from benchmarks.records.cell import PARENT, REFERENCE, Cell
from benchmarks.records.files import current_records, read_folder
from benchmarks.records.plain import in_markdown, told_budget
from benchmarks.records.record import Phase, Record, spent_macs
from benchmarks.running.suite import load_suite
from benchmarks.tables.contrast_lines import contrast_lines
from benchmarks.tables.markdown import bold, markdown_table
from zoo.core.whole_file import whole_file, write_whole

__all__ = ["FINISHES", "Task", "draw", "main", "page", "tasks_of"]

SUITES = ("fashion", "fashion-teachers")
DECISIONS = (REFERENCE, "bnp", "knapsack")
WHOLE, LONGER = "parent, fine-tuned", f"{REFERENCE} (fine-tuned=longer)"
"""Controls, as `benchmarks.analysis.names.method_name` calls them."""

PLAIN, TAUGHT, OWN = "cross-entropy", "with distillation", "own"
FINISHES = (PLAIN, TAUGHT, OWN)
HEADINGS = (
    "Share of MACs", "Decision", *(f"Top-1 %, {finish}" for finish in FINISHES), "Teacher brings",
    "To uniform, both plain", "To uniform, both taught", "Fine-tuning, TMACs in this order",
)  # fmt: skip

INTRODUCTION = """\
BNP and Knapsack fine-tune under a teacher of their own; a paper's table compares that with plain
cross-entropy. Here each decision, that is, which channels stay, is finished in three ways,
{epochs} epochs each: with cross-entropy, with cross-entropy and distillation of the parent's logits
(open to every method), and with the loss and the weights that the method hands on (own).
Distillation has weight 1, temperature 4, and the learning rate and length of plain cross-entropy;
nothing was tuned for it.

What was asked before `fashion-teachers` was run, with distillation on both sides
([what the numbers mean](statistics.md)):

{contrasts}

How to read the tables:

- Numbers are mean ± sample standard deviation over the seeds; differences are points of top-1,
  paired by seed.
- *Teacher brings*: with distillation minus with cross-entropy, of the same decision, and the
  bootstrap 95 % interval. Bold: not zero by a paired t-test, both sides, Holm-corrected over the
  column of the table.
- *To uniform*: what remains of a method in both columns is its decision. A lead that grows from the
  first to the second need not be a gain of the decision: uniform may have lost under the teacher.
  *Teacher brings* has both.
- A paper's table compares a method's own finish with uniform under cross-entropy. What a row has
  more under its own finish than under cross-entropy is what the method hands on.
- Equal epochs are not equal costs: each image of a taught finish passes the whole parent, too.
  The last column has the multiply-adds of each finish.
{controls}"""

OF_CONTROLS = """\
- Controls are the parent, fine-tuned the same ways, and uniform width, fine-tuned longer: as long
  as the dearest method of its suite costs. Both suites have other methods, so the two finishes of
  the latter differ in length, too, and say nothing of the teacher.
"""

Seeds = dict[int, float]
"""Test accuracy, as a fraction, or multiply-adds, by seed."""


@dataclass(frozen=True)
class Task:
    """The decisions at one budget of one network and data set, on one kind of processor.

    Controls stand beside them: uniform width at that budget, fine-tuned longer, and the parent.

    Attributes:
        cell: one of its cells.
        top1: by decision or control, and finish; none of a row that lost seeds.
        macs: the same of what the finish cost, a teacher's passes among it.
        lost: how many seeds failed, by decision and finish, of rows that lost some.
        trained_on: name of the processor.
        has_other_trainer: whether another processor trained this network, too.
    """

    cell: Cell
    top1: Mapping[tuple[str, str], Seeds]
    macs: Mapping[tuple[str, str], Seeds]
    lost: Mapping[tuple[str, str], str]
    trained_on: str
    has_other_trainer: bool = False

    @property
    def network(self) -> str:
        """Network and data, and the processor if another one trained the network, too."""
        trained = f", trained on {self.trained_on}" if self.has_other_trainer else ""
        return f"{self.cell.model.title} on {self.cell.data.title}{trained}"

    @property
    def title(self) -> str:
        """The same, and the budget."""
        return f"{self.network}, {told_budget(self.cell.budget, self.cell.metric)}"

    @cached_property
    def seeds(self) -> list[int]:
        """Those in which every decision was finished in every way that there is and lost none."""
        found = [set(seeds) for (name, _), seeds in self.top1.items() if name in DECISIONS]
        return sorted(set.intersection(*found)) if found else []

    def of(self, decision: str, finish: str) -> Seeds:
        """The accuracies in the common seeds; nothing if the decision has no such finish."""
        found = self.top1.get((decision, finish), {})
        return {seed: found[seed] for seed in self.seeds if seed in found}

    def mean(self, decision: str, finish: str) -> Estimate | None:
        """Over the seeds."""
        found = self.of(decision, finish)
        return estimate(list(found.values())) if found else None

    def cost(self, decision: str, finish: str) -> Estimate | None:
        """Multiply-adds of a finish, over the seeds."""
        found = self.macs.get((decision, finish), {})
        known = [found[seed] for seed in self.of(decision, finish)]
        return estimate(known) if known else None

    def gain(self, decision: str, finish: str) -> Estimate | None:
        """Over uniform width with the same finish, paired by seed."""
        return paired(self.of(decision, finish), self.of(REFERENCE, finish))

    def brought(self, decision: str) -> Estimate | None:
        """By the common teacher, paired by seed; None where the finishes differ in length, too."""
        if decision == LONGER:
            return None
        return paired(self.of(decision, TAUGHT), self.of(decision, PLAIN))

    def has_control(self, name: str) -> bool:
        """Whether both suites have a control in all of the seeds, or lost seeds of it."""
        return all(
            (name, finish) in self.lost or [*self.of(name, finish)] == self.seeds
            for finish in (PLAIN, TAUGHT)
        )

    @property
    def is_whole(self) -> bool:
        """Whether each decision was finished, or failed, with and without the common teacher."""
        asked = [(decision, finish) for decision in DECISIONS for finish in (PLAIN, TAUGHT)]
        return bool(self.seeds) and all(each in self.lost or self.of(*each) for each in asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, then write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="holds both folders")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write to")
    given = parser.parse_args(arguments)
    folders = [given.results / name / "records" for name in SUITES]
    plain, taught = (read_folder(folder, Record).records for folder in folders)
    tasks = tasks_of([*plain, *taught])
    if not tasks:
        parser.error(
            f"{' and '.join(map(str, folders))} have no network whose decisions were finished in "
            "both ways; run the suites of these names"
        )
    write_whole(given.docs / "teachers.md", page(tasks, contrast_lines(compare(taught))))
    draw(tasks, given.docs / "teachers.png")


def tasks_of(records: Sequence[Record]) -> list[Task]:
    """The tasks in which every decision was run with and without the common teacher.

    A decision is that of a method as the suites set it, none of its variants.
    """
    settings = load_suite(SUITES[0]).settings  # those of the other are the same
    asked = [each for each in current_records(records) if _is_asked(each.cell, settings)]
    found: dict[tuple[object, ...], list[Record]] = {}
    parents: dict[tuple[object, ...], list[Record]] = {}
    for record in one_a_seed(asked):
        cell = record.cell
        held = cell.model_copy(update={"distill": 0.0})
        key = (held.comparison, record.trained_on, record.timed_by)
        if cell.method == PARENT:
            parents.setdefault(key, []).append(record)
        else:
            found.setdefault((*key, cell.metric, cell.budget), []).append(record)
    groups = [[*group, *parents.get(key[:3], [])] for key, group in found.items()]
    whole = [task for group in groups if (task := _task(group)).is_whole]
    trainers: dict[str, set[str]] = defaultdict(set)
    for task in whole:
        trainers[task.network].add(task.trained_on)
    whole = [replace(task, has_other_trainer=len(trainers[task.network]) > 1) for task in whole]
    return sorted(
        whole, key=lambda task: (task.cell.model.name, task.cell.metric, -task.cell.budget)
    )


def _is_asked(cell: Cell, settings: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether it is one of a decision, as the suites set it, or of a control."""
    if cell.scratch or cell.sample is not None:
        return False
    name = _name(cell)
    if name in DECISIONS:
        return cell.settings == settings.get(name, {})
    return name in (WHOLE, LONGER)


def _name(cell: Cell) -> str:
    """A decision by its method, a control as tables call it."""
    is_control = cell.method == PARENT or cell.longer is not None
    return method_name(cell) if is_control else cell.method


def _task(records: Sequence[Record]) -> Task:
    """The task of some records, which differ in decision, seed and common teacher alone."""
    rows: dict[tuple[str, bool], list[Record]] = {}
    for record in records:
        rows.setdefault((_name(record.cell), bool(record.cell.distill)), []).append(record)
    top1: dict[tuple[str, str], Seeds] = defaultdict(dict)
    macs: dict[tuple[str, str], Seeds] = defaultdict(dict)
    lost: dict[tuple[str, str], str] = {}
    for (decision, is_taught), group in rows.items():
        row = Row(group[0].cell, tuple(group))
        if row.lost:
            lost |= {(decision, finish): row.seeds for finish in _asked(decision, is_taught)}
            continue
        for record in group:
            for finish, accuracy, phase in _finishes(record):
                top1[decision, finish][record.cell.seed] = accuracy
                macs[decision, finish][record.cell.seed] = spent_macs(record, [phase])
    return Task(records[0].cell, top1, macs, lost, records[0].trained_on)


def _asked(decision: str, is_taught: bool) -> tuple[str, ...]:
    """The finishes that a row's records tell; uniform and parent hand on nothing of their own."""
    if is_taught:
        return (TAUGHT,)
    return (PLAIN,) if decision in (REFERENCE, WHOLE, LONGER) else (PLAIN, OWN)


def _finishes(record: Record) -> Iterator[tuple[str, float, Phase]]:
    """The finishes of a record, their accuracies, and the phases that they were charged to.

    The own one is told by the record without a common teacher.
    """
    is_plain = not record.cell.distill
    if record.top1.finetuned is not None:
        yield PLAIN if is_plain else TAUGHT, record.top1.finetuned, "finetune"
    if is_plain and record.top1.own is not None:
        yield OWN, record.top1.own, "finetune_own"


def page(tasks: Sequence[Task], contrasts: Sequence[str]) -> str:
    """The Markdown page.

    Args:
        tasks: at least one.
        contrasts: what came of the primary contrasts, a sentence each.
    """
    has_controls = any(task.has_control(name) for task in tasks for name in (WHOLE, LONGER))
    parts = [
        "# How much of a method is its teacher",
        "Written by `python -m benchmarks.studies.teachers` from the records in `results/fashion` "
        "and `results/fashion-teachers`.",
        INTRODUCTION.format(
            epochs=tasks[0].cell.finetune.epochs,
            contrasts="\n".join(f"- {in_markdown(line)}" for line in contrasts),
            controls=OF_CONTROLS if has_controls else "",
        ),
        "![Top-1 of three decisions under three finishes](teachers.png)",
        *(f"## {title}\n\n{_table(group)}" for title, group in _by_network(tasks)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _by_network(tasks: Sequence[Task]) -> Iterator[tuple[str, list[Task]]]:
    for network in dict.fromkeys(task.network for task in tasks):
        group = [task for task in tasks if task.network == network]
        counts = sorted({len(task.seeds) for task in group})
        told = " or ".join(map(str, counts))
        seeds = "one seed" if counts == [1] else f"{told} seeds"
        yield f"{network}, {seeds}", group


def _table(tasks: Sequence[Task]) -> str:
    places = [*_places(tasks)]
    rows = [
        [
            told_budget(1.0 if name == WHOLE else task.cell.budget, task.cell.metric),
            name,
            *(_accuracy(task, name, finish) for finish in FINISHES),
            brought,
            *_gains(task, name),
            " / ".join(_costs(task, name)),
        ]
        for (task, name), brought in zip(places, _brought(places), strict=True)
    ]
    return markdown_table(HEADINGS, "rlrrrrrrr", rows)


def _places(tasks: Sequence[Task]) -> Iterator[tuple[Task, str]]:
    """What the rows of a network's table are of: the parent once, then each budget."""
    yield from [(task, WHOLE) for task in tasks if task.has_control(WHOLE)][:1]
    for task in tasks:
        yield from [(task, decision) for decision in DECISIONS]
        if task.has_control(LONGER):
            yield task, LONGER


def _brought(places: Sequence[tuple[Task, str]]) -> Iterator[str]:
    """What the common teacher brings to each row of a table, bold where it is clear."""
    found = [task.brought(name) for task, name in places]
    family = [place for place, (_, name) in enumerate(places) if name != LONGER]
    p_values = holm([each.p_value if (each := found[place]) else None for place in family])
    corrected = dict(zip(family, p_values, strict=True))
    for place, each in enumerate(found):
        text = each.with_interval("+.1f", 100) if each else "–"
        yield bold(text) if corrected.get(place, 1.0) <= ERROR else text


def _accuracy(task: Task, decision: str, finish: str) -> str:
    """Mean over the seeds; how many failed if some did."""
    lost = task.lost.get((decision, finish))
    return lost or shown(task.mean(decision, finish), ".1f", 100)


def _gains(task: Task, decision: str) -> list[str]:
    """To uniform width at the same budget, under the same finish."""
    if decision in (REFERENCE, WHOLE):
        return ["–", "–"]
    return [shown(task.gain(decision, each), "+.1f", 100) for each in (PLAIN, TAUGHT)]


def _costs(task: Task, decision: str) -> Iterator[str]:
    """Multiply-adds of each finish that there is, in 10¹²; a dash where seeds failed."""
    for finish in FINISHES:
        if (decision, finish) in task.lost:
            yield "–"
        elif found := task.cost(decision, finish):
            yield f"{found.mean / 1e12:.2f}"


def draw(tasks: Sequence[Task], path: Path) -> None:
    """One panel for each task: accuracy of the decisions under the finishes.

    Args:
        tasks: at least one.
        path: of the PNG file.
    """
    figure, axes = new_panels(len(tasks), height=2.6, width=3.6)
    for axis, task in zip(axes, tasks, strict=True):
        for offset, decision in zip((-0.12, 0.0, 0.12), DECISIONS, strict=True):
            means = [(x, task.mean(decision, finish)) for x, finish in enumerate(FINISHES)]
            points = [(x + offset, mean) for x, mean in means if mean is not None]
            colour, marker = look(decision)
            axis.errorbar(
                [x for x, _ in points],
                [100 * mean.mean for _, mean in points],
                yerr=[100 * (mean.sd or 0.0) for _, mean in points],
                color=colour, marker=marker, linestyle="-", linewidth=0.8, capsize=2,
            )  # fmt: skip
        axis.set_xticks(range(len(FINISHES)), FINISHES, fontsize=8)
        axis.set_xlim(-0.4, len(FINISHES) - 0.6)
        axis.set_ylabel("top-1, %", fontsize=8)
        axis.tick_params(labelsize=8)
        set_title(axis, "\n".join(filter(None, [task.title, _without_point(task)])), fontsize=8)
    legend_below(figure, DECISIONS)
    with whole_file(path) as hidden:
        figure.savefig(hidden, format="png", dpi=150)


def _without_point(task: Task) -> str:
    """Names what has no mean, since seeds failed; empty if all has one."""
    finishes: dict[str, list[str]] = defaultdict(list)
    for decision, finish in sorted(task.lost):
        if decision in DECISIONS:
            finishes[decision].append(finish)
    told = "; ".join(f"{decision} {', '.join(found)}" for decision, found in finishes.items())
    return f"no mean: {told}" if told else ""


if __name__ == "__main__":
    main()

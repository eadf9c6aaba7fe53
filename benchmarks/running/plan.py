"""Which cells of a suite are left to do, and where they run."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks.records.cell import REFERENCE, Cell, Model, network_name
from benchmarks.records.contrast import Arm, Contrast, Primary
from benchmarks.records.files import Loaded, Unread, current_records, read_folder
from benchmarks.records.plain import counted
from benchmarks.records.record import SETTLED, TOTAL, Record, spent_macs
from benchmarks.records.strict import suggest
from benchmarks.running.engine import Machines
from benchmarks.running.methods import MethodFiles, Named, method_files, named_methods
from benchmarks.running.precheck import check_size, check_suite, name_files
from benchmarks.running.suite import Suite, Variant, expand, expand_ranking
from benchmarks.running.weights import WeightFiles, weight_files

__all__ = ["Job", "Plan", "plan_suite"]


@dataclass(frozen=True)
class Plan:
    """The cells of a suite, and those of them that have no settled record yet.

    Files among the records that are none settle nothing: their cells are run again. `waiting`
    counts controls whose length depends on what the missing cells will cost, `set_aside` further
    cells without a record, of methods that are not asked for now. `primary` is what the records
    will carry. `left_out` says which peers are not run, since what they need is not installed.
    """

    suite: str
    cells: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    unread: tuple[Unread, ...] = ()
    waiting: int = 0
    set_aside: int = 0
    primary: tuple[Primary, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """How many cells have a settled record."""
        return len(self.cells) - len(self.missing) - self.set_aside

    @property
    def summary(self) -> str:
        """How many cells there are, are done and are left, in words."""
        told = f"{counted(len(self.cells), 'cell')}, {self.done} done, {len(self.missing)} to run"
        if self.set_aside:
            told += f", {self.set_aside} of other methods"
        if self.waiting:
            told += f", {counted(self.waiting, 'longer control')} when the cost is known"
        return "; ".join([told, *self.left_out])

    @property
    def controls(self) -> Plan:
        """The same with those missing cells alone whose length is known from records."""
        return replace(self, missing=tuple(cell for cell in self.missing if cell.longer))

    @property
    def parents(self) -> dict[str, Cell]:
        """One missing cell for every parent that is needed, by the parent's key, seed by seed."""
        found: dict[str, Cell] = {}
        for cell in sorted(self.missing, key=lambda cell: cell.seed):
            found.setdefault(cell.parent_key, cell)
        return found


@dataclass(frozen=True)
class Job:
    """Where a run reads and writes, how many processes it takes, and until when it starts cells.

    `until` is a time of `time.time()`; what is running then is finished. `weights` are the files
    that parents start from, `methods` those that methods are read from; `per_gpu` tasks share a
    GPU, `loaders` processes read images of files for each. A training keeps a checkpoint every
    `checkpoint_seconds`. `track` names what is told of runs as they go, see `benchmarks.tracking`.
    """

    results: Path
    data: Path | None = None
    is_download_allowed: bool = False
    workers: int = 1
    until: float = math.inf
    weights: WeightFiles = ()
    methods: MethodFiles = ()
    per_gpu: int = 1
    checkpoint_seconds: float = 600.0
    track: str | None = None
    loaders: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the time is up, so that no further cell is started."""
        return time.time() >= self.until

    def with_weights(self, models: Sequence[Model]) -> Job:
        """The same with the files that a suite's models start from.

        Raises:
            FileNotFoundError: if one does not exist.
            ValueError: if it is no file that weights are read from.
            OSError: if it cannot be read.
        """
        return replace(self, weights=weight_files(models))

    def with_methods(self, names: Sequence[str]) -> Job:
        """The same with the files among the methods of a suite.

        Raises:
            FileNotFoundError: if one does not exist.
            ValueError: if it cannot be run or has no such pruner.
        """
        return replace(self, methods=method_files(names))

    def on(self, machines: Machines, loaders: int | None = None) -> Job:
        """The same for what it runs on.

        Args:
            machines: how many tasks go beside each other, and on how many cores.
            loaders: of each task; if None, one less than it has cores to itself.
        """
        workers, per_gpu = machines.slots, machines.per_gpu
        if loaders is None:
            loaders = max(0, machines.cores // workers - 1)
        return replace(self, workers=workers, per_gpu=per_gpu, loaders=loaders)

    @property
    def absolute(self) -> Job:
        """The same for a process that works in another folder."""
        data = None if self.data is None else self.data.absolute()
        return replace(self, results=self.results.absolute(), data=data)

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.results / "records"

    @property
    def cache(self) -> Path:
        """Folder of the trained parents, which can be deleted at any time."""
        return self.results / ".cache" / "parents"

    @property
    def claims(self) -> Path:
        """Folder of what runs on these records claim; can be deleted while none is under way."""
        return self.results / ".cache" / "claims"


def plan_suite(
    name: str,
    suite: Suite,
    records: Path | None = None,
    device: str = "cpu",
    data: Path | None = None,
    *,
    methods: Sequence[str] = (),
    models: Sequence[str] = (),
    is_run_here: bool = True,
) -> Plan:
    """Expand a suite to cells and find those without a settled record.

    Args:
        name: of the suite, to record.
        suite: what to run.
        records: folder of what has been run; None if nothing has.
        device: where it is to run.
        data: folder of the sets that are read from files; cells are named after its content.
        methods: those whose cells are run now, as cells name them; all if empty. The others stay
            planned, and the length of the longer controls is known only when they have run.
        models: networks that are run now; all if empty. Records tell of contrasts on the others.
        is_run_here: whether peers whose packages are not installed are left out.

    Raises:
        ValueError: if the suite names a model, data set, method or setting that does not exist, or
            a number that cannot work; if it does not run one of the `methods`.
        FileNotFoundError: if a folder is given that is no such data set, or a file of weights is
            not there.
        OSError: if it or the folder of records cannot be read.
    """
    from benchmarks.running.sample import PROXIES

    whole = suite
    suite = suite.with_models(models) if models else suite
    check_suite(suite)
    left_out = _missing(suite) if is_run_here else {}
    jobs, scorers = _jobs(suite, left_out), _scorers(suite)
    named = named_methods(job.method for job in (*jobs, *scorers) if job.method not in PROXIES)
    arms = [_settled(contrast, suite, jobs, named) for contrast in suite.primary]
    check_size(suite, len(jobs), len(scorers))
    suite = name_files(suite, data)
    networks = tuple(
        network_name(model, suite.seen_by(model, each))
        for model, each in product(whole.models, suite.datasets)
    )
    primary = tuple(
        Primary(contrast=each, metric=suite.metric, seeds=suite.seeds, networks=networks)
        for each in arms
    )
    cells = expand(suite, jobs, device, named)
    cells += expand_ranking(suite, scorers, device, named)
    found = read_folder(records, Record) if records else Loaded([], [])
    ok_last = sorted(current_records(found.records), key=lambda record: record.status == "ok")
    settled = {record.cell.key: record for record in ok_last if record.status in SETTLED}
    longer, waiting = _longer_controls(cells, settled) if suite.controls else ([], 0)
    cells += longer
    unsettled = [cell for cell in cells if cell.key not in settled]
    missing = tuple(_of_methods(unsettled, methods, {cell.method for cell in cells}))
    set_aside = len(unsettled) - len(missing)
    told = tuple(
        f"{each} is left out: it needs {', '.join(packages)}, which is not installed"
        for each, packages in left_out.items()
    )
    return Plan(name, tuple(cells), missing, tuple(found.unread), waiting, set_aside, primary, told)


def _of_methods(
    cells: Sequence[Cell], methods: Sequence[str], known: Collection[str]
) -> Sequence[Cell]:
    """The cells of some methods, or all.

    Raises:
        ValueError: if the suite does not run one of them, with the nearest names.
    """
    for name in methods:
        if name not in known:
            raise ValueError(f"the suite runs no method {name!r}; {suggest(name, known)}")
    return [cell for cell in cells if cell.method in methods] if methods else cells


def _missing(suite: Suite) -> dict[str, tuple[str, ...]]:
    """The pruners that a suite names and whose packages are not installed, with these."""
    from zoo.core.method.discovery import get_pruner, list_pruners
    from zoo.core.method.pruner import missing_packages

    named = (*_methods(suite), *(variant.method for variant in suite.variants))
    found = {name: missing_packages(get_pruner(name)) for name in named if name in list_pruners()}
    return {name: packages for name, packages in found.items() if packages}


def _methods(suite: Suite) -> tuple[str, ...]:
    """The pruners that a suite's `methods` names; peers are named one by one or not at all.

    Nor are the pruners of other installed packages "all": a suite means the same everywhere.
    """
    from zoo.core.method.discovery import list_pruners

    if suite.methods == "all":
        return (*list_pruners("method"), *list_pruners("baseline"))
    return tuple(suite.methods)


def _longer_controls(
    cells: Sequence[Cell], settled: Mapping[str, Record]
) -> tuple[list[Cell], int]:
    """Uniform width, fine-tuned at the total cost of the dearest method beside it.

    Total are the multiply-adds of search and fine-tuning, those of the parent apart.

    Returns:
        The cells whose length is known, and how many others wait for records.
    """
    found, waiting = [], 0
    for control in cells:
        if control.method != REFERENCE or control.settings or control.scratch:
            continue
        beside = [cell for cell in cells if _is_beside(cell, control)]
        records = [settled.get(cell.key) for cell in beside]
        if not all(records):
            waiting += 1
            continue
        ended = [record for record in records if record is not None and record.status == "ok"]
        own = settled[control.key]
        if own.status == "ok" and (
            epochs := _epochs_for(max(spent_macs(record, TOTAL) for record in ended), own)
        ):
            found.append(control.model_copy(update={"longer": epochs}))
    return found, waiting


def _is_beside(cell: Cell, control: Cell) -> bool:
    """Whether two cells answer the same question, networks from scratch apart."""
    held = {"parent_key", "budget", "metric", "comparison"}
    return cell.scratch is None and all(getattr(cell, h) == getattr(control, h) for h in held)


def _epochs_for(macs: int, record: Record) -> int | None:
    """The whole epochs of a record's fine-tuning that cost so much; None if it does already."""
    epochs = record.cell.finetune.epochs
    spent = spent_macs(record, ["finetune"])
    if not spent or macs <= spent:
        return None
    longer = round(epochs * macs / spent)
    return longer if longer > epochs else None


def _jobs(suite: Suite, left_out: Collection[str]) -> list[Variant]:
    """The methods and variants that a suite prunes with, their settings without defaults.

    Raises:
        ValueError: if two are alike, or the suite's settings leave it without its control.
    """
    methods = _methods(suite)
    has_control = bool(suite.budgets) and suite.controls
    if has_control and REFERENCE not in methods:
        methods = (*methods, REFERENCE)
    wanted = (*(Variant(method=name) for name in methods), *suite.variants)
    ready = [variant for variant in wanted if variant.method not in left_out]
    jobs = _distinct([_without_defaults(variant, suite) for variant in ready])
    if has_control and Variant(method=REFERENCE) not in jobs:
        raise ValueError(
            f"settings.{REFERENCE}: {REFERENCE!r} with its default settings is the control, and "
            "would be missing; name these settings in [[variants]], to run them beside it, or set "
            "controls = false"
        )
    return jobs


def _settled(
    contrast: Contrast, suite: Suite, jobs: Sequence[Variant], named: Mapping[str, Named]
) -> Contrast:
    """A contrast with the methods that its cells will have.

    Raises:
        ValueError: if the suite does not run one of its sides, or both are the same.
    """
    arms = [_arm(arm, suite, jobs) for arm in contrast.arms]
    if arms[0] == arms[1]:
        raise ValueError(f"primary: {contrast.method!r} is compared with itself; give two sides")
    mine, other = (named[arm.method] for arm in arms)
    return contrast.model_copy(
        update={
            "method": mine.method,
            "settings": arms[0].settings,
            "origin": mine.origin,
            "against": other.method,
            "against_settings": arms[1].settings,
            "against_origin": other.origin,
        }
    )


def _arm(arm: Arm, suite: Suite, jobs: Sequence[Variant]) -> Arm:
    """One side with the settings that its cells will have.

    Raises:
        ValueError: if the suite does not run it.
    """
    names = {job.method for job in jobs}
    if arm.method not in names:
        raise ValueError(
            f"primary: the suite does not run {arm.method!r}; {suggest(arm.method, names)}"
        )
    variant = _without_defaults(Variant(method=arm.method, settings=arm.settings), suite)
    if variant not in jobs:
        raise ValueError(
            f"primary: the suite does not run {arm.method!r} with the settings {arm.settings}; "
            "add them as one of its [[variants]]"
        )
    return Arm(method=variant.method, settings=variant.settings)


def _scorers(suite: Suite) -> list[Variant]:
    """What scores the sample of a suite's ranking: methods that can, and zero-cost proxies."""
    from benchmarks.running.sample import PROXIES

    chosen = []
    for variant in suite.ranking.scorers if suite.ranking else ():
        is_proxy = variant.method in PROXIES
        chosen.append(variant if is_proxy else _without_defaults(variant, suite))
    return _distinct(chosen)


def _without_defaults(variant: Variant, suite: Suite) -> Variant:
    """A variant with the suite's settings for its method, less those that change nothing."""
    from zoo.core.method.discovery import create_pruner

    given = {**suite.settings.get(variant.method, {}), **variant.settings}
    pruner, default = create_pruner(variant.method, **given), create_pruner(variant.method)
    differing = {
        key: value for key, value in given.items() if getattr(pruner, key) != getattr(default, key)
    }
    return variant.model_copy(update={"settings": differing})


def _distinct(variants: list[Variant]) -> list[Variant]:
    """The same list, refused if two are alike: their records could not be told apart."""
    for place, variant in enumerate(variants):
        if variant in variants[:place]:
            raise ValueError(
                f"{variant.method!r} stands twice in the suite with the settings "
                f"{variant.settings or 'of its defaults'}; take one out"
            )
    return variants

"""Suites: TOML files that say which networks, data, budgets, seeds and methods to compare.

A suite expands to cells, one for each combination; see `benchmarks.records.cell.Cell`. Unknown
keys are refused with the nearest names. The suites that come with the package lie in
`benchmarks/suites`; a path that ends in `.toml` reads any other.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from benchmarks.records.cell import (
    MOST_SEED,
    PARENT,
    RECALIBRATION_BATCHES,
    BudgetMetric,
    BudgetValue,
    Cell,
    Data,
    Model,
    Rules,
    Sample,
    Schedule,
    Start,
)
from benchmarks.records.contrast import Contrast
from benchmarks.records.plain import asked_budget
from benchmarks.records.runtime import Latency
from benchmarks.records.strict import Many, Strict, explained, suggest
from benchmarks.running.methods import Named
from benchmarks.running.suite_names import SuiteFaults, name_faults

__all__ = [
    "PROTOCOL",
    "STANDALONE",
    "Ranking",
    "Suite",
    "Variant",
    "expand",
    "expand_ranking",
    "list_suites",
    "load_suite",
]

PROTOCOL = 2
"""Of the steps in `benchmarks.running.protocol`; raised when results stop being comparable."""


MOST_BYTES = 1_000_000
"""Of a suite's file; the largest of the package has a few thousand."""

_FILE_METHOD = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
"""A method in a file, see `zoo.core.method.outside`; suites are read without torch."""

STANDALONE = "standalone"
"""Stands in the place of a method where a configuration of a sample is trained alone."""


class Variant(Strict):
    """A method and those of its settings that differ from the suite's and the defaults.

    With `scratch`, its networks are trained from newly drawn weights under that recipe.
    """

    method: str
    settings: dict[str, JsonValue] = {}
    scratch: Schedule | None = None


class Ranking(Strict):
    """A sample of configurations, how each is trained alone, and the methods that score them."""

    sample: Sample
    train: Schedule
    start: Start = "inherited"
    scorers: Many[Variant] = Field(min_length=1)


class Suite(Strict):
    """The fields of a suite file.

    `distill` names the common loss: cross-entropy, and the divergence from the parent's logits with
    that weight. `controls` are the parent fine-tuned like the pruned networks, uniform width, and
    uniform width fine-tuned for as long as the dearest method searches and fine-tunes. With
    other settings uniform width is one of the `variants`, and stands beside its control.

    `variants` are run beside the `methods`, at the same budgets; a `ranking` at none. `options` are
    those of `zoo run` that the suite is meant to be run with; they change no cell. `image_sizes`
    are sides in pixels of networks, by name, that see other sizes than the data set's.

    `primary` are the contrasts that the suite is run for, named before it is run: reports call them
    confirmatory and everything else exploratory. They change no cell, and each record carries them.
    """

    title: str
    options: str = ""
    primary: Many[Contrast] = Field(default=(), max_length=100)
    protocol: int = PROTOCOL
    methods: Literal["all"] | Many[str] = "all"
    variants: Many[Variant] = ()
    budgets: Many[BudgetValue] = ()
    metric: BudgetMetric = "macs"
    seeds: Many[Annotated[int, Field(ge=0, le=MOST_SEED)]] = Field(default=(0,), min_length=1)
    models: Many[Model] = Field(min_length=1)
    datasets: Many[Data] = Field(min_length=1)
    image_sizes: dict[str, Annotated[int, Field(ge=8)]] = {}
    parent: Schedule
    finetune: Schedule
    rules: Rules = Rules()
    recalibration_batches: int = Field(default=RECALIBRATION_BATCHES, ge=1)
    latency: Latency = Latency()
    start: Start = "inherited"
    distill: float = Field(default=0.0, ge=0, le=1e6)
    controls: bool = True
    settings: dict[str, dict[str, JsonValue]] = {}
    ranking: Ranking | None = None

    def on_dataset(self, name: str) -> "Suite":
        """The suite on one other data set, at its own size and with all its images."""
        return self.model_copy(update={"datasets": (Data(name=name),), "image_sizes": {}})

    def seen_by(self, model: Model, data: Data) -> Data:
        """A data set at the size that a network sees."""
        size = self.image_sizes.get(model.name)
        return data if size is None else data.model_copy(update={"image_size": size})

    def with_seeds(self, count: int) -> "Suite":
        """The suite with the seeds 0 to `count` - 1 in place of its own."""
        return self.model_copy(update={"seeds": tuple(range(count))})

    def with_models(self, names: Sequence[str]) -> "Suite":
        """The suite with some of its networks alone.

        Raises:
            ValueError: if it does not run one of them, with the nearest names.
        """
        known = {model.name for model in self.models}
        for name in names:
            if name not in known:
                raise ValueError(f"the suite runs no network {name!r}; {suggest(name, known)}")
        return self.model_copy(update={"models": tuple(m for m in self.models if m.name in names)})

    def with_weights_below(self, folder: Path) -> "Suite":
        """The suite with paths of weights that begin in a folder, where they are relative."""
        models = (
            model.model_copy(update={"weights": str(folder / Path(model.weights).expanduser())})
            if model.weights is not None
            else model
            for model in self.models
        )
        return self.model_copy(update={"models": tuple(models)})

    @property
    def named_methods(self) -> tuple[str, ...]:
        """All methods that the suite names to run, each once, files by their paths."""
        listed = () if self.methods == "all" else self.methods
        scorers = self.ranking.scorers if self.ranking else ()
        variants = (variant.method for variant in (*self.variants, *scorers))
        return tuple(dict.fromkeys((*listed, *variants)))

    def changed(
        self, *, dataset: str | None = None, seeds: int | None = None, models: Sequence[str] = ()
    ) -> "Suite":
        """The suite on another data set, with other seeds, with some networks alone, or as it is.

        Raises:
            ValueError: see `with_models`.
        """
        suite = self if dataset is None else self.on_dataset(dataset)
        suite = suite if seeds is None else suite.with_seeds(seeds)
        return suite.with_models(models) if models else suite

    @field_validator("seeds", "budgets", "models", "datasets", "primary")
    @classmethod
    def refuse_what_stands_twice(cls, items: tuple[object, ...]) -> tuple[object, ...]:
        """Refuse a seed, budget, network, data set or contrast that is named twice.

        Raises:
            ValueError: naming it.
        """
        for place, item in enumerate(items):
            if item in items[:place]:
                raise ValueError(f"{item!r} stands twice; take one out")
        return items

    @model_validator(mode="after")
    def check_together(self) -> "Suite":
        """Refuse what does not go together, all of it at once.

        Raises:
            ValueError: with the way out of each.
        """
        if faults := list(self._faults()):
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        """A suite without cells, budgets that mean nothing, and names that it does not have."""
        if not self.budgets and self.ranking is None:
            yield "budgets: List should have at least 1 item, or add a [ranking]"
        if self.budgets and not self.methods and not self.variants:
            yield "methods: an empty list; name some, or 'all', or add [[variants]]"
        for budget in self.budgets:
            if self.metric == "latency" and budget > 1:
                yield (
                    f"budgets: {budget} is no keep ratio of the latency; give one up to 1, or "
                    "milliseconds with metric = 'latency_ms'"
                )
        known = {asked_budget(budget) for budget in self.budgets}
        for contrast in self.primary:
            if contrast.budget not in self.budgets:
                asked = asked_budget(contrast.budget)
                yield f"primary: no budget {asked} in the suite; {suggest(asked, known)}"
        names = {model.name for model in self.models}
        for name in self.image_sizes:
            if name not in names:
                yield f"image_sizes: no network {name!r}; {suggest(name, names)}"

    @field_validator("protocol")
    @classmethod
    def check_protocol(cls, version: int) -> int:
        """Refuse a suite written for another order of steps.

        Raises:
            ValueError: if the version is not the one of this program.
        """
        if version != PROTOCOL:
            raise ValueError(
                f"protocol {version} is not the one of this program, {PROTOCOL}; "
                "use the release that ran it, or raise the number in the suite"
            )
        return version


def list_suites() -> tuple[str, ...]:
    """Names of the suites that come with the package."""
    files = resources.files("benchmarks").joinpath("suites").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if _is_suite(file.name)))


def load_suite(name: str) -> Suite:
    """Read a suite by its name or by the path of a `.toml` file, where its weights lie, too.

    Raises:
        ValueError: if there is no such suite, or the file does not say what a suite must.
        OSError: if a file given by its path cannot be read.
    """
    text, folder = _suite_text(name), Path(name).parent
    given: dict[str, Any] = {}  # Any: of TOML
    try:
        given = methods_below(folder, tomllib.loads(text))
        suite = Suite.model_validate(given)
    except RecursionError as error:
        raise ValueError(
            f"suite {name!r} is nested too deeply to be a suite; flatten it"
        ) from error
    except ValidationError as error:
        raise SuiteFaults(name, [*explained(error), *name_faults(given)]) from error
    except ValueError as error:  # of TOML, and of numbers too long for Python
        raise ValueError(f"suite {name!r} is not TOML: {error}") from error
    return suite.with_weights_below(folder)


def methods_below(folder: Path, given: dict[str, Any]) -> dict[str, Any]:  # Any: of TOML
    """What a suite's file says, its methods in files named from a folder, where it lies.

    A text `path/to/file.py:Name` is a method wherever it stands, and as a key of `settings`.
    """

    def below(value: object) -> object:
        if isinstance(value, str) and (found := _FILE_METHOD.fullmatch(value)):
            return f"{os.path.normpath(folder / Path(found[1]).expanduser())}:{found[2]}"
        if isinstance(value, list):
            return [below(item) for item in value]
        if isinstance(value, dict):
            return {below(key): below(item) for key, item in value.items()}
        return value

    return {key: below(value) for key, value in given.items()}


def expand(
    suite: Suite,
    jobs: Sequence[Variant],
    device: str = "cpu",
    named: Mapping[str, Named] = MappingProxyType({}),
) -> list[Cell]:
    """Every combination of a suite as a cell, cells that share a parent side by side.

    Args:
        suite: what to combine.
        jobs: methods with those settings that differ from their defaults; what `methods = "all"`
            stands for, and which settings are defaults, the caller knows.
        device: where the cells run.
        named: what cells call methods that come from outside.
    """
    cells = []
    for parent in _parents(suite, device, named):
        cells += [parent.cell(job, budget=budget) for budget, job in product(suite.budgets, jobs)]
        if suite.budgets and suite.controls:
            cells.append(parent.cell(Variant(method=PARENT), budget=1.0, metric="macs"))
    return cells


def expand_ranking(
    suite: Suite,
    scorers: Sequence[Variant],
    device: str = "cpu",
    named: Mapping[str, Named] = MappingProxyType({}),
) -> list[Cell]:
    """The cells of a suite's ranking: for each parent every scorer, then every member alone.

    Args:
        suite: what to combine.
        scorers: as `jobs` of `expand`.
        device: where the cells run.
        named: as `expand` takes it.
    """
    cells: list[Cell] = []
    if suite.ranking is None:
        return cells
    sample, alone = suite.ranking.sample, Variant(method=STANDALONE)
    trained = {"finetune": suite.ranking.train, "start": suite.ranking.start, "distill": 0.0}
    for parent in _parents(suite, device, named):
        part = {"budget": sample.high, "sample": sample}
        cells += [parent.cell(scorer, **part) for scorer in scorers]
        cells += [parent.cell(alone, **part, **trained, member=k) for k in range(sample.count)]
    return cells


@dataclass(frozen=True)
class _Parent:
    """What the cells of one parent have in common."""

    suite: Suite
    model: Model
    data: Data
    seed: int
    device: str
    named: Mapping[str, Named]

    def cell(self, job: Variant, **own: Any) -> Cell:  # Any: fields of the cell
        suite = self.suite
        name = self.named.get(job.method, Named(job.method))
        shared = {
            "finetune": suite.finetune,
            "start": suite.start,
            "scratch": job.scratch,
            "metric": suite.metric,
            "distill": suite.distill,
        }
        return Cell(
            protocol=suite.protocol,
            model=self.model,
            data=self.data,
            method=name.method,
            origin=name.origin,
            settings=job.settings,
            seed=self.seed,
            parent=suite.parent,
            rules=suite.rules,
            recalibration_batches=suite.recalibration_batches,
            latency=suite.latency,
            device=self.device,
            **(shared | own),
        )


def _parents(suite: Suite, device: str, named: Mapping[str, Named]) -> list[_Parent]:
    """One for each network, data set and seed."""
    return [
        _Parent(suite, model, suite.seen_by(model, data), seed, device, named)
        for model, data, seed in product(suite.models, suite.datasets, suite.seeds)
    ]


def _is_suite(file_name: str) -> bool:
    return file_name.endswith(".toml")


def _suite_text(name: str) -> str:
    if _is_suite(name):
        return _file_text(Path(name))
    if name not in list_suites():
        raise ValueError(
            f"unknown suite {name!r}; {suggest(name, list_suites())} "
            "(or the path of a .toml file, './mine.toml')"
        )
    return resources.files("benchmarks").joinpath("suites", f"{name}.toml").read_text("utf-8")


def _file_text(path: Path) -> str:
    """The text of a suite of someone's own.

    Raises:
        ValueError: if it is no file, too large, or no text.
        OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise ValueError(f"suite '{path}' is no file; give the path of a .toml file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"suite '{path}' has {size:,} bytes; a suite has {MOST_BYTES:,} at most")
    try:
        return path.read_text(encoding="utf-8-sig")  # a mark of the byte order is no TOML
    except UnicodeDecodeError as error:
        raise ValueError(f"suite '{path}' is no text in UTF-8 ({error.reason})") from error

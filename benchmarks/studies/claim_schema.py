"""What `claims.toml` says of how a claim is tried."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from benchmarks.records.cell import BudgetMetric
from benchmarks.records.strict import Strict

__all__ = ["Passes", "Test"]


class Passes(Strict):
    """What a ratio of costs is at best, and a second one that shows whether the structure agrees.

    Attributes:
        against: passes of a batch that the other method takes, at one of this method.
        beside: a third method, named as `against` is.
        stated: the paper's figure for the third.
    """

    against: int
    beside: str
    stated: float


class Test(Strict):
    """How a claim is tried on records.

    A test of accuracies (`best`, `difference`, `parent`) stands for every network, data set and
    budget of its folder at which the method has results, as far as it does not name them.

    Attributes:
        kind: `best`: final accuracy against every other method; `difference`: against `against`;
            `parent`: against the parent that was fine-tuned by the same recipe; `tau`: Kendall's
            tau against that of `against`; `seconds`: supernet training over that of `against`;
            `runtime`: time of a fixed network `against` over that of `method`.
        folder: under results/.
        model: that a comparison of accuracies is about, named as tables name it, or a pattern as of
            `fnmatch` ("resnet*"); every network if left out.
        data: its data set, by the name that suites give it; every data set if left out.
        metric: what the budget limits.
        budget: at which; every budget if left out.
        method: with its settings, as tables name it.
        against: the control, named alike; the other kinds of control need no name.
        stronger: a control that is at least as good as `against` could be: a claim of the method's
            own merit needs a lead over it, too.
        device: kind of device that a runtime is about.
        at_least: value that the claim names as a lower limit.
        at_most: value that it names as an upper limit.
        passes: of `seconds`, why the paper's figure is out of reach at equal updates.
    """

    kind: Literal["best", "difference", "parent", "tau", "seconds", "runtime"]
    folder: str
    model: str = ""
    data: str = ""
    metric: BudgetMetric = "macs"
    budget: float | None = None
    method: str
    against: str = ""
    stronger: str = ""
    device: str = ""
    at_least: float | None = None
    at_most: float | None = None
    passes: Passes | None = None

    @model_validator(mode="after")
    def name_what_is_compared(self) -> Test:
        """Refuse a test without its control, a setting of what has none, passes without a figure.

        Raises:
            ValueError: naming what is missing or too much.
        """
        if self.kind not in ("best", "parent") and not self.against:
            raise ValueError(f"a test of the kind {self.kind!r} names its control: add against")
        has_setting = bool(self.model or self.data) or self.budget is not None
        if self.kind not in ("best", "difference", "parent") and has_setting:
            raise ValueError(
                f"a test of the kind {self.kind!r} takes what its folder holds: leave out model, "
                "data and budget"
            )
        if self.passes is not None and self.at_most is None:
            raise ValueError("passes explain a figure of the paper: add at_most")
        return self

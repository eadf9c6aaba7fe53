"""How a check of the contract ends: what was seen, and where in the pruner's file."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ContractViolation", "Outcome"]


class ContractViolation(AssertionError):
    """A pruner breaks a check of the contract.

    Attributes:
        number: of the check.
        name: of the check.
        reason: what was seen.
        place: file and line of the pruner that it is about; empty if unknown.
        raised: what the pruner raised, by its type; empty if a check found the fault.
    """

    def __init__(
        self, number: int, name: str, reason: str, place: str = "", raised: str = ""
    ) -> None:
        where = f"{place}: " if place else ""
        super().__init__(f"check {number} ({name}): {where}{reason}")
        self.number = number
        self.name = name
        self.reason = reason
        self.place = place
        self.raised = raised


@dataclass(frozen=True)
class Outcome:
    """How one check ended on one network; `network` is empty for checks of the class alone.

    `place` and `raised` are those of the `ContractViolation` of a failure.
    """

    number: int
    name: str
    network: str
    status: Literal["passed", "failed", "expected", "skipped"]
    reason: str = ""
    place: str = ""
    raised: str = ""

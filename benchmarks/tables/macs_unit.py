"""The unit that a column of multiply-adds is shown in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["TERA", "MacsUnit", "macs_unit"]


@dataclass(frozen=True)
class MacsUnit:
    """A unit of multiply-adds: its name, and how many it is."""

    name: str
    size: float


TERA = MacsUnit("TMACs", 1e12)
UNITS = (TERA, MacsUnit("GMACs", 1e9), MacsUnit("MMACs", 1e6))


def macs_unit(values: Iterable[float], seen: Callable[[list[float]], float]) -> MacsUnit:
    """The largest unit in which a column with two decimals does not hide what it is about.

    Args:
        values: of the column; zeros are zero in any unit.
        seen: which of the others must not be shown as 0.00: `min` or `max`.
    """
    found = [value for value in values if value > 0]
    if not found:
        return TERA
    return next((unit for unit in UNITS if round(seen(found) / unit.size, 2) > 0), UNITS[-1])

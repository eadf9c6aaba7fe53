"""The speed of pruning: its seconds by part, and how they grow with depth."""

import pytest

from benchmarks.studies import pruning_speed
from benchmarks.studies.pruning_speed import (
    Growth,
    growth_exponent,
    growth_to_markdown,
    measure_growth,
)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.4])
def test_the_exponent_is_that_of_a_power(power: float) -> None:
    calls = (70, 175, 515)
    assert growth_exponent(calls, [3e-4 * n**power for n in calls]) == pytest.approx(power)


def test_medians_are_of_each_part_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds 1 to 3 count; network n takes n, 10 n and 100 n seconds, times 1, 5 and 2."""
    times = iter([r * n * u for r in (9, 1, 5, 2) for n in (1, 2) for u in (1.0, 10.0, 100.0)])
    monkeypatch.setattr(pruning_speed, "_times", lambda _: (next(times), next(times), next(times)))
    found = measure_growth(("test_resnet", "test_byobnet"), rounds=3)
    assert (found.trace, found.decision, found.rebuild) == ((2, 4), (20, 40), (200, 400))
    assert len(set(found.calls)) == 2


def test_the_table_has_the_exponent_of_every_part_and_of_the_sum() -> None:
    row = Growth(("a", "b"), (10, 100), (1.0, 10.0), (1.0, 100.0), (1.0, 1.0))
    assert "| a, b | 10, 100 | 1.00 | 2.00 | 0.00 | 1.57 |" in growth_to_markdown([row])

"""What is said of latencies that were predicted otherwise."""

from __future__ import annotations

import pytest

from benchmarks.records.latency_lines import latency_lines
from benchmarks.records.record import Record, TimedOn
from benchmarks.records.runtime import Interval, PredictedLatency
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record


def under_latency(
    predicted: float,
    found: float,
    *,
    metric: str = "latency",
    interval: tuple[float, float] | None = None,
    seed: int = 0,
) -> Record:
    """Of a parent that takes 10 ms, and a share of that predicted and measured at batch 1."""
    asked = cell("fpgm", 0.8, seed, metric=metric)
    ends = interval and Interval(low=interval[0], high=interval[1], level=0.95)
    return record(
        cell=asked,
        predicted_latency=PredictedLatency(
            batch=1, limit_ms=8, parent_ms=10, pruned_ms=10 * predicted
        ),
        latency=(measured(1, found).model_copy(update={"ratio_interval": ends}), measured(8, 0.5)),
    )


def test_a_network_that_is_slower_than_predicted_is_told_with_both_figures() -> None:
    off = under_latency(0.8, 1.01, interval=(0.99, 1.03))
    further = under_latency(0.8, 1.2, seed=1)
    (line,) = latency_lines([under_latency(0.8, 0.8, seed=1), off, record()])
    assert line.startswith("Latency of 1 of 2 pruned networks is not as predicted")
    assert "predicted 0.80 of the parent's, measured 1.01 of the parent's" in line
    assert "noise: 0.99 to 1.03" in line and "parent predicted 10 ms, measured 10 ms" in line
    (line,) = latency_lines([off, further])
    assert "2 of 2" in line and "measured 1.20" in line


@pytest.mark.parametrize(
    "fine",
    [
        under_latency(0.8, 0.81, interval=(0.81, 0.81)),  # a budget has fewer digits
        under_latency(0.8, 1.01, interval=(0.79, 1.2)),  # noise
        under_latency(0.8, 0.88, metric="latency_ms"),  # within the quartiles, 7.9 to 9.7 ms
    ],
)
def test_what_noise_explains_is_not_told(fine: Record) -> None:
    assert latency_lines([fine]) == []


def test_milliseconds_are_told_where_they_are_the_budget() -> None:
    (line,) = latency_lines([under_latency(0.8, 1.2, metric="latency_ms")])
    assert "predicted 8.00 ms, measured 12.00 ms" in line


def test_a_network_that_was_timed_under_two_releases_counts_once() -> None:
    on = ENVIRONMENT.model_copy(update={"torch": "9.9"})
    later = TimedOn(device="cpu", environment=on, fingerprint="cpu-2")
    off = under_latency(0.8, 1.2)
    again = off.model_copy(update={"timed_on": later, "latency": (measured(1, 0.8),)})
    for found in ([off, again], [again, off]):  # the release of the prediction counts
        (line,) = latency_lines(found)
        assert line.startswith("Latency of 1 of 1 pruned network is not as predicted")
    fine = under_latency(0.8, 0.8)
    there = fine.model_copy(update={"timed_on": later, "latency": (measured(1, 1.2),)})
    assert latency_lines([fine, there]) == latency_lines([there, fine]) == []
    (line,) = latency_lines([there])  # nothing else is known
    assert "measured 1.20" in line

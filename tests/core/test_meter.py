"""The meter charges the open phase and nothing else."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time

import pytest
import torch

from zoo.core.meter import Meter, _Collector


def test_charges_go_to_the_open_phase() -> None:
    meter = Meter()
    with meter.phase("scoring"):
        meter.images(3)
    with meter.phase("search"):
        meter.images(5)
    assert meter.spent["scoring"].images == 3
    assert meter.spent["search"].images == 5


def test_backward_costs_twice_the_forward_pass() -> None:
    meter = Meter()
    with meter.phase("finetune") as spent:
        meter.passes(4, 10, backward=True)
        meter.passes(1, 7, backward=False)
    assert (spent.macs_forward, spent.macs_backward, spent.macs) == (47, 80, 127)


def test_a_phase_entered_again_adds_up() -> None:
    meter = Meter()
    for _ in range(2):
        with meter.phase("supernet"):
            meter.images(2)
            time.sleep(0.01)
    assert meter.spent["supernet"].images == 4
    assert meter.spent["supernet"].seconds >= 0.02


def test_total_sums_counts_and_takes_the_highest_peak() -> None:
    meter = Meter()
    for name, images, peak in (("baseline", 1, 100), ("finetune", 2, 40)):
        with meter.phase(name):  # type: ignore[arg-type]
            meter.images(images)
            meter.passes(images, 5, backward=True)
        meter.spent[name].peak_bytes = peak
    total = meter.total()
    assert (total.images, total.macs_forward, total.macs_backward) == (3, 15, 30)
    assert total.peak_bytes == 100
    assert total.seconds == sum(spent.seconds for spent in meter.spent.values())


@pytest.mark.parametrize("charge", ["images", "passes"])
def test_a_charge_outside_any_phase_is_refused(charge: str) -> None:
    meter = Meter()
    with pytest.raises(RuntimeError, match="outside any phase"):
        meter.images(1) if charge == "images" else meter.passes(1, 1, backward=False)


def test_a_phase_ends_and_keeps_its_seconds_when_the_work_raises() -> None:
    meter = Meter()
    with pytest.raises(KeyError), meter.phase("search"):
        time.sleep(0.01)
        raise KeyError
    assert meter.spent["search"].seconds >= 0.01
    with meter.phase("finetune"):
        meter.images(1)


def test_phases_do_not_nest_and_have_fixed_names() -> None:
    meter = Meter()
    nested = pytest.raises(RuntimeError, match="inside another")
    with meter.phase("search"), nested, meter.phase("scoring"):
        pass
    with pytest.raises(ValueError, match="unknown phase 'warmup'"), meter.phase("warmup"):  # type: ignore[arg-type]
        pass


def test_a_negative_charge_is_refused() -> None:
    meter = Meter()
    with meter.phase("search"), pytest.raises(ValueError, match="negative"):
        meter.images(-1)


PEAKS = """
import json, numpy as np
from zoo.core.meter import Meter, _Collector
seen = Meter()
with seen.phase("scoring"):
    np.ones(64 << 20, dtype=np.uint8)
with seen.phase("search"):
    pass
again = Meter()
for name in ("scoring", "search"):
    with again.phase(name):
        blocks = [b"1" * 50_000 for _ in range(1000)]
        last = b"1" * 50_000  # keeps the heap from shrinking when the others are freed
        del blocks
peaks = [[meter.spent[name].peak_bytes for name in meter.spent] for meter in (seen, again)]
print(json.dumps(peaks))
"""


@pytest.fixture(scope="module")
def peaks() -> list[list[int]]:
    """What phases took, in a process that has freed nothing before."""
    ran = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True)
    found: list[list[int]] = json.loads(ran.stdout)
    if None in (peak for pair in found for peak in pair):
        pytest.skip("the system does not report the peak resident set")
    return found


def test_peak_bytes_sees_memory_that_is_freed_again_and_forgets_earlier_phases(
    peaks: list[list[int]],
) -> None:
    first, second = peaks[0]
    assert first >= 60 << 20
    assert second < 8 << 20


def test_peak_bytes_sees_memory_that_an_earlier_phase_has_freed(peaks: list[list[int]]) -> None:
    first, second = peaks[1]
    assert first >= 45 << 20
    assert second >= 45 << 20


def test_short_phases_look_at_young_objects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda generation=2: looked.append(generation) or 0)
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now.__setitem__(0, now[0] + 0.1) or now[0])
    monkeypatch.setattr("zoo.core.meter._collector", _Collector())
    for _ in range(30):  # a phase takes three ticks here, a look at every object one
        with Meter().phase("search"):
            pass
    assert looked[0] == 2
    assert looked.count(2) <= len(looked) / 5 and looked.count(2) > 1


def test_missing_numbers_stay_missing_in_json() -> None:
    meter = Meter()
    with meter.phase("search") as spent:
        meter.images(1)
    spent.peak_bytes = None
    assert json.loads(json.dumps(meter.to_json()))["search"]["peak_bytes"] is None
    assert meter.total().peak_bytes is None


def test_the_peak_on_a_gpu_is_growth_too(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"now": 1000, "peak": 5000}
    asked: list[str] = []

    def reset(device: torch.device) -> None:
        asked.append(str(device))
        held["peak"] = held["now"]

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: asked.append(str(device)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["peak"])
    meter = Meter("cuda:1")
    with meter.phase("search") as spent:
        held["peak"] = 1700
    assert spent.peak_bytes == 700
    held["now"] = 1500  # what the first phase left behind is no growth of the second
    with meter.phase("search"):
        held["peak"] = 1600
    assert spent.peak_bytes == 700 and set(asked) == {"cuda:1"}

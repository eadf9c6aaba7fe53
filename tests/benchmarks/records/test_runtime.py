import itertools
import json
import math
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.records.files import load_record, load_records, write_record
from benchmarks.records.runtime import (
    Footprint,
    Interval,
    Latency,
    fingerprint,
    median_interval,
    realised_share,
)
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record

PUBLISHED = sorted((Path(__file__).parents[3] / "results").glob("**/records/*.json"))


@pytest.mark.parametrize("count", [6, 7, 9, 12])
def test_the_interval_holds_the_median_as_often_as_it_says(count):
    # Brute force: of `count` draws each lies below the median or above it, all patterns equally
    # likely; the k-th smallest is below it if at least k draws are.
    interval = median_interval([float(i) for i in range(count)])
    cut = int(interval.low)
    assert interval.high == count - 1 - cut
    held = sum(cut < sum(below) < count - cut for below in itertools.product((0, 1), repeat=count))
    assert interval.level == pytest.approx(held / 2**count)
    assert interval.level >= 0.95
    narrower = sum(
        cut + 1 < sum(below) < count - cut - 1 for below in itertools.product((0, 1), repeat=count)
    )
    assert narrower / 2**count < 0.95


def test_the_interval_ignores_the_order_of_the_rounds():
    values = [3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 8.0, 7.0, 6.0]
    assert median_interval(values) == median_interval(sorted(values))
    assert (median_interval(values).low, median_interval(values).high) == (2.0, 8.0)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_than_six_rounds_have_no_interval(count):
    assert median_interval([1.0] * count) is None


def test_realised_share_is_nought_without_gain_and_one_at_the_theoretical_gain():
    assert realised_share(1.0, 2.0) == 0.0
    assert realised_share(2.0, 2.0) == 1.0
    assert realised_share(1.5, 2.0) == 0.5
    assert realised_share(0.75, 1.5) == -0.5
    assert realised_share(1.2, 1.05) is None


def test_the_speed_up_s_interval_is_that_of_the_ratio_turned_over():
    found = measured(1, 0.5).model_copy(
        update={"ratio_interval": Interval(low=0.4, high=0.5, level=0.95)}
    )
    assert found.speedup == 2.0
    assert found.speedup_interval == Interval(low=2.0, high=2.5, level=0.95)
    assert found.floor_interval is None


def test_the_fingerprint_names_what_times_depend_on():
    def differs(device, **changes):
        other = ENVIRONMENT.model_copy(update=changes)
        return fingerprint(other, device, 1) != fingerprint(ENVIRONMENT, device, 1)

    for change in ({"cpu": "other"}, {"cores": 4}, {"instructions": "AVX2"}):
        assert differs("cpu", **change) and not differs("cuda", **change)
    for change in ({"gpu": "other"}, {"driver": "1"}, {"cuda": "13"}, {"cudnn": 9}):
        assert differs("cuda:0", **change) and not differs("cpu", **change)
    for change in ({"torch": "2.12"}, {"workers": 9}, {"system": "Other"}):
        assert differs("cpu", **change) and differs("cuda", **change)
    for change in ({"python": "3.13.0"}, {"timm": "2"}, {"commit": "1"}, {"dirty": True}):
        assert not differs("cpu", **change) and not differs("cuda", **change)
    assert fingerprint(ENVIRONMENT, "cpu", 1) != fingerprint(ENVIRONMENT, "cpu", 2)
    assert fingerprint(ENVIRONMENT, "cuda", 1) == fingerprint(ENVIRONMENT, "cuda:1", 2)


def test_a_record_without_a_fingerprint_is_given_that_of_its_environment():
    old = record()
    assert old.fingerprint is None
    assert old.runs_on == fingerprint(old.environment, "cpu", 1)
    assert record(fingerprint="cpu-12345678").runs_on == "cpu-12345678"


def test_new_fields_are_written_and_read_back(tmp_path):
    taken = Footprint(disk_bytes=10, aligned_widths=0.5, denormal_weights=0.0)
    again = measured(1, 0.5).model_copy(update={"runtime": "onnxruntime", "settled": True})
    written = write_record(
        tmp_path,
        record(
            footprint={"parent": taken, "pruned": taken},
            further_latency=(again,),
            left_out={"cuda_graph": "no CUDA"},
            fingerprint="cpu-12345678",
        ),
    )
    assert load_records(tmp_path) == [written]


def test_new_settings_at_their_defaults_change_no_cell_s_name():
    plain = cell(latency=Latency(batches=(1, 8)))
    spelled = Latency(batches=(1, 8), fold_batch_norm=False, further=None)
    assert cell(latency=spelled).key == plain.key == "a3df8548"
    assert cell(latency=Latency(batches=(1, 8), fold_batch_norm=True)).key != plain.key
    assert cell(latency=Latency(batches=(1, 8), further=("compile",))).key != plain.key


@pytest.mark.parametrize("path", PUBLISHED[:: max(1, len(PUBLISHED) // 20)], ids=lambda p: p.stem)
def test_published_records_are_readable_and_keep_their_names(path):
    found = load_record(path)
    *_, key = re.findall(r"-([0-9a-f]{8})(?:-\d+)?$", json.loads(path.read_text())["id"])
    assert found.cell.key == key
    assert found.runs_on.startswith(f"{found.cell.device}-")


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (("channels_last",), "the main way's memory format"),
        (("compile", "compile"), "stands twice"),
        (("tensorrt",), "further"),
    ],
)
def test_further_ways_that_make_no_sense_are_refused(further, message):
    with pytest.raises(ValidationError, match=message):
        Latency(further=further)


def test_a_device_has_its_own_further_ways_unless_they_are_named():
    assert Latency().ways("cpu") == ()
    assert Latency().ways("cuda:0") == ("bfloat16", "contiguous")
    assert Latency(memory_format="contiguous").ways("cuda") == ("bfloat16", "channels_last")
    assert Latency(further=("cuda_graph",)).ways("cuda") == ("cuda_graph",)
    assert Latency(further=()).ways("cuda") == ()


def test_many_denormals_are_more_than_one_in_a_thousand():
    def taken(weights, activations):
        return Footprint(
            disk_bytes=1,
            aligned_widths=1.0,
            denormal_weights=weights,
            denormal_activations=activations,
        )

    assert not taken(0.001, None).has_many_denormals
    assert taken(0.0011, None).has_many_denormals and taken(0.0, 0.0011).has_many_denormals


def test_levels_are_exact():
    assert median_interval([1.0] * 7).level == 1 - 2 / 2**7
    assert math.isclose(median_interval([1.0] * 9).level, 1 - 2 * (1 + 9) / 2**9)

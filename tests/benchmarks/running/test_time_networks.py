"""Runtime as a phase of its own: what is timed, once for each device, and how it joins records."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from rich.console import Console

import zoo
from benchmarks.analysis.captions import caption
from benchmarks.analysis.comparison import compare, speedup
from benchmarks.measuring.measure import Runtimes
from benchmarks.records.cell import Data, Model
from benchmarks.records.files import write_record
from benchmarks.records.join import TIMINGS, joined, network_key, read_results, read_timings
from benchmarks.records.latency_lines import latency_lines
from benchmarks.records.record import Group, Record
from benchmarks.records.runtime import Latency, PredictedLatency
from benchmarks.records.timing import Timing
from benchmarks.running.engine import LocalEngine, LocalMachine, check_core
from benchmarks.running.plan import Job
from benchmarks.running.time_networks import time_networks, untimed
from tests.benchmarks.fabricate import ENVIRONMENT, measured
from tests.benchmarks.fabricate import cell as made_up_cell
from tests.benchmarks.fabricate import record as made_up_record
from tests.benchmarks.in_this_process import InThisProcess
from tests.benchmarks.machines import GPU, trained
from tests.benchmarks.machines import timing as timing_on

BOTH = Latency(batches=(1, 8))
QUICK = Latency(batches=(1,), rounds=3, block_ms=0.1, warmup_ms=0.1)


def record(method: str = "fpgm", seed: int = 0, kept: int = 4, **changes: object) -> Record:
    cell = made_up_cell(method, seed=seed, latency=BOTH)
    groups = (Group(name="stem", size=8, kept=kept), Group(name="blocks.0", size=16, kept=12))
    fields = {"cell": cell, "groups": groups, "latency": (), "input_size": (3, 8, 8)}
    made: Record = made_up_record(**{**fields, "num_classes": 10, **changes})
    return made


def timing(of: Record, fingerprint: str, ratio: float, utc: str = "2026-01-02T00:00:00Z") -> Timing:
    return Timing(
        id="x",
        utc=utc,
        network=network_key(of) or "",
        label=of.cell.label,
        device="cpu",
        latency=(measured(1, ratio), measured(8, ratio / 2)),
        environment=ENVIRONMENT.model_copy(update={"cpu": fingerprint}),
        fingerprint=fingerprint,
    )


def test_the_name_of_a_network_tells_what_time_depends_on_and_nothing_else() -> None:
    one = record()
    assert network_key(one) == network_key(record("taylor", seed=3))
    others = [
        record(kept=5),
        record(input_size=(3, 8, 9)),
        record(num_classes=11),
        record(cell=made_up_cell("fpgm", model=Model(name="tiny_net", width=2))),
        record(cell=made_up_cell("fpgm", latency=Latency(batches=(1, 4)))),
    ]
    assert len({network_key(each) for each in (one, *others)}) == 1 + len(others)
    assert network_key(record(status="failed", reason="it broke")) is None
    assert network_key(made_up_record()) is None  # of protocol 1


def test_each_device_gets_all_records_of_a_comparison_and_the_times_measured_there() -> None:
    one, other, alone = record(), record("taylor", kept=5), record("bcnet", kept=6)
    found = joined(
        [one, other, alone],
        [timing(one, "cpu-1", 0.5), timing(one, "cpu-2", 0.25), timing(other, "cpu-1", 0.8)],
    )
    by_device = {c.hardware: c for c in compare(found)}
    assert len(by_device) == 2
    speeds = {
        device: {row.method: row.mean(lambda r: speedup(r, True)) for row in comparison.rows}
        for device, comparison in by_device.items()
    }
    told = {
        device: {m: None if s is None else round(s.mean, 6) for m, s in rows.items()}
        for device, rows in speeds.items()
    }
    assert told == {
        "cpu-1 (cpu-1)": {"fpgm": 2.0, "taylor": 1.25, "bcnet": None},
        "cpu-2 (cpu-2)": {"fpgm": 4.0, "taylor": None, "bcnet": None},
    }


def test_a_device_that_timed_is_named_by_its_own_and_where_it_was_trained_stays_known() -> None:
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9", "cpu": "its host", "commit": "1" * 40})
    one = record(environment=gpu, cell=made_up_cell("fpgm", device="cuda", latency=BOTH))
    (on_cpu,) = joined([one], [timing(one, "cpu-1", 0.5)])
    other = record("taylor")
    timed = timing(other, "cuda-1", 0.5).model_copy(update={"device": "cuda", "environment": gpu})
    (on_gpu,) = joined([other], [timed])
    assert (on_cpu.processor, on_gpu.processor) == ("cpu-1", "GPU 9")
    assert [c.hardware for c in compare([on_cpu, on_gpu])] == ["GPU 9 (cuda-1)", "cpu-1 (cpu-1)"]
    told = [caption(c) for c in compare([on_cpu, on_gpu])]
    assert "Trained on Abacus 3000. Latency on GPU 9 (cuda-1), 1 thread" in told[0]
    assert "Trained on GPU 9. Latency on cpu-1 (cpu-1), 1 thread" in told[1]
    assert (on_cpu.environment, on_gpu.environment) == (gpu, ENVIRONMENT)
    assert "timed_on" not in on_cpu.model_dump()


def test_the_latest_timing_counts_and_old_records_keep_their_own_times() -> None:
    one, old = record(), made_up_record()
    again = timing(one, "cpu-1", 0.4, utc="2026-01-03T00:00:00Z")
    found = joined([one, old], [again, timing(one, "cpu-1", 0.5)])
    assert found[0].latency == again.latency and found[1] is old
    assert joined([one], []) == [one]
    times = "2026-01-02T13:00:00+02:00", "2026-01-02T12:00:00Z"
    sooner, later = (timing(one, "cpu-1", 0.3 + 0.1 * i, utc=utc) for i, utc in enumerate(times))
    assert joined([one], [sooner, later])[0].latency == later.latency


def test_what_was_predicted_is_told_beside_what_was_measured() -> None:
    predicted = PredictedLatency(batch=8, limit_ms=6, parent_ms=10, pruned_ms=5)
    assert predicted.error is None
    one = record(predicted_latency=predicted)
    here = timing(one, "cpu-1", 0.5).model_copy(update={"environment": ENVIRONMENT})
    (found,) = joined([one], [here])
    assert found.predicted_latency is not None
    assert found.predicted_latency.measured_pruned_ms == 2.5  # of 10 ms, at batch 8
    assert found.predicted_latency.error == pytest.approx(1.0)


def test_a_prediction_is_held_against_times_of_the_processor_that_it_is_for() -> None:
    predicted = PredictedLatency(batch=1, limit_ms=6, parent_ms=10, pruned_ms=5)
    asked = {"device": "cuda", "metric": "latency"}
    one = trained(on=GPU, asked=asked, predicted_latency=predicted)
    times = [
        timing_on(one, 0.9),
        timing_on(one, 0.5, on=GPU, device="cuda"),
        timing_on(one, 0.9, on=GPU.model_copy(update={"gpu": "GPU 8"}), device="cuda"),
        # On the processor of the machine that trained it, but as another kind of device.
        timing_on(one, 0.9, on=GPU.model_copy(update={"cpu": "GPU 9"})),
    ]
    found = joined([one], times)
    assert [each.is_timed_where_trained for each in found] == [False, True, False, False]
    errors = [each.predicted_latency and each.predicted_latency.error for each in found]
    assert errors == [None, 0.0, None, None]
    assert latency_lines(found) == []
    slow = joined([one], [*times[:1], timing_on(one, 0.7, on=GPU, device="cuda")])
    (line,) = latency_lines(slow)
    assert line.startswith("Latency of 1 of 1 pruned network is not as predicted")


def test_networks_are_timed_once_for_each_device() -> None:
    one, twin, other = record(), record("taylor", seed=1), record(kept=5)
    todo = untimed([one, twin, other], [timing(one, "cpu-1", 0.5)], "cpu-1")
    assert [each.record for each in todo] == [other]
    assert len(untimed([one, twin, other], [timing(one, "cpu-1", 0.5)], "cpu-2")) == 2


def test_networks_whose_timing_was_disturbed_are_timed_again() -> None:
    one = record()
    quiet = timing(one, "cpu-1", 0.5)
    shared = measured(8, 0.5).model_copy(update={"processor_share": 0.6})
    disturbed = quiet.model_copy(update={"latency": (measured(1, 0.5), shared)})
    assert [each.record for each in untimed([one], [disturbed], "cpu-1")] == [one]
    assert untimed([one], [disturbed, quiet], "cpu-1") == []


def test_a_disturbed_timing_is_told_and_taken_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked, _) = written(tmp_path)
    job, shares = Job(tmp_path), [0.5, 1.0]

    def measure(*_: object, **__: object) -> Runtimes:
        share = {"processor_share": shares.pop(0)}
        return Runtimes((measured(1, 0.5).model_copy(update=share),))

    monkeypatch.setattr("benchmarks.measuring.measure.measure_pair", measure)
    monkeypatch.setattr(LocalMachine, "start", lambda *_, **__: LocalEngine(InThisProcess(1)))
    console, here = Console(width=200), LocalMachine()
    assert time_networks(job, console, here, keys={asked.cell.key}) == 0
    told = capsys.readouterr().out
    assert "disturbed: 1 network; something else ran" in told and "zoo time" in told
    assert time_networks(job, console, here, keys={asked.cell.key}) == 0
    assert "disturbed" not in capsys.readouterr().out and not shares
    assert time_networks(job, console, here, keys={asked.cell.key}) == 0
    assert len(list((tmp_path / TIMINGS).iterdir())) == 2


def written(results: Path) -> list[Record]:
    """Records of half of a network's channels, and of a network that there is not."""
    model = timm.create_model("test_resnet", num_classes=10)
    space = zoo.ChannelSpace.trace(model, (3, 16, 16))
    config = {g.name: list(range(g.size // 2)) for g in space.groups}
    groups = tuple(Group(name=g.name, size=g.size, kept=g.size // 2) for g in space.groups)
    made = []
    for seed, name in enumerate(("test_resnet", "no_such_net")):
        cell = made_up_cell(
            seed=seed, model=Model(name=name), data=Data(name="digits"), latency=QUICK
        )
        fields = {"cell": cell, "groups": groups, "config": config, "input_size": (3, 16, 16)}
        made.append(write_record(results / "records", record(**fields)))
    return made


def test_networks_are_made_again_from_their_records_and_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = written(tmp_path)
    console = Console(width=200)
    assert time_networks(Job(tmp_path, until=0.0), console) == 2
    assert not list((tmp_path / TIMINGS).iterdir())
    assert time_networks(Job(tmp_path), console, LocalMachine(core=0)) == 1
    assert "unknown model 'no_such_net'" in capsys.readouterr().out
    (found,), unread = read_timings(tmp_path)
    assert not unread
    assert (found.network, found.environment.workers) == (network_key(records[0]), 1)
    assert [each.batch for each in found.latency] == [1] and found.footprint
    times = {r.cell.model.name: len(r.latency) for r in read_results(tmp_path).records}
    assert times == {"test_resnet": 1, "no_such_net": 0}
    assert time_networks(Job(tmp_path), console, keys={records[0].cell.key}) == 0
    assert len(list((tmp_path / TIMINGS).iterdir())) == 1
    # As on a second device: what was measured there does not stand for this one.
    (path,) = (tmp_path / TIMINGS).iterdir()
    path.write_text(path.read_text().replace(found.fingerprint, "cpu-elsewhere"))
    assert time_networks(Job(tmp_path), console, keys={records[0].cell.key}) == 0
    devices = {each.fingerprint for each in read_timings(tmp_path).records}
    assert devices == {"cpu-elsewhere", found.fingerprint}


def test_a_core_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"core 4096; cores are 0"):
        check_core(4096)


def test_a_damaged_timing_is_named_and_left_out(tmp_path: Path) -> None:
    write_record(tmp_path / "records", record())
    (tmp_path / TIMINGS).mkdir()
    (tmp_path / TIMINGS / "odd.json").write_text("{}")
    records, unread = read_results(tmp_path)
    assert [each.name for each in unread] == ["odd.json"] and len(records) == 1

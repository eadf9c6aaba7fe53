import io
import signal

from rich.console import Console

from benchmarks.running.endings import tell_stop, tell_unsettled
from benchmarks.running.run_cells import Outcomes, Stopped
from tests.benchmarks.fabricate import record


def told(say, what):
    out = io.StringIO()
    status = say(what, Console(file=out, width=300))
    return status, out.getvalue()


def test_a_run_whose_cells_are_settled_says_nothing():
    outcomes = Outcomes()
    outcomes["ok"] += 3
    assert told(tell_unsettled, outcomes) == (0, "")


def test_what_died_once_is_named_though_it_ended_well():
    outcomes = Outcomes()
    outcomes["ok"] += 3
    outcomes.deaths.append("taylor-resnet20-digits-macs0.5-s0: killed by signal 11 (SIGSEGV)")
    status, text = told(tell_unsettled, outcomes)
    assert status == 0 and text.splitlines() == [
        "tried once more alone, since its process died:",
        "  taylor-resnet20-digits-macs0.5-s0: killed by signal 11 (SIGSEGV)",
    ]


def test_cells_that_were_cancelled_or_failed_are_named_and_the_status_is_not_zero():
    outcomes = Outcomes()
    for status, number in (("failed", 2), ("cancelled", 1)):
        outcomes[status] += number
        outcomes.unsettled += [
            record(status=status, reason="x", seed=seed, id=f"{status}-{seed}")
            for seed in range(number)
        ]
    status, text = told(tell_unsettled, outcomes)
    assert status == 1
    assert text.splitlines() == [
        "2 failed and 1 cancelled cells; their records say why, the next run tries again:",
        "  failed-0",
        "  failed-1",
        "  cancelled-0",
    ]


def test_of_many_cells_the_first_are_named():
    outcomes = Outcomes()
    outcomes["cancelled"] += 50
    outcomes.unsettled += [record(status="cancelled", reason="x", id=f"c{n}") for n in range(50)]
    _, text = told(tell_unsettled, outcomes)
    lines = text.splitlines()
    assert lines[0].startswith("50 cancelled cells;")
    assert lines[-2:] == ["  c19", "  and 30 more"]


def test_a_stopped_run_says_by_what_and_has_the_status_of_the_signal():
    assert told(tell_stop, KeyboardInterrupt())[0] == 130
    status, text = told(tell_stop, Stopped(signal.SIGTERM))
    assert status == 143 and text.startswith("stopped by SIGTERM; what was finished is recorded")

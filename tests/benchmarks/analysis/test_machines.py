"""What several machines trained is compared on each alone, and what several timed counts once."""

from __future__ import annotations

import csv
import io

from benchmarks.analysis.captions import caption
from benchmarks.analysis.comparison import compare
from benchmarks.analysis.effects import distinct, overall_effects
from benchmarks.analysis.findings import Findings
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.join import joined
from benchmarks.records.record import Record
from benchmarks.tables.ablation import ablation_table
from benchmarks.tables.contrast_lines import contrast_lines
from benchmarks.tables.finding_table import finding_table
from benchmarks.tables.paper_table import paper_table
from benchmarks.tables.supernets import sharing_table
from benchmarks.tables.tables import to_csv, to_markdown
from benchmarks.tables.terminal import terminal_table
from tests.benchmarks.fabricate import record
from tests.benchmarks.machines import ABACUS, BETA, GPU, timing, trained

ASKED = (
    Primary(contrast=Contrast(method="fpgm", budget=0.5), metric="macs", seeds=(0, 1, 2)),
)  # fmt: skip


def apart() -> list[Record]:
    """Uniform width on one machine, a method that is more accurate on another."""
    seeds = range(3)
    uniform = [trained(seed=s, on=BETA, top1=0.74 + 0.01 * s, primary=ASKED) for s in seeds]
    other = [trained("fpgm", seed=s, kept=5, top1=0.8 + 0.011 * s, primary=ASKED) for s in seeds]
    return [*uniform, *other]


def test_timing_brings_no_gain_between_networks_that_two_machines_trained() -> None:
    records = apart()
    for times in ([], [timing(records[0])], [timing(records[0]), timing(records[-1], on=GPU)]):
        found = compare(joined(records, times))
        assert {(c.trained_on, row.method) for c in found for row in c.rows} == {
            ("Beta 7", "uniform"),
            ("Abacus 3000", "fpgm"),
        }
        assert not any(row.gain for c in found for row in c.rows)
        lines = contrast_lines(found)[:-1]
        assert [line.rpartition(": ")[2] for line in lines] == [
            "no difference, not confirmatory (not run yet)."
        ] * 2


def test_a_timing_belongs_to_a_network_whatever_machine_trained_it() -> None:
    records = [trained(on=BETA), trained("fpgm"), trained("taylor", kept=6)]
    found = compare(joined(records, [timing(records[0], on=GPU, device="cuda")]))
    assert [(c.trained_on, c.hardware.partition(" (")[0]) for c in found] == [
        ("Abacus 3000", "GPU 9"),
        ("Beta 7", "GPU 9"),
    ]
    times = {row.method: bool(r.latency) for c in found for row in c.rows for r in row.ok}
    assert times == {"uniform": True, "fpgm": True, "taylor": False}
    found = compare(joined(records, [timing(records[2], on=GPU, device="cuda")]))
    assert [c.hardware.partition(" (")[0] for c in found] == ["Beta 7", "GPU 9"]


def test_headings_tell_the_machine_that_trained_where_else_two_would_be_equal() -> None:
    records = [trained(on=BETA), trained("fpgm")]
    times = [timing(records[0], on=GPU, device="cuda")]
    for found in (compare(records), compare(joined(records, times))):
        headings = [c.heading for c in found]
        assert headings == [c.timed_heading for c in found]
        assert set(headings) == {
            f"tiny_net on digits, trained on {name}" for name in ("Abacus 3000", "Beta 7")
        }
    (alone,) = compare(joined(records[:1], times))
    assert alone.timed_heading == alone.heading == alone.title == "tiny_net on digits"


def test_headings_tell_the_device_that_timed_where_several_did() -> None:
    one = trained()
    found = compare(joined([one], [timing(one), timing(one, on=GPU, device="cuda")]))
    assert {c.heading for c in found} == {"tiny_net on digits"}
    headings = [line[4:] for line in to_markdown(found).splitlines() if line.startswith("### ")]
    assert len(headings) == 2
    assert headings[0].startswith("tiny_net on digits, timed on Abacus 3000 (cpu-")
    assert headings[1].startswith("tiny_net on digits, timed on GPU 9 (cuda-")


def test_an_untimed_run_that_went_on_with_other_workers_is_one_comparison() -> None:
    more = ABACUS.model_copy(update={"workers": 4, "torch": "2.12.0"})
    records = [
        trained(m, seed=s, kept=k if s else k + 2, on=more if s else ABACUS)
        for m, k in (("uniform", 4), ("fpgm", 5))
        for s in range(3)
    ]
    (found,) = compare(records)
    assert [row.seeds for row in found.rows] == ["3 seeds"] * 2
    assert found.hardware == "Abacus 3000"
    assert caption(found).endswith("Run on Abacus 3000.")
    (timed,) = compare(joined(records, [timing(records[0])]))
    assert [row.seeds for row in timed.rows] == ["3 seeds"] * 2
    (alone,) = compare(records[:1])
    assert alone.hardware == f"Abacus 3000 ({records[0].fingerprint})"
    assert len(Findings.of(records).by_device) == 1
    # Records of protocol 1 were timed while they were trained.
    assert len(compare([record(), record("fpgm", environment=more)])) == 2


def test_a_device_that_timed_only_what_was_replaced_has_no_table() -> None:
    old = trained(id="a")
    new = trained(kept=5, id="b", supersedes="a", utc="2026-02-01T00:00:00+00:00")
    (found,) = compare(joined([old, new], [timing(old, on=GPU, device="cuda")]))
    assert found.trained_on == "Abacus 3000" and caption(found).endswith(
        f"Run on Abacus 3000 ({new.fingerprint})."
    )


def test_where_only_networks_that_are_not_shown_were_timed_the_caption_tells_the_training() -> None:
    records = [trained(), trained("fpgm", kept=5)]
    both = joined(records, [timing(records[0], on=GPU, device="cuda")])
    (found,) = compare(each for each in both if each.cell.method == "fpgm")
    assert caption(found).endswith("cross-entropy. Trained on Abacus 3000.")


def test_only_a_comparison_whose_records_stand_in_another_is_no_distinct_one() -> None:
    records = [
        trained(m, seed=s, kept=k, on=BETA if s == 0 else ABACUS, top1=t + 0.01 * s * s * (k - 3))
        for m, k, t in (("uniform", 4, 0.8), ("fpgm", 5, 0.84))
        for s in range(3)
    ]
    times = [timing(records[0]), timing(records[0], on=GPU, device="cuda")]
    found = compare(joined(records, times))
    assert len(found) == 4
    assert [c.trained_on for c in distinct(found)] == ["Abacus 3000", "Beta 7"]
    (effect,) = overall_effects(found)
    assert abs(effect.mean - (0.04 + 0.05 + 0.08) / 3) < 1e-9  # seeds 0, 1 and 2
    old = [record(m, seed=s, fingerprint=f"cpu-{s}") for m in ("uniform", "fpgm") for s in range(3)]
    assert len(distinct(compare(old))) == 3


def test_tables_without_times_stand_there_once_and_those_with_times_name_the_device() -> None:
    supernet = ({"step": "supernet", "key": "a"},)
    records = [
        trained(m, seed=s, kept=4 + s, asked={"settings": how}, primary=ASKED, trace=supernet)
        for m, how in (("uniform", {}), ("fpgm", {}), ("fpgm", {"steps": 1}))
        for s in range(2)
    ]
    once = compare(joined(records, [timing(records[0])]))
    both = compare(joined(records, [timing(records[0]), timing(records[0], on=GPU, device="cuda")]))
    assert (len(once), len(both)) == (1, 2)
    for table in (finding_table, ablation_table, sharing_table):
        assert table(both) == table(once) != ""
    titles = [str(terminal_table(c).title) for c in both]
    captions = [paper_table(c, (), "t").splitlines()[2] for c in both]
    for told in (titles, captions):
        assert ["GPU 9" in text.replace(r"\allowbreak{}", "") for text in told] == [False, True]
        assert "timed on" in told[0].replace(r"\allowbreak{}", "")
    assert "timed on" not in str(terminal_table(once[0]).title)


def test_the_caption_tells_how_many_were_trained_at_once_where_they_were_timed_otherwise() -> None:
    two, four = (ABACUS.model_copy(update={"workers": count}) for count in (2, 4))
    told = {}
    for name, trainers, timer in (
        ("alike", (ABACUS, ABACUS), ABACUS),
        ("two", (two, two), ABACUS),
        ("mixed", (two, four), ABACUS),
        ("elsewhere", (two, ABACUS), BETA),
    ):
        one, other = (trained(seed=seed, on=on) for seed, on in enumerate(trainers))
        (found,) = compare(joined([one, other], [timing(one, on=timer)]))
        told[name] = caption(found).partition("cross-entropy. ")[2].partition("Latency on")[0]
        assert caption(found).count("one cell at a time") == 1
    assert told == {
        "alike": "",
        "two": "Trained on Abacus 3000, 2 cells side by side. ",
        "mixed": "Trained on Abacus 3000, 2 to 4 cells side by side. ",
        "elsewhere": "Trained on Abacus 3000, 1 to 2 cells side by side. ",
    }


def test_the_csv_names_the_machine_of_the_seconds_beside_that_of_the_times() -> None:
    one = trained()
    found = compare(joined([one], [timing(one, on=GPU, device="cuda")]))
    (row,) = csv.DictReader(io.StringIO(to_csv(found)))
    assert row["trained_on"] == "Abacus 3000" and row["hardware"].startswith("GPU 9 (cuda-")


def test_a_cell_on_two_processors_of_one_kind_stands_in_two_tables() -> None:
    here = [
        trained(m, seed=s, top1=t) for m, t in (("uniform", 0.5), ("fpgm", 0.6)) for s in (0, 1)
    ]
    there = [trained("uniform", seed=0, on=BETA, top1=0.7, id="another")]
    first, second = compare([*here, *there])
    assert {first.trained_on, second.trained_on} == {ABACUS.cpu, BETA.cpu}
    whole, begun = sorted((first, second), key=lambda each: -len(each.ok))
    assert [len(row.ok) for row in whole.rows] == [2, 2] and len(begun.ok) == 1
    assert whole.heading.endswith(f"trained on {ABACUS.cpu}")


def test_a_failure_does_not_stand_where_another_processor_settled_the_cell() -> None:
    failed = trained("fpgm", status="failed", reason="killed", id="failed")
    (found,) = compare([failed, trained("fpgm", on=BETA), trained(on=BETA)])
    assert found.trained_on == BETA.cpu and not any(row.lost for row in found.rows)


def test_no_device_s_figures_bring_back_what_was_replaced() -> None:
    first = trained("fpgm", id="first")
    better = trained("fpgm", on=BETA, id="better", supersedes="first")
    found = Findings.of([trained(), first, better])
    assert {r.id for each in found.by_device.values() for r in each.records} == {
        trained().id, "better",
    }  # fmt: skip

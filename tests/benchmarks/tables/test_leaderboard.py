"""The leaderboard: which rows share a board, their order, and where each comes from."""

import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.cli import main
from benchmarks.page.leaderboard import build_leaderboard, write_leaderboard
from benchmarks.page.report import refuse_beside_folders, report_leaderboard
from benchmarks.records.cell import Data, Schedule
from benchmarks.records.files import write_record
from benchmarks.records.join import joined, network_key
from benchmarks.records.record import Record
from benchmarks.records.runtime import fingerprint
from benchmarks.records.timing import Timing
from benchmarks.tables.leaderboard import boards, to_markdown
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record

HERE = [
    record("uniform", 0.5, 0, top1=0.70), record("uniform", 0.5, 1, top1=0.72),
    record("bnp", 0.5, 0, top1=0.75), record("bnp", 0.5, 1, top1=0.76),
    record("bnp", 0.25, 0, top1=0.60), record("parent", 1.0, 0, top1=0.9),
]  # fmt: skip
# Another machine, where everything comes out higher, and the method gains less.
OTHER = ENVIRONMENT.model_copy(update={"cpu": "Abacus 4000"})
THERE = [
    record("uniform", 0.5, 0, top1=0.80, environment=OTHER),
    record("taylor", 0.5, 0, top1=0.81, environment=OTHER),
]


def test_rows_are_sorted_by_their_gain_over_their_own_control() -> None:
    (board,) = boards({"here": HERE, "there": THERE})
    told = [(line.texts[1], line.texts[2], line.texts[3], line.texts[-1]) for line in board.lines]
    assert told == [
        ("bnp", "+4.5 ± 0.7", "75.5 ± 0.7", "here"),
        ("taylor", "+1.0", "81.0", "there"),
        ("uniform", "–", "71.0 ± 1.4", "here"),
        ("uniform", "–", "80.0", "there"),
        ("bnp", "–", "60.0", "here"),
    ]  # fmt: skip
    assert [line.texts[0] for line in board.lines] == ["0.5 MACs"] * 4 + ["0.25 MACs"]
    assert "Abacus 4000" in board.lines[1].texts[-2]


def test_another_recipe_is_another_board() -> None:
    longer = [record(cell=cell("uniform", finetune=Schedule(epochs=9)), top1=0.9)]
    assert [len(board.lines) for board in boards({"here": HERE, "there": longer})] == [3, 1]


def test_boards_of_one_name_are_told_apart_by_what_differs_between_the_folders() -> None:
    def on(**changes: object) -> list[Record]:
        return [record(cell=cell("uniform", **changes), top1=0.9)]

    one, other = (Data(name="imagefolder", digest=each * 16) for each in "ab")
    found = boards({"here": on(data=one), "there": on(data=other)})
    assert [board.title for board in found] == [
        f"tiny_net on imagefolder {each * 16}" for each in "ab"
    ]
    rates = [on(finetune=Schedule(epochs=2, lr=rate)) for rate in (0.1, 0.5)]
    found = boards({"here": rates[0], "there": rates[1]})
    assert [board.title for board in found] == [
        f"tiny_net on digits, finetune.lr {rate}" for rate in (0.1, 0.5)
    ]
    # Epochs are told in the captions.
    found = boards({"here": on(), "there": on(finetune=Schedule(epochs=9))})
    assert [board.title for board in found] == ["tiny_net on digits"] * 2
    assert len({board.caption for board in found}) == 2


def test_a_gpu_is_another_machine_of_one_board() -> None:
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = [record(cell=cell("uniform", device="cuda"), top1=0.9, environment=gpu)]
    (board,) = boards({"here": [record()], "there": there})
    assert sorted(line.texts[-2].partition(" (")[0] for line in board.lines) == [
        "Abacus 3000", "GPU 9",
    ]  # fmt: skip


def test_a_folder_with_a_lost_seed_has_no_mean() -> None:
    lost = record("bnp", 0.5, 2, status="failed", reason="no memory")
    (board,) = boards({"here": [*HERE, lost]})
    (line,) = [x for x in board.lines if x.texts[1] == "bnp" and x.texts[0] == "0.5 MACs"]
    assert (line.texts[2], line.texts[3]) == ("–", "1 of 3 failed")


def test_rows_without_a_gain_stand_below_those_that_lose() -> None:
    found = [record("uniform", 0.5, 0, top1=0.8), record("bnp", 0.5, 0, top1=0.7)]
    lost = [record("fpgm", 0.5, 0), record("fpgm", 0.5, 1, status="failed", reason="no memory")]
    (board,) = boards({"here": [*lost, *found]})
    assert [line.texts[1] for line in board.lines] == ["uniform", "bnp", "fpgm"]


def test_settings_in_which_folders_differ_are_told() -> None:
    other = [record(cell=cell("bnp", settings={"steps": 5}), top1=0.81)]
    (board,) = boards({"here": HERE, "there": other})
    names = {line.texts[1] for line in board.lines if line.texts[-1] == "there"}
    assert names == {"bnp (steps=5)"}


def trained(method: str, seed: int, cpu: str) -> Record:
    """A record that holds no times, with what its network is made from again."""
    environment = ENVIRONMENT.model_copy(update={"cpu": cpu})
    asked = cell(method, seed=seed, protocol=2)
    return record(
        cell=asked, top1=0.8 + (method == "bnp") / 10, latency=(), input_size=(3, 8, 8),
        num_classes=10, environment=environment, fingerprint=fingerprint(environment, "cpu", 1),
        id=f"{cpu}-{asked.key}",
    )  # fmt: skip


def timed_on_both(records: list[Record]) -> list[Record]:
    """The records with times of their networks on a CPU and a GPU."""
    hosts = {"cpu": ENVIRONMENT, "cuda": ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})}
    return joined(records, [
        Timing(
            id="x", utc="2026-01-02T00:00:00Z", network=network_key(each) or "", label="x",
            device=device, latency=(measured(1, 0.5), measured(8, 0.5)), environment=host,
            fingerprint=fingerprint(host, device, 1),
        )
        for each in records for device, host in hosts.items()
    ])  # fmt: skip


def test_a_record_that_two_devices_timed_stands_once_on_the_machine_that_trained_it() -> None:
    one = [trained(method, seed, "Beta 7") for method in ("uniform", "bnp") for seed in (0, 1)]
    records = timed_on_both(one)
    assert len(records) == 8
    (board,) = boards({"here": records})
    assert board == boards({"here": one})[0]
    assert [line.texts[1] for line in board.lines] == ["bnp", "uniform"]
    assert all("Beta 7" in line.texts[-2] for line in board.lines)


def test_timing_on_one_device_merges_no_trainings_of_two_machines() -> None:
    two = [trained("uniform", 0, "Beta 7"), trained("bnp", 0, "Abacus 4000")]
    (board,) = boards({"here": timed_on_both(two)})
    assert [line.texts[2] for line in board.lines] == ["–", "–"]
    assert board == boards({"here": two})[0]


def test_a_network_that_is_not_timed_yet_stays_beside_its_timed_control() -> None:
    control, method = trained("uniform", 0, "Abacus 4000"), trained("bnp", 0, "Abacus 4000")
    half = [each for each in timed_on_both([control, method]) if each.timed_on is not None]
    half = [e.model_copy(update={"latency": ()}) if e.cell.method == "bnp" else e for e in half]
    assert any(each.latency for each in half)
    assert boards({"here": half}) == boards({"here": [control, method]})


def test_only_a_clear_gain_is_bold() -> None:
    found = boards({"here": HERE})
    assert "**" not in to_markdown(found)
    many = [record("uniform", 0.5, seed, top1=0.7) for seed in range(3)]
    many += [record("bnp", 0.5, seed, top1=0.8 + seed / 1e3) for seed in range(3)]
    assert "**+10.1 ± 0.1**" in to_markdown(boards({"here": many}))


def test_page_escapes_what_folders_are_called(tmp_path: Path) -> None:
    page = build_leaderboard(boards({"<script>": THERE}))
    assert "&lt;script&gt;" in page and "<script>" not in page
    paths = write_leaderboard({"a": HERE, "b": THERE}, tmp_path)
    assert [path.name for path in paths] == ["leaderboard.md", "leaderboard.html"]
    assert paths[0].read_text("utf-8") == to_markdown(boards({"a": HERE, "b": THERE}))


def test_report_of_folders_reads_each_once(tmp_path: Path) -> None:
    for name, records in (("a", HERE), ("b", THERE)):
        for each in records:
            write_record(tmp_path / name / "records", each)
    console = Console()
    folders = [tmp_path / "a", tmp_path / "b"]
    report_leaderboard(console, folders, tmp_path / "out")
    assert "Abacus 4000" in (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    with pytest.raises(ValueError, match="given twice"):
        report_leaderboard(console, [*folders, tmp_path / "a"], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for again in (tmp_path / "b" / ".." / "a", tmp_path / "link"):
        told = f"{again} is the folder {folders[0]}; give every folder once"
        with pytest.raises(ValueError, match=re.escape(told)):
            report_leaderboard(console, [*folders, again], tmp_path / "out")
    with pytest.raises(ValueError, match="one folder makes no leaderboard"):
        report_leaderboard(console, folders[:1], tmp_path / "out")
    with pytest.raises(ValueError, match="no records in"):
        report_leaderboard(console, [*folders, tmp_path / "c"], tmp_path / "out")


def test_what_a_leaderboard_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_beside_folders(readme=None, paper=False)
    monkeypatch.setattr(sys, "argv", ["zoo", "report", "a", "b", "--paper"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--paper belongs to the report of one folder" in capsys.readouterr().err

"""No odd record ends a report, and none is believed that says what cannot be."""

import io
import json
import os
import random
import re
from pathlib import Path

import pytest

from benchmarks.analysis import ranking, standing
from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import _odd_names_allowed, draw_figures, figures_of
from benchmarks.records.cell import Model
from benchmarks.records.files import DamagedRecord, Loaded, load_record, read_folder, write_record
from benchmarks.records.record import Record
from benchmarks.tables.tables import to_csv, to_markdown
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record
from tests.benchmarks.figures.test_all_figures import ranked
from tests.benchmarks.hostile import TEXTS, leaves, mutated, mutations, put, report, require_text
from tests.benchmarks.test_cli import run  # noqa: F401  (a fixture)

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(RESULTS.glob("**/records"))


@pytest.fixture
def few_resamples(monkeypatch):
    """Intervals of taus are what takes long."""
    monkeypatch.setattr(ranking, "RESAMPLES", 20)
    monkeypatch.setattr(standing, "RESAMPLES", 20)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.parent.name)
def test_every_published_record_is_read(folder):
    loaded = read_folder(folder, Record)
    assert loaded.unread == [] and len(loaded.records) == len([*folder.iterdir()])


def changed(**parts):
    """The fields of a good record, some of them replaced by dotted names."""
    fields = json.loads(record("taylor").model_dump_json())
    for name, value in parts.items():
        inner = fields
        *steps, last = [int(s) if s.isdigit() else s for s in name.split("__")]
        for step in steps:
            inner = inner[step]
        inner[last] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"top1__finetuned": 7}, "top1.finetuned: 7 is above 1"),
        ({"top1__finetuned": -3}, "top1.finetuned: -3 is below 0"),
        ({"top1__parent": float("nan")}, "top1.parent: Input should be a finite number"),
        ({"size__macs": -1}, "size.macs"),
        ({"size__macs": 0}, "size.macs"),
        ({"size__full_macs": 0}, "size.full_macs"),
        ({"size__macs": 1_000_001}, "1000001 MACs are kept of 1000000"),
        ({"size__params": 2_001}, "2001 parameters are kept of 2000"),
        ({"groups__0__kept": 9}, "kept channels: 9 of 8"),
        ({"groups__0__kept": 0}, "groups.0.kept"),
        ({"config": {"stem": [0, 1]}}, "'stem' does not hold 4 different channels of 8"),
        ({"config": {"stem": [0, 1, 2, 2]}}, "'stem' does not hold 4"),
        ({"config": {"stem": [0, 1, 2, 8]}}, "'stem' does not hold 4"),
        ({"latency__0__ratio__median": 0}, "latency.0.ratio.median"),
        ({"latency__0__ratio__median": 0.9}, "do not rise"),
        ({"latency__0__parent_ms__q25": -1.0}, "latency.0.parent_ms.q25"),
        ({"cell__latency__batches": []}, "cell.latency.batches"),
        ({"cell__latency__batches": [0]}, "cell.latency.batches.0"),
        ({"cell__budget": float("inf")}, "not positive"),
        ({"cell__budget": 10**400}, "is not positive and at most 1e+15"),
        ({"cell__method": "x" * 100_000}, "is too long, at most 200"),
        ({"cell__settings": {"x": float("nan")}}, "cell.settings: holds a number that is not"),
        ({"cell__settings": {"x": "y" * 200_000}}, "cell.settings: is 200,"),
        ({"cell__member": 0}, "member 0 of a sample of 0"),
        ({"spent__search__macs_forward": -1}, "spent.search.macs_forward"),
        ({"spent__search__seconds": 1e308}, "spent.search.seconds"),
        ({"seconds": -1.0}, "seconds"),
        ({"utc": "yesterday"}, "utc: 'yesterday' is no time such as 2026-01-31T12:00:00+00:00"),
        ({"utc": "2026-13-01T12:00:00Z"}, "utc: '2026-13-01T12:00:00Z' is no time"),
        ({"utc": "2026-01-01T12:00:00"}, "utc: '2026-01-01T12:00:00' is no time"),
        ({"utc": "0" * 100}, "is too long, at most 40"),
        ({"supersedes": "me", "id": "me"}, "supersedes names the record itself"),
        ({"k" * 100_000: 1}, "unknown key 'kkk"),
        ({"left_out": {"x" * 100_000: "y"}}, "left_out.xxx"),
        ({"images__test": -1}, "images.test"),
        ({"environment__workers": 0}, "environment.workers"),
    ],
)
def test_what_cannot_be_is_no_record_and_is_named_in_a_short_line(tmp_path, parts, reason):
    if "images__test" in parts:
        parts = {"images": {"test": -1}}
    loaded = put(tmp_path, {"odd": changed(**parts)})
    assert loaded.records == []
    (unread,) = loaded.unread
    assert unread.name == "odd.json" and reason in str(unread)
    assert len(str(unread)) < 600 and str(unread).isprintable()


def test_scores_are_as_many_as_the_sample_has_configurations(tmp_path):
    scorer = next(r for r in ranked() if r.cell.member is None)
    fields = json.loads(scorer.model_dump_json())
    assert put(tmp_path, {"whole": json.dumps(fields)}).unread == []
    fields["scores"] = fields["scores"][1:]
    assert len(put(tmp_path, {"short": json.dumps(fields)}).unread) == 1


def test_what_is_no_regular_file_is_left_out_at_once_and_named(tmp_path):
    written = write_record(tmp_path, record())
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "nowhere.json").symlink_to("not-there")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**9)
    (tmp_path / "linked.json").symlink_to(f"{written.id}.json")
    loaded = read_folder(tmp_path, Record)
    assert loaded.records == [written]
    reasons = {file.name: file.reason for file in loaded.unread}
    assert {name: re.split(r"[;(:]", why)[-1].strip() for name, why in reasons.items()} == {
        "deep.json": "move it away and run the suite again",
        "folder.json": "Is a directory",
        "huge.json": "move it away",
        "latin.json": "move it away and run the suite again",
        "linked.json": "move it away",  # the same record again
        "loop.json": "Too many levels of symbolic links",
        "nowhere.json": "No such file or directory",
        "pipe.json": "move it away",
        "zero.json": "move it away",
    }
    with pytest.raises(DamagedRecord, match="no file but a pipe"):
        load_record(tmp_path / "pipe.json")


def pick(folder, is_wanted):
    """A published record of a kind, and some records beside it."""
    records = read_folder(RESULTS / folder / "records", Record).records
    chosen = next(r for r in records if r.status == "ok" and is_wanted(r))
    if chosen.cell.sample is None:
        methods = ("uniform", "taylor", chosen.cell.method)
        near = [r for r in records if r.cell.comparison == chosen.cell.comparison]
        beside = [r for r in near if r.cell.method in methods and r != chosen][:9]
    else:
        near = [r for r in records if r.cell.ranking == chosen.cell.ranking and r.cell.seed == 0]
        scorers = (chosen.cell.method, "macs", "autoslim", "standalone")
        beside = [r for r in near if r.cell.method in scorers and r != chosen]
    fields = json.loads((RESULTS / folder / "records" / f"{chosen.id}.json").read_text("utf-8"))
    return chosen, beside, fields


KINDS = {
    "search": ("reference", lambda r: r.cell.method == "bnp"),
    "variant": ("bnp-ablation", lambda r: r.cell.settings and r.cell.sample is None),
    "scores": ("ranking", lambda r: r.cell.method == "pse_net" and r.cell.member is None),
    "member": ("ranking", lambda r: r.cell.member == 1 and r.cell.seed == 0),
}


def require_whole_reports(tmp_path, kind, share):
    """Of a share of all odd values, one record each: the report ends, and holds the others."""
    chosen, beside, fields = pick(*KINDS[kind])
    base = [*beside, chosen]
    others = {row.split(",")[-1] for row in to_csv(compare(beside)).splitlines()[1:]}
    drawn = [case for case in mutations(fields) if share == 1 or random.random() < share]
    left_out = 0
    for place, value in drawn:
        loaded = put(tmp_path / "odd", {"odd": mutated(fields, place, value)})
        assert len(loaded.records) + len(loaded.unread) == 1
        left_out += len(loaded.unread)
        if loaded.unread and random.random() > 0.05:
            continue  # all of these are reports of the others alone
        texts = report(Loaded([*beside, *loaded.records], loaded.unread), base)
        require_text(texts)
        found = " ".join(row.split(",")[-1] for row in texts["csv"].splitlines()[1:])
        assert all(name in found for row in others for name in row.split()), (place, value)
        if loaded.unread:
            assert "1 file is no whole record" in texts["page"] and "odd.json" in texts["results"]
    assert 0.4 * len(drawn) < left_out < 0.95 * len(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_no_odd_value_ends_a_report(tmp_path, few_resamples, kind):
    random.seed(0)
    require_whole_reports(tmp_path, kind, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_all_odd_values_ends_a_report(tmp_path, few_resamples, kind):
    random.seed(0)
    require_whole_reports(tmp_path, kind, 1)


def odd_records(tmp_path, kind, count):
    """Records with an odd value that are still records, and those beside them."""
    _, beside, fields = pick(*KINDS[kind])
    cases = [case for case in mutations(fields) if case[0][0] != "config"]
    random.Random(0).shuffle(cases)
    found = []
    for case in cases:
        loaded = put(tmp_path / "odd", {"odd": mutated(fields, *case)})
        found += loaded.records
        if len(found) == count:
            break
    return [*beside, *found]


@pytest.mark.parametrize("kind", ["search", "scores"])
def test_figures_of_odd_records_are_drawn(tmp_path, few_resamples, kind):
    assert drawn(odd_records(tmp_path, kind, 6))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_many_odd_records_are_drawn(tmp_path, few_resamples, kind):
    records = odd_records(tmp_path, kind, 400)
    beside = len(records) - 400
    for start in range(beside, len(records), 10):
        assert drawn([*records[:beside], *records[start : start + 10]])


def drawn(records):
    """Names of all figures, each laid out and drawn, at a resolution that takes no time."""
    found = figures_of(Findings.of(records))
    with _odd_names_allowed():
        for draw in found.values():
            draw().savefig(io.BytesIO(), dpi=30)
    return found.keys()


# One for each kind of reader: mathematics, a terminal, a table, a page, a very long line.
WORST = ("$x^{$ \\frac", "\x1b[31m\x9b2J", "a\nb|c\r\n# d", "</script><script>", "x" * 190)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(t, marks=[] if t in WORST else pytest.mark.slow)
        for t in TEXTS
        if isinstance(t, str) and 0 < len(t) < 200
    ],
)
def test_a_name_stays_a_name_in_every_figure(text):
    odd = cell("uniform", 0.5, model=Model(name=text), data={"name": text})
    group = {"name": text, "size": 8, "kept": 4}
    records = [
        record(
            cell=odd.model_copy(update={"method": name, "budget": budget}),
            groups=[group],
            environment=ENVIRONMENT.model_copy(update={"cpu": text}),
        )
        for name in ("uniform", text, "taylor")
        for budget in (0.5, 0.25)
    ]
    assert "kept_widths" in drawn(records)
    networks = [Model(name=f"net_{place}") for place in range(5)]
    five = [each.model_copy(update={"cell": each.cell.model_copy(update={"model": network})})
            for each in records for network in networks]  # fmt: skip
    with _odd_names_allowed():
        figures_of(Findings.of(five))["critical_difference"]().savefig(io.BytesIO(), dpi=30)
    require_text(report(Loaded(records, []), records))


GAPS = [
    {"latency": ()},
    {"latency": (measured(4, 0.5),)},
    {"groups": ()},
    {"groups": [{"name": "other", "size": 8, "kept": 4}]},
    {"size": None},
    {"spent": {}},
    {"top1": None},
    {"trace": [{"step": "supernet"}, {"step": "solve", "gap": True}, {"scores": [None, 1e30]}]},
]


@pytest.mark.parametrize("odd", GAPS, ids=str)
def test_records_that_all_leave_something_out_are_drawn(odd):
    require_drawn([record(n, b, **odd) for n in ("uniform", "taylor") for b in (0.5, 0.25)])


def test_what_some_records_leave_out_leaves_the_figures_of_the_others_whole():
    names = [f"odd{number}" for number in range(len(GAPS))]
    odd = [record(name, **gap) for name, gap in zip(names, GAPS, strict=True)]
    require_drawn([record("uniform"), *odd, record("fpgm")])


def require_drawn(records):
    assert drawn(records)
    require_text(report(Loaded(records, []), [record(n) for n in ("uniform", "taylor")]))


def test_a_figure_of_very_many_comparisons_is_small_enough_to_be_shown(tmp_path):
    from benchmarks.figures.all_figures import MOST_AREA, MOST_PIXELS, _resolution
    from benchmarks.page.page import build_page

    for width, height in ((9.4, 5000.0), (3000.0, 3000.0), (8.0, 4.0)):
        dots = _resolution(width, height)
        assert max(width, height) * dots <= MOST_PIXELS + 1
        assert width * height * dots**2 <= MOST_AREA + 1
    assert _resolution(8.0, 4.0) == 160
    groups = [{"name": f"g{i}", "size": 8, "kept": 4} for i in range(150)]
    paths = draw_figures(Findings.of([record(groups=groups)]), tmp_path)
    wide = [path for path in paths if path.name == "kept_widths.png"]
    assert "kept_widths" in build_page(Findings.of([record()]), title="t", figures=wide)


def test_two_devices_never_share_the_name_of_a_figure():
    records = [
        record(environment=ENVIRONMENT.model_copy(update={"cpu": "A b"}), fingerprint="c 1"),
        record(
            id="other",
            cell=cell(seed=1),
            environment=ENVIRONMENT.model_copy(update={"cpu": "A-b"}),
            fingerprint="c-1",
        ),
    ]
    names = figures_of(Findings.of(records))
    assert len([name for name in names if name.startswith("kept_widths")]) == 2


def test_records_with_odd_names_are_linked_by_none(tmp_path):
    from benchmarks.page.page import build_page

    records = [record(id=name, cell=cell(seed=seed)) for seed, name in
               enumerate(("../../x", "a/b", ".hidden", 'x" onclick="y', "a-b", "a.b"))]  # fmt: skip
    page = build_page(Findings.of(records), title="t")
    links = re.findall(r'<a href="(records/[^"]*)"', page)
    assert sorted(links) == ["records/a-b.json", "records/a.b.json"]
    anchors = re.findall(r'<details id="([^"]*)"', page)
    assert len({*anchors}) == len(records)
    assert "../../x.json" in page  # as a text


def test_the_command_reports_a_hostile_folder_whole(run, tmp_path):  # noqa: F811
    folder = tmp_path / "results" / "records"
    for name in ("uniform", "=1+1", "\x1b[2J<!-- zoo report: end -->"):
        write_record(folder, record(name, reason=None))
    write_record(folder, record("taylor", status="failed", reason="\x1b[31m\n| x <b>"))
    for number, parts in enumerate(({"top1__finetuned": 7}, {"size__full_macs": 0})):
        (folder / f"odd{number}.json").write_text(changed(**parts))
    os.mkfifo(folder / "pipe.json")
    readme = tmp_path / "R.md"
    readme.write_text("a\n<!-- zoo report: begin -->\n<!-- zoo report: end -->\nb\n")
    for _ in range(2):  # the second time, the block holds what the first one wrote
        status, out, err = run("report", "--readme", "R.md", columns=200)
        assert status == 0, err
        assert "\x1b" not in out + err and "3 files are no whole record and left out." in out
        text = readme.read_text("utf-8")
        assert text.startswith("a\n") and text.endswith("\nb\n") and "odd0.json" in text
        assert text.count("<!-- zoo report: end -->") == 1
    for name in ("results.md", "results.csv", "results.tex"):
        table = (tmp_path / "results" / "tables" / name).read_text("utf-8")
        assert "\x1b" not in table and ("3 files" in table) == (name != "results.csv")


def test_leaves_and_values_cover_every_field_of_a_record():
    names = {place[0] for place in leaves(json.loads(record().model_dump_json()))}
    assert {"top1", "size", "cell", "latency", "groups", "spent", "environment"} <= names


def test_the_table_of_good_records_is_the_same_beside_bad_ones(tmp_path):
    good = [write_record(tmp_path, record(name)) for name in ("uniform", "taylor")]
    put(tmp_path, {"odd": changed(top1__finetuned=7)})
    assert to_markdown(compare(read_folder(tmp_path, Record).records)) == to_markdown(compare(good))

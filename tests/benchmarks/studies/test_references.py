import json
import os
import sys

import pytest
import timm

from benchmarks.records.files import read_folder
from benchmarks.records.reference import Fixed, Pair, Reference
from benchmarks.records.runtime import Interval, Latency
from benchmarks.studies import references
from benchmarks.studies.references import (
    load_references,
    main,
    measure_reference,
    to_markdown,
    write_reference,
)
from tests.benchmarks.fabricate import measured

TINY = Pair(
    relation="pruned",
    network=Fixed(name="test_resnet", size=32),
    reference=Fixed(name="test_resnet", size=64),
    note="at half the size",
)
QUICK = Latency(batches=(1, 2), rounds=6, block_ms=0.5, warmup_ms=0.5)
# Published for timm's own port of the same architecture from TensorFlow.
PORTS = {"efficientnet_b1": "tf_efficientnet_b1", "efficientnet_b2": "tf_efficientnet_b2",
         "efficientnet_b3": "tf_efficientnet_b3"}  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return measure_reference(TINY, QUICK, "cpu")


def published_sizes(name):
    sizes = set()
    for architecture in (name, PORTS.get(name, name)):
        for tag in timm.list_pretrained(f"{architecture}.*"):
            config = timm.models.get_pretrained_cfg(tag)
            sizes |= {size[1] for size in (config.input_size, config.test_input_size) if size}
    return sizes


def test_every_size_is_one_that_weights_are_published_for_or_says_that_it_is_not():
    for pair in load_references().pairs:
        fixed = (pair.network, pair.reference)
        odd = [each for each in fixed if each.size not in published_sizes(each.name)]
        assert bool(odd) == ("no weights are published" in pair.note)


def test_the_pairs_are_those_that_the_claim_is_about():
    pairs = load_references().pairs
    by_relation = {
        relation: {(p.network.name, p.reference.name) for p in pairs if p.relation == relation}
        for relation in ("same", "pruned", "peer")
    }
    pruned = ("ecaresnet50d", "ecaresnet101d", *(f"efficientnet_b{n}" for n in (1, 2, 3)))
    assert by_relation["pruned"] == {(f"{name}_pruned", name) for name in pruned}
    assert by_relation["peer"] == {
        ("efficientnet_b1_pruned", "efficientnet_b0"),
        ("efficientnet_b1_pruned", "mobilenetv3_large_100"),
    }
    assert all(p.network == p.reference for p in pairs if p.relation == "same")
    assert by_relation["same"]
    assert all(p.network.size == p.reference.size for p in pairs if p.relation == "pruned")


def test_costs_are_those_of_each_network_at_its_own_size(tiny):
    # A convolution on half as many pixels each way has a quarter of the multiply-adds; the
    # classifier stays, so a little less than four.
    assert 3.9 < tiny.macs_ratio < 4.0
    assert tiny.cost["parent"].params == tiny.cost["pruned"].params
    assert tiny.footprint["parent"] == tiny.footprint["pruned"].model_copy(
        update={"denormal_activations": tiny.footprint["parent"].denormal_activations}
    )
    assert [found.batch for found in tiny.latency] == [1, 2]
    assert tiny.latency[1].parent_peak_bytes > tiny.latency[1].pruned_peak_bytes


def test_records_are_written_once_and_read_back(tmp_path, tiny):
    first, second = (write_reference(tmp_path, tiny) for _ in range(2))
    assert first.id.endswith(f"test_resnet_32-test_resnet_64-{tiny.fingerprint}")
    assert second.id == f"{first.id}-2"
    assert read_folder(tmp_path, Reference).records == [first, second]


def scripted(tiny, speedup=2.0, **changes):
    ratio = 1 / speedup
    timed = tuple(
        measured(batch, ratio).model_copy(
            update={
                "ratio_interval": Interval(low=ratio * 0.9, high=ratio * 1.1, level=0.96),
                "control_interval": Interval(low=0.95, high=1.05, level=0.96),
                "pruned_peak_bytes": 2_000_000,
                "parent_peak_bytes": 3_000_000,
                "settled": True,
            }
        )
        for batch in (1, 2)
    )
    return tiny.model_copy(update={"latency": timed, **changes})


def test_the_page_shows_speed_up_interval_floor_and_share_of_the_gain(tiny):
    page = to_markdown([scripted(tiny)])
    (line,) = (line for line in page.splitlines() if line.startswith("| test_resnet @ 32 (*) |"))
    share = f"{100 / (tiny.macs_ratio - 1):.0f} %"
    once = ["2.00 (1.82–2.22)", "(0.95–1.05)", share, "faster"]
    head = ["test_resnet @ 32 (*)", "test_resnet @ 64", f"{tiny.macs_ratio:.2f}"]
    assert [cell.strip() for cell in line.strip("| ").split("|")] == [*head, *once, *once]
    assert "at half the size" in page
    # The reference takes 10 ms a pass in the made-up times: 2 images in 10 ms are 200 a second.
    (line,) = (line for line in page.splitlines() if line.startswith("| test_resnet @ 64 |"))
    assert line.split("|")[-4:-1] == [" 10.0 ", " 200.0 ", " 3 "]


def test_fingerprints_are_never_merged_into_one_table(tiny):
    other = scripted(tiny, fingerprint="cpu-00000000")
    page = to_markdown([scripted(tiny), other])
    assert page.count("## Pairs") == page.count("### Pairs") == 2
    assert tiny.fingerprint in page and "cpu-00000000" in page


def test_a_page_without_records_says_so():
    assert to_markdown([]).endswith("Nothing has been measured yet.\n")


def test_the_newest_record_of_a_pair_counts(tiny):
    newer = scripted(tiny, speedup=3.0, utc="2999-01-01T00:00:00+00:00")
    page = to_markdown([newer, scripted(tiny)])
    assert "3.00 (" in page and "2.00 (" not in page


@pytest.mark.parametrize(
    ("ratio", "floor", "expected"),
    [
        ((0.5, 0.6), (0.9, 1.1), "faster"),
        ((1.2, 1.3), (0.9, 1.1), "slower"),
        ((0.85, 0.95), (0.9, 1.1), "within noise"),
        ((0.85, 0.95), (0.97, 1.02), "faster"),
        ((0.85, 1.01), (0.999, 1.001), "within noise"),
        (None, (0.9, 1.1), "too few rounds"),
    ],
)
def test_the_verdict_needs_both_intervals(ratio, floor, expected):
    ends = {
        name: ends and Interval(low=ends[0], high=ends[1], level=0.95)
        for name, ends in (("ratio_interval", ratio), ("control_interval", floor))
    }
    found = measured(1, 0.5).model_copy(update=ends)
    assert found.verdict == expected
    assert found.model_copy(update={"suspect": "denormal"}).verdict == "suspect"


def test_the_command_measures_writes_and_draws(tmp_path, monkeypatch, tiny):
    asked = load_references().model_copy(update={"latency": QUICK, "pairs": (TINY,)})
    monkeypatch.setattr(references, "load_references", lambda: asked)
    results, page = tmp_path / "results", tmp_path / "page.md"
    monkeypatch.setattr(
        sys, "argv", ["references", "--results", str(results), "--output", str(page)]
    )
    main()
    (written,) = read_folder(results, Reference).records
    assert written.pair == TINY and written.fingerprint == tiny.fingerprint
    drawn = page.read_text()
    assert drawn == to_markdown([written])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--page-only"])
    main()
    assert page.read_text() == drawn and len(read_folder(results, Reference).records) == 1


def test_the_command_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["references", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "--page-only" in capsys.readouterr().out


def test_records_that_are_none_are_left_out_and_named(tiny, tmp_path):
    written = write_reference(tmp_path, tiny)
    fields = json.loads((tmp_path / f"{written.id}.json").read_text())
    odd = {
        "macs": {**fields, "cost": {**fields["cost"], "pruned": {"macs": 0, "params": 1}}},
        "side": {**fields, "footprint": {}},
        "batch": {**fields, "latency": fields["latency"][:1]},
    }
    (tmp_path / "cut.json").write_text(json.dumps(fields)[:100])
    for name, record in odd.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    os.mkfifo(tmp_path / "pipe.json")
    records, unread = read_folder(tmp_path, Reference)
    assert records == [written] and to_markdown(records)
    assert sorted(file.name for file in unread) == [
        "batch.json", "cut.json", "macs.json", "pipe.json", "side.json",
    ]  # fmt: skip


def test_what_a_record_says_stays_text_on_the_page(tiny):
    environment = tiny.environment.model_copy(update={"cpu": "<!-- zoo report: end -->|\n# x"})
    page = to_markdown([tiny.model_copy(update={"environment": environment})])
    assert "<!--" not in page and "\n# x" not in page and r"end --&gt;\|\\n# x" in page

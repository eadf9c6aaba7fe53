"""One grouping of records and one drawing of resamples serve a whole report."""

from collections import Counter

import pytest

from benchmarks.analysis import findings, ranking, standing
from benchmarks.analysis.findings import Findings
from benchmarks.figures.all_figures import draw_figures
from benchmarks.page.page import build_page
from benchmarks.page.renew import special_tables
from benchmarks.tables.tables import write_tables
from tests.benchmarks.analysis.test_ranking import members, scores
from tests.benchmarks.fabricate import record


@pytest.fixture
def calls(monkeypatch):
    """How often each of the costly functions was called."""
    counted = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments):
            counted[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    for name in ("compare", "collect_rankings", "average_ranks", "overall_effects", "stability"):
        count(findings, name)
    count(ranking, "agreement")
    count(standing, "_stability")
    return counted


def test_a_report_works_everything_out_once(calls, tmp_path):
    methods = ("uniform", "taylor", "bnp")
    some = [record(m, budget, seed) for m in methods for budget in (0.5, 0.25) for seed in (0, 1)]
    found = Findings.of([*some, *members(), *scores("bnp", (1.0, 2, 3, 4), (4.0, 3, 2, 1))])
    write_tables(found, tmp_path)
    assert "".join(make() for make in special_tables(found).values())
    assert build_page(found, title="t", figures=draw_figures(found, tmp_path))
    once = ("compare", "collect_rankings", "average_ranks", "overall_effects", "stability",
            "_stability")  # fmt: skip
    # Of the rankings, the scorer's and the ceiling's.
    assert calls == {**dict.fromkeys(once, 1), "agreement": 2}


def test_each_device_has_findings_of_its_own_and_a_single_one_has_all():
    here = [record(), record("taylor")]
    elsewhere = record(fingerprint="0123456789ab")
    alone = Findings.of(here)
    assert list(alone.by_device.values()) == [alone]
    both = Findings.of([*here, elsewhere]).by_device
    assert [len(found.records) for found in both.values()] == [2, 1]

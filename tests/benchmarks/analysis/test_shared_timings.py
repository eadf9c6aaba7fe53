"""Seeds and methods whose networks have the same widths share one timing, which counts once."""

from __future__ import annotations

import math

import pytest

from benchmarks.analysis.comparison import compare, realised, speedup
from benchmarks.analysis.regression import judge, pair_up
from benchmarks.figures.accuracy import SHARED_TIMES, accuracy_against_latency
from benchmarks.records.join import joined
from benchmarks.records.record import Record
from benchmarks.records.runtime import Interval, Measured, Quartiles
from benchmarks.records.timing import Timing
from benchmarks.tables.tables import to_csv, to_markdown
from tests.benchmarks.running.test_time_networks import record, timing


def noisy(of: Record, ratio: float, control: float = 1.0) -> Timing:
    """A timing whose parent was off by a factor against itself."""
    found = timing(of, "cpu-1", ratio)
    at = Quartiles(q25=control, median=control, q75=control)

    def changed(each: Measured) -> Measured:
        low, high = 0.8 * each.ratio.median, 1.2 * each.ratio.median
        ends = Interval(low=low, high=high, level=0.95)
        return each.model_copy(update={"control": at, "ratio_interval": ends})

    return found.model_copy(update={"latency": tuple(map(changed, found.latency))})


def of_seeds(*kept: int, method: str = "fpgm") -> list[Record]:
    return [record(method, seed, width) for seed, width in enumerate(kept)]


def test_seeds_with_one_network_have_its_speed_without_any_spread() -> None:
    cells = of_seeds(4, 4, 4)
    (comparison,) = compare(joined(cells, [noisy(cells[0], 0.4)]))
    (row,) = comparison.rows
    found = row.mean_of_times(lambda r: speedup(r, True))
    assert found is not None and found.values == (2.5,)
    table = to_markdown([comparison])
    assert "| 2.50 |" in table and "2.50 ±" not in table and "5.00 ±" not in table
    assert "3 seeds" in table
    share = row.mean_of_times(lambda r: realised(r, True))
    assert share is not None and share.sd is None


def test_a_speed_is_the_mean_over_the_networks_that_differ() -> None:
    cells = of_seeds(4, 5, 4)
    (comparison,) = compare(joined(cells, [noisy(cells[0], 0.5), noisy(cells[1], 0.25)]))
    found = comparison.rows[0].mean_of_times(lambda r: speedup(r, True))
    assert found is not None and found.values == (2.0, 4.0)
    heads, line = (each.split(",") for each in to_csv([comparison]).splitlines())
    assert float(line[heads.index("speedup_small_batch")]) == 3.0
    assert "3.00 ± 1.41" in to_markdown([comparison])


def test_a_row_that_lost_a_seed_has_no_speed() -> None:
    lost = record(seed=1, status="failed", reason="x")
    (comparison,) = compare(joined([record(), lost], [noisy(record(), 0.5)]))
    assert comparison.rows[0].mean_of_times(lambda r: speedup(r, True)) is None


def test_the_parent_against_itself_counts_each_timing_once() -> None:
    cells = [*of_seeds(4, 4, 5), *of_seeds(4, 4, 4, method="taylor")]
    times = [noisy(cells[0], 0.5, 0.8), noisy(cells[2], 0.25, 1.25)]
    control = compare(joined(cells, times))[0].control(True)
    assert control is not None and sorted(control.values) == [0.8, 1.25]


def test_times_that_records_hold_themselves_each_count() -> None:
    own = [each.model_copy(update={"latency": noisy(each, 0.5).latency}) for each in of_seeds(4, 4)]
    found = compare(own)[0].rows[0].mean_of_times(lambda r: speedup(r, True))
    assert found is not None and found.values == (2.0, 2.0)


@pytest.mark.parametrize("kept", [(4,), (4, 4, 4)])
def test_a_shared_time_has_the_whiskers_of_its_rounds_however_many_seeds(
    kept: tuple[int, ...],
) -> None:
    cells = of_seeds(*kept)
    figure = accuracy_against_latency(compare(joined(cells, [noisy(cells[0], 0.5)])))
    axis = figure.axes[0]
    assert axis.collections[0].get_segments()[0][:, 0] == pytest.approx([4, 6])
    assert (SHARED_TIMES in axis.get_title()) == (len(kept) > 1)


def verdicts(kept: tuple[int, ...], slower: float) -> dict[str, tuple[float, float]]:
    """Mean change and its noise by group; the parent was off by 8 % against itself."""
    cells = of_seeds(*kept)
    found = []
    for ratio in (0.5, 0.5 * slower):
        times = {each.groups[0].kept: noisy(each, ratio, 1.08) for each in cells}
        found.append(joined(cells, times.values()))
    judged = judge(pair_up(*found), ["latency"]).findings
    return {each.group: (each.loss, math.log1p(each.noise)) for each in judged}


def test_seeds_that_share_a_timing_do_not_make_it_more_certain() -> None:
    one, shared, apart = (verdicts(kept, 1.3) for kept in ((4,), (4, 4, 4), (4, 5, 6)))
    assert shared.keys() == one.keys() and shared["fpgm"] == pytest.approx(one["fpgm"])
    assert apart["fpgm"][1] == pytest.approx(one["fpgm"][1] / math.sqrt(3))
    # By hand: 8 % a timing, two timings a change; one network counts twice in a mean of three.
    mixed = verdicts((4, 4, 5), 1.3)["fpgm"][1]
    assert mixed == pytest.approx(math.sqrt(2 * (2**2 + 1)) * math.log(1.08) / 3)


def test_methods_that_share_a_timing_do_not_make_it_more_certain() -> None:
    cells = [record(method) for method in ("fpgm", "taylor", "bcnet")]
    sides = [joined(cells, [noisy(cells[0], ratio, 1.08)]) for ratio in (0.5, 0.6)]
    judged = judge(pair_up(*sides), ["latency"]).findings
    noise = math.expm1(math.sqrt(2) * math.log(1.08))
    assert [each.noise for each in judged] == pytest.approx([noise] * len(judged))

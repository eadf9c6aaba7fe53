"""Differences between rankings: what is told apart is told apart, what is not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.analysis.ranking import collect_rankings
from benchmarks.records.cell import Schedule
from benchmarks.records.files import write_record
from benchmarks.records.record import Record
from benchmarks.studies.separable import (
    Gap,
    ceiling_of,
    gap_between,
    separable_page,
    taus_within,
)
from tests.benchmarks.fabricate import cell, record

COUNT = 12
SAMPLE = {"count": COUNT, "low": 0.3, "high": 0.35}
GOOD = tuple(float(member) for member in range(COUNT))
TURNED = tuple(reversed(GOOD))
NEARLY = (1.0, 0.0, *GOOD[2:])


def scored(method: str, scores: tuple[float, ...], seeds: int = 3) -> list[Record]:
    return [
        record(cell=cell(method, 0.35, seed, sample=SAMPLE), scores=scores) for seed in range(seeds)
    ]


def trained(noise: float = 0.0, epochs: int = 2) -> list[Record]:
    rng, recipe = np.random.default_rng(0), Schedule(epochs=epochs)
    return [
        record(
            cell=cell("standalone", 0.35, seed, sample=SAMPLE, member=member, finetune=recipe),
            top1=0.1 + 0.02 * member + noise * float(rng.uniform()),
        )
        for seed in range(3)
        for member in range(COUNT)
    ]


@pytest.fixture
def write(tmp_path: Path):
    def written(*records: Record) -> Path:
        for each in records:
            write_record(tmp_path / "ranking-shapes" / "records", each)
        return tmp_path

    return written


def test_a_gap_is_the_mean_difference_of_the_taus() -> None:
    records = [*trained(), *scored("pse_net", NEARLY), *scored("bcnet", TURNED)]
    (ranking,) = collect_rankings(records)
    bcnet, pse_net = ranking.scorers
    gap = gap_between(ranking, pse_net, bcnet)
    pairs = COUNT * (COUNT - 1) / 2
    assert gap.mean == pytest.approx((1 - 2 / pairs) + 1)  # one pair of the first is turned
    low, high = gap.interval
    assert low <= gap.mean <= high == pytest.approx(2)  # resamples without that pair
    assert gap_between(ranking, bcnet, pse_net).mean == pytest.approx(-gap.mean)


def test_seeds_are_drawn_anew_beside_the_networks() -> None:
    good, turned = (cell("pse_net", 0.35, seed, sample=SAMPLE) for seed in (0, 1))
    mixed = [record(cell=good, scores=GOOD), record(cell=turned, scores=TURNED)]
    (ranking,) = collect_rankings([*trained(), *mixed, *scored("bcnet", GOOD, seeds=2)])
    bcnet, pse_net = ranking.scorers
    gap = gap_between(ranking, pse_net, bcnet)
    assert gap.mean == pytest.approx(-1)
    assert gap.interval == pytest.approx((-2, 0))  # one seed twice, the other twice


def test_more_comparisons_ask_for_a_wider_interval() -> None:
    drawn = np.linspace(-0.02, 0.98, 1001)
    gap = Gap(0.48, drawn)
    assert gap.is_clear(1) and not gap.is_clear(2)
    assert gap.shown(1).startswith("**+0.48 [+0.0") and not gap.shown(2).startswith("**")
    assert Gap(-0.48, -drawn).is_clear(1)


@pytest.mark.parametrize(("norms", "named"), [(TURNED, "pse_net"), (GOOD, "none")])
def test_scores_are_named_that_beat_everything_that_costs_nothing(
    write, norms: tuple[float, ...], named: str
) -> None:
    free = [*scored("macs", TURNED), *scored("params", TURNED), *scored("magnitude", norms)]
    folder = write(*trained(), *free, *scored("pse_net", GOOD), *scored("bcnet", TURNED))
    page = separable_page(folder)
    assert f"Clearly better than every score that costs nothing: {named}." in page
    assert f"If each difference stood alone: {named}." in page
    assert "can be told apart: pse_net above bcnet." in page
    assert "That reaches the bound of 0.6 that was set before.\n" in page


def test_what_is_not_told_apart_is_not_named(write) -> None:
    free = [*scored("macs", GOOD), *scored("params", TURNED)]
    folder = write(*trained(noise=0.6), *free, *scored("pse_net", GOOD), *scored("bcnet", NEARLY))
    page = separable_page(folder)
    assert "every score that costs nothing: none." in page
    assert "Of 1 pairs of supernets 0 can be told apart: none." in page
    assert "That misses the bound of 0.6 that was set before.\n" in page


def test_conclusions_are_drawn_from_the_longest_training(write) -> None:
    folder = write(*trained(noise=0.6), *scored("pse_net", GOOD), *scored("macs", TURNED))
    write(*trained(epochs=4), *trained(epochs=3))
    page = separable_page(folder)
    assert "1.00 after 4 epochs, 1.00 after 3 epochs, " in page
    assert "The shorter and the longer training of one seed agree at tau 1.00." in page
    assert "| pse_net | 1.00 [1.00, 1.00] | 1.00, 1.00, 1.00 |" in page


def test_scores_are_held_against_the_networks_of_their_own_seed() -> None:
    # Seeds turn the order of the networks round, and their scores turn with it.
    turns = (GOOD, TURNED)
    networks = [
        record(
            cell=cell("standalone", 0.35, seed, sample=SAMPLE, member=member),
            top1=0.1 + 0.02 * order[member],
        )
        for seed, order in enumerate(turns)
        for member in range(COUNT)
    ]
    scores = [
        record(cell=cell("pse_net", 0.35, seed, sample=SAMPLE), scores=order)
        for seed, order in enumerate(turns)
    ]
    (ranking,) = collect_rankings([*networks, *scores])
    (scorer,) = ranking.scorers
    assert taus_within(ranking, scorer) == {0: 1.0, 1: 1.0}
    assert gap_between(ranking, scorer).mean == pytest.approx(1)
    assert ceiling_of(ranking, [ranking]) == pytest.approx(-1)  # one seed against the other


def test_a_folder_without_scorers_is_refused(write) -> None:
    with pytest.raises(ValueError, match="no ranking of several scorers; run the suite"):
        separable_page(write(*trained()))


def test_the_page_is_made_from_the_records_that_there_are() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "ranking_shapes.md").read_text("utf-8")
    assert page == separable_page(root / "results"), (
        "stale; renew it: python -m benchmarks.studies.separable"
    )

"""A width table: trained in parts, joined and checked, and what its page says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from benchmarks.studies.table_searches import read_table, trained_table
from benchmarks.studies.width_table import WidthStudy, main, part_of, train_part
from benchmarks.studies.width_table_file import (
    TABLE,
    Trained,
    Trainings,
    append,
    read_parts,
    read_trainings,
    write_trainings,
)
from benchmarks.studies.width_table_join import check, joined
from benchmarks.studies.width_table_join import main as join_main
from benchmarks.studies.width_table_page import Measured, page
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.count import count_macs
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.datasets import Splits
from zoo.core.networks.rebuild import rebuild
from zoo.core.randomness import fixed_random, stream_seed
from zoo.core.training.train import Recipe, evaluate, train

CPU = torch.device("cpu")
STUDY = WidthStudy(
    channels=(4, 4, 8),
    shares=(0.5, 1.0),
    seeds=2,
    train_size=40,
    recipe=Recipe(epochs=1, batch_size=20, lr=0.1),
)


def images(count: int, seed: int) -> ImageTensors:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 1, 32, 32), generator=rng, dtype=torch.uint8)
    return ImageTensors(pixels, torch.arange(count) % 10, (0.5,), (0.3,), augment=no_augmentation)


def no_augmentation(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    raise AssertionError("a width table is trained without augmentation")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits("fashion_mnist", images(40, 0), images(10, 1), images(70, 2), 10, (1, 32, 32))


@pytest.fixture(scope="module")
def space() -> ChannelSpace:
    return STUDY.space()


@pytest.fixture(scope="module")
def rows(space: ChannelSpace) -> list[Trained]:
    """Every training of the study, as if it had been made; costs are counted on the networks."""
    rng = np.random.default_rng(0)
    found = []
    for widths in [each for grid in STUDY.grids(space) for each in grid]:
        model = network(space, widths)
        macs = count_macs(model, (1, 16, 16))
        params = sum(each.numel() for each in model.parameters())
        quality = 300 + sum(widths) * 5
        for seed in range(STUDY.seeds):
            right = int(quality + rng.normal(0, 10))
            found.append(Trained(widths, seed, right, 1000, macs, params, "cpu", "2.0"))
    return found


def network(space: ChannelSpace, widths: tuple[int, ...]) -> torch.nn.Module:
    names = [group.name for group in space.groups]
    config = SubnetConfig.from_widths(space, dict(zip(names, widths, strict=True)))
    return rebuild(STUDY.network(), space, config)


def of_study(space: ChannelSpace, rows: list[Trained]) -> Trainings:
    return replace(STUDY.no_trainings(space), rows=tuple(rows))


# The order of the work.


def test_grids_are_all_widths_of_fewer_groups_and_in_the_end_of_all(space: ChannelSpace) -> None:
    grids = WidthStudy().grids(WidthStudy().space())
    assert [len(grid) for grid in grids] == [81, 162, 486]
    steps = [(2, 4, 8), (2, 4, 8), (4, 8, 16), (4, 8, 16), (8, 16, 32), (8, 16, 32)]
    # The names are conv1, layer1.0.conv1, layer2.0.conv1, ...: the third varies in the second grid.
    for count, fixed in enumerate(({1: (8,), 2: (16,)}, {1: (8,)}, {}), start=1):
        every = product(*(fixed.get(place, each) for place, each in enumerate(steps)))
        assert sorted(chain(*grids[:count])) == sorted(every)
    assert grids == WidthStudy().grids(WidthStudy().space())
    assert grids[2] != sorted(grids[2])


def test_parts_share_all_trainings_and_skip_what_is_done(
    tmp_path: Path, splits: Splits, space: ChannelSpace
) -> None:
    study = replace(STUDY, shares=(1.0,))
    told: list[tuple[str, int, int | None]] = []
    assert train_part(study, splits, tmp_path, device=CPU, part=(2, 2)) == 1
    count = train_part(study, splits, tmp_path, device=CPU, tell=lambda *each: told.append(each))
    assert count == 1 and told == [("part 1 of 1", 1, 1)]
    none = study.no_trainings(space)
    assert sorted(row.seed for row in read_parts(tmp_path, none)) == [0, 1]
    assert train_part(study, splits, tmp_path, device=CPU) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"part-1-of-1.csv", "part-2-of-2.csv"}


def test_every_part_takes_other_trainings_of_the_same_networks(
    tmp_path: Path, splits: Splits, space: ChannelSpace
) -> None:
    for part in range(1, 33):
        train_part(STUDY, splits, tmp_path, device=CPU, part=(part, 32), seconds=1e-9)
    assert read_parts(tmp_path, STUDY.no_trainings(space)) == []  # there was no time for any
    first = [each for grid in STUDY.grids(space) for each in grid][:2]
    for part in (1, 2, 3):
        train_part(STUDY, splits, tmp_path, device=CPU, part=(part, 128))
    found = {(row.widths, row.seed) for row in read_parts(tmp_path, STUDY.no_trainings(space))}
    assert found == {(first[0], 0), (first[0], 1), (first[1], 0)}


def test_a_training_is_that_of_a_network_built_trained_and_counted_by_hand(
    tmp_path: Path, splits: Splits, space: ChannelSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.nn.Module] = []

    def watched(model: torch.nn.Module, batches: Batches) -> float:
        seen.append(model)
        return evaluate(model, batches)

    monkeypatch.setattr("benchmarks.studies.width_table.evaluate", watched)
    train_part(STUDY, splits, tmp_path, device=CPU, part=(3, 128))
    (row,) = read_parts(tmp_path, STUDY.no_trainings(space))
    stream = stream_seed("width table", row.seed, *row.widths)
    with fixed_random(stream):
        model = network(space, row.widths)
    halves = []
    for each in (splits.train, splits.test):
        assert isinstance(each, ImageTensors)
        blocks = each.images.double().reshape(-1, 1, 16, 2, 16, 2).mean(dim=(3, 5))
        halves.append(replace(each, images=blocks.round().to(torch.uint8), augment=None))
    train(model, Batches(halves[0], 20, seed=stream, shuffle=True), STUDY.recipe)
    (trained,) = seen
    for name, value in model.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value), name
    with torch.no_grad():
        answers = model(halves[1].normalise(halves[1].images)).argmax(dim=1)
    assert row.right == int((answers == halves[1].labels).sum())
    assert row.images == 70 and row.device == "cpu" and row.torch == torch.__version__
    assert row.macs == count_macs(model, (1, 16, 16))
    assert row.params == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not I/N with I from 1 to N"):
        part_of(text)
    assert part_of("2/16") == (2, 16)


def test_the_command_says_which_part_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "nowhere", "--out", "nowhere", "--part", "5/4"])
    assert "part '5/4' is not I/N" in capsys.readouterr().err


def test_an_option_that_is_off_is_no_setting(space: ChannelSpace) -> None:
    recipe = STUDY.no_trainings(space).settings["recipe"]
    assert recipe["momentum"] == 0.9 and recipe["optimizer"] == "sgd"
    assert recipe["warmup_epochs"] == recipe["label_smoothing"] == 0
    assert not {"bf16", "ema_decay", "clip_grad", "patience"} & set(recipe)
    averaged = replace(STUDY, recipe=replace(STUDY.recipe, ema_decay=0.9)).no_trainings(space)
    assert averaged.settings["recipe"] == {**recipe, "ema_decay": 0.9}


# Files of trainings.


def test_what_is_written_is_read_back(
    tmp_path: Path, space: ChannelSpace, rows: list[Trained]
) -> None:
    path = tmp_path / "part-1-of-1.csv"
    named = replace(rows[0], device="card, of a kind")
    write_trainings(path, of_study(space, [named, *rows[1:5]]))
    read = read_trainings(path)
    assert read.rows == (replace(named, device="card  of a kind"), *rows[1:5])
    assert read.groups == tuple(group.name for group in space.groups)
    assert read.settings["recipe"]["lr"] == 0.1 and read.settings["channels"] == [4, 4, 8]
    append(path, of_study(space, rows[5:7]))
    assert read_trainings(path).rows[5:] == tuple(rows[5:7])


def test_a_line_that_was_cut_does_not_count(
    tmp_path: Path, space: ChannelSpace, rows: list[Trained]
) -> None:
    path = tmp_path / "part-1-of-1.csv"
    write_trainings(path, of_study(space, rows[:3]))
    whole = path.read_bytes()
    for cut in (1, 7, 20):
        path.write_bytes(whole[:-cut])
        assert read_trainings(path).rows == tuple(rows[:2])
    append(path, of_study(space, rows[2:3]))
    assert path.read_bytes() == whole


def test_files_of_other_settings_or_of_no_trainings_are_refused(
    tmp_path: Path, space: ChannelSpace, rows: list[Trained]
) -> None:
    path = tmp_path / "part-1-of-1.csv"
    write_trainings(path, of_study(space, rows[:3]))
    other = replace(STUDY, recipe=replace(STUDY.recipe, lr=0.2)).no_trainings(space)
    for read in (lambda: read_parts(tmp_path, other), lambda: append(path, other)):
        with pytest.raises(ValueError, match=r"part-1-of-1.csv is of other settings"):
            read()
    text = path.read_text()
    path.write_text(text.replace(",1000,", ",many,", 1))
    with pytest.raises(ValueError, match=r"line 3: .*'many'"):
        read_trainings(path)
    path.write_text(text.replace(",cpu,", ",", 1))
    with pytest.raises(ValueError, match="line 3: 12 columns where there should be 13"):
        read_trainings(path)
    swapped = text.replace("seed,right", "right,seed", 1)
    for wrong in ("", "# {}\n", "# {}\na,b\n", swapped, "{\n" + text.split("\n", 1)[1], text[50:]):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="is no file of trainings"):
            read_trainings(path)


# The table.


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: replace(row, macs=row.macs - 1), "MACs and .* are stated, the network has"),
        (lambda row: replace(row, params=row.params + 1), "are stated, the network has"),
        (lambda row: replace(row, right=1001), "1001 of 1000 answers right"),
        (lambda row: replace(row, images=999), "of 999 answers right, of 1000 images"),
        (lambda row: replace(row, seed=2), "seed 2: the study has no such training"),
        (lambda row: replace(row, widths=(3, *row.widths[1:])), "has no such training"),
    ],
)
def test_a_changed_line_is_refused(
    rows: list[Trained], change: Callable[[Trained], Trained], told: str
) -> None:
    check(STUDY, rows)
    with pytest.raises(ValueError, match=told):
        check(STUDY, [*rows[:5], change(rows[5]), *rows[6:]])


def test_two_trainings_of_one_network_and_seed_are_refused(rows: list[Trained]) -> None:
    with pytest.raises(ValueError, match=r"seed 1: there are two such trainings"):
        joined(STUDY, [*rows, replace(rows[1], right=5)])


def test_a_join_keeps_the_largest_grid_with_all_seeds(rows: list[Trained]) -> None:
    # Two widths each: 16 networks vary four groups, 32 five, 64 all six.
    assert len(joined(STUDY, rows[::-1]).rows) == 128
    without = [row for place, row in enumerate(rows) if place != 100]
    kept = joined(STUDY, without)
    assert len(kept.rows) == 64
    assert {row.widths for row in kept.rows} == {row.widths for row in rows[:64]}
    assert list(kept.rows) == sorted(kept.rows, key=lambda row: (row.widths, row.seed))
    with pytest.raises(ValueError, match="1 of the 16 networks of the smallest grid lack a seed"):
        joined(STUDY, rows[1:])


def test_the_table_holds_the_mean_of_each_network(rows: list[Trained]) -> None:
    table = trained_table(joined(STUDY, rows))
    assert table.macs.shape == (2,) * 6
    steps = [sorted({row.widths[place] for row in rows}) for place in range(6)]
    for state in np.ndindex(table.macs.shape):
        widths = tuple(step[at] for step, at in zip(steps, state, strict=True))
        own = [row for row in rows if row.widths == widths]
        assert table.macs[state] == own[0].macs
        assert table.accuracies[state] == pytest.approx(sum(r.right for r in own) / 2000)
        assert table.runs is not None
        for row in own:
            assert table.runs[row.seed][state] == row.right / 1000


def test_a_table_that_lacks_a_training_is_refused(
    tmp_path: Path, space: ChannelSpace, rows: list[Trained]
) -> None:
    path = tmp_path / "table.csv"
    write_trainings(path, of_study(space, rows))
    assert read_table(path).macs.size == 64
    for wrong in (rows[1:], [*rows, rows[0]]):
        write_trainings(path, of_study(space, wrong))
        with pytest.raises(ValueError, match="have 128 combinations; a search needs each of them"):
            read_table(path)


def test_the_command_joins_folders_and_refuses_what_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = WidthStudy()
    space = study.space()
    cost = CostModel(space)
    smallest = study.grids(space)[0]
    rows = [
        Trained(each, seed, 5, 10, *costs, "cpu", "2.0")
        for each in smallest
        for costs in [
            [int(count([each])[0]) for count in (cost.macs_of_widths, cost.params_of_widths)]
        ]
        for seed in range(3)
    ]
    for name, part in (("one", rows[:100]), ("two", rows[100:])):
        trainings = replace(study.no_trainings(space), rows=tuple(part))
        write_trainings(tmp_path / name / "part-1-of-2.csv", trainings)
    path = tmp_path / "table.csv"
    with pytest.raises(SystemExit):
        join_main([str(tmp_path / "one"), "--table", str(path)])
    assert "48 of the 81 networks of the smallest grid lack a seed" in capsys.readouterr().err
    assert not path.exists()
    join_main([str(tmp_path / "one"), str(tmp_path / "two"), "--table", str(path)])
    assert "243 of 243 trainings are in" in capsys.readouterr().out.replace("\n", " ")
    read = read_trainings(path)
    assert len(read.rows) == 243 and read.settings["licence"] == "MIT"
    assert read_table(path).macs.shape == (3, 3, 3, 3)  # two groups are full in all networks


# The page.


def test_the_page_states_noise_and_ceiling_as_counted_otherwise(rows: list[Trained]) -> None:
    trainings = joined(STUDY, rows)
    found = Measured.of(trainings)
    pairs = np.array([[r.right for r in rows if r.widths == tuple(w)] for w in found.widths]) / 1000
    # The variance of two numbers is half the square of their difference.
    noise = np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2 / 2).mean())
    assert found.noise == pytest.approx(noise)
    assert found.share_of_noise == pytest.approx(noise**2 / 2 / np.var(pairs.mean(1), ddof=1))
    every = np.ones(64, dtype=bool)
    assert found.ceiling(every).tau == pytest.approx(kendalltau(*pairs.T).statistic)
    tau = kendalltau(found.macs, pairs.mean(1)).statistic
    assert found.by_cost(found.macs, every).tau == pytest.approx(tau)
    half = found.about(0.5)
    share = found.macs / found.macs.max()
    assert half.tolist() == [0.4 < each <= 0.5 for each in share]
    text = page(trainings)
    assert f"| all | 64 | {kendalltau(*pairs.T).statistic:.2f} [" in text
    best = pairs[share <= 0.5].mean(1).max()
    (line,) = [line for line in text.splitlines() if line.startswith("| 50 % |")]
    assert line.split(" | ")[3].startswith(f"{100 * best:.2f} ±")
    assert "to 30 % of" not in text  # too few networks cost so little
    assert "All their combinations are in the table.\n" in text.replace("\n  ", " ")
    part = page(joined(STUDY, [row for row in rows if row is not rows[-1]])).replace("\n  ", " ")
    told = "of the 64 networks of the study all those in which `layer1.0.conv1` keeps all"
    assert told in part.partition("## Spread")[0]
    assert max(map(len, text.split("## Spread")[0].splitlines())) <= 100


def test_the_published_table_is_whole_and_its_page_is_what_the_program_writes() -> None:
    study, trainings = WidthStudy(), read_trainings(TABLE)
    check(study, trainings.rows)
    rest = {**trainings.settings}
    assert (rest.pop("licence"), len(rest.pop("joined"))) == ("MIT", len("2026-01-01"))
    published = replace(trainings, settings=rest)
    assert published.head == study.no_trainings(study.space()).head
    again = joined(study, trainings.rows)
    assert again.rows == trainings.rows
    assert trained_table(trainings).macs.size * study.seeds == len(trainings.rows)
    docs = Path(__file__).parents[3] / "docs"
    text = (docs / "width_table.md").read_text("utf-8")
    assert text == page(trainings)
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() in text

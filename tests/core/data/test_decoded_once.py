"""Images of files are decoded once where they are read again, and are the same to the last bit."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from tests.killed import was_killed
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data import image_files
from zoo.core.data.batches import Batches
from zoo.core.data.datasets import Splits, load_splits
from zoo.core.data.image_files import DecodedOnce, ImageFiles
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.randomness import fixed_random

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.* may lead to deadlocks:DeprecationWarning"),
]

SIDE, SEARCH = 32, 10
KINDS = [kind.split() for kind in ("RGB png", "L jpg", "RGB jpg", "RGBA png", "CMYK jpg", "P png")]

UNPACKED: dict[str, Any] = {"compress_level": 0}  # so that all pixels take the same room


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of images of many sizes, modes and formats."""
    root, rng = tmp_path / "photographs", np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                mode, end = KINDS[number % len(KINDS)]
                height, width = rng.integers(24, 70, 2)
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                path = folder / f"{number:02}.{end}"
                Image.fromarray(pixels).convert(mode).save(path, **UNPACKED)
    return root


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "PART", 3)


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where decoded images are kept."""
    if request.param == "file":
        in_file(monkeypatch)
    return str(request.param)


def in_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MOST_IN_MEMORY", 0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was opened in this process, by its path."""
    count: Counter[str] = Counter()
    real = PIL.Image.open

    def counting(file: Any, *arguments: Any, **named: Any) -> Any:
        count[str(Path(file))] += 1
        return real(file, *arguments, **named)

    monkeypatch.setattr(PIL.Image, "open", counting)
    return count


def splits_of(root: Path, cache: Path | None = None) -> Splits:
    splits = load_splits("imagefolder", path=root, image_size=SIDE, search_size=SEARCH, cache=cache)
    assert isinstance(splits.search, DecodedOnce) and isinstance(splits.test, DecodedOnce)
    return splits


def split_of(root: Path, cache: Path | None = None) -> DecodedOnce:
    found = splits_of(root, cache).search
    assert isinstance(found, DecodedOnce)
    return found


def test_the_file_is_closed_with_the_split(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python warns of files that nobody closed, and here a warning is an error."""
    in_file(monkeypatch)
    for _ in range(2):  # decoded, then taken from the file
        split = split_of(photographs, tmp_path / "cache")
        drawn(split)
        kept: Any = split._kept
        file = kept.file
        assert not file.closed
        del split, kept
        gc.collect()
        assert file.closed


def paths_of(files: ImageFiles) -> list[Path]:
    pixels: Any = files.pixels
    return [Path(path) for path, _ in pixels.samples]


def as_timm_does(path: Path, *, is_training: bool = False) -> Tensor:
    """The image as timm's whole transform, normalisation included, makes it."""
    transform = create_transform((3, SIDE, SIDE), is_training=is_training, hflip=0.5)
    with Image.open(path) as image:
        found: Tensor = transform(image.convert("RGB"))
    return found


def expected(split: DecodedOnce) -> tuple[Tensor, Tensor]:
    paths = paths_of(split.files)
    labels = torch.tensor([("cat", "dog").index(path.parent.name) for path in paths])
    return torch.stack([as_timm_does(path) for path in paths]), labels


def drawn(split: Any, batch_size: int = 4, workers: int = 0, **named: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(
        *Batches(split, batch_size, workers=workers, **named).epoch(0), strict=True
    )
    return torch.cat(images), torch.cat(labels)


def same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> bool:
    return all(map(torch.equal, found, wanted)) and found[0].dtype == torch.float32


def whole_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_decoded_once_equals_timms_own_images(
    workers: int, place: str, photographs: Path, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    for split in (splits_of(photographs, tmp_path / "cache").search, splits_of(photographs).test):
        if place == "file" and split._folder is None:  # type: ignore[attr-defined]
            split._folder = tmp_path / "other"  # type: ignore[attr-defined]
        batches = Batches(split, 4, workers=workers)
        for epoch in range(3):
            images, labels = zip(*batches.epoch(epoch), strict=True)
            assert same((torch.cat(images), torch.cat(labels)), expected(split))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


def test_training_images_equal_timms_own_augmentation(photographs: Path) -> None:
    train = splits_of(photographs).train
    assert isinstance(train, ImageFiles)
    paths = paths_of(train)
    for epoch in (0, 1):
        images, labels = zip(*Batches(train, 4, seed=3).epoch(epoch), strict=True)
        for index, (image, path) in enumerate(zip(torch.cat(images), paths, strict=True)):
            with fixed_random("item", 3, epoch, index):
                assert torch.equal(image, as_timm_does(path, is_training=True))
        assert torch.cat(labels).tolist() == [int(path.parent.name == "dog") for path in paths]


def test_each_image_is_decoded_once_however_often_it_is_read(
    place: str, photographs: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    split = split_of(photographs, tmp_path / "cache")
    paths = list(map(str, paths_of(split.files)))
    wanted = expected(split)
    opened.clear()
    some = list(islice(Batches(split, 4).epoch(0), 1))  # given up after a batch
    assert 4 <= opened.total() <= 6 and torch.equal(some[0][0], wanted[0][:4])
    for batch_size in (1, 3, 7, 100):
        for _ in range(2):
            assert same(drawn(split, batch_size), wanted)
    assert opened == Counter(paths)
    split = split_of(photographs, tmp_path / "cache")  # as another process would
    opened.clear()
    assert same(drawn(split), wanted)
    assert opened.total() == (0 if place == "file" else SEARCH)


def test_a_search_decodes_each_image_of_its_split_once(
    place: str, photographs: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    splits = splits_of(photographs, tmp_path / "cache")
    model = timm.create_model("test_resnet", num_classes=2).eval()
    space, meter = ChannelSpace.trace(model, (3, SIDE, SIDE)), Meter()
    cost = CostModel(space)
    data = MeteredData(Batches(splits.train, 4), Batches(splits.search, 4), meter)
    problem = Problem(model, space, cost, Budget.parse(0.5, cost), data, meter=meter)
    opened.clear()
    with meter.phase("search") as spent:
        scores = {problem.accuracy(SubnetConfig.full(), recalibration_batches=0) for _ in range(20)}
    assert len(scores) == 1 and spent.images == 20 * SEARCH
    assert opened.total() == SEARCH


def change(path: Path) -> None:
    """Other pixels in as many bytes."""
    size = path.stat().st_size
    with Image.open(path) as image:
        pixels = 255 - np.asarray(image)
    Image.fromarray(pixels).save(path, **UNPACKED)
    assert path.suffix == ".png" and path.stat().st_size == size


def test_a_changed_image_is_noticed_and_what_is_stale_removed(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache = tmp_path / "cache"
    split: Any = splits_of(photographs, cache).test
    before = drawn(split)
    (kept,) = whole_files(cache)
    change(paths_of(split.files)[0])
    split = splits_of(photographs, cache).test
    after = drawn(split)
    assert same(after, expected(split)) and not torch.equal(after[0], before[0])
    (renewed,) = whole_files(cache)
    assert renewed != kept and renewed.split("-")[0] == kept.split("-")[0]


def test_splits_of_other_seeds_and_sizes_are_kept_beside_each_other(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache, asked = tmp_path / "cache", {"path": photographs, "cache": tmp_path / "cache"}
    for seed, size, count in ((0, 32, 10), (1, 32, 10), (0, 24, 10), (0, 32, 8), (0, 32, 10)):
        splits = load_splits("imagefolder", seed=seed, image_size=size, search_size=count, **asked)  # type: ignore[arg-type]
        drawn(splits.search)
        drawn(splits.test)
    # The test split depends on the side alone.
    assert len(whole_files(cache)) == 4 + 2


def test_images_that_change_while_they_are_decoded_are_not_kept(
    place: str, photographs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    split = split_of(photographs, cache)
    batches = Batches(split, 3).epoch(0)
    next(batches)
    os.utime(paths_of(split.files)[0])
    with pytest.raises(ValueError, match="images changed while they were decoded"):
        list(batches)
    assert not cache.exists() or not list(cache.iterdir())


def killing(split: DecodedOnce, at: int) -> Iterator[None]:
    for number, _ in enumerate(Batches(split, 3).epoch(0)):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield


@pytest.mark.parametrize(("at", "is_changed"), [(0, False), (1, True), (2, False)])
def test_a_kill_in_the_middle_leaves_nothing_that_is_half_a_file(
    at: int, is_changed: bool, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache = tmp_path / "cache"
    split = split_of(photographs, cache)
    assert was_killed(lambda: list(killing(split, at)))
    assert not whole_files(cache) and len(list(cache.iterdir())) == 1  # hidden, of a dead writer
    if is_changed:
        change(next(p for p in paths_of(split.files) if p.name in ("00.png", "06.png")))
        split = split_of(photographs, cache)
    assert same(drawn(split), expected(split))
    assert len(list(cache.iterdir())) == len(whole_files(cache)) == 1


def test_a_split_that_is_given_up_leaves_no_file(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache = tmp_path / "cache"
    batches = Batches(split_of(photographs, cache), 3)
    assert len(list(islice(batches.epoch(0), 1))) == 1
    assert len(list(cache.iterdir())) == 1
    del batches
    gc.collect()
    assert not list(cache.iterdir())


LEAVES = """
from itertools import islice
from pathlib import Path
import sys
from zoo.core.data import image_files
from zoo.core.data.batches import Batches
from zoo.core.data.datasets import load_splits

image_files.MOST_IN_MEMORY, image_files.PART = 0, 3
root, cache = map(Path, sys.argv[1:])
splits = load_splits("imagefolder", path=root, image_size=32, search_size=10, cache=cache)
for batch in islice(Batches(splits.search, 3).epoch(0), 1):
    print(len(list(cache.iterdir())))
"""


def test_a_process_that_ends_before_the_rest_is_asked_for_leaves_no_file(
    photographs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", LEAVES, str(photographs), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n" and not list(cache.iterdir())


def test_what_went_wrong_in_the_middle_is_told_and_done_again(
    place: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_of(photographs, tmp_path / "cache")
    last = paths_of(split.files)[-1]
    real = PIL.Image.open

    def failing(file: Any, *arguments: Any, **named: Any) -> Any:
        if Path(file) == last:
            raise RuntimeError("no memory")
        return real(file, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "open", failing)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no memory"):
                drawn(split)
    assert place == "memory" or not list((tmp_path / "cache").iterdir())
    assert same(drawn(split), expected(split))


@pytest.mark.parametrize("fault", ["flipped", "shorter", "longer", "empty"])
def test_a_damaged_file_is_made_anew(
    fault: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache = tmp_path / "cache"
    wanted = drawn(split_of(photographs, cache))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    damaged = {"flipped": flipped, "shorter": content[:-1], "longer": content + b"0", "empty": b""}
    path.write_bytes(damaged[fault])
    with pytest.warns(UserWarning, match="its checksum does not hold.*made anew"):
        assert same(drawn(split_of(photographs, cache)), wanted)
    assert path.read_bytes() == content


def test_a_full_disk_is_told_before_and_images_are_decoded_each_time(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Counter[str]
) -> None:
    in_file(monkeypatch)
    split = split_of(photographs, tmp_path / "cache")
    full = shutil.disk_usage(tmp_path)._replace(free=split.size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    wanted = expected(split)
    opened.clear()
    with pytest.warns(
        UserWarning, match=r"has 30,720 bytes left, and 10 decoded images take 30,72"
    ):
        assert same(drawn(split), wanted)
    assert same(drawn(split), wanted)  # told once
    assert opened.total() == 2 * SEARCH and not list((tmp_path / "cache").iterdir())


def test_a_disk_that_fills_up_ends_with_its_error_and_without_a_file(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(monkeypatch)
    cache = tmp_path / "cache"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    split = split_of(photographs, cache)
    with monkeypatch.context() as patch:
        patch.setattr("zoo.core.whole_file.os.fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*\.images"):
            drawn(split)
    assert not list(cache.iterdir())
    assert same(drawn(split), expected(split))  # once there is room


def test_without_a_folder_a_large_split_is_decoded_each_time(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, opened: Counter[str]
) -> None:
    in_file(monkeypatch)
    split = split_of(photographs)
    wanted = expected(split)
    opened.clear()
    assert same(drawn(split), wanted) and same(drawn(split), wanted)
    assert opened.total() == 2 * SEARCH


def test_a_shuffled_pass_decodes_what_it_reads_and_no_more(
    photographs: Path, opened: Counter[str]
) -> None:
    split = split_of(photographs)
    images, labels = expected(split)
    source = Batches(split, 4, shuffle=True, seed=1)
    order = source.order(0)
    opened.clear()
    (first,) = islice(source.epoch(0), 1)
    assert opened.total() == 4
    assert torch.equal(first[0], images[order[:4]]) and torch.equal(first[1], labels[order[:4]])


def test_no_position_outside_is_read(photographs: Path) -> None:
    split = split_of(photographs)
    for chosen in ([SEARCH], [-1]):
        with pytest.raises(IndexError, match="of 10 images"):
            split.read(chosen)

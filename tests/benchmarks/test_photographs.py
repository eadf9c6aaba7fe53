"""`zoo prune` on files: more processes may read them, and decisions and tests decode them once."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import cli
from benchmarks.records.files import load_record
from benchmarks.records.record import Record
from benchmarks.running.parent import splits_of
from zoo.core.data import batches, decoding, image_files
from zoo.core.networks.save import load_pruned

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images whose sizes differ, so that they are read from their files."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (40 + number, 44, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def prune(patch: pytest.MonkeyPatch, photographs: Path, *options: str) -> None:
    """Run the command in this process."""
    command = ["prune", "test_resnet", "--dataset", "imagefolder", "--data", str(photographs)]
    sizes = ["--image-size", "32", "--batch-size", "8", "--epochs", "1", "--parent-epochs", "1"]
    patch.setattr(sys, "argv", ["zoo", *command, *sizes, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def pruned(
    loaders: int, photographs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Record, dict[str, torch.Tensor], set[int]]:
    """Record, weights, and how many processes read for a loader."""
    readers = set()

    class Noting(batches.DataLoader[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            readers.add(options["num_workers"])
            super().__init__(*arguments, **options)

    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(batches, "DataLoader", Noting)
        patch.chdir(folder)
        prune(patch, photographs, "--loaders", str(loaders))
    (path,) = (folder / "pruned").glob("*-uniform-*.json")
    return load_record(path), load_pruned(folder / "pruned").state_dict(), readers


def test_prune_answers_the_same_for_any_number_of_loaders(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, expected, nobody = pruned(0, photographs, tmp_path / "0", monkeypatch)
    helped, found, two = pruned(2, photographs, tmp_path / "2", monkeypatch)
    # One batch is looked at before there is any work to share.
    assert nobody == {0} and two == {0, 2}
    assert helped.top1 == alone.top1 and helped.cell.key == alone.cell.key
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_second_run_decodes_no_test_image(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Counter[str] = Counter()
    real = decoding.read_rgb

    def counting(path: str) -> Image.Image:
        count[path] += 1
        return real(path)

    monkeypatch.setattr(decoding, "read_rgb", counting)
    monkeypatch.setattr(image_files, "MOST_IN_MEMORY", 0)
    monkeypatch.chdir(tmp_path)
    records = []
    tests = {str(path) for path in photographs.glob("val/*/*")}
    for out, decoded in (("one", tests), ("two", set())):
        splits_of.cache_clear()
        count.clear()
        prune(monkeypatch, photographs, "--loaders", "0", "--out", out)
        # Of four networks, the parent among them, and all with the same images.
        assert {path: times for path, times in count.items() if path in tests} == dict.fromkeys(
            decoded, 1
        )
        (path,) = (tmp_path / out).glob("*-uniform-*.json")
        records.append(load_record(path))
    assert records[0].top1 == records[1].top1
    assert len(list((tmp_path / "results/.cache/parents/decoded").iterdir())) == 1

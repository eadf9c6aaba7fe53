"""What `test_ranks` runs in one process and in several: trains and prunes, and keeps what came.

python -m torch.distributed.run --nproc-per-node N tests/core/training/in_ranks.py FOLDER
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import zoo
from baselines.autoslim import AutoSlim
from baselines.bcnet import BCNet
from baselines.dmcp import DMCP
from baselines.metapruning import MetaPruning
from baselines.random_search import RandomSearch
from tests.problems import problem
from zoo.core.data.batches import Batch, Batches, Sample
from zoo.core.meter import Meter, Spent
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.method.shared_search import answered_by_rank_0, largest_peaks
from zoo.core.one_shot import stage_features
from zoo.core.one_shot.one_shot import OneShot, list_widths
from zoo.core.one_shot.stage_search import StageSearch
from zoo.core.training.course import Course
from zoo.core.training.ranks import decided, largest, rank, summoned, world
from zoo.core.training.train import train
from zoo.pse_net import PSENet
from zoo.stagewise import Stagewise

CLASSES = 3
RECIPE = zoo.Recipe(
    epochs=2,
    batch_size=7,
    lr=0.05,
    clip_grad=1.0,
    ema_decay=0.9,
    warmup_epochs=1,
    weight_decay=0.01,
)


class Drawn:
    """Batches of 7, 7 and 6 images in double precision."""

    batch_size, num_images = 7, 20

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.arange(self.num_images) % CLASSES
        noise = torch.randn(self.num_images, 3, 24, 24, generator=generator, dtype=torch.float64)
        self.images = noise + self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return 3

    def epoch(self, index: int) -> Iterator[Batch]:
        order = torch.arange(self.num_images).roll(index)
        for chosen in order.split(self.batch_size):
            yield self.images[chosen], self.labels[chosen]


def network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=CLASSES).double()


def trained(name: str) -> dict[str, Any]:
    """Weights, losses and charges of a training."""
    model, meter = network(name), Meter()
    with meter.phase("finetune"):
        losses = train(model, Drawn(), RECIPE, meter=meter, macs_per_image=10)
    spent = meter.spent["finetune"]
    return {
        "losses": losses,
        "charged": (spent.images, spent.macs_forward, spent.macs_backward),
        "weights": model.state_dict(),
    }


def pruned() -> dict[str, Any]:
    """What comes of the whole road; a supernet is trained and searched by rank 0 alone."""
    drawn = Drawn()
    loader = DataLoader(TensorDataset(drawn.images.float(), drawn.labels), batch_size=10)
    settings = {"steps": 2, "evaluations": 6, "population": 4, "parents": 2}
    result = zoo.prune(
        network("test_resnet").float(), loader, loader, "pse_net", macs=0.5, settings=settings,
        recipe=zoo.Recipe(epochs=1, batch_size=10, lr=0.01), progress=False,
    )  # fmt: skip
    return {
        "config": result.config.to_json(),
        "spent": {phase: (s.images, s.macs) for phase, s in result.spent.items()},
        "trace": len(result.trace),
        "weights": result.model.state_dict(),
    }


class Items(Dataset[Sample]):
    """Images that are read one by one, each with noise of its own; counts what was read."""

    def __init__(self) -> None:
        self.drawn, self.read = Drawn(), 0

    def __len__(self) -> int:
        return self.drawn.num_images

    def __getitem__(self, place: int) -> Sample:
        self.read += 1
        image = self.drawn.images[place]
        return image + torch.randn(image.shape, dtype=image.dtype), int(self.drawn.labels[place])


def read() -> dict[str, Any]:
    """A training on items that are read; how many this rank has read, and what was charged."""
    items, model, meter = Items(), network("test_resnet"), Meter()
    batches = Batches(items, 7, seed=1, shuffle=True)
    with meter.phase("finetune"):
        losses = train(model, batches, RECIPE, meter=meter, macs_per_image=10)
    spent, seen = meter.spent["finetune"], items.read
    whole = next(batches.epoch(0))[0]  # in part no longer
    return {
        "losses": losses,
        "charged": (spent.images, spent.macs_forward, spent.macs_backward),
        "weights": model.state_dict(),
        "read": seen,
        "whole": len(whole),
    }


def read_whole() -> dict[str, Any]:
    """The batches of a supernet's training on items that are read, and how many were read here."""
    items = Items()
    course = Course(None, {}, torch.device("cpu"))
    steps = course.steps(Batches(items, 7, seed=1, shuffle=True), 4, lambda: None)
    images, labels = zip(*steps, strict=True)
    return {"images": list(images), "labels": list(labels), "read": items.read}


SUPERNETS: dict[str, OneShot] = {
    "masked": PSENet(execution="masked", subnets=3),
    "sliced": PSENet(execution="sliced", subnets=4),
    "joint": PSENet(norm="joint", subnets=2),
    "single": PSENet(execution="sliced", subnets=1),
    "autoslim": AutoSlim(random_subnets=2),
    "bcnet": BCNet(),
    "features": Stagewise(random_subnets=2),
    "frozen fullnet": Stagewise(fullnet=False, random_subnets=1),
    "labels": Stagewise(supervision="labels"),
    "leading": Stagewise(junctions="leading", stages=2),
    "dmcp": DMCP(sampling="direct", evaluations=5),
    "metapruning": MetaPruning(hidden=4, ratios=5),
}
"""Of three updates each; momentum and kept buffers show from the second on."""


def supernet(name: str) -> dict[str, Any]:
    """Weights, records, charges and trace of a supernet that is trained in a decision of rank 0."""
    pruner = replace(SUPERNETS[name], steps=3, lr=0.01)
    task = problem()

    def decide() -> tuple[Any, ...]:
        trained = pruner.train(list_widths(task, pruner))
        spent = {phase: (s.images, s.macs) for phase, s in task.meter.spent.items()}
        assert world() == 1  # alone again
        return dict(trained.weights), dict(trained.records), spent, task.trace_rows

    def beside(name: str) -> None:
        getattr(pruner, name)(task)

    weights, records, spent, rows = decided(decide, beside, pruner)
    numbers = {key: torch.from_numpy(value) for key, value in records.items()}
    own = {phase: (s.images, s.macs) for phase, s in task.meter.spent.items()}
    return {"weights": weights, "records": numbers, "spent": spent, "own": own, "trace": rows}


SEARCHES: dict[str, Pruner] = {
    "random_search": RandomSearch(samples=5),
    **{
        name: replace(SUPERNETS[name], steps=0, ratios=5)
        for name in ("single", "autoslim", "bcnet", "features", "leading", "dmcp", "metapruning")
    },
    "streamed": replace(SUPERNETS["features"], steps=0, ratios=5),
}
"""Supernets are the parent, so that scores are the same to the last bit."""

SMALL = {"evaluations": 9, "population": 5, "parents": 3}


def search(name: str) -> dict[str, Any]:
    """What a method decides, scores and spends, and how much of the scoring this rank did."""
    pruner = SEARCHES[name]
    own = {key: value for key, value in SMALL.items() if hasattr(pruner, key)}
    pruner, task = replace(pruner, **own), problem()
    scored, run = [0, 0], (Problem.accuracy, StageSearch.run)

    def accuracy(self: Problem, *args: Any, **settings: Any) -> float:
        scored[0] += 1
        return run[0](self, *args, **settings)

    def searching(self: StageSearch) -> Any:
        scored[1] += 1
        return run[1](self)

    kept = 0 if name == "streamed" else stage_features.MOST_KEPT
    with (
        mock.patch.object(Problem, "accuracy", accuracy),
        mock.patch.object(StageSearch, "run", searching),
        mock.patch.object(stage_features, "MOST_KEPT", kept),
    ):
        subnet = answered_by_rank_0(task, pruner, lambda: pruner.search(task))
    rows = [{k: v for k, v in row.items() if k != "losses"} for row in task.trace_rows]
    spent = {phase: (s.images, s.macs) for phase, s in task.meter.spent.items()}
    config = subnet.config.to_json()
    return {"config": config, "trace": rows, "spent": spent, "scored": scored}


@dataclass(frozen=True)
class Broken(PSENet):
    """Cannot score a candidate in some of the ranks."""

    def accuracy(self, *_: object) -> float:
        if dist.get_rank() in broken_in:
            raise ValueError(f"broken in rank {dist.get_rank()}")
        return 0.5


broken_in: set[int] = set()


def failed() -> dict[str, tuple[str, str]]:
    """What a search that breaks in some ranks raises, and what rank 0 decides after it."""
    found = {}
    pruner = replace(Broken(), steps=0, **SMALL)
    for where in ({0}, {1}, {0, 1}):
        broken_in.clear()
        broken_in.update(where)
        task = problem()
        try:
            answered_by_rank_0(task, pruner, lambda task=task: pruner.search(task))
            told = "nothing"
        except ValueError as error:
            told = str(error)
        found[str(sorted(where))] = told, decided(lambda: "fresh")
    return found


@dataclass(frozen=True)
class Delegating(Pruner):
    """Leaves the search to a method that ranks work for together."""

    def search(self, problem: Problem) -> Subnet:
        return replace(SEARCHES["single"], **SMALL).search(problem)


def delegated() -> dict[str, Any]:
    """What a method decides that calls another."""
    task = problem()
    subnet = answered_by_rank_0(task, Delegating(), lambda: Delegating().search(task))
    return subnet.config.to_json()


def read_between() -> list[int]:
    """Images of a batch that is drawn within an update of a supernet."""
    batches = Batches(Items(), 7, seed=1, shuffle=True)
    steps = Course(None, {}, torch.device("cpu")).steps(batches, 2, lambda: None)
    return [len(next(batches.epoch(0))[0]) for _ in steps]


def peaks() -> list[int | None]:
    """The peak of a search in which the last rank held most, before and after it is compared."""
    task = problem()
    task.meter.spent["search"] = Spent(peak_bytes=10 + dist.get_rank())
    pruner = SEARCHES["random_search"]
    answered_by_rank_0(task, pruner, lambda: None)
    before = task.meter.spent["search"].peak_bytes
    largest_peaks(task.meter)
    return [before, task.meter.spent["search"].peak_bytes]


def unlike() -> list[str]:
    """What is said of networks, and of batches, that differ between the processes."""
    told = []
    for is_other_network in (True, False):
        drawn, model = Drawn(), network("test_resnet").float()
        if is_other_network:
            next(model.parameters()).data += dist.get_rank()
        else:
            drawn.labels = drawn.labels.roll(dist.get_rank())
        loader = DataLoader(TensorDataset(drawn.images.float(), drawn.labels), batch_size=10)
        try:
            zoo.prune(model, loader, loader, "uniform", macs=0.5, progress=False)
        except ValueError as error:
            told.append(str(error))
    return told


def decided_late(folder: Path) -> str:
    """What rank 0 decides after longer than the exchanges of the group may take."""
    own, everyone, file = rank(), world(), f"file://{folder / 'meeting'}"
    dist.destroy_process_group()
    dist.init_process_group("gloo", file, timedelta(seconds=4), everyone, own)

    def search() -> str:
        time.sleep(7)
        return "late"

    return decided(search)


def summons() -> list[tuple[Any, ...]]:
    """What this rank is summoned for, with sums of the weights; rank 0 has what it sent."""
    first, second = {"w": torch.ones(3)}, {"w": torch.full((3,), 2.0)}
    asked = (("a", 1, first), ("b", 2, first), ("c", 3, second), ("d", 4, None), ("e", 5, second))
    heard: list[tuple[Any, ...]] = []

    def hear(name: str, given: int, *on: dict[str, Tensor]) -> None:
        heard.append((name, given, *(float(weights["w"].sum()) for weights in on), world()))

    def decide() -> None:
        for name, given, weights in asked:
            with summoned("test", name, given, on=weights):
                hear(name, given, *([] if weights is None else [weights]))

    decided(decide, hear, "test")
    return heard


def told() -> dict[str, Any]:
    """What rank 0 decides, and what it raises."""

    def fails() -> None:
        raise ValueError(f"raised in rank {rank()}")

    try:
        decided(fails)
    except ValueError as error:
        raised = str(error)
    largest_rank = largest(dist.get_rank() if dist.is_initialized() else 0)
    return {
        "decided": decided(lambda: (world(), rank())),
        "raised": raised,
        "largest": largest_rank,
        "summons": summons(),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    made = {name: trained(name) for name in ("test_resnet", "test_efficientnet")}
    made |= {name: supernet(name) for name in SUPERNETS}
    made |= {"pruned": pruned(), "told": told(), "read": read(), "read whole": read_whole()}
    made |= {"failed": failed(), "delegated": delegated(), "between": read_between()}
    made |= {"peaks": peaks(), "unlike": unlike()}
    made |= {f"search of {name}": search(name) for name in SEARCHES}
    made["late"] = decided_late(folder)
    torch.save(made, folder / f"rank{rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

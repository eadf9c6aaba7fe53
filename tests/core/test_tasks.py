"""Losses, metrics, batches and parts of one's own, through every method."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo
from tests.latencies import made_up_times
from tests.ready import OURS
from tests.tiny_tasks import TASKS, Pooled, TinyTask, TinyUNet, convolution, tiny_task
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost import measure_latency as timing
from zoo.core.cost.count import count_macs
from zoo.core.data.inputs import call, count_images, divided, mapped
from zoo.core.one_shot.supernet_training import Engine, starting_weights
from zoo.core.supernet.blocks import cut_blocks
from zoo.core.tracing.entry import Entry
from zoo.core.training.broadcast_watch import BroadcastWatch
from zoo.core.training.distill import output_error, relative_feature_error
from zoo.core.training.task import Task, as_trained, compared_tensors

TOLERANCE = 1e-12  # of float64, relative to the largest value
METHODS = OURS


def tiny(method: str) -> zoo.Pruner:
    return type(zoo.create_pruner(method)).tiny()


def first_inputs(task: TinyTask) -> Any:
    """Inputs of the first batch held out, in float64."""
    read = task.arguments.get("batch", lambda pair: pair)
    inputs, _ = read(next(iter(task.val)))
    return mapped(inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def masked(model: nn.Module, result: zoo.PruneResult, inputs: Any) -> Any:
    """What the parent returns when its layers read zeros in place of dropped channels."""
    tensors: dict[str, Tensor] = {}
    own = dict(model.named_parameters())
    for group in result.space.groups:
        dropped = np.setdiff1d(np.arange(group.size), result.config.indices(group))
        for member in group.members:
            if member.role == "in":
                positions = torch.from_numpy(member.index[dropped].reshape(-1))
                tensors.setdefault(member.tensor, own[member.tensor].detach().clone())
                tensors[member.tensor].index_fill_(member.dim, positions, 0.0)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    return functional_call(model, tensors, args)


def assert_rebuilt_equals_masked(task: TinyTask, result: zoo.PruneResult) -> None:
    model, inputs = copy.deepcopy(task.model).double().eval(), first_inputs(task)
    small = zoo.rebuild(model, result.space, result.config)
    with torch.no_grad():
        wanted = compared_tensors(masked(model, result, inputs))
        found = compared_tensors(call(small, inputs))
    assert wanted and [t.shape for t in wanted] == [t.shape for t in found]
    for left, right in zip(wanted, found, strict=True):
        assert float((left - right).abs().max()) <= TOLERANCE * float(left.abs().max())
    assert sum(p.numel() for p in small.parameters()) == result.params < result.parent_params
    assert count_macs(small, result.space.size) == result.macs <= 0.6 * result.parent_macs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TASKS)
def test_every_method_serves_every_task(name: str, method: str) -> None:
    task = tiny_task(name)
    before = copy.deepcopy(task.model.state_dict())
    result = task.prune(tiny(method))
    assert_rebuilt_equals_masked(task, result)
    metric = task.arguments["metric"]
    assert result.metric == metric.name and result.val_top1 is None
    read = task.arguments.get("batch", lambda pair: pair)
    with torch.no_grad():
        pairs = [read(found) for found in task.val]
        by_hand = metric.compute((call(result.model, x), y) for x, y in pairs)
    assert result.val_score == pytest.approx(float(by_hand), rel=1e-5)
    assert result.spent["finetune"].images == len(task.train.dataset)
    after = task.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "method", ["random_search", "autoslim", "bcnet", "metapruning", "pse_net", "bnp"]
)
def test_a_metric_to_minimise_chooses_as_its_negative_to_maximise(method: str) -> None:
    task = tiny_task("regression")
    metric = task.arguments["metric"]
    negative = zoo.Metric("-MAE", lambda pairs: -metric.compute(pairs))
    wrong = replace(metric, higher_is_better=True)
    first, second, third = (task.prune(tiny(method), metric=m) for m in (metric, negative, wrong))
    assert first.config == second.config
    assert first.val_score == -second.val_score
    state = second.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.model.state_dict().items())
    if method != "bnp":  # whose two finalists agree here
        assert first.config != third.config  # so that the direction decides something


def test_random_search_takes_the_least_error_of_its_samples() -> None:
    task = tiny_task("regression")
    mean = task.arguments["metric"].compute
    metric = zoo.Metric("MAE %", lambda pairs: 100 * mean(pairs), higher_is_better=False)
    result = task.prune(zoo.create_pruner("random_search", samples=8), metric=metric)
    rows = [row for row in result.trace if row["step"] == "sample"]
    scores = [row["score"] for row in rows]
    assert all(score < -1 for score in scores)  # errors, the other way round
    assert result.config.to_json() == rows[int(np.argmax(scores))]["config"]


def test_a_candidate_whose_metric_is_no_number_is_never_chosen() -> None:
    task = tiny_task("regression")
    seen: list[int] = []

    def blind(pairs: Any) -> float:
        list(pairs)
        seen.append(1)
        return float("nan") if 2 < len(seen) < 5 else 1.0  # two of the candidates

    result = task.prune(
        zoo.create_pruner("random_search", samples=3), metric=zoo.Metric("m", blind)
    )
    rows = [row for row in result.trace if row["step"] == "sample"]
    assert min(row["score"] for row in rows) == -1e300
    assert result.config.to_json() == max(rows, key=lambda row: row["score"])["config"]


def test_a_metric_sees_all_batches_at_once() -> None:
    task = tiny_task("several labels")
    result = task.prune("uniform")
    f1 = task.arguments["metric"].compute
    with torch.no_grad():
        pairs = [(result.model(images), targets) for images, targets in task.val]
    means = [f1([pair]) for pair in pairs]
    assert result.val_score == pytest.approx(f1(pairs))
    assert len(pairs) == 2 and abs(float(np.mean(means)) - f1(pairs)) > 1e-3


class TwoInputs(nn.Module):
    """An image and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = Pooled(4)
        self.side = nn.Linear(1, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, image: Tensor, extra: Tensor) -> Tensor:
        return self.head(torch.relu(self.pooled(image) + self.side(extra)))


@pytest.mark.parametrize("kind", ["tuple", "dict"])
@pytest.mark.parametrize("method", ["taylor", "pse_net", "stagewise", "bnp", "knapsack"])
def test_networks_of_several_inputs_are_pruned(kind: str, method: str) -> None:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    images, extra = torch.rand(16, 3, 16, 16), torch.rand(16, 1)
    batches = [
        {"a": images[k : k + 8], "b": extra[k : k + 8], "y": extra[k : k + 8] * 2} for k in (0, 8)
    ]

    def read(found: dict[str, Tensor]) -> Any:
        inputs = (found["a"], found["b"])
        named = {"extra": found["b"], "image": found["a"]}
        return (inputs if kind == "tuple" else named), {"wanted": found["y"]}

    result = zoo.prune(
        model, batches, batches, tiny(method), 0.6, progress=False, batch=read,
        recipe=zoo.Recipe(epochs=1, lr=1e-5),
        loss=lambda outputs, targets: F.mse_loss(outputs, targets["wanted"]),
        metric=zoo.Metric(
            "MSE",
            lambda pairs: np.mean([float(F.mse_loss(o, t["wanted"])) for o, t in pairs]),
            higher_is_better=False,
        ),
    )  # fmt: skip
    assert result.macs <= 0.6 * result.parent_macs
    assert result.spent["finetune"].images == 16
    assert result.model(images, extra).shape == (16, 1)
    with pytest.raises(ValueError, match="inputs of its own"):
        zoo.save_pruned(result, "never")


def test_only_the_part_gets_smaller_and_its_outputs_keep_their_widths() -> None:
    task = tiny_task("segmentation")
    result = task.prune("taylor", part="encoder")
    assert result.space.part == "encoder"
    assert all(group.name.startswith("encoder.") for group in result.space.groups)
    assert all(pinned.where.startswith("encoder.") for pinned in result.space.pinned)
    before, after = task.model.state_dict(), result.model.state_dict()
    changed = {name for name, value in before.items() if value.shape != after[name].shape}
    assert changed and all(name.startswith("encoder.deep") for name in changed)
    maps = result.model.encoder(torch.rand(1, 3, 16, 16))
    assert [m.shape[1] for m in maps.values()] == [8, 12]
    whole = ChannelSpace.trace(task.model, (3, 16, 16))
    assert result.parent_macs < zoo.CostModel(whole).full_macs
    assert result.parent_params == sum(p.numel() for p in task.model.parameters())
    with pytest.raises(ValueError, match=r"its part 'encoder'.*zoo\.rebuild"):
        zoo.save_pruned(result, "never")


def test_a_part_of_a_classifier_learns_from_logits() -> None:
    torch.manual_seed(0)
    model = Pooled(4)
    data = TensorDataset(torch.rand(16, 3, 16, 16), torch.arange(16) % 4)
    loader = DataLoader(data, batch_size=8)
    for method in ("stagewise", "bnp", "autoslim"):
        result = zoo.prune(
            model, loader, loader, tiny(method), 0.8, progress=False, part="body",
            recipe=zoo.Recipe(epochs=1, lr=1e-5),
        )  # fmt: skip
        assert result.macs <= 0.8 * result.parent_macs
        assert result.val_top1 == result.val_score


def test_frozen_norms_of_a_pretrained_detector_are_pruned() -> None:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    space = ChannelSpace.trace(backbone, (3, 32, 32))
    assert len(space.groups) > 8
    widths = {group.name: max(1, group.size // 2) for group in space.groups}
    small = zoo.rebuild(backbone, space, zoo.SubnetConfig.from_widths(space, widths))
    assert {m.shape[1] for m in small(torch.rand(1, 3, 32, 32)).values()} == {256}


def test_latency_of_a_part_is_predicted_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timing, "_samples", made_up_times)
    result = tiny_task("detection").prune("l1_norm", macs=None, latency=0.8, cache=tmp_path)
    assert result.latency is not None
    assert result.latency.predicted_ms <= 0.8 * result.latency.parent_predicted_ms


@pytest.mark.parametrize("is_timm", [True, False])
def test_a_task_of_whole_images_is_saved_and_loaded(tmp_path: Path, is_timm: bool) -> None:
    import timm

    task = tiny_task("regression")
    if is_timm:
        torch.manual_seed(0)
        task = replace(task, model=timm.create_model("resnet10t", num_classes=1))
    result = task.prune("l1_norm")
    zoo.save_pruned(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path) if is_timm else zoo.load_pruned(tmp_path, parent=task.model)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), result.model(images))


# Comparisons with a teacher


def test_outputs_are_compared_tensor_by_tensor() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(4, 3), torch.rand(4, 2, 5, 5)
    teacher = {"a": first + 1, "b": (second * 2,), "loss": torch.tensor(3.0)}
    student = {"a": first, "b": (second,), "loss": torch.tensor(9.0)}
    wanted = (
        relative_feature_error(first, first + 1) + relative_feature_error(second, second * 2)
    ) / 2
    assert float(output_error(student, teacher)) == pytest.approx(float(wanted))
    assert float(output_error(teacher, teacher)) == 0.0
    with pytest.raises(ValueError, match="cannot be compared"):
        output_error({"a": first}, {"a": second})


def test_numbers_without_a_second_dimension_are_compared_as_rows() -> None:
    student, teacher = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0])
    error = (2 / 3) / (float(teacher.var(correction=0)) + 1e-6)
    assert float(output_error(student, teacher)) == pytest.approx(error)


class Sigmoid(Pooled):
    """Returns logits in training mode and probabilities in eval mode."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if self.training else logits.sigmoid()


def test_a_teacher_is_compared_by_what_it_returns_in_training_mode() -> None:
    torch.manual_seed(0)
    model, images = Sigmoid(2).eval(), torch.rand(4, 3, 16, 16)
    statistics = copy.deepcopy(model.state_dict())
    with Task(F.mse_loss).teaching(model) as teacher:
        answer = teacher(images)
    assert torch.allclose(answer.sigmoid(), model(images)) and not model.training
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    with as_trained(nn.Sequential(nn.Dropout(0.9))) as still:
        assert torch.equal(still(images), images)


def test_distillation_adds_the_weighted_error_to_the_loss() -> None:
    task = tiny_task("segmentation")
    seen: list[tuple[float, float]] = []

    class Watching(type(zoo.create_pruner("l1_norm"))):  # type: ignore[misc]
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            images, masks = next(iter(task.train))
            student = copy.deepcopy(problem.model)
            loss = problem.common_loss(3.0, 0.0)
            assert loss is not None
            with torch.no_grad():
                student.head.bias += 1
                outputs = student(images)
                plain = task.arguments["loss"](outputs, masks)
                error = output_error(outputs, problem.model(images))
                seen.append((float(loss(student, images, masks)), float(plain + 3 * error)))
            assert float(error) > 0.1
            return super().search(problem)

    task.prune(Watching(), distill=3.0)
    assert seen[0][0] == pytest.approx(seen[0][1], rel=1e-5)


# What cannot work is told before any search


class Never(type(zoo.create_pruner("l1_norm"))):  # type: ignore[misc]
    """A method that must not be asked."""

    def search(self, problem: zoo.Problem) -> zoo.Subnet:
        raise AssertionError("a search began")


class OldLoss(Never):
    """A method whose loss is for cross-entropy."""

    def loss(self, teacher, student, space, config):  # type: ignore[no-untyped-def]
        raise AssertionError("a loss was made")


def number(value: Any) -> zoo.Metric:
    return zoo.Metric("m", lambda pairs: value)


def two_arguments(outputs: Any, targets: Any) -> float:
    return 0.0


REFUSED: list[tuple[dict[str, Any], str, type[Exception]]] = [
    (
        {"loss": lambda o, t: (o[:, 0] - t) ** 2},
        "loss= returns a tensor of shape .*scalar",
        ValueError,
    ),
    ({"loss": lambda o, t: 1.0}, "loss= returns a float; let it return a scalar", ValueError),
    ({"loss": lambda o, t: F.mse_loss(o.detach()[:, 0], t)}, "no gradient", zoo.UnsupportedModel),
    (
        {"loss": lambda o, t: F.mse_loss(o[:, 0], t) / 0},
        "loss of the first batch .* is inf",
        ValueError,
    ),
    (
        {"loss": lambda o, t: o["x"]},
        "loss= fails .*it gets a tensor of shape .8, 1., what Pooled",
        ValueError,
    ),
    ({"loss": 3}, "loss is 3; give a function", TypeError),
    ({"metric": None}, r"no top-1 follows; give metric=zoo\.Metric", ValueError),
    ({"metric": max}, "metric is .*give zoo.Metric", TypeError),
    ({"metric": number(float("nan"))}, "metric 'm' .* is nan.*finite", ValueError),
    ({"metric": number("good")}, "metric 'm' returns a str; let it return one number", ValueError),
    ({"metric": zoo.Metric("m", two_arguments)}, r"pairs \(outputs, targets\)", ValueError),
    ({"batch": lambda found: found[0]}, "batch= returns one Tensor.*let it return two", ValueError),
    (
        {"batch": lambda found: found["x"]},
        "batch= does not read what train_loader yields",
        ValueError,
    ),
    ({"batch": lambda found: ({"image": found[0]}, found[1])}, "a dict by keyword", ValueError),
    ({"batch": lambda found: ("images", found[1])}, "no images can be counted", ValueError),
    ({"part": "bodi"}, "part 'bodi'.*body", ValueError),
    ({"losss": 1}, "unknown argument 'losss'; did you mean 'loss'", ValueError),
    ({"recipe": zoo.Recipe(epochs=1, label_smoothing=0.1)}, "smooth in your loss", ValueError),
    ({"method": OldLoss()}, "distill=0", zoo.UnsupportedModel),
]


@pytest.mark.parametrize(("more", "message", "error"), REFUSED)
def test_what_cannot_work_is_told_in_a_line_before_any_search(
    more: dict[str, Any], message: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=message) as caught:
        tiny_task("regression").prune(more.pop("method", Never()), **more)
    assert "\n" not in str(caught.value)


def squared_by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.float() - targets.double()).square().mean()


BROADCASTING: dict[str, Any] = {
    "mse": F.mse_loss,
    "mse, module": torch.nn.MSELoss(),
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "huber": F.huber_loss,
    "poisson": F.poisson_nll_loss,
    "targets first": lambda o, t: F.l1_loss(t, o),
    "without a mean": lambda o, t: F.mse_loss(o, t, reduction="none").mean(),
    "by hand": squared_by_hand,
    "log": lambda o, t: (torch.log(o.detach().exp() + o.mean() ** 2) - torch.log(t + 1)).sum(),
}

ALIGNED: dict[str, Any] = {
    "squeezed": lambda o, t: F.mse_loss(o.squeeze(1), t),
    "unsqueezed": lambda o, t: F.mse_loss(o, t.unsqueeze(1)),
    "indexed": lambda o, t: (o[:, 0] - t).abs().mean(),
    "pairs": lambda o, t: F.relu(1 - (o - o.T) * (t[:, None] - t[None])).mean(),
    "weighted": lambda o, t: (o[:, 0] * t / t.numel()).sum(),
}


@pytest.mark.parametrize("name", BROADCASTING)
@pytest.mark.parametrize("is_metric", [False, True])
def test_outputs_and_targets_that_broadcast_are_refused_with_their_shapes(
    name: str, is_metric: bool
) -> None:
    compute = BROADCASTING[name]
    if is_metric:
        told, more = "metric 'm' holds", {"metric": zoo.Metric("m", mean_of(compute))}
    else:
        told, more = "loss= holds", {"loss": compute}
    shapes = r" outputs of shape \(8, 1\) against targets of shape \(8,\), which broadcasts.*all 8"
    with pytest.raises(ValueError, match=told + shapes + r".*outputs\.squeeze\(1\)"):
        tiny_task("regression").prune(Never(), **more)


def mean_of(compute: Any) -> Any:
    return lambda pairs: torch.stack([compute(*pair) for pair in pairs]).mean()


def test_a_metric_of_collected_batches_that_broadcasts_is_refused() -> None:
    def r2(pairs: Any) -> Tensor:
        outputs, targets = (torch.cat(found) for found in zip(*pairs, strict=True))
        return 1 - (outputs - targets).square().mean() / targets.var()

    with pytest.raises(ValueError, match="metric 'R2' holds outputs"):
        tiny_task("regression").prune(Never(), metric=zoo.Metric("R2", r2))


def test_maps_that_broadcast_are_refused_with_the_way_out() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.rand(4, 1, 5, 5), torch.rand(4, 5, 5)
    watch = BroadcastWatch(outputs, [targets])
    with watch.refusing():
        F.mse_loss(outputs, targets)
    assert watch.found == ((4, 1, 5, 5), (4, 5, 5)) and "outputs.squeeze(1)" in watch.told
    turned = BroadcastWatch({"depth": targets}, outputs)
    with turned.refusing():
        (targets - outputs).abs()
    assert "targets.squeeze(1) or outputs.unsqueeze(1)" in turned.told
    for rows in (targets[:1], targets[:, 0, 0].repeat(1)):
        fine = BroadcastWatch(outputs[: len(rows)], rows)
        with fine.refusing():
            F.cross_entropy(torch.rand(len(rows), 3), torch.zeros(len(rows), dtype=torch.long))
        assert fine.found is None and fine.told == ""


@pytest.mark.parametrize("name", ALIGNED)
def test_outputs_and_targets_of_one_shape_are_trained(name: str) -> None:
    loss = ALIGNED[name]
    metric = zoo.Metric("m", mean_of(loss))
    assert tiny_task("regression").prune("uniform", loss=loss, metric=metric).macs


SQUARED_ERROR = zoo.Metric(
    "MSE",
    lambda pairs: np.mean([float(F.mse_loss(*pair)) for pair in pairs]),
    higher_is_better=False,
)


class ReturnsLoss(Pooled):
    """Computes its loss itself, and returns that alone in training mode."""

    def forward(self, images: Tensor, wanted: Tensor) -> Any:
        found = super().forward(images)[:, 0]
        return F.mse_loss(found, wanted) if self.training else found


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("knapsack", {}, r"Knapsack compares: set positions=\('stages',\), or gamma=0"),
        ("bnp", {}, "BNP compares: set kd=0"),
        ("stagewise", {}, "Stagewise compares: take another method"),
        ("autoslim", {}, "AutoSlim compares: take another method"),
        ("dmcp", {}, "DMCP compares: take another method"),
        ("l1_norm", {"distill": 1.0}, "distill=1.0 compares: leave it out"),
        ("knapsack", {"settings": {"gamma": 0.0}}, ""),
        ("bnp", {"settings": {"kd": 0.0, "steps": 2, "chain_steps": 100}}, ""),
        ("taylor", {}, ""),
        ("bcnet", {"settings": {"steps": 2, "evaluations": 2}}, ""),
        ("metapruning", {"settings": {"steps": 2, "evaluations": 2}}, ""),
    ],
)
def test_losses_cannot_be_imitated_and_the_way_out_works(
    method: str, more: dict[str, Any], message: str
) -> None:
    torch.manual_seed(0)
    task = replace(
        tiny_task("regression"),
        model=ReturnsLoss(1),
        arguments={
            "loss": lambda outputs, _: outputs,
            "batch": lambda pair: (tuple(pair), pair[1]),
            "metric": SQUARED_ERROR,
        },
    )
    if not message:
        assert task.prune(method, **more).macs
        return
    with pytest.raises(zoo.UnsupportedModel, match=message):
        task.prune(method, **more)


def test_a_batch_that_cannot_be_divided_is_refused_and_one_subnet_does_without() -> None:
    task = tiny_task("regression")
    shared = torch.rand(3)
    arguments = task.arguments | {
        "batch": lambda pair: (pair[0], {"y": pair[1], "weights": shared}),
        "loss": lambda outputs, targets: F.mse_loss(outputs[:, 0], targets["y"]),
        "metric": zoo.Metric("n", lambda pairs: len(list(pairs))),
    }
    task = replace(task, arguments=arguments)
    with pytest.raises(zoo.UnsupportedModel, match=r"cannot be divided.*set subnets=1"):
        task.prune("pse_net")
    few = {"subnets": 1, "steps": 2, "evaluations": 2, "lr": 1e-4}
    assert task.prune("pse_net", settings=few).macs


def test_a_detector_that_cannot_be_traced_is_told_of_its_parts() -> None:
    with pytest.raises(zoo.UnsupportedModel, match="give part='backbone'"):
        tiny_task("detection").prune(Never(), part="")


def test_a_metric_may_need_more_than_the_first_batch() -> None:
    task = tiny_task("regression")

    def of_many(pairs: Any) -> float:
        return 1.0 if len(list(pairs)) > 1 else float("nan")

    assert task.prune("uniform", metric=zoo.Metric("m", of_many)).val_score == 1.0


def test_a_metric_of_a_classifier_sees_logits_and_top1_needs_no_metric_with_another_loss() -> None:
    torch.manual_seed(0)
    model = Pooled(4)
    data = TensorDataset(torch.rand(16, 3, 16, 16), torch.arange(16) % 4)
    loader = DataLoader(data, batch_size=8)
    shapes: set[torch.Size] = set()

    def spread(pairs: Any) -> float:
        found = [logits for logits, _ in pairs]
        shapes.update(logits.shape for logits in found)
        return float(torch.cat(found).std())

    common: Any = {"macs": 0.6, "progress": False, "recipe": zoo.Recipe(epochs=1, lr=1e-4)}
    result = zoo.prune(
        model, loader, loader, "uniform", metric=zoo.Metric("spread", spread), **common
    )
    assert shapes == {torch.Size((8, 4))} and result.val_top1 is None
    own = zoo.prune(
        model, loader, loader, "uniform", loss=nn.CrossEntropyLoss(label_smoothing=0.1), **common
    )
    assert own.val_top1 == own.val_score and 0 <= own.val_top1 <= 1


def test_an_entry_has_as_many_images_as_are_asked_for() -> None:
    from zoo.core.tracing.entry import blank_inputs

    entry = Entry.of({"a": torch.rand(4, 3, 8, 8), "b": [torch.rand(3, 8, 8)] * 4, "c": (2, None)})
    blank = blank_inputs(nn.Linear(1, 1), entry, 2)
    assert blank["a"].shape == (2, 3, 8, 8) and blank["a"].is_meta
    assert len(blank["b"]) == 2 and blank["c"] == (2, None)


def test_a_batch_is_divided_image_by_image() -> None:
    rows = torch.arange(7)
    value = {"a": rows, "b": (rows[:, None], list(range(7))), "c": 3, "d": torch.tensor(5.0)}
    first, second = divided(value, 7, 2)
    assert first["a"].tolist() == [0, 1, 2] and second["a"].tolist() == [3, 4, 5]
    assert second["b"][0].flatten().tolist() == second["b"][1] == [3, 4, 5]
    assert (first["c"], float(second["d"])) == (3, 5.0)


def test_images_are_counted_in_whatever_they_come() -> None:
    images = torch.rand(5, 3, 8, 8)
    assert count_images(images) == 5
    assert count_images((torch.rand(2), {"x": images})) == 5
    assert count_images((list(images), [{"boxes": torch.rand(9, 4)}] * 5)) == 5
    assert count_images({"rows": torch.rand(4, 6)}) == 4


def test_subnets_of_a_loss_of_ones_own_learn_from_their_own_parts() -> None:
    task = tiny_task("regression")
    found: list[tuple[list[float], list[float]]] = []

    class Watching(Never):
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            with torch.no_grad(), problem.meter.phase("supernet"):
                engine = Engine(problem, starting_weights(problem, "parent"), steps=1, lr=0.1)
                images, targets = next(iter(task.train))
                widths = {group.name: group.size // 2 for group in problem.space.groups}
                configs = [
                    zoo.SubnetConfig.full(), zoo.SubnetConfig.from_widths(problem.space, widths)
                ]  # fmt: skip
                losses = engine.part_losses(images, targets, configs).tolist()
                alone = [
                    float(problem.task.loss_of(engine.logits(images[a:b], config), targets[a:b]))
                    for (a, b), config in zip(((0, 4), (4, 8)), configs, strict=True)
                ]
            found.append((losses, alone))
            return zoo.create_pruner("l1_norm").search(problem)

    task.prune(Watching(), recipe=zoo.Recipe(epochs=0))
    assert found[0][0] == pytest.approx(found[0][1], rel=1e-6)
    assert found[0][0][0] != pytest.approx(found[0][0][1], rel=1e-2)


class Drawing(Pooled):
    """Draws what it learns from, as detectors draw boxes."""

    def forward(self, images: Tensor) -> Tensor:
        found = super().forward(images)
        return found * torch.rand_like(found) if self.training else found


def test_a_scored_loss_does_not_depend_on_what_was_drawn_before() -> None:
    torch.manual_seed(0)
    task = replace(tiny_task("regression"), model=Drawing(1))
    losses: list[float] = []

    class Watching(Never):
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            inputs, targets = next(iter(task.train))
            with torch.no_grad(), problem.meter.phase("scoring"):
                for seed, batch in ((1, 0), (2, 0), (2, 1)):
                    torch.manual_seed(seed)
                    losses.append(float(problem.parent_loss(inputs, targets, {}, batch)))
            return zoo.create_pruner("l1_norm").search(problem)

    task.prune(Watching(), recipe=zoo.Recipe(epochs=0))
    assert losses[0] == losses[1] != losses[2]


class Up(nn.Module):
    """A decoder's block, which is called with two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(20, 12), convolution(12, 8)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        maps = F.interpolate(maps, size=skip.shape[-2:])
        return self.second(self.first(torch.cat([maps, skip], 1)))


class Decoded(TinyUNet):
    """A UNet whose decoder is a block of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Up()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(images)
        return {"maps": self.head(self.up(maps["1"], maps["0"]))}


@pytest.mark.parametrize("method", ["bnp", "stagewise", "knapsack"])
def test_decoders_whose_blocks_read_several_maps_are_pruned(method: str) -> None:
    torch.manual_seed(0)
    task = replace(tiny_task("segmentation"), model=Decoded().eval())
    result = task.prune(tiny(method), macs=0.6)
    assert_rebuilt_equals_masked(task, result)
    if method == "bnp":
        blocks = cut_blocks(task.model, result.space)
        assert not [block for block in blocks if "up" in block.modules]

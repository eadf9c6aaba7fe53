"""The training loop: exact repeats, a fresh optimizer, honest failure, honest charges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo.core.training.train as loop
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.metered import MeteredBatches
from zoo.core.errors import Diverged
from zoo.core.meter import Meter
from zoo.core.training.events import Watch
from zoo.core.training.train import Recipe, TaskLoss, TrainingLoss, evaluate, train


def images(count: int = 64) -> ImageTensors:
    """Two classes, told apart by their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 3, 8, 8), generator=generator)
    pixels = (noise + 100 * labels[:, None, None, None]).to(torch.uint8)
    return ImageTensors(pixels, labels, (0.4,) * 3, (0.25,) * 3)


def batches(count: int = 64, batch_size: int = 16) -> Batches:
    return Batches(images(count), batch_size, seed=1, shuffle=True)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )


def optimizers(monkeypatch: pytest.MonkeyPatch) -> list[torch.optim.Optimizer]:
    """The optimizers that the loop will make, as it makes them."""
    made: list[torch.optim.Optimizer] = []
    create = loop.create_optimizer_v2

    def keep(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(loop, "create_optimizer_v2", keep)
    return made


class Affine(TrainingLoss):
    """Cross-entropy of logits scaled by a learned number."""

    macs_per_image = 5

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * student(images), labels)


class Scripted(TrainingLoss):
    """Losses with given values, one a step."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        value = student(images).sum()
        return value - value.detach() + next(self.values)


def test_training_learns_what_is_easy() -> None:
    model = network()
    losses = train(model, batches(), Recipe(epochs=8, lr=0.1))
    assert evaluate(model, batches()) == 1.0
    assert losses[-1] < losses[0] / 2
    assert len(losses) == 8


def test_two_runs_give_equal_bits_and_the_global_generator_is_untouched() -> None:
    states = []
    before = torch.get_rng_state()
    for noise in (1, 2):
        model = network()
        torch.empty(noise)
        train(model, batches(), Recipe(epochs=2, ema_decay=0.9, clip_grad=1.0))
        states.append(model.state_dict())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_step_is_the_step_by_hand() -> None:
    model, recipe = network(), Recipe(epochs=1, lr=0.5, weight_decay=0.1, channels_last=False)
    by_hand = network().train()
    source = batches(16)
    (pixels, labels) = next(source.epoch(0))
    F.cross_entropy(by_hand(pixels), labels).backward()
    train(model, source, recipe)
    for new, old in zip(model.parameters(), by_hand.parameters(), strict=True):
        decay = 0.1 if old.ndim > 1 else 0.0
        gradient = old.grad + decay * old.detach()  # type: ignore[operator]
        # Nesterov's first step with momentum 0.9; rounding in another order.
        assert torch.allclose(new, old - 0.5 * 1.9 * gradient, atol=1e-6)


def test_several_steps_are_torchs_own() -> None:
    model, by_hand = network(), network().train()
    source = batches()
    recipe = Recipe(epochs=1, lr=0.1, weight_decay=0.0, schedule="constant", channels_last=False)
    train(model, source, recipe)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for pixels, labels in source.epoch(0):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(pixels), labels).backward()
        optimizer.step()
    for new, old in zip(model.parameters(), by_hand.parameters(), strict=True):
        # Rounding in another order, over four steps.
        assert torch.allclose(new, old, atol=1e-5)


def test_biases_and_batch_norm_are_not_decayed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = optimizers(monkeypatch)
    model = network()
    train(model, batches(), Recipe(epochs=1, weight_decay=0.1))
    for group in made[0].param_groups:
        assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] > 0}


def test_the_optimizer_never_holds_removed_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    made = optimizers(monkeypatch)
    model = network()
    train(model, batches(), Recipe(epochs=1))
    model[0] = nn.Conv2d(3, 2, 3)
    model[1] = nn.BatchNorm2d(2)
    model[5] = nn.Linear(2, 2)
    train(model, batches(), Recipe(epochs=1))
    held = {id(weight) for group in made[1].param_groups for weight in group["params"]}
    assert held == {id(weight) for weight in model.parameters()}


def test_parameters_of_the_loss_are_trained() -> None:
    loss = Affine()
    train(network(), batches(), Recipe(epochs=1), loss=loss)
    assert loss.scale.item() != 1.0


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, batches(), Recipe(epochs=1, lr=0.5))
    assert torch.equal(model[0].weight, before)


def test_the_schedule_steps_with_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    made = optimizers(monkeypatch)
    rates = []

    class Spy(TaskLoss):
        def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            rates.append(made[-1].param_groups[0]["lr"])
            return super().forward(student, images, labels)

    train(network(), batches(), Recipe(epochs=2, lr=0.2), loss=Spy())
    by_hand = [0.1 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates == pytest.approx(by_hand)
    rates.clear()
    train(network(), batches(), Recipe(epochs=2, lr=0.2, schedule="multistep"), loss=Spy())
    assert rates == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2)
    rates.clear()
    recipe = Recipe(epochs=2, lr=0.2, schedule="constant", warmup_epochs=0.5)
    train(network(), batches(), recipe, loss=Spy())
    assert rates[0] < rates[1] < rates[2] == rates[-1] == 0.2


def test_the_average_is_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    last, averaged = network(), network()
    train(last, batches(), Recipe(epochs=1))
    train(averaged, batches(), Recipe(epochs=1, ema_decay=0.999))
    assert not torch.equal(last[0].weight, averaged[0].weight)
    unmoved = network()
    train(unmoved, batches(16), Recipe(epochs=1, ema_decay=0.999))
    one_step = network()
    train(one_step, batches(16), Recipe(epochs=1))
    # The average starts at the weights after the first update.
    assert torch.equal(unmoved[0].weight, one_step[0].weight)


def test_gradients_are_clipped_before_the_step() -> None:
    model, before = network(), network()
    recipe = Recipe(epochs=1, lr=1.0, weight_decay=0.0, clip_grad=0.01, momentum=0.0)
    train(model, batches(16), Recipe(**{**vars(recipe), "optimizer": "momentum"}))
    moved = torch.cat(
        [
            (new - old).flatten()
            for new, old in zip(model.parameters(), before.parameters(), strict=True)
        ]
    )
    # Rounding of a few hundred small differences.
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("bad", "at"), [(math.nan, 1), (math.inf, 1), (math.nan, 3), (-math.inf, 3), (5e4, 4)]
)
def test_a_diverging_loss_names_its_step(bad: float, at: int) -> None:
    values = [2.0] * 8
    values[at - 1] = bad
    model = network()
    with pytest.raises(Diverged, match=rf"loss {bad} at step {at} of 8; lower the learning rate"):
        train(model, batches(), Recipe(epochs=2, lr=1e-3), loss=Scripted(values))
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())


def test_weights_that_are_nan_are_noticed() -> None:
    model = network()
    with torch.no_grad():
        model[5].weight.fill_(math.nan)
    with pytest.raises(Diverged, match="loss nan at step 1"):
        train(model, batches(), Recipe(epochs=1))


def test_losses_are_read_a_few_times_only() -> None:
    reads = []
    train(
        network(),
        batches(64, 1),
        Recipe(epochs=2, lr=1e-3),
        watch=Watch(tell=lambda text, done, total: reads.append((done, total))),
    )
    steps = [20, 40, 60, 64, 84, 104, 124, 128]
    assert reads == [(step, 128) for step in steps]


def test_the_mean_loss_of_an_epoch_counts_every_step() -> None:
    values = [float(number) for number in range(8)]
    losses = train(network(), batches(), Recipe(epochs=2, lr=1e-6), loss=Scripted(values))
    assert losses == (1.5, 5.5)


@pytest.mark.parametrize("is_metered", [False, True])
def test_each_image_and_pass_is_charged_once(is_metered: bool) -> None:
    meter = Meter()
    source = MeteredBatches(batches(), meter) if is_metered else batches()
    with meter.phase("finetune") as spent:
        train(network(), source, Recipe(epochs=3), meter=meter, macs_per_image=10)
    assert (spent.images, spent.macs_forward, spent.macs_backward) == (192, 1920, 3840)


def test_the_teachers_passes_are_charged_without_a_backward_pass() -> None:
    meter = Meter()
    with meter.phase("finetune") as spent:
        train(network(), batches(), Recipe(epochs=1), loss=Affine(), meter=meter, macs_per_image=10)
    assert (spent.macs_forward, spent.macs_backward) == (64 * 15, 64 * 20)


def test_no_epoch_changes_nothing_but_the_mode() -> None:
    model = network().train()
    train(model, batches(), Recipe(epochs=0))
    assert not model.training
    assert all(
        torch.equal(new, old)
        for new, old in zip(model.parameters(), network().parameters(), strict=True)
    )


def test_label_smoothing_reaches_the_loss() -> None:
    losses = [
        train(network(), batches(16), Recipe(epochs=1, label_smoothing=smoothing))[0]
        for smoothing in (0.0, 0.3)
    ]
    pixels, labels = next(batches(16).epoch(0))
    by_hand = F.cross_entropy(network().train()(pixels), labels, label_smoothing=0.3)
    assert losses[0] != losses[1]
    # Another memory format rounds in another order.
    assert losses[1] == pytest.approx(by_hand.item(), rel=1e-5)


def test_evaluation_counts_right_answers_and_restores_every_mode() -> None:
    model = network().train()
    model[1].eval()
    with torch.no_grad():
        model[5].weight.zero_()
        model[5].bias.copy_(torch.tensor([0.0, 1.0]))
    statistics = model[1].running_mean.clone()
    source = Batches(images(40).select(list(range(1, 40)), None), 16)
    assert evaluate(model, source) == 20 / 39
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
    assert torch.equal(model[1].running_mean, statistics)


def test_a_timm_network_trains_with_another_optimizer() -> None:
    model = timm.create_model("test_efficientnet", num_classes=2)
    recipe = Recipe(epochs=1, optimizer="adamw", lr=1e-3, batch_size=16)
    losses = train(model, Batches(images(32), 16), recipe)
    assert math.isfinite(losses[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"epochs": -1}, "epochs is -1; it must be at least 0"),
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"epochs": 10**12}, "epochs is 1000000000000; it must be a whole number of at most"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": -4}, "batch_size is -4; it must be at least 1"),
        ({"lr": 0.0}, r"lr is 0\.0; it must be above 0"),
        ({"lr": math.inf}, "lr is inf; it must be a finite number"),
        ({"lr": math.nan}, "lr is nan; it must be a finite number"),
        ({"lr": "0.1"}, "lr is '0.1'; it must be a finite number"),
        ({"momentum": 1.0}, r"momentum is 1\.0; it must be at least 0 and below 1"),
        ({"weight_decay": -1e-4}, r"weight_decay is -0\.0001; it must be at least 0"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"channels_last": 1}, "channels_last is 1; it must be true or false"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be above 0 and below 1"),
        ({"clip_grad": 0.0}, "clip_grad is 0.0; it must be above 0"),
        ({"clip_grad": math.inf}, "clip_grad is inf; it must be a finite number or none"),
        ({"milestones": (0.5, 1.5)}, "milestones are .*; each must be a share of the epochs"),
        ({"milestones": 0.5}, "milestones is 0.5; it must be a list, each a finite number"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; did you mean .*sgd"),
        ({"optimizer": "lookahead_sdg"}, "unknown optimizer 'lookahead_sdg'"),
        ({"optimizer": ""}, "unknown optimizer ''"),
        ({"warmup_epochs": 3.0}, r"3\.0 warm-up epochs do not fit in 2; lower warmup_epochs"),
        ({"warmup_epochs": -1.0}, "warmup_epochs is -1.0; it must be at least 0"),
    ],
)
def test_bad_recipes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 2, **settings})


@pytest.mark.parametrize("optimizer", ["sgd", "SGD", "lookahead_adamw"])
def test_every_name_that_a_recipe_takes_makes_an_optimizer(optimizer: str) -> None:
    recipe = Recipe(epochs=1, optimizer=optimizer, lr=1e-3, batch_size=16, milestones=[0.5])  # type: ignore[arg-type]
    assert recipe.milestones == (0.5,)
    model = timm.create_model("test_efficientnet", num_classes=2)
    assert math.isfinite(train(model, Batches(images(32), 16), recipe)[0])

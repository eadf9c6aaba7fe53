"""The call for everyone: zoo.prune on any module with ordinary loaders, and saving the result."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from tests.latencies import made_up_times
from zoo.core.cost import measure_latency as timing
from zoo.core.cost.budget import BudgetUnit
from zoo.core.latency_check import check_latency

SIZE = (3, 32, 32)


class Plain(nn.Module):
    """Somebody's network, unknown to timm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(images)))
        return self.head(torch.relu(self.second(features)).mean((2, 3)))


def loader(images: int = 32, classes: int = 4) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(images, *SIZE, generator=generator),
        torch.arange(images) % classes,
    )
    return DataLoader(data, batch_size=16, shuffle=True, generator=generator)


def pruned(model: nn.Module, **arguments: object) -> zoo.PruneResult:
    defaults: dict[str, object] = {
        "method": "l1_norm",
        "macs": 0.5,
        "recipe": zoo.Recipe(epochs=1, lr=0.01),
        "progress": False,
    }
    return zoo.prune(model, loader(), loader(16), **(defaults | arguments))  # type: ignore[arg-type]


def test_prune_returns_a_smaller_network_and_leaves_the_given_one() -> None:
    model = Plain().train()
    before = copy.deepcopy(model.state_dict())
    result = pruned(model)
    assert result.macs <= result.parent_macs / 2
    assert result.params == sum(p.numel() for p in result.model.parameters())
    assert result.model(torch.zeros(2, *SIZE)).shape == (2, 4)
    assert not result.model.training
    assert result.spent["finetune"].images == 32
    assert result.trace[-1]["config"] == result.config.to_json()
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_same_seed_prunes_to_the_same_weights() -> None:
    torch.manual_seed(0)
    model = Plain()
    first, second = pruned(model, seed=3), pruned(model, seed=3)
    assert first.config == second.config
    weights = second.model.state_dict()
    assert all(torch.equal(weights[n], value) for n, value in first.model.state_dict().items())


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def last_line(self) -> str:
        """The last line that was drawn, without the codes that move and colour."""
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return re.split(r"[\r\n]+", drawn.strip())[-1]


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; not a fixture, since pytest puts its own file back before."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


@pytest.mark.parametrize("columns", [80, 50])
def test_progress_is_shown_on_a_terminal_unless_it_is_declined(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    zoo.prune(Plain(), loader(), loader(16), "l1_norm", 0.5, recipe=zoo.Recipe(epochs=1))
    assert re.fullmatch(r"validating +\S+ +0:00:\d\d", terminal.last_line)  # no full bar, no 100%
    assert len(terminal.last_line) <= columns
    assert terminal.getvalue().endswith("\x1b[2K")  # and then the line is erased
    seen = len(terminal.getvalue())
    pruned(Plain(), progress=False)
    assert len(terminal.getvalue()) == seen


def test_nothing_is_shown_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    pruned(Plain(), progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stdout", standard_output := Terminal())
    pruned(Plain(), progress=True)
    assert standard_output.getvalue() == "" and capsys.readouterr().err == ""


def test_what_a_network_prints_goes_where_standard_output_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)

    class Chatty(Plain):
        def forward(self, images: Tensor) -> Tensor:
            sys.stdout.write("a pass\n")
            return super().forward(images)

    pruned(Chatty(), progress=True)
    assert "a pass" in capsys.readouterr().out
    assert "validating" in terminal.getvalue() and "a pass" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"macs": 0.0}, "not a positive number"),
        ({"macs": -0.5}, "not a positive number"),
        ({"macs": float("nan")}, "not a positive number"),
        ({"macs": 1.0}, "nothing would be pruned"),
        ({"macs": 10**12}, "above the parent's"),
        ({"macs": 1e-6}, "below the smallest subnet"),
        ({"macs": None}, "give one budget"),
        ({"macs": 0.5, "params": 0.5}, "give one budget: .*; given: macs and params"),
        ({"latency": 0.5}, "give one budget: .*; given: macs and latency"),
        ({"method": "l1_nrm"}, "l1_norm"),
        ({"settings": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_bad_request_says_what_is_wrong(budget: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruned(Plain(), **budget)


def test_budget_of_latency_is_met_as_predicted_and_checked_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timing, "_samples", made_up_times)
    model = Plain()
    halved = pruned(model, macs=None, latency=0.9, cache=tmp_path)
    found = halved.latency
    assert found is not None
    assert 0.8 * found.parent_predicted_ms < found.predicted_ms <= 0.9 * found.parent_predicted_ms
    assert found.parent_predicted_ms == found.measured_ms == found.parent_measured_ms == 100.0
    assert found.is_off and found.measured == 1.0 and found.noise == 0.0
    (told,) = (record.getMessage() for record in caplog.records)
    assert f"predicted as {found.predicted:.2f} of the parent's and measured as 1.00" in told
    assert "busier" in told and "Timing(rounds=27)" in told
    same = pruned(model, macs=None, latency_ms=0.9 * found.parent_predicted_ms, cache=tmp_path)
    assert same.config == halved.config
    assert "measured as 100.00 ms, noise 0.00: they disagree" in caplog.records[-1].getMessage()
    assert len(list(tmp_path.glob("*.json"))) == 1
    assert pruned(model).latency is None
    with pytest.raises(ValueError, match="give a keep ratio up to 1, or up to 100 ms as latency"):
        pruned(model, macs=None, latency=90, cache=tmp_path)


@pytest.mark.parametrize(
    ("unit", "rounds", "is_off"),
    [
        ("latency", [0.8, 0.8, 0.8], False),  # as predicted
        ("latency", [1.01, 1.01, 1.01], True),
        ("latency", [0.81, 0.81, 0.81], False),  # less than 2 % off
        ("latency", [0.79, 1.01, 1.3], False),  # rounds lie further apart than that
        ("latency", [0.6, 0.6, 0.6], True),  # too fast is no less a wrong prediction
        ("latency_ms", [0.8, 0.8, 0.8], True),  # the share is right, the milliseconds are not
        ("latency_ms", [0.4, 0.4, 0.4], False),
    ],
)
@pytest.mark.parametrize("busy", [1.0, 2.0])
def test_a_latency_is_off_if_it_differs_by_more_than_noise(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unit: BudgetUnit,
    rounds: list[float],
    is_off: bool,
    busy: float,
) -> None:
    # The machine takes twice as long for all networks as it did for the operators, and the
    # parent's copy as much longer as `busy` says: where that is noise, nothing is off.
    small = [2e7 * each for each in rounds]
    times = np.array([small, [2e7] * 3, [2e7 * busy] * 3])
    monkeypatch.setattr("zoo.core.latency_check.pass_rounds", lambda *_: times)
    problem = SimpleNamespace(
        budget=SimpleNamespace(metric="latency"),
        space=None,
        full_cost=10_000_000,
        cost_of_config=lambda _: 8_000_000,
    )
    found = check_latency(problem, None, None, None, zoo.Timing(), unit)  # type: ignore[arg-type]
    assert found is not None
    assert found.is_off == (is_off and busy == 1.0)
    spread = max(rounds) - min(rounds) > 0.1 or busy > 1
    assert found.is_noisy == spread
    told = [record.getMessage() for record in caplog.records]
    assert told == [found.told] * (found.is_off or spread)
    assert ("too much noise to tell" in found.told) == spread


def test_network_without_prunable_channels_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(zoo.UnsupportedModel, match="output of the network"):
        pruned(model)


def test_a_pruner_that_exceeds_its_budget_is_refused() -> None:
    class Greedy(type(zoo.create_pruner("uniform"))):  # type: ignore[misc]
        def search(self, problem: zoo.Problem) -> zoo.Subnet:
            return zoo.Subnet(zoo.SubnetConfig.full())

    with pytest.raises(ValueError, match="above its budget"):
        pruned(Plain(), method=Greedy())


def test_saved_networks_give_identical_logits_in_a_fresh_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, expected = torch.randn(2, *SIZE), {}
    for name in ("resnet20_cifar", "test_efficientnet"):
        result = pruned(timm.create_model(name, num_classes=4), recipe=zoo.Recipe(epochs=0))
        zoo.save_pruned(result, tmp_path / name)
        with torch.no_grad():
            expected[name] = result.model(images)
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            "network.json",
            "network.safetensors",
        ]
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import torch, zoo\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r})\n"
        f"models = {{n: zoo.load_pruned({str(tmp_path)!r} + '/' + n) for n in {list(expected)}}}\n"
        "logits = {n: model(images) for n, model in models.items()}\n"
        f"torch.save(logits, {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    found = torch.load(tmp_path / "logits.pt")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_foreign_network_loads_with_its_parent_given(tmp_path: Path) -> None:
    result = pruned(Plain())
    zoo.save_pruned(result, tmp_path)
    with pytest.raises(ValueError, match="not made by timm"):
        zoo.load_pruned(tmp_path)
    loaded = zoo.load_pruned(tmp_path, Plain())
    images = torch.randn(2, *SIZE)
    assert torch.equal(result.model(images), loaded(images))


def test_saving_twice_into_one_folder_is_refused(tmp_path: Path) -> None:
    result = pruned(Plain(), recipe=zoo.Recipe(epochs=0))
    zoo.save_pruned(result, tmp_path)
    with pytest.raises(FileExistsError, match="another folder"):
        zoo.save_pruned(result, tmp_path)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    result = pruned(Plain(), recipe=zoo.Recipe(epochs=0))
    zoo.save_pruned(result, tmp_path)
    tensors, structure = tmp_path / "network.safetensors", tmp_path / "network.json"
    whole, text = tensors.read_bytes(), structure.read_text()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="checksum"):
        zoo.load_pruned(tmp_path, Plain())
    tensors.write_bytes(whole)
    structure.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"network\.json is damaged"):
        zoo.load_pruned(tmp_path, Plain())
    structure.write_text("{}")
    with pytest.raises(ValueError, match="lacks"):
        zoo.load_pruned(tmp_path, Plain())
    structure.write_text(json.dumps(json.loads(text) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        zoo.load_pruned(tmp_path, Plain())
    structure.unlink()
    with pytest.raises(FileNotFoundError, match="no pruned network"):
        zoo.load_pruned(tmp_path, Plain())


def test_prune_keeps_to_patterns_floor_and_divisor() -> None:
    result = pruned(
        Plain(), macs=0.7, keep="second", ratios={"first": (0.5, 0.8)}, min_keep=0.2, divisor=4
    )
    kept = {name: len(channels) for name, channels in result.config.keep.items()}
    assert kept["second"] == 24
    assert kept["first"] in (8, 12)


def test_prune_to_ratios_alone_needs_no_smaller_budget() -> None:
    result = pruned(Plain(), macs=1, ratios={"*": 0.75})
    assert [len(channels) for channels in result.config.keep.values()] == [12, 18]
    with pytest.raises(ValueError, match="nothing would be pruned"):
        pruned(Plain(), macs=1, ratios={"*": (0.75, 1)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": ["frist"]}, "unknown channel group or module 'frist'; did you mean 'first'"),
        ({"ratios": {"secnd": 0.5}}, "'secnd'; did you mean 'second'"),
        ({"keep": ["*"], "ratios": {"first": 0.5}}, "keep '\\*' and ratio 'first' = 0.5 leave"),
        ({"ratios": {"first": "half"}}, "'half' is no ratio of what is kept"),
        ({"keep": ["*"]}, "is below the smallest subnet within the bounds.* keep '\\*' is most"),
    ],
)
def test_prune_refuses_bounds_that_cannot_be_before_it_searches(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], message: str
) -> None:
    method = type(zoo.create_pruner("l1_norm"))
    monkeypatch.setattr(method, "search", lambda *_: pytest.fail("the search began"))
    with pytest.raises(ValueError, match=message):
        pruned(Plain(), **arguments)


def test_patterns_are_refused_before_operators_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = "zoo.core.latency_check.measure_latency"
    monkeypatch.setattr(timed, lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match="did you mean 'first'"):
        pruned(Plain(), macs=None, latency=0.5, keep=["frist"])

"""Teachers that teach nothing, and errors that are no numbers, are told."""

from __future__ import annotations

import pytest
import torch

import zoo
from tests.tiny_network import IMAGES, LABELS, loader, network, pruned
from zoo.core.data.loaders import LoaderBatches
from zoo.core.errors import Diverged
from zoo.core.one_shot.stage_search import stage_scorers
from zoo.core.supernet.stages import cut_stages
from zoo.core.training.distill import check_errors, explain_flat_features, relative_feature_error


def test_a_teacher_that_was_not_trained_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
    told = "the teacher's logits hardly vary from image to image .*not trained.* gamma"
    with pytest.raises(Diverged, match=f"training loss .*; {told}"):
        pruned(model, recipe=zoo.Recipe(epochs=3, lr=0.1))
    assert "fine-tuning may diverge: the teacher's logits hardly vary" in caplog.text


def test_a_teacher_that_was_trained_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Diverged, match="lower the learning rate"):
        pruned(recipe=zoo.Recipe(epochs=3, lr=1e9))
    assert not caplog.text


def test_features_are_still_by_their_variance_over_images() -> None:
    still, moving = torch.ones(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    assert explain_flat_features({"layer1": moving, "logits": moving[..., 0, 0]}, "stop") == ""
    assert explain_flat_features({"layer1": still, "logits": moving[..., 0, 0]}, "stop").startswith(
        "the teacher's features at layer1 hardly vary from image to image (variance 0)"
    )
    assert explain_flat_features({"logits": 0.01 * moving[..., 0, 0]}, "stop").endswith(
        "first, or stop"
    )
    assert (
        explain_flat_features({"layer1": moving * torch.nan}, "stop") == ""
    )  # that is another fault


@pytest.mark.parametrize(
    ("scale", "message"), [(0.0, "features at layer1 hardly vary"), (1.0, "lower lr")]
)
def test_a_block_whose_error_is_no_number_stops_the_search(scale: float, message: str) -> None:
    target = scale * torch.randn(4, 3, 2, 2)
    with pytest.raises(Diverged, match=f"block that ends at layer1 is nan; .*{message}"):
        check_errors([torch.tensor(torch.nan)], ["layer1"], [target])
    check_errors([torch.tensor(1.0)], ["layer1"], [target])


def test_stages_are_not_scored_on_a_batch_of_one_image() -> None:
    model = network().eval()
    space = zoo.ChannelSpace.trace(model, (3, 8, 8))
    cost, meter = zoo.CostModel(space), zoo.core.meter.Meter("cpu")
    source = LoaderBatches(loader(IMAGES[:25], LABELS[:25]))
    data = zoo.core.data.metered.MeteredData(source, source, meter)
    problem = zoo.Problem(
        model, space, cost, zoo.Budget.parse(0.5, cost), data, zoo.WidthRules(), 0, meter, ""
    )
    with meter.phase("search"):
        (scorer,) = stage_scorers(problem, cut_stages(model, space, 1), {})
    assert [len(entering) for entering, _ in scorer.features.pairs()] == [8, 8, 8]


def test_the_variance_of_one_value_is_not_divided_by() -> None:
    with pytest.raises(ValueError, match="of one image have no variance"):
        relative_feature_error(torch.ones(1, 4), torch.zeros(1, 4))

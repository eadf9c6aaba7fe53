"""Names and arguments of models from a file: what describes an architecture, and nothing else."""

import json
import math
from typing import Any

import pytest
import timm

from zoo.core.networks import cifar_resnet  # noqa: F401  (registers its networks with timm)
from zoo.core.networks.model_args import check_model_args, check_model_name

ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"num_classes": 10, "in_chans": 1, "drop_rate": 0.1, "drop_path_rate": 0.0}),
    ("resnet18", {"act_layer": "silu", "output_stride": 8, "global_pool": "avgmax"}),
    ("resnet18", {"stem_type": "deep", "stem_width": 16, "block_args": {"attn_layer": "eca"}}),
    ("resnet18", {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 48], "zero_init_last": False}),
    ("resnet20_cifar", {"channels": (4, 8, 16)}),
    ("resnet20_cifar", {"features_only": True, "out_indices": [0, 2]}),
    ("mobilenetv2_035", {"act_layer": "relu", "bn_eps": 1e-3, "pad_type": ""}),
    ("test_convnext", {"ls_init_value": 0.5, "conv_mlp": True, "norm_layer": None}),
    ("test_byobnet", {"stem_type": "7x7", "num_features": 0}),
    ("dla34", {"levels": [1, 1, 1, 2, 2, 1]}),
    ("mobilenetv2_035", {"depth_multiplier": 1.2}),
]


@pytest.mark.parametrize(("name", "args"), ARCHITECTURES)
def test_arguments_of_architectures_are_taken_as_they_are(name: str, args: dict[str, Any]) -> None:
    taken = check_model_args(args, "mine.toml")
    assert taken == args and taken is not args
    assert timm.create_model(check_model_name(name, "mine.toml"), **taken)


LOADING = [
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "pretrained_custom_load",
    "pretrained_filter_fn",
    "pretrained_model_args",
    "checkpoint_path",
    "cache_dir",
    "file",
    "model_name",
    "model_cfg",
    "feature_cfg",
    "feature_cls",
    "kwargs_filter",
    "hf_hub_id",
    "url",
    "Pretrained",
    "weight_init",
]


@pytest.mark.parametrize("key", LOADING)
def test_what_can_load_is_refused_by_its_name(key: str) -> None:
    for value in (True, False, None, "x", {"url": "https://example.org/x"}):
        with pytest.raises(ValueError, match=rf"^mine\.toml: '{key}' is not taken from a file"):
            check_model_args({"num_classes": 10, key: value}, "mine.toml")


@pytest.mark.parametrize(
    "key", ["scriptable", "exportable", "no_jit", "device", "dtype", "pruned", "cfg", "", 3, None]
)
def test_whatever_is_on_no_list_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="no argument of an architecture"):
        check_model_args({key: 1}, "mine.toml")


def test_a_misspelt_key_is_told_the_right_one() -> None:
    with pytest.raises(ValueError, match="did you mean num_classes"):
        check_model_args({"num_clases": 1}, "mine.toml")


NESTED: Any = []
for _ in range(2_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_classes", wrong) for wrong in (True, 1.0, "10", -1, 10**12, [10], {}, math.nan)),
        *(("drop_rate", wrong) for wrong in (1, 1.0, -0.1, math.nan, math.inf, "0", True)),
        *(("channel_multiplier", wrong) for wrong in (math.inf, math.nan, -1, 10**400, "1", False)),
        *(("act_layer", wrong) for wrong in ("../x", "a.b", "hf-hub:x", "x" * 65, 1, True, ["a"])),
        *(("zero_init_last", wrong) for wrong in (0, 1, "true", [])),
        *(("layers", wrong) for wrong in ([], [[]], ["1"], [True], [-1], [1] * 300, {"a": 1})),
        *(("layers", endless) for endless in ([10**6, 1, 1, 1], [1_999, 2], 2_001)),
        *((key, 10**6) for key in ("depth", "depths", "block_config", "num_blocks", "k_sec")),
        *(("levels", endless) for endless in ([1, 1, 30], [10**6], 11)),
        *((key, 101) for key in ("depth_multiplier", "depth_mult", "deepen_factor")),
        ("layers", NESTED),
        ("block_args", NESTED),
        ("block_args", "attn"),
        ("block_args", {"attn": "/etc/passwd"}),
        ("block_args", {"attn": {"checkpoint_path": "x"}}),
        ("block_args", {"attn": [{"pretrained_cfg": {"file": "x"}}]}),
        ("block_args", {"rate": math.nan}),
        ("block_args", {1: 2}),
    ],
)
def test_a_value_of_another_type_or_size_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^mine\.toml: '{key}' is ") as caught:
        check_model_args({key: value}, "mine.toml")
    assert len(str(caught.value)) < 250


def test_arguments_that_are_no_table_are_refused() -> None:
    with pytest.raises(ValueError, match="keys and values"):
        check_model_args(["num_classes"], "mine.toml")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "resnet20_cifar", "test_resnet"])
def test_names_of_timm_are_taken(name: str) -> None:
    assert check_model_name(name, "mine.toml") == name


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/resnet18",
        "hf_hub:timm/resnet18",
        "local-dir:/tmp/x",
        "/tmp/x",
        "../x",
        "resnet18.../../x",
        "timm/resnet18",
        "resnet18.no_such_tag",
        "resnet81",
        "",
        None,
        18,
        ["resnet18"],
    ],
)
def test_sources_paths_and_unknown_names_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"^mine\.toml: "):
        check_model_name(name, "mine.toml")


def test_taken_arguments_survive_json() -> None:
    for _, args in ARCHITECTURES:
        assert check_model_args(json.loads(json.dumps(args)), "mine.toml")

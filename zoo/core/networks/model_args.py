"""Which names and arguments of timm's models are taken from a file that someone else wrote.

``timm.create_model`` does more than build: by its arguments it downloads weights from any address,
fills any folder, and opens any local file. So what comes from a suite or from a saved network is
held against a list of what describes an architecture, key by key with its type; whatever is not on
the list is refused, and what would reach a file or the network is refused by its name.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.layers import get_act_layer, get_norm_act_layer, get_norm_layer

__all__ = ["check_model_args", "check_model_name"]

_MOST = 1_000_000  # of any count: a typing error must not ask for terabytes
_MOST_BLOCKS = 2_000  # of a network: ten times the deepest of timm, and built in a minute
_MOST_TIMES = 100  # that many times a depth
_LONGEST = 256  # items of a list
_DEEPEST = 8  # lists and tables in each other

# Names inside timm, such as an activation's or a pooling's; no path or address fits.
_NAME = re.compile(r"[A-Za-z0-9_]{0,64}")

# Arguments of create_model and build_model_with_cfg that load, open or choose code. The list is for
# the message: what is on no list is refused as well.
_LOADING = re.compile(
    r"(?i)(hf[-_]hub|local[-_]dir|pretrained|checkpoint|cache_dir|file|path|url|model_name|"
    r"model_cfg|feature_cls|feature_cfg|kwargs_filter|custom_load|state_dict|weights?$|weight_init)"
)

_COUNTS = """
    num_classes in_chans output_stride stem_width stem_chs stem_size base_width cardinality
    num_features head_hidden_size group_size growth_rate bn_size groups reduction block_reduce_first
    num_init_features kernel_size stem_kernel_size down_kernel_size down_patch_size down_stride
    patch_size dim embed_dim base_dim initial_chs final_chs ch_div w0 inplanes k_r b
    downsample_kernel_size downsample_padding num_reg_tokens
"""
_RATES = "drop_rate drop_path_rate drop_block_rate proj_drop_rate attn_drop_rate pos_drop_rate"
_NUMBERS = """
    channel_multiplier width_factor width_mult width scale widen_factor expand_ratio
    bottle_ratio se_ratio group_min_ratio mlp_ratio wa wm norm_eps bn_eps
    bn_momentum ls_init_value layer_scale_init_value head_init_scale drop_block_size conv_ratio
"""
_NAMES = """
    attn_layer aa_layer se_layer
    global_pool stem_type stem_pool pad_type downsample head_type
"""
_ACTIVATIONS = "act_layer fc_act_layer dw_act_layer"
_NORMS = "norm_layer norm_layer_cl"
_FLAGS = """
    zero_init_last avg_down replace_stem_pool aa_stem_only conv_mlp conv_bias use_grn fix_stem
    se_from_exp head_bias head_norm head_norm_first stem_bias memory_efficient aux_logits preact
    basic small shortcut_root linear_out inference_mode legacy distillation use_lab input_3x3
    features_only
"""
_LISTS = """
    channels dims embed_dims widths kernel_sizes mlp_ratios growth_rates expand_ratios inc_sec
    strides num_heads img_size out_indices
"""
_DEPTHS = "layers depths depth block_config num_blocks num_blocks_list k_sec"
_LEVELS = "levels"  # of a tree, which doubles with each
_TIMES_DEEPER = "depth_multiplier depth_mult deepen_factor"
_TABLES = "block_args block_kwargs attn_kwargs"


def check_model_args(args: Mapping[str, object], where: str) -> dict[str, Any]:
    """Check that arguments from a file make ``timm.create_model`` build a network, and no more.

    Args:
        args: plain JSON values by key, as they were read.
        where: what is being read; every message begins with it.

    Returns:
        The same arguments in a new dict.

    Raises:
        ValueError: naming the first key that is not allowed, or whose value has the wrong type.
    """
    if not isinstance(args, Mapping):
        raise ValueError(
            f"{where}: model arguments are {_describe(args)}; they must be keys and values"
        )
    for key, value in args.items():
        if not isinstance(key, str) or key not in _CHECKS:
            raise ValueError(f"{where}: {_refusal(key)}")
        is_allowed, allowed = _CHECKS[key]
        if value is not None and not is_allowed(value):  # timm drops what is None
            raise ValueError(f"{where}: {key!r} is {_describe(value)}; it must be {allowed}")
    return dict(args)


def check_model_name(name: object, where: str) -> str:
    """Check that timm knows a name, with a tag of its weights or without.

    A name with a source in front (``hf-hub:``, ``local-dir:``) or a path is none: it would fetch
    or read a network of someone else's choice.

    Args:
        name: as it was read.
        where: what is being read; the message begins with it.

    Raises:
        ValueError: if timm has no such architecture, or no such tag of it.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{where}: the model's name is {_describe(name)}; it must be a name of timm's"
        )
    if any(mark in name for mark in ":/\\"):
        raise ValueError(
            f"{where}: the model {_describe(name)} is a source or a path; only the names of timm's "
            "own models are taken, such as 'resnet18'"
        )
    if not timm.is_model(name):
        raise ValueError(
            f"{where}: unknown model {_describe(name)}{_nearest(name, timm.list_models())}"
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"{where}: unknown model {_describe(name)}: {error}") from error
    return name


def _refusal(key: object) -> str:
    """Why a key is not taken."""
    if isinstance(key, str) and _LOADING.search(key):
        return (
            f"{key[:80]!r} is not taken from a file: it can load weights, files or code; remove it"
        )
    return (
        f"{_describe(key)} is no argument of an architecture that is taken from a file"
        f"{_nearest(str(key), _CHECKS)}; remove it"
    )


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name[:80], list(known), n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _describe(value: object) -> str:
    """A value, short enough for a line."""
    text = reprlib.repr(value)  # bounded, however long or deep the value is
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: object, least: float = -_MOST, most: float = _MOST) -> bool:
    """Whether a value is a number between two limits; a flag and NaN are none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= most  # type: ignore[operator]  # a number by now


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_known(value: object, *finders: Callable[[str], object]) -> bool:
    """Whether timm finds a layer of that name."""
    if not isinstance(value, str) or not value or not _is_name(value):
        return False
    for find in finders:
        with contextlib.suppress(KeyError):
            find(value)
            return True
    return False


def _is_list(value: object, depth: int = 3) -> bool:
    """Counts and numbers in lists in lists, as widths of stages and of their blocks."""
    if not isinstance(value, list | tuple):
        return _is_number(value, 0)
    return 0 < len(value) <= _LONGEST and depth > 0 and all(_is_list(v, depth - 1) for v in value)


def _total(value: Any, *, doubling: bool = False) -> float:  # Any: numbers in lists
    """Sum of all numbers of a list in lists, or of their powers of two."""
    if isinstance(value, list | tuple):
        return sum(_total(inner, doubling=doubling) for inner in value)
    return float(2 ** min(value, 64) if doubling else value)


def _is_plain(value: object, depth: int = _DEEPEST) -> bool:
    """Flags, numbers, names, and lists and tables of them; no key that loads anything."""
    if value is None or isinstance(value, bool) or _is_number(value) or _is_name(value):
        return True
    if depth == 0 or not isinstance(value, list | tuple | dict) or len(value) > _LONGEST:
        return False
    if isinstance(value, dict):
        if not all(_is_name(key) and key and not _LOADING.search(key) for key in value):
            return False
        return all(_is_plain(inner, depth - 1) for inner in value.values())
    return all(_is_plain(inner, depth - 1) for inner in value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {  # Any: whatever a file holds
    key: (is_allowed, allowed)
    for keys, is_allowed, allowed in (
        (
            _COUNTS,
            lambda value: isinstance(value, int) and _is_number(value, 0),
            f"an integer from 0 to {_MOST}",
        ),
        (
            _RATES,
            lambda value: _is_number(value, 0, math.nextafter(1.0, 0.0)),
            "a number from 0 to below 1",
        ),
        (_NUMBERS, lambda value: _is_number(value, 0), f"a number from 0 to {_MOST}"),
        (_NAMES, _is_name, "a name of timm's, of letters, digits and underscores"),
        (
            _ACTIVATIONS,
            lambda value: _is_known(value, get_act_layer),
            "an activation of timm's, such as relu, silu or gelu",
        ),
        (
            _NORMS,
            lambda value: _is_known(value, get_norm_layer, get_norm_act_layer),
            "a normalization of timm's, such as batchnorm2d",
        ),
        (_FLAGS, lambda value: isinstance(value, bool), "true or false"),
        (_LISTS, _is_list, "a number, or a list of numbers that are not negative"),
        (
            _DEPTHS,
            lambda value: _is_list(value) and _total(value) <= _MOST_BLOCKS,
            f"a depth or a list of depths, {_MOST_BLOCKS:,} together at most",
        ),
        (
            _LEVELS,
            lambda value: _is_list(value) and _total(value, doubling=True) <= _MOST_BLOCKS,
            f"a list of levels with {_MOST_BLOCKS:,} leaves at most",
        ),
        (
            _TIMES_DEEPER,
            lambda value: _is_number(value, 0, _MOST_TIMES),
            f"a number from 0 to {_MOST_TIMES}",
        ),
        (
            _TABLES,
            lambda value: isinstance(value, dict | list | tuple) and _is_plain(value),
            "a table or list of flags, numbers and names",
        ),
    )
    for key in keys.split()
}
"""Whether a value is allowed under a key, and what is; there are no other keys."""

"""Official names of a CogVideo or CogView2 checkpoint <-> our parameter tree.

Official matrices are [out, in] and one entry a layer; ours are [in, out] with heads as own axes, and layers stacked on
a leading axis. A rule names our leaf, the official name (with `{i}` for the layer) and the official array's layout.
"""

from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.model.config import TransformerConfig


class Rule(NamedTuple):
    """One leaf of our tree.

    Attributes:
      official: name in the released file; `{i}` stands for the layer.
      kind: how the axes are arranged: "same", "matrix" ([out, in] -> [in, out]), "qkv" (rows q, k, v, each head-major),
        "qkv_bias", "heads_in" (columns head-major).
    """

    official: str
    kind: str


_LAYER = {
    ("norm_attention_in", "scale"): Rule("transformer.layers.{i}.input_layernorm.weight", "same"),
    ("norm_attention_in", "bias"): Rule("transformer.layers.{i}.input_layernorm.bias", "same"),
    ("spatial", "qkv_kernel"): Rule("transformer.layers.{i}.attention.query_key_value.weight", "qkv"),
    ("spatial", "qkv_bias"): Rule("transformer.layers.{i}.attention.query_key_value.bias", "qkv_bias"),
    ("spatial", "out_kernel"): Rule("transformer.layers.{i}.attention.dense.weight", "heads_in"),
    ("spatial", "out_bias"): Rule("transformer.layers.{i}.attention.dense.bias", "same"),
    ("norm_attention_out", "scale"): Rule("transformer.layers.{i}.third_layernorm.weight", "same"),
    ("norm_attention_out", "bias"): Rule("transformer.layers.{i}.third_layernorm.bias", "same"),
    ("norm_mlp_in", "scale"): Rule("transformer.layers.{i}.post_attention_layernorm.weight", "same"),
    ("norm_mlp_in", "bias"): Rule("transformer.layers.{i}.post_attention_layernorm.bias", "same"),
    ("mlp", "kernel_in"): Rule("transformer.layers.{i}.mlp.dense_h_to_4h.weight", "matrix"),
    ("mlp", "bias_in"): Rule("transformer.layers.{i}.mlp.dense_h_to_4h.bias", "same"),
    ("mlp", "kernel_out"): Rule("transformer.layers.{i}.mlp.dense_4h_to_h.weight", "matrix"),
    ("mlp", "bias_out"): Rule("transformer.layers.{i}.mlp.dense_4h_to_h.bias", "same"),
    ("norm_mlp_out", "scale"): Rule("transformer.layers.{i}.fourth_layernorm.weight", "same"),
    ("norm_mlp_out", "bias"): Rule("transformer.layers.{i}.fourth_layernorm.bias", "same"),
}
_LAYER_ADDED = {
    ("temporal", "qkv_kernel"): Rule("mixins.attention_plus.query_key_value.{i}.weight", "qkv"),
    ("temporal", "qkv_bias"): Rule("mixins.attention_plus.query_key_value.{i}.bias", "qkv_bias"),
    ("temporal", "out_kernel"): Rule("mixins.attention_plus.dense.{i}.weight", "heads_in"),
    ("temporal", "out_bias"): Rule("mixins.attention_plus.dense.{i}.bias", "same"),
    ("temporal_alpha",): Rule("mixins.attention_plus.attn_distribution.{i}", "same"),
}
_OUTER = {
    ("token_table",): Rule("transformer.word_embeddings.weight", "same"),
    ("position_table",): Rule("transformer.position_embeddings.weight", "same"),
    ("norm_final", "scale"): Rule("transformer.final_layernorm.weight", "same"),
    ("norm_final", "bias"): Rule("transformer.final_layernorm.bias", "same"),
}
_OUTER_ADDED = {("extra_positions",): Rule("mixins.extra_position_embedding.position_embeddings.weight", "same")}


def rules(config: TransformerConfig) -> dict[tuple[str, ...], Rule]:
    """Our path -> rule, for a base or a video transformer."""
    layer = _LAYER | (_LAYER_ADDED if config.temporal else {})
    outer = _OUTER | (_OUTER_ADDED if config.temporal else {})
    return outer | {("layers", *path): rule for path, rule in layer.items()}


def official_names(config: TransformerConfig) -> set[str]:
    """Every name of the official file."""
    table = rules(config).values()
    return {rule.official.format(i=i) for rule in table for i in range(config.layers if "{i}" in rule.official else 1)}


def from_official(arrays: dict[str, np.ndarray], config: TransformerConfig) -> dict:
    """Official arrays -> our tree of NumPy arrays.

    Raises:
      ValueError: lists the names that are missing or unexpected.
    """
    expected = official_names(config)
    missing, unexpected = sorted(expected - set(arrays)), sorted(set(arrays) - expected)
    if missing or unexpected:
        raise ValueError(f"official checkpoint does not fit: missing {missing}, unexpected {unexpected}")
    tree = {}
    for path, rule in rules(config).items():
        if "{i}" in rule.official:
            layers = [_arrange(arrays[rule.official.format(i=i)], rule.kind, config) for i in range(config.layers)]
            tree[path] = np.stack(layers)
        else:
            tree[path] = _arrange(arrays[rule.official], rule.kind, config)
    return unflatten_dict(tree)


def to_official(params: dict, config: TransformerConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_official`, bit for bit."""
    flat = flatten_dict(params)
    arrays = {}
    for path, rule in rules(config).items():
        leaf = np.asarray(flat[path])
        if "{i}" in rule.official:
            arrays |= {rule.official.format(i=i): _restore(leaf[i], rule.kind, config) for i in range(config.layers)}
        else:
            arrays[rule.official] = _restore(leaf, rule.kind, config)
    return arrays


def _arrange(x: np.ndarray, kind: str, config: TransformerConfig) -> np.ndarray:
    heads = (config.heads, config.head_size)
    match kind:
        case "same":
            return x
        case "matrix":
            return x.T
        case "qkv":
            return x.T.reshape(config.width, 3, *heads)
        case "qkv_bias":
            return x.reshape(3, *heads)
        case "heads_in":
            return x.T.reshape(*heads, config.width)
    raise ValueError(f"unknown arrangement {kind}")


def _restore(x: np.ndarray, kind: str, config: TransformerConfig) -> np.ndarray:
    match kind:
        case "same":
            return x
        case "matrix":
            return x.T
        case "qkv":
            return x.reshape(config.width, 3 * config.width).T
        case "qkv_bias":
            return x.reshape(3 * config.width)
        case "heads_in":
            return x.reshape(config.width, config.width).T
    raise ValueError(f"unknown arrangement {kind}")

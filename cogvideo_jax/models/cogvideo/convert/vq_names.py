"""Names of the released image tokenizer (`ice_image.pt`, key `module`) and their places in our tree.

`name_table(config)` maps each released name to its path in {"networks": ..., "codebook": ...} and to the transposition
of its axes: a released convolution is (output, input, row, column), ours is (row, column, input, output).
"""

from typing import NamedTuple

import flax.traverse_util
import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.models.cogvideo.vq.tokenizer import expected_shapes
from cogvideo_jax.notation import PyTree

CONVOLUTION = (2, 3, 1, 0)
RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "shortcut",
}
ATTENTION = {"norm": "norm", "q": "query", "k": "key", "v": "value", "proj_out": "out"}
CODEBOOK = {"embed.weight": "vectors", "cluster_size": "cluster_size", "embed_avg": "embed_avg"}


class Place(NamedTuple):
    """Place of a released array: path in our tree, shape there, transposition (None: unchanged)."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


def name_table(config: VQConfig) -> dict[str, Place]:
    """Places of all arrays of a tokenizer, by released name."""
    layers, shapes, table = _layer_names(config), expected_shapes(config), {}
    for path, shape in ((tuple(name.split("/")), shape) for name, shape in shapes.items()):
        if path[0] == "networks":
            kind = "bias" if path[-1] == "bias" else "weight"
            axes = CONVOLUTION if path[-1] == "kernel" else None
            table[f"{layers[path[1:-1]]}.{kind}"] = Place(path, shape, axes)
    for name, field in CODEBOOK.items():
        table[f"quantize.{name}"] = Place(("codebook", field), shapes[f"codebook/{field}"], None)
    return table


def official_shape(place: Place) -> tuple[int, ...]:
    """Shape of the released array."""
    return place.shape if place.axes is None else tuple(place.shape[axis] for axis in np.argsort(place.axes))


def to_our_layout(array: np.ndarray, place: Place) -> np.ndarray:
    """Rearranges a released array to our layout."""
    return array if place.axes is None else array.transpose(place.axes)


def to_official_layout(array: np.ndarray, place: Place) -> np.ndarray:
    """The inverse of `to_our_layout`."""
    return array if place.axes is None else array.transpose(np.argsort(place.axes))


def from_official(arrays: dict[str, np.ndarray], config: VQConfig) -> dict:
    """Released arrays -> the tree of VQTokenizer.

    Raises:
      UserError: lists every missing, unexpected and misshapen name.
    """
    table = name_table(config)
    faults = [f"missing {name}" for name in sorted(table.keys() - arrays.keys())]
    faults += [f"unexpected {name}" for name in sorted(arrays.keys() - table.keys())]
    for name in sorted(table.keys() & arrays.keys()):
        shape, expected = np.shape(arrays[name]), official_shape(table[name])
        if shape != expected:
            faults.append(f"misshapen {name}: {shape}, expected {expected}")
    if faults:
        raise UserError("image tokenizer does not fit its config: " + "; ".join(faults))
    flat = {
        place.path: np.ascontiguousarray(to_our_layout(np.asarray(arrays[name]), place))
        for name, place in table.items()
    }
    tree = flax.traverse_util.unflatten_dict(flat)
    return {"networks": tree["networks"], "codebook": Codebook(**tree["codebook"])}


def to_official(params: dict, config: VQConfig) -> dict[str, np.ndarray]:
    """The tree of VQTokenizer -> released names; the inverse of `from_official`, bit for bit."""
    codebook: PyTree = {field: getattr(params["codebook"], field) for field in CODEBOOK.values()}
    flat = flax.traverse_util.flatten_dict({"networks": params["networks"], "codebook": codebook})
    table = name_table(config)
    return {
        name: np.ascontiguousarray(to_official_layout(np.asarray(flat[place.path]), place))
        for name, place in table.items()
    }


def _layer_names(config: VQConfig) -> dict[tuple[str, ...], str]:
    """Our layer -> released layer; shortcuts and attention are listed in all possible places."""
    layers = {("project",): "quantize.proj"}
    layers |= _half_names(("encoder",), "enc", len(config.encoder_multipliers), config.encoder_res_blocks, "down")
    for index, rate in enumerate(config.rates[1:]):
        layers[(f"down_sampler_{rate}", "conv")] = f"down_samplers.{index}.conv_down_sampler.conv"
    for index, rate in enumerate(config.rates):
        theirs = f"decs.{len(config.rates) - 1 - index}"  # the released list starts with the lowest resolution
        levels = len(config.decoder_multipliers[index])
        layers |= _half_names((f"decoder_{rate}",), theirs, levels, config.decoder_res_blocks, "up")
    return layers


def _half_names(ours: tuple[str, ...], theirs: str, levels: int, blocks: int, way: str) -> dict[tuple[str, ...], str]:
    """Layers of one encoder (way "down") or decoder (way "up")."""
    names = {(*ours, layer): f"{theirs}.{layer}" for layer in ("conv_in", "norm_out", "conv_out")}

    def add(block: str, their_block: str, layers: dict[str, str]):
        names.update({(*ours, block, mine): f"{theirs}.{their_block}.{other}" for other, mine in layers.items()})

    add("middle_block1", "mid.block_1", RESIDUAL)
    add("middle_attention", "mid.attn_1", ATTENTION)
    add("middle_block2", "mid.block_2", RESIDUAL)
    for level in range(levels):
        names[(*ours, f"level{level}_{way}")] = f"{theirs}.{way}.{level}.{way}sample.conv"
        for block in range(blocks):
            add(f"level{level}_block{block}", f"{way}.{level}.block.{block}", RESIDUAL)
            add(f"level{level}_attention{block}", f"{way}.{level}.attn.{block}", ATTENTION)
    return names

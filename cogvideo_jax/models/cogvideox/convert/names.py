"""Names of the authors' checkpoints (SAT) <-> those of diffusers.

The transformer is renamed, and two of its tensors in a layer are cut by rows: query, key and value are one matrix, and
so are the twelve modulations of a layer, which diffusers divides between its norms before attention and before the MLP:

    rows of adaLN_modulations.i.1       0 1 2 | 3 4 5 | 6 7 8 | 9 10 11
    rows of norm1.linear, norm2.linear  0 1 2 | 0 1 2 | 3 4 5 | 3 4 5
    norm of diffusers                   norm1 | norm2 | norm1 | norm2

For every name of diffusers there is a `Source`: the SAT tensor and the blocks of its rows that make this one. The way
back is computed from these, so that the two cannot disagree. The VAE is renamed only.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cogvideo_jax.convert.check import grouped
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.notation import Shaped

SAT_PREFIX = "model.diffusion_model."  # of all names in a transformer's file; a VAE's names have none

# Tensors of a SAT file that a model of diffusers may lack, for it computes them or has no use for them. Only
# CogVideoX-5B-I2V has a `pos_embedding`.
TRANSFORMER_DROPPED = re.compile(
    r"mixins\.pos_embed\.(freqs_sin|freqs_cos|pos_embedding)|transformer\.(position|word)_embeddings\.weight"
)
VAE_DROPPED = re.compile(r"loss\..+")

QKV = "transformer.layers.{i}.attention.query_key_value"
DENSE = "transformer.layers.{i}.attention.dense"
MODULATIONS = "mixins.adaln_layer.adaLN_modulations.{i}.1"


class Source(NamedTuple):
    """Rows of a tensor.

    Attributes:
      name: of the tensor.
      blocks: blocks of rows, in this order.
      of: number of blocks of equal size in the whole tensor.
    """

    name: str
    blocks: tuple[int, ...] = (0,)
    of: int = 1


OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "ofs_embedding.linear_1": "ofs_embed.0",
    "ofs_embedding.linear_2": "ofs_embed.2",
    "patch_embed.proj": "mixins.patch_embed.proj",
    "patch_embed.text_proj": "mixins.patch_embed.text_proj",
    "norm_final": "transformer.final_layernorm",
    "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
    "norm_out.norm": "mixins.final_layer.norm_final",
    "proj_out": "mixins.final_layer.linear",
}
IN_BLOCK = {
    "norm1.linear": Source(MODULATIONS, (0, 1, 2, 6, 7, 8), 12),
    "norm1.norm": Source("transformer.layers.{i}.input_layernorm"),
    "attn1.to_q": Source(QKV, (0,), 3),
    "attn1.to_k": Source(QKV, (1,), 3),
    "attn1.to_v": Source(QKV, (2,), 3),
    "attn1.to_out.0": Source(DENSE),
    "attn1.norm_q": Source("mixins.adaln_layer.query_layernorm_list.{i}"),
    "attn1.norm_k": Source("mixins.adaln_layer.key_layernorm_list.{i}"),
    "norm2.linear": Source(MODULATIONS, (3, 4, 5, 9, 10, 11), 12),
    "norm2.norm": Source("transformer.layers.{i}.post_attention_layernorm"),
    "ff.net.0.proj": Source("transformer.layers.{i}.mlp.dense_h_to_4h"),
    "ff.net.2": Source("transformer.layers.{i}.mlp.dense_4h_to_h"),
}
POSITIONS = {"patch_embed.pos_embedding": Source("mixins.pos_embed.pos_embedding")}
PARAMETER = re.compile(r"(?:transformer_blocks\.(\d+)\.)?(.+)\.(weight|bias)")

# SAT keeps a LoRA of each third of query_key_value, and one of dense.
SAT_LORA = re.compile(r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d)")
LORA_MATRICES = {
    ("query_key_value", "0"): "attn1.to_q",
    ("query_key_value", "1"): "attn1.to_k",
    ("query_key_value", "2"): "attn1.to_v",
    ("dense", "0"): "attn1.to_out.0",
}

# Pieces of a VAE's names, diffusers and SAT; up blocks also change their numbers.
VAE_PIECES = (
    (re.compile(r"\bdown_blocks\."), "down."),
    (re.compile(r"\bmid_block\.resnets\.0\."), "mid.block_1."),
    (re.compile(r"\bmid_block\.resnets\.1\."), "mid.block_2."),
    (re.compile(r"\bresnets\."), "block."),
    (re.compile(r"\bdownsamplers\.0\."), "downsample."),
    (re.compile(r"\bupsamplers\.0\."), "upsample."),
    (re.compile(r"\bconv_shortcut\."), "nin_shortcut."),
)
UP_BLOCK = re.compile(r"\bup_blocks\.(\d+)\.")


def transformer_source(name: str) -> Source:
    """Where a transformer's tensor comes from, SAT_PREFIX removed. Raises ConversionError for an unknown name."""
    if name in POSITIONS:
        return POSITIONS[name]
    found = PARAMETER.fullmatch(name)
    block, module, kind = found.groups() if found else (None, "", "")
    if block is None and module in OUTER:
        return Source(f"{OUTER[module]}.{kind}")
    if block is None or module not in IN_BLOCK:
        raise ConversionError(f"a CogVideoX transformer has no tensor {grouped([name])[0]}")
    source = IN_BLOCK[module]
    return source._replace(name=f"{source.name.format(i=block)}.{kind}")


def vae_source(name: str, *, levels: int) -> Source:
    """Where a VAE's tensor comes from.

    Args:
      levels: number of its up blocks, which SAT counts from the highest resolution and diffusers from the lowest.

    Raises:
      ConversionError: the name is not of an encoder or a decoder, or of an up block that there is not.
    """
    up = UP_BLOCK.search(name)
    if not name.startswith(("encoder.", "decoder.")) or (up and int(up[1]) >= levels):
        raise ConversionError(f"a CogVideoX VAE of {levels} levels has no tensor {grouped([name])[0]}")
    sat = UP_BLOCK.sub(lambda block: f"up.{levels - 1 - int(block[1])}.", name)
    for piece, theirs in VAE_PIECES:
        sat = piece.sub(theirs, sat)
    return Source(sat)


def sat_lora_name(key: str) -> str | None:
    """Name that peft gives to a tensor of a SAT LoRA, SAT_PREFIX removed; None if the name is unknown."""
    found = SAT_LORA.fullmatch(key)
    matrix = LORA_MATRICES.get((found[2], found[4])) if found else None
    return f"transformer_blocks.{found[1]}.{matrix}.lora_{found[3]}.weight" if matrix else None


def sources(names: Iterable[str], source: Callable[[str], Source]) -> dict[str, Source]:
    """Name of diffusers -> its source in a SAT file."""
    return {name: source(name) for name in names}


def inverse(table: Mapping[str, Source]) -> dict[str, tuple[Source, ...]]:
    """SAT name -> the rows of tensors of diffusers that make it, one after the other.

    Args:
      table: from `sources`.

    Raises:
      ConversionError: a tensor would have a gap, for the table lacks one of its parts.
    """
    made: dict[str, dict[int, Source]] = {}
    for name, (sat, blocks, _) in table.items():
        made.setdefault(sat, {}).update({b: Source(name, (i,), len(blocks)) for i, b in enumerate(blocks)})
    whole = {sat: of for sat, _, of in table.values()}
    gaps = sorted(sat for sat, blocks in made.items() if len(blocks) < whole[sat])
    if gaps:
        raise ConversionError(f"only some of the tensors that make {grouped(gaps)[0]} are there")
    return {sat: _joined([blocks[b] for b in range(whole[sat])]) for sat, blocks in made.items()}


def _joined(blocks: list[Source]) -> tuple[Source, ...]:
    """Neighbouring blocks of one tensor as one Source."""
    joined = blocks[:1]
    for block in blocks[1:]:
        if block.name == joined[-1].name:
            joined[-1] = joined[-1]._replace(blocks=joined[-1].blocks + block.blocks)
        else:
            joined.append(block)
    return tuple(joined)


def rows(tensor: Shaped[np.ndarray, "..."], source: Source) -> Shaped[np.ndarray, "..."]:
    """The rows of a tensor that a Source names; a view if they follow each other.

    Raises:
      ConversionError: the tensor cannot be cut into that many blocks.
    """
    if source.blocks == tuple(range(source.of)):
        return tensor
    if not tensor.ndim or len(tensor) % source.of:
        raise ConversionError(f"{source.name} should have {source.of} blocks of rows, but its shape is {tensor.shape}")
    size = len(tensor) // source.of
    taken = [tensor[block * size : (block + 1) * size] for block in source.blocks]
    return taken[0] if len(taken) == 1 else np.concatenate(taken)


def sat_shapes(shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """SAT name -> shape of the whole tensor, from the shapes of the tensors of diffusers."""
    found = {}
    for name, (sat, blocks, of) in table.items():
        found[sat] = shapes[name] if of == 1 else (shapes[name][0] // len(blocks) * of, *shapes[name][1:])
    return found

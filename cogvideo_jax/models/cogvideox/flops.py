"""Useful operations of CogVideoX, counted from sizes: products of matrices, two operations each."""

import jax

from cogvideo_jax.models.cogvideox.clip import Latents
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.nn.t5 import T5Config


def tokens_of(config: TransformerConfig, latents: Latents) -> int:
    """Text and video tokens of a clip."""
    frames, rows, columns = config.grid(latents.shape)
    return config.max_text_seq_length + frames * rows * columns


def transformer_flops(config: TransformerConfig, latents: Latents) -> float:
    """Of one clip through the transformer once: matrices of every token, and attention of each to all."""
    length, width = tokens_of(config, latents), config.width
    matrices = 12 * width**2  # query, key, value, output, and twice four times as wide
    return 2.0 * config.num_layers * (length * matrices + 2 * length**2 * width)


def text_flops(config: T5Config, length: int) -> float:
    """Of one prompt through T5."""
    inner = config.num_heads * config.d_kv
    matrices = 4 * config.d_model * inner + 3 * config.d_model * config.d_ff
    return 2.0 * config.num_layers * (length * matrices + 2 * length**2 * inner)


def counted_flops(programs: list[tuple[jax.stages.Compiled, int]]) -> float:
    """Operations of compiled programs without loops, as the compiler counts them, times their calls."""
    return sum(calls * (program.cost_analysis() or {}).get("flops", 0.0) for program, calls in programs)

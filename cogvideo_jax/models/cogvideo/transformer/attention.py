"""Joint softmax attention over the text and any number of local sources of keys.

Scores and softmax are float32 whatever the compute dtype. The released training code divides the query by 16 and
multiplies the scores again after subtracting their maximum ("PB-relax", to keep float16 in range). In exact arithmetic
that is an ordinary softmax; bfloat16 and float32 do not need it, so it is not repeated here.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.nn.init import matrix_init, partitioned
from cogvideo_jax.nn.quantized import matrix_param
from cogvideo_jax.notation import Array, Bool, Float
from cogvideo_jax.runtime.mesh import constrain

MASKED = -10_000.0  # masked scores, as in the 2022 code; finite, so that a row of pads stays finite


class KeysValues(NamedTuple):
    """Keys and values of one channel."""

    k: Float[Array, "... A K"]
    v: Float[Array, "... A K"]


class Local(NamedTuple):
    """Keys that all queries of a group share: frames, a window, a cache, or the token itself."""

    keys: KeysValues  # [B, groups, M, A, K]
    mask: Bool[Array, "..."]  # broadcasts to [B, groups, A, Q, M]


def attend(
    query: Float[Array, "B groups Q A K"],
    text: KeysValues,
    *,
    text_mask: Bool[Array, "B S"],
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"] = 0.0,
    local: tuple[Local, ...] = (),
    dropout: nn.Dropout | None = None,
) -> Float[Array, "B groups Q A K"]:
    """Joint softmax attention over text keys and local keys.

    Args:
      query: queries in groups (frames, windows, or one group).
      text: keys and values of the text, [B S A K].
      text_mask: False on padding.
      text_log_weight: added to all text scores; a number, or one per row ("log text attention weight").
      local: further sources of keys, each with its mask.
      dropout: applied to the probabilities.
    """
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    text_log_weight = jnp.asarray(text_log_weight, jnp.float32).reshape(-1, 1, 1, 1, 1)
    scores = [_scores("bgqak,bsak->bgaqs", query, text.k) + text_log_weight]
    masks = [text_mask[:, None, None, None, :]]
    for source in local:
        scores.append(_scores("bgqak,bgmak->bgaqm", query, source.keys.k))
        masks.append(source.mask)
    scores = [jnp.where(mask, score, MASKED) for mask, score in zip(masks, scores)]
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
    if dropout is not None:
        probabilities = dropout(probabilities)
    text_length = text.k.shape[1]
    out = jnp.einsum("bgaqs,bsak->bgqak", probabilities[..., :text_length], text.v)
    start = text_length
    for source in local:
        size = source.keys.k.shape[2]
        out += jnp.einsum("bgaqm,bgmak->bgqak", probabilities[..., start : start + size], source.keys.v)
        start += size
    return out


def _scores(formula: str, query: Array, keys: Array) -> Float[Array, "B groups A Q M"]:
    return jnp.einsum(formula, query, keys, preferred_element_type=jnp.float32)


class Projections(nn.Module):
    """Query, key, value and output weights of one channel."""

    heads: int
    head_size: int
    layers: int
    dtype: jnp.dtype
    out_init: nn.initializers.Initializer

    def setup(self):
        width = self.heads * self.head_size
        heads = (self.heads, self.head_size)
        zeros = nn.initializers.zeros
        qkv_init = partitioned(matrix_init, "embed", None, "heads", "kv")
        self.qkv_kernel = matrix_param(self, "qkv_kernel", qkv_init, (width, 3, *heads))
        self.qkv_bias = self.param("qkv_bias", partitioned(zeros, None, "heads", "kv"), (3, *heads))
        out_init = partitioned(self.out_init, "heads", "kv", "embed")
        self.out_kernel = matrix_param(self, "out_kernel", out_init, (*heads, width))
        self.out_bias = self.param("out_bias", partitioned(zeros, "embed"), (width,))

    def project(self, x: Float[Array, "B L D"], *, step: bool = False) -> tuple[Array, KeysValues]:
        """Queries [B L A K], and keys and values of the same positions.

        Args:
          step: few tokens. Query, key and value are then split after one product, which takes half the time on a CPU;
            a pass over all positions splits them in the product, which takes 3 % less memory on a TPU.
        """
        bias = self.qkv_bias.astype(self.dtype)
        if step or self.qkv_kernel.scale is not None:
            qkv = self.qkv_kernel.multiply("bld,dcak->blcak", x) + bias
            query, key, value = (constrain(qkv[:, :, i], "batch", "length", "heads", "kv") for i in range(3))
            return query, KeysValues(key, value)
        qkv = self.qkv_kernel.multiply("bld,dcak->cblak", x) + bias[:, None, None]
        qkv = constrain(qkv, None, "batch", "length", "heads", "kv")
        return qkv[0], KeysValues(qkv[1], qkv[2])

    def merge(self, context: Float[Array, "B L A K"]) -> Float[Array, "B L D"]:
        """Output projection over all heads."""
        context = constrain(context, "batch", "length", "heads", "kv")
        out = self.out_kernel.multiply("blak,akd->bld", context) + self.out_bias.astype(self.dtype)
        return constrain(out, "batch", "length", "width")

"""Encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202 for its gated MLP).

In: token ids [B, S]. Out: one vector for each token [B, S, D]. Positions enter only as a bias of the attention scores,
which depends on the distance between query and key and is the same in all layers. Modules have the names of the
released tensors, such as `encoder.block.0.layer.0.SelfAttention.q.weight`; see convert/torch_names.py.

CogVideoX passes no mask: pads are read like any other token, here and later in its transformer.

float16 cannot hold the sums of the released XXL model, so with it the last product of an MLP and the residual stream
are float32, as in the transformers library.
"""

import functools
import math
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.nn.init import partitioned
from cogvideo_jax.nn.linear import Linear
from cogvideo_jax.notation import Array, Float, Int
from cogvideo_jax.runtime.schemas import STRICT, Few, PositiveFloat, Size, dataclass_schema

normal = nn.initializers.normal(1.0)


Buckets = Annotated[int, Field(strict=True, ge=4, le=1000)]  # half for each direction, half of which are exact


@dataclass_schema(STRICT | {"extra": "ignore"})
class T5Config:
    """Sizes, named as in the `config.json` of a release; the defaults are T5 v1.1 XXL. Only T5 v1.1 can be set.

    Attributes:
      d_kv: K, the size of one head; heads times K need not be D.
      relative_attention_num_buckets: rows of the table of position biases, half of them for each direction.
      relative_attention_max_distance: distances from here on share the last bucket.
    """

    vocab_size: Size = 32128
    d_model: Size = 4096
    d_kv: Size = 64
    d_ff: Size = 10240
    num_layers: Few = 24
    num_heads: Size = 64
    relative_attention_num_buckets: Buckets = 32
    relative_attention_max_distance: Size = 128
    layer_norm_epsilon: PositiveFloat = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"
    model_type: Literal["t5"] = "t5"

    def __post_init__(self):
        exact = self.relative_attention_num_buckets // 4
        if self.relative_attention_max_distance <= exact:
            raise UserError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}; it should be above "
                f"{exact}, a quarter of relative_attention_num_buckets"
            )


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, with float32 statistics."""

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        scale = self.param("scale", partitioned(nn.initializers.ones, "embed"), (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return x.astype(self.dtype) * scale.astype(self.dtype)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens; scores are not divided by the root of K, and the softmax is float32.

    Attributes:
      has_table: this layer owns the table of position biases, as the first one does.
    """

    config: T5Config
    has_table: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Float[Array, "A S S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "A S S"]]:
        heads, size = self.config.num_heads, self.config.d_kv
        linear = functools.partial(Linear, use_bias=False, dtype=self.dtype)
        q, k, v = (
            linear(heads * size, ("embed", "heads"), name=name)(x).reshape(*x.shape[:2], heads, size) for name in "qkv"
        )
        bias = self._position_bias(x.shape[1]) if self.has_table else bias
        scores = jnp.einsum("bqak,bsak->baqs", q, k, preferred_element_type=jnp.float32) + bias
        shares = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("baqs,bsak->bqak", shares, v).reshape(*x.shape[:2], heads * size)
        return linear(x.shape[-1], ("heads", "embed"), name="o")(mixed), bias

    def _position_bias(self, length: int) -> Float[Array, "A S S"]:
        config = self.config
        table = nn.Embed(
            config.relative_attention_num_buckets,
            config.num_heads,
            dtype=jnp.float32,
            embedding_init=partitioned(normal, None, "heads"),
            name="relative_attention_bias",
        )
        buckets = relative_buckets(
            length,
            buckets=config.relative_attention_num_buckets,
            max_distance=config.relative_attention_max_distance,
        )
        return jnp.moveaxis(table(buckets), -1, 0)


class AttentionLayer(nn.Module):
    """x + attention(norm(x)), and the position bias for the next layer."""

    config: T5Config
    has_table: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Float[Array, "A S S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "A S S"]]:
        y = RMSNorm(self.config.layer_norm_epsilon, self.dtype, name="layer_norm")(x)
        y, bias = SelfAttention(self.config, self.has_table, self.dtype, name="SelfAttention")(y, bias)
        return x + y.astype(x.dtype), bias


class DenseReluDense(nn.Module):
    """wo(gelu(wi_0 x) * wi_1 x). The release kept the name of the first T5, whose MLP had a ReLU."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        linear, sums = functools.partial(Linear, use_bias=False), sum_type(self.dtype)
        gate, value = (
            linear(self.config.d_ff, ("embed", "mlp"), dtype=self.dtype, name=name)(x).astype(sums)
            for name in ("wi_0", "wi_1")
        )
        inner = jax.nn.gelu(gate, approximate=True) * value
        return linear(x.shape[-1], ("mlp", "embed"), dtype=sums, name="wo")(inner)


class MLPLayer(nn.Module):
    """x + mlp(norm(x))."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        y = RMSNorm(self.config.layer_norm_epsilon, self.dtype, name="layer_norm")(x)
        return x + DenseReluDense(self.config, self.dtype, name="DenseReluDense")(y).astype(x.dtype)


class Block(nn.Module):
    """One layer of the encoder: attention, then the MLP."""

    config: T5Config
    has_table: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], bias: Float[Array, "A S S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "A S S"]]:
        x, bias = AttentionLayer(self.config, self.has_table, self.dtype, name="layer_0")(x, bias)
        return MLPLayer(self.config, self.dtype, name="layer_1")(x), bias


class Blocks(nn.Module):
    """All blocks and the final norm."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        bias = None
        for index in range(self.config.num_layers):
            x, bias = Block(self.config, index == 0, self.dtype, name=f"block_{index}")(x, bias)
        return RMSNorm(self.config.layer_norm_epsilon, self.dtype, name="final_layer_norm")(x)


class T5Encoder(nn.Module):
    """Token ids -> text embeddings.

    Attributes:
      config: sizes.
      dtype: compute type, also of the result.
    """

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        table = nn.Embed(
            self.config.vocab_size,
            self.config.d_model,
            dtype=self.dtype,
            embedding_init=partitioned(normal, "vocab", "embed"),
            name="shared",
        )
        return Blocks(self.config, self.dtype, name="encoder")(table(ids).astype(sum_type(self.dtype)))


def sum_type(dtype: Any) -> Any:
    """Type of the residual stream for a compute type: the same, but float32 for float16."""
    return jnp.float32 if jnp.dtype(dtype) == jnp.float16 else dtype


def relative_buckets(length: int, *, buckets: int, max_distance: int) -> Int[np.ndarray, "S S"]:
    """Row of the bias table for each pair of a query (row) and a key (column).

    One half of the table is for keys before the query and the query itself, the other for keys behind it. In each half,
    the first half of the buckets are exact distances; the others grow geometrically up to `max_distance`. With 32
    buckets and 128:

        distance  0 1 2 3 4 5 6 7 | 8-11 12-15 16-22 23-31 32-45 46-63 64-90 91-
        bucket    0 1 2 3 4 5 6 7 |   8     9    10    11    12    13    14   15

    The logarithm is float32, as in the released code.
    """
    half = buckets // 2
    exact = half // 2
    away = np.arange(length)[None] - np.arange(length)[:, None]
    distance = np.abs(away)
    octaves = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    grown = exact + (octaves / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    inner = np.where(distance < exact, distance, np.minimum(grown, half - 1))
    return (inner + half * (away > 0)).astype(np.int32)

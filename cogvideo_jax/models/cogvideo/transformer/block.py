"""Transformer layer: sandwich LayerNorm around the two attention channels and around the MLP (paper figure 3).

x = x + LN3(alpha * spatial(LN1 x) + (1 - alpha) * temporal(LN1 x));   x = x + LN4(MLP(LN2 x))
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.config import Compat, TransformerConfig
from cogvideo_jax.models.cogvideo.transformer import cache as caches
from cogvideo_jax.models.cogvideo.transformer.cache import LayerCache
from cogvideo_jax.models.cogvideo.transformer.projections import Projections
from cogvideo_jax.models.cogvideo.transformer.spatial import spatial_attention
from cogvideo_jax.models.cogvideo.transformer.temporal import temporal_attention
from cogvideo_jax.nn.attention import Kernel
from cogvideo_jax.nn.dropout import Dropout
from cogvideo_jax.nn.init import matrix_init, partitioned, scaled_init
from cogvideo_jax.nn.quantized import matrix_param
from cogvideo_jax.notation import Array, Bool, Float, Int
from cogvideo_jax.runtime.mesh import constrain


@flax.struct.dataclass
class Call:
    """Arguments that all layers of one call share.

    Attributes:
      text_mask: [B S], False on padding.
      text_log_weight: added to text scores; a number, or one per row.
      index: positions (slot * N + offset) of a cached step's tokens, one per frame; None for a pass over all positions.
      compat: see Compat.
      keep_keys: also return the keys and values of the pass (to fill a cache), or the updated cache.
      train: dropout is on.
      kernel: attention kernel of a pass over all positions.
    """

    text_mask: Bool[Array, "B S"]
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"]
    index: Int[Array, "P"] | None
    compat: Compat = flax.struct.field(pytree_node=False)
    keep_keys: bool = flax.struct.field(pytree_node=False)
    train: bool = flax.struct.field(pytree_node=False)
    kernel: Kernel = flax.struct.field(pytree_node=False, default=Kernel.BLOCKED)


class Sandwich(nn.Module):
    """Sandwich-LN transformer layer without its attention, which subclasses supply.

    Attributes:
      config: sizes, of the transformer or of super-resolution.
      dtype: compute type.
    """

    config: Any
    dtype: Any

    def _add(self, x: Float[Array, "B L D"], attended: Float[Array, "B L D"], call) -> Float[Array, "B L D"]:
        """Adds the residuals of the attention and of the MLP."""
        x = x + self._norm("norm_attention_out", attended)
        inner = Mlp(self.config.mlp_width, self.config.layers, self.dtype, name="mlp")(self._norm("norm_mlp_in", x))
        inner = self._dropout(call)(inner)
        return x + self._norm("norm_mlp_out", inner)

    def _projections(self, name: str, out_init) -> Projections:
        config = self.config
        return Projections(config.heads, config.head_size, config.layers, self.dtype, out_init, name=name)

    def _norm(self, name: str, x: Array) -> Array:
        return layer_norm(name)(x).astype(self.dtype)

    def _dropout(self, call) -> Dropout:
        return Dropout(self.config.dropout, deterministic=not call.train)


class Block(Sandwich):
    """Layer with both channels, over all positions or for single tokens against a cache."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], layer: tuple, call: Call):
        """`layer` = (1 in shifted layers, this layer's caches or None).

        Returns x, and this layer's caches (after a cached step) or keys and values (after a pass that keeps them).
        """
        shifted, past = layer
        attend_all = self._attention if call.index is None else self._cached_attention
        attended, kept = attend_all(self._norm("norm_attention_in", x), shifted, past, call)
        return self._add(x, attended, call), kept if call.keep_keys else None

    def _attention(self, u, shifted, past, call: Call):
        """Mixed channels at all positions. Returns [B L D] and (spatial, temporal) keys and values."""
        layout, dropout = self.config.layout, self._dropout(call)
        spatial = self._projections("spatial", scaled_init(self.config.layers))
        query, keys = spatial.project(u)
        common = dict(text_mask=call.text_mask, layout=layout, kernel=call.kernel)
        context = spatial_attention(
            query, keys, text_log_weight=call.text_log_weight, next_drops=dropout.drops, **common
        )
        out = spatial.merge(context)
        if not self.config.temporal:
            return out, (keys, None)
        temporal = self._projections("temporal", matrix_init)
        query, temporal_keys = temporal.project(u)
        release = call.compat == Compat.RELEASE and call.keep_keys
        context = temporal_attention(
            query,
            temporal_keys,
            window=self.config.window,
            shifted=shifted,
            regions=not release,
            text_log_weight=0.0 if release else call.text_log_weight,
            drops=dropout.drops(),
            **common,
        )
        text_length = layout.text_length
        mixed = self._mix(out[:, text_length:], temporal.merge(context))
        return jnp.concatenate([out[:, :text_length], mixed], axis=1), (keys, temporal_keys)

    def _cached_attention(self, u, shifted: int, past: LayerCache, call: Call):
        """Mixed channels of one token per frame, against this layer's caches. Returns [B P D] and the caches."""
        asked = caches.Asked(call.index, call.text_mask, call.text_log_weight)
        spatial = self._projections("spatial", scaled_init(self.config.layers))
        query, keys = spatial.project(u, step=True)
        context, kept = caches.spatial_step(past.spatial, query, keys, asked, self.config.layout.frame_tokens)
        out, past = spatial.merge(context), past.replace(spatial=kept)
        if not self.config.temporal:
            return out, past
        temporal = self._projections("temporal", matrix_init)
        query, keys = temporal.project(u, step=True)
        context, kept = caches.temporal_step(past.temporal, query, keys, asked, self.config, shifted=bool(shifted))
        return self._mix(out, temporal.merge(context)), past.replace(temporal=kept)

    def _mix(self, spatial: Float[Array, "B L D"], temporal: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Mixes the channels by the learned weight alpha of each feature."""
        alpha = self.param("temporal_alpha", partitioned(nn.initializers.zeros, "embed"), (self.config.width,))
        alpha = jax.nn.sigmoid(alpha).astype(spatial.dtype)
        return alpha * spatial + (1 - alpha) * temporal


class Mlp(nn.Module):
    """MLP with the tanh form of GELU."""

    inner: int
    layers: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        zeros = nn.initializers.zeros
        kernel_in = matrix_param(self, "kernel_in", partitioned(matrix_init, "embed", "mlp"), (width, self.inner))
        bias_in = self.param("bias_in", partitioned(zeros, "mlp"), (self.inner,))
        out_init = scaled_init(self.layers)
        kernel_out = matrix_param(self, "kernel_out", partitioned(out_init, "mlp", "embed"), (self.inner, width))
        bias_out = self.param("bias_out", partitioned(zeros, "embed"), (width,))
        x = kernel_in.multiply("bld,df->blf", x) + bias_in.astype(self.dtype)
        x = jax.nn.gelu(constrain(x, "batch", "length", "mlp"), approximate=True)
        x = kernel_out.multiply("blf,fd->bld", x) + bias_out.astype(self.dtype)
        return constrain(x, "batch", "length", "width")


def layer_norm(name: str) -> nn.LayerNorm:
    """Float32 LayerNorm with the release's epsilon."""
    return nn.LayerNorm(
        epsilon=1e-5,
        dtype=jnp.float32,
        scale_init=partitioned(nn.initializers.ones, "embed"),
        bias_init=partitioned(nn.initializers.zeros, "embed"),
        name=name,
    )

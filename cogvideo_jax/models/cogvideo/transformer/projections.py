"""Query, key, value and output weights of an attention channel."""

import flax.linen as nn
import jax.numpy as jnp

from cogvideo_jax.nn.attention import KeysValues
from cogvideo_jax.nn.init import matrix_init, partitioned
from cogvideo_jax.nn.quantized import matrix_param
from cogvideo_jax.notation import Array, Float
from cogvideo_jax.runtime.mesh import constrain


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

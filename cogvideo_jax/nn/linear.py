"""Linear maps whose matrices may be kept as int8."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cogvideo_jax.nn.init import partitioned
from cogvideo_jax.nn.quantized import matrix_param
from cogvideo_jax.notation import Array, Float

lecun = nn.initializers.lecun_normal()


class Linear(nn.Module):
    """y = x @ kernel + bias over the last axis.

    Attributes:
      features: size of the result.
      axes: logical axes of the kernel; the bias has the last.
      use_bias: add a bias.
      dtype: compute type.
    """

    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel = matrix_param(self, "kernel", partitioned(lecun, *self.axes), (x.shape[-1], self.features))
        y = kernel.multiply("...d,df->...f", x.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", partitioned(nn.initializers.zeros, self.axes[1]), (self.features,))
        return y + bias.astype(self.dtype)

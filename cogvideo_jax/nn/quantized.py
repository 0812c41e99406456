"""Weight matrices: floats, or int8 with one scale per output channel.

Int8 is for sampling, which is bound by reading the weights: half the bytes of bfloat16, a quarter of float32. Products
use the integers, which every compute type holds exactly, and are scaled afterwards.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cogvideo_jax.notation import Array, Float

LARGEST = 127
CONTRACTED = {
    "kernel": (0,),
    "qkv_kernel": (0,),
    "out_kernel": (0, 1),
    "kernel_in": (0,),
    "kernel_out": (0,),
    "image_head": (1,),
}


class Matrix(NamedTuple):
    """A weight matrix.

    Attributes:
      values: floats or int8.
      scale: float32 factor of each output channel, shaped like the output's last axes; None for floats.
    """

    values: Array
    scale: Array | None = None

    def multiply(self, formula: str, x: Float[Array, "..."], dtype=None) -> Float[Array, "..."]:
        """`jnp.einsum(formula, x, self)`; the result must end with the output channels. Accumulates in `dtype`."""
        values = self.values.astype(x.dtype)
        if self.scale is None:
            return jnp.einsum(formula, x, values, preferred_element_type=dtype)
        product = jnp.einsum(formula, x, values, preferred_element_type=jnp.float32)
        return (product * self.scale).astype(dtype or x.dtype)


def matrix_param(module: nn.Module, name: str, init, shape: tuple[int, ...]) -> Matrix:
    """Matrix parameter of a module, with its scale if `quantize` made one."""
    values, scale = module.param(name, init, shape), f"{name}_scale"
    return Matrix(values, module.get_variable("params", scale) if module.has_variable("params", scale) else None)


def quantize(name: str, leaf: Float[Array, "..."]) -> dict[str, Array]:
    """Quantizes a parameter if it is one of the large matrices: {name: int8, name_scale: scale}, else {name: leaf}."""
    if name not in CONTRACTED:
        return {name: leaf}
    values, scale = to_int8(leaf, CONTRACTED[name])
    return {name: values, f"{name}_scale": scale}


def scale_sharding(name: str, matrix: NamedSharding) -> NamedSharding:
    """Sharding of an int8 scale: the same as its parameter's output channels."""
    kept = [axis for i, axis in enumerate(matrix.spec) if i not in CONTRACTED.get(name, ())]
    return NamedSharding(matrix.mesh, PartitionSpec(*kept))


def to_int8(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> tuple[Array, Float[Array, "..."]]:
    """Integers in -127..127 and the scale that restores x, shared along `axes`."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(x).max(axis=axes, keepdims=True) / LARGEST, jnp.finfo(jnp.float32).tiny)
    return jnp.rint(x / scale).astype(jnp.int8), scale.squeeze(axes)

"""Weights that tokens are multiplied with: numbers, or int8 with one scale for every output channel.

Int8 is for sampling, whose speed is that of reading the weights: half the bytes of bfloat16, a quarter of float32.
The product is taken with the whole numbers, which every compute type holds exactly, and scaled afterwards.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cogvideo_jax.notation import Array, Float

LARGEST = 127
CONTRACTED = {"qkv_kernel": (0,), "out_kernel": (0, 1), "kernel_in": (0,), "kernel_out": (0,), "image_head": (1,)}


class Matrix(NamedTuple):
    """Attributes:
    values: the numbers, or int8.
    scale: float32 factor of every output channel, in the shape of the output's last axes; None for numbers.
    """

    values: Array
    scale: Array | None = None

    def multiply(self, formula: str, x: Float[Array, "..."], dtype=None) -> Float[Array, "..."]:
        """`jnp.einsum(formula, x, self)`, whose result ends with the output channels; summed in `dtype` if given."""
        values = self.values.astype(x.dtype)
        if self.scale is None:
            return jnp.einsum(formula, x, values, preferred_element_type=dtype)
        product = jnp.einsum(formula, x, values, preferred_element_type=jnp.float32)
        return (product * self.scale).astype(dtype or x.dtype)


def matrix_param(module: nn.Module, name: str, init, shape: tuple[int, ...]) -> Matrix:
    """A parameter of a module; it has a scale where `quantize` gave it one."""
    values, scale = module.param(name, init, shape), f"{name}_scale"
    return Matrix(values, module.get_variable("params", scale) if module.has_variable("params", scale) else None)


def quantize(name: str, leaf: Float[Array, "..."]) -> dict[str, Array]:
    """A parameter by its own name -> what is kept: int8 and its scale where it is one of the large matrices."""
    if name not in CONTRACTED:
        return {name: leaf}
    values, scale = to_int8(leaf, CONTRACTED[name])
    return {name: values, f"{name}_scale": scale}


def scale_sharding(name: str, matrix: NamedSharding) -> NamedSharding:
    """Where the scale of a parameter lies: as its output channels do."""
    kept = [axis for i, axis in enumerate(matrix.spec) if i not in CONTRACTED.get(name, ())]
    return NamedSharding(matrix.mesh, PartitionSpec(*kept))


def to_int8(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> tuple[Array, Float[Array, "..."]]:
    """Whole numbers of -127..127, and the factor that gives x back, shared along `axes`."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(x).max(axis=axes, keepdims=True) / LARGEST, jnp.finfo(jnp.float32).tiny)
    return jnp.rint(x / scale).astype(jnp.int8), scale.squeeze(axes)

"""Convolutions of the autoencoder: causal in time, or of every frame by itself; and their forms for CPUs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.nn.init import partitioned
from cogvideo_jax.notation import Array, Float
from cogvideo_jax.runtime.mesh import constrain, parts_of

FEW = 4  # channels, such as those of pixels, that devices do not share


class Convolution(nn.Module):
    """Convolution over rows and columns, or over frames too, where the caller has prepended them.

    Attributes:
      features: channels of the result.
      window: sides of the kernel, (rows, columns) or (frames, rows, columns).
    """

    features: int
    window: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W I"], convolve: Callable) -> Float[Array, "B O P Q C"]:
        """`convolve(x, kernel)`, with the bias added."""
        axis = "channels" if self.features > FEW else None
        kernel_init = partitioned(nn.initializers.lecun_normal(), *(None,) * (len(self.window) + 1), axis)
        kernel = self.param("kernel", kernel_init, (*self.window, x.shape[-1], self.features))
        bias = self.param("bias", partitioned(nn.initializers.zeros, axis), (self.features,))
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return (y + bias.astype(y.dtype)).astype(self.dtype)


def convolve_frames(
    x: Float[Array, "B T H W I"], kernel: Float[Array, "K K I O"], *, stride: int = 1, padding=((1, 1), (1, 1))
) -> Float[Array, "B T P Q O"]:
    """The same 2-D convolution for every frame."""
    frames = x.reshape(-1, *x.shape[2:])
    y = jax.lax.conv_general_dilated(
        frames, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


def convolve_clip(x: Float[Array, "B P H W I"], kernel: Float[Array, "3 3 3 I O"]) -> Float[Array, "B P-2 H W O"]:
    """3x3x3 convolution, padded in space only."""
    padding = ((0, 0), (1, 1), (1, 1))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def convolve_pairs(
    x: Float[Array, "B P H W I"], kernel: Float[Array, "3 3 3 I O"], *, start: bool = False
) -> Float[Array, "B P-2 H W O"]:
    """`convolve_clip` for CPUs, three times as fast: sums of 2-D convolutions, four for two frames instead of six.

    This is Winograd's F(2, 3) along time (Lavin and Gray, 2015). Two outputs need four inputs a, b, c, d; k0, k1, k2
    are the frames of the kernel:

        p = (a - c) k0    q = (b + c) (k0 + k1 + k2) / 2    r = (c - b) (k0 - k1 + k2) / 2    s = (b - d) k2
        a k0 + b k1 + c k2 = p + q + r                      b k0 + c k1 + d k2 = q - r - s

    Args:
      start: the first three frames are copies of one, as at the start of a clip.
    """
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if x.shape[1] % 2 == 1:  # an output without a partner
        taps = [(2, kernel.sum(0))] if start else enumerate(kernel)
        first = sum(convolve_frames(x[:, i : i + 1], tap) for i, tap in taps)
        return jnp.concatenate([first, convolve_pairs(x[:, 1:], kernel)], axis=1) if x.shape[1] > 3 else first
    a, b, c, d = (x[:, i : x.shape[1] - 2 + i : 2] for i in (0, 1, 2, 3))
    outer, middle = (kernel[0] + kernel[2]) / 2, kernel[1] / 2
    p, s = convolve_frames(a - c, kernel[0]), convolve_frames(b - d, kernel[2])
    q, r = convolve_frames(b + c, outer + middle), convolve_frames(c - b, outer - middle)
    y = jnp.stack([p + q + r, q - r - s], axis=2)
    return y.reshape(y.shape[0], -1, *y.shape[3:])


def convolve_doubled(x: Float[Array, "B T h w I"], kernel: Float[Array, "3 3 I O"]) -> Float[Array, "B T 2*h 2*w O"]:
    """Doubles rows and columns (nearest neighbour), then a 3x3 convolution, in 4/9 of the multiplications.

    A window on doubled rows sees two different rows only: an even output sees the row above with tap 0 and its own with
    taps 1 and 2, an odd one sees its own with taps 0 and 1 and the row below with tap 2. So each of the four
    parities is a 2x2 convolution of the original.
    """
    batch, frames, rows, columns, _ = x.shape

    def parities(taps: Array, axis: int) -> list[Array]:
        first, middle, last = jnp.split(taps.astype(jnp.float32), 3, axis)
        pairs = ((first, middle + last), (first + middle, last))
        return [jnp.concatenate(pair, axis).astype(taps.dtype) for pair in pairs]

    phases = [
        convolve_frames(x, taps, padding=((1 - a, a), (1 - b, b)))
        for a, by_row in enumerate(parities(kernel, 0))
        for b, taps in enumerate(parities(by_row, 1))
    ]
    y = jnp.stack(phases, axis=-2).reshape(batch * frames, rows, columns, 2, 2, -1)
    return y.swapaxes(2, 3).reshape(batch, frames, 2 * rows, 2 * columns, -1)


class CausalConv(nn.Module):
    """3x3x3 convolution whose frame t sees frames t-2, t-1 and t.

    The two frames before the chunk are in the collection "cache", and the last two are left there for the next chunk.
    In the first chunk, which has no cache, they are copies of the first frame.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B T H W O"]:
        rows = "pixel_rows" if x.shape[2] % parts_of("pixel_rows") == 0 else None
        x = constrain(x.astype(self.dtype), "batch", None, rows, None, None)
        start = not self.has_variable("cache", "frames")
        past = jnp.repeat(x[:, :1], 2, axis=1) if start else self.get_variable("cache", "frames")
        x = jnp.concatenate([past, x], axis=1)
        if self.is_mutable_collection("cache"):
            self.put_variable("cache", "frames", x[:, -2:])

        def convolve(x: Array, kernel: Array) -> Array:
            def on_cpu(x: Array, kernel: Array) -> Array:
                return convolve_pairs(x, kernel, start=start).astype(x.dtype)

            return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve_clip)

        return Convolution(self.features, (3, 3, 3), self.dtype, name="conv")(x, convolve)

"""The causal 3-D variational autoencoder of CogVideoX (paper section 2.1): pixels <-> latents.

    pixels [B T H W 3] --Encoder--> moments [B L h w 2C] --sample or mode--> latents [B L h w C] --Decoder--> pixels

Pixels are in -1..1; h = H / 8, w = W / 8, L = ceil(T / 4). 8n or 8n + 1 frames come back as many; other numbers come
back as one of these. A clip runs in chunks of time. Every causal convolution hands its last two inputs to the next
chunk (the *cache*), but GroupNorm sees one chunk only, so the chunks belong to the model. Multiplying latents by
`scaling_factor` is left to the caller.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.interface import Program
from cogvideo_jax.models.cogvideox.causal_convolution import (
    CausalConv,
    Convolution,
    convolve_doubled,
    convolve_frames,
)
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.init import partitioned
from cogvideo_jax.nn.linear import Linear
from cogvideo_jax.notation import Array, Float, PyTree

PIXEL_CHUNK = 8  # frames of every chunk but the first
LATENT_CHUNK = 2
LOG_VARIANCE = (-30.0, 20.0)  # limits of the posterior's log variance


class PointConv(nn.Module):
    """1x1x1 convolution."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T h w I"]) -> Float[Array, "B T h w O"]:
        return Linear(self.features, (None, "channels"), dtype=self.dtype, name="conv")(x)


class GroupNorm(nn.Module):
    """GroupNorm over all frames, rows and columns of the chunk, in float32."""

    groups: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        width = x.shape[-1]
        scale = self.param("scale", partitioned(nn.initializers.ones, "channels"), (width,))
        bias = self.param("bias", partitioned(nn.initializers.zeros, "channels"), (width,))
        x = x.astype(jnp.float32)
        mean = group_mean(x, self.groups)
        variance = group_mean(jnp.square(x - mean), self.groups)
        factor = jax.lax.rsqrt(variance + self.eps) * scale
        return x * factor + (bias - mean * factor)


def group_mean(x: Float[Array, "B T H W C"], groups: int) -> Float[Array, "B 1 1 1 C"]:
    """Mean of each group of neighbouring channels over the chunk, repeated for its channels."""
    by_channel = x.mean((1, 2, 3), keepdims=True)
    by_group = by_channel.reshape(*by_channel.shape[:-1], groups, -1).mean(-1)
    return jnp.repeat(by_group, x.shape[-1] // groups, axis=-1)


class SpatialNorm(nn.Module):
    """GroupNorm whose scale and shift come from the chunk's latents at each position.

    The two 1x1x1 convolutions run on the latents as they are and their results are enlarged: that is the same, for
    1/64 of the work.
    """

    groups: int
    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W D"], latents: Float[Array, "B L h w C"]) -> Float[Array, "B T H W D"]:
        scale, shift = (
            enlarge(PointConv(x.shape[-1], self.dtype, name=name)(latents), x.shape[1:4])
            for name in ("conv_y", "conv_b")
        )
        return GroupNorm(self.groups, self.eps, name="norm_layer")(x) * scale + shift


def enlarge(x: Float[Array, "B L h w C"], size: tuple[int, int, int]) -> Float[Array, "B T H W C"]:
    """Repeats frames, rows and columns up to this size, frames as in `repeat_frames`."""
    frames, rows, columns = size
    x = repeat_frames(x, frames)
    x = jnp.repeat(x, rows // x.shape[2], axis=2)
    return jnp.repeat(x, columns // x.shape[3], axis=3)


def doubled_frames(frames: int) -> int:
    """Frames after a step of the decoder that doubles time."""
    return frames if frames == 1 else 2 * frames - frames % 2


def repeat_frames(x: Float[Array, "B L h w C"], frames: int) -> Float[Array, "B T h w C"]:
    """Repeats frames up to this number. An odd number above 1 keeps its first frame single."""
    if frames == x.shape[1]:
        return x
    if frames % 2 == 0:
        return jnp.repeat(x, frames // x.shape[1], axis=1)
    rest = jnp.repeat(x[:, 1:], (frames - 1) // (x.shape[1] - 1), axis=1)
    return jnp.concatenate([x[:, :1], rest], axis=1)


def halve_frames(x: Float[Array, "B T H W C"]) -> Float[Array, "B O H W C"]:
    """Averages pairs of frames. Of an odd number the first frame stays as it is."""
    count, first = divmod(x.shape[1], 2)
    pairs = x[:, first:].reshape(x.shape[0], count, 2, *x.shape[2:]).astype(jnp.float32).mean(2)
    return jnp.concatenate([x[:, :first], pairs.astype(x.dtype)], axis=1)


class ResidualBlock(nn.Module):
    """Twice norm, silu and convolution, with a 1x1x1 shortcut when the width changes.

    Attributes:
      width: channels of the result.
      config: groups and epsilon of the norms.
    """

    width: int
    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W I"], latents: Float[Array, "B L h w C"] | None = None
    ) -> Float[Array, "B T H W O"]:
        """`latents` are the decoder's, for its norms."""
        y = x
        for layer in ("1", "2"):
            y = nn.silu(normalise(y, latents, config=self.config, dtype=self.dtype, name=f"norm{layer}"))
            y = CausalConv(self.width, self.dtype, name=f"conv{layer}")(y)
        if x.shape[-1] != self.width:
            x = Linear(self.width, (None, "channels"), dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


def normalise(
    x: Float[Array, "B T H W D"],
    latents: Float[Array, "B L h w C"] | None,
    *,
    config: VaeConfig,
    dtype: Any,
    name: str,
) -> Float[Array, "B T H W D"]:
    """The norm of the encoder or, given latents, that of the decoder, as a part of the module that calls. float32."""
    sizes = (config.norm_num_groups, config.eps)
    if latents is None:
        return GroupNorm(*sizes, name=name)(x)
    return SpatialNorm(*sizes, dtype, name=name)(x, latents)


class Downsampler(nn.Module):
    """Halves rows and columns by a convolution of stride 2, padded below and on the right; before that, maybe time."""

    time: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B O h w C"]:
        x = halve_frames(x) if self.time else x
        convolve = functools.partial(convolve_frames, stride=2, padding=((0, 1), (0, 1)))
        return Convolution(x.shape[-1], (3, 3), self.dtype, name="conv")(x, convolve)


class Upsampler(nn.Module):
    """Doubles rows and columns, and maybe time, then a 3x3 convolution of every frame.

    Copies of a frame stay copies in a convolution of frames, so they are made after it.
    """

    time: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T h w C"]) -> Float[Array, "B O H W C"]:
        x = Convolution(x.shape[-1], (3, 3), self.dtype, name="conv")(x, convolve_doubled)
        return repeat_frames(x, doubled_frames(x.shape[1])) if self.time else x


class DownBlock(nn.Module):
    """A level of the encoder, and the step to the next."""

    level: int
    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B L h w O"]:
        widths = self.config.block_out_channels
        for i in range(self.config.layers_per_block):
            x = ResidualBlock(widths[self.level], self.config, self.dtype, name=f"resnets_{i}")(x)
        if self.level == len(widths) - 1:
            return x
        return Downsampler(self.config.changes_time(self.level), self.dtype, name="downsamplers_0")(x)


class UpBlock(nn.Module):
    """A level of the decoder, counted from the lowest resolution, and the step to the next."""

    level: int
    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L h w I"], latents: Float[Array, "B P p q C"]) -> Float[Array, "B T H W O"]:
        widths = self.config.block_out_channels[::-1]
        for i in range(self.config.layers_per_block + 1):
            x = ResidualBlock(widths[self.level], self.config, self.dtype, name=f"resnets_{i}")(x, latents)
        if self.level == len(widths) - 1:
            return x
        return Upsampler(self.config.changes_time(self.level), self.dtype, name="upsamplers_0")(x)


class MidBlock(nn.Module):
    """The two residual blocks at the lowest resolution."""

    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L h w D"], latents: Float[Array, "B L h w C"] | None = None
    ) -> Float[Array, "B L h w D"]:
        for i in range(2):
            x = ResidualBlock(x.shape[-1], self.config, self.dtype, name=f"resnets_{i}")(x, latents)
        return x


class Encoder(nn.Module):
    """Pixels of a chunk -> mean and log variance of its latents, side by side in the channels."""

    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B T H W c"]) -> Float[Array, "B L h w M"]:
        config, dtype = self.config, self.dtype
        x = CausalConv(config.block_out_channels[0], dtype, name="conv_in")(pixels)
        for level in range(len(config.block_out_channels)):
            x = DownBlock(level, config, dtype, name=f"down_blocks_{level}")(x)
        x = MidBlock(config, dtype, name="mid_block")(x)
        x = nn.silu(normalise(x, None, config=config, dtype=dtype, name="norm_out"))
        return CausalConv(2 * config.latent_channels, dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents of a chunk -> its pixels."""

    config: VaeConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "B L h w C"]) -> Float[Array, "B T H W c"]:
        config, dtype = self.config, self.dtype
        x = CausalConv(config.block_out_channels[-1], dtype, name="conv_in")(latents)
        x = MidBlock(config, dtype, name="mid_block")(x, latents)
        for level in range(len(config.block_out_channels)):
            x = UpBlock(level, config, dtype, name=f"up_blocks_{level}")(x, latents)
        x = nn.silu(normalise(x, latents, config=config, dtype=dtype, name="norm_out"))
        return CausalConv(config.out_channels, dtype, name="conv_out")(x)


class Vae(nn.Module):
    """Encoder and decoder; both run one chunk, with the caches in the collection "cache"."""

    config: VaeConfig
    dtype: Any = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def encode(self, pixels: Float[Array, "B T H W c"]) -> Float[Array, "B L h w M"]:
        """Pixels of a chunk -> moments."""
        return self.encoder(pixels)

    def decode(self, latents: Float[Array, "B L h w C"]) -> Float[Array, "B T H W c"]:
        """Latents of a chunk -> pixels."""
        return self.decoder(latents)

    def __call__(self, pixels: Float[Array, "B T H W c"]) -> Float[Array, "B T H W c"]:
        """Reconstruction of one chunk from the mean; used to create all parameters."""
        return self.decode(mode(self.encode(pixels)))


class Posterior(NamedTuple):
    """Normal distribution of the latents, float32."""

    mean: Float[Array, "B L h w C"]
    log_variance: Float[Array, "B L h w C"]


def posterior(moments: Float[Array, "B L h w M"]) -> Posterior:
    """The distribution that the encoder's result describes."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return Posterior(mean, jnp.clip(log_variance, *LOG_VARIANCE))


def mode(moments: Float[Array, "B L h w M"]) -> Float[Array, "B L h w C"]:
    """The most likely latents, which are the mean."""
    return posterior(moments).mean


def sample(moments: Float[Array, "B L h w M"], noise: Float[Array, "B L h w C"]) -> Float[Array, "B L h w C"]:
    """Latents drawn with this standard normal noise."""
    mean, log_variance = posterior(moments)
    return mean + jnp.exp(0.5 * log_variance) * noise


def chunk_lengths(frames: int, chunk: int) -> tuple[int, ...]:
    """Lengths of a clip's chunks: the first also has the remainder, or is all there is."""
    later = max(frames // chunk, 1) - 1
    return (frames - later * chunk,) + (chunk,) * later


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def encode_chunk(model: Vae, params: PyTree, pixels: Float[Array, "B T H W c"], cache: PyTree | None):
    """Moments of the next chunk, and the caches after it. `cache` is None in the first chunk, and used up in others."""
    return _chunk(model, params, pixels, cache, "encode")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def decode_chunk(model: Vae, params: PyTree, latents: Float[Array, "B L h w C"], cache: PyTree | None):
    """Pixels of the next chunk, and the caches after it. `cache` is None in the first chunk, and used up in others."""
    return _chunk(model, params, latents, cache, "decode")


def _chunk(model: Vae, params: PyTree, x: Array, cache: PyTree | None, method: str):
    variables = {"params": params} if cache is None else {"params": params, "cache": cache}
    y, left = model.apply(variables, x, mutable=["cache"], method=method)
    return y, left["cache"]


def encode(model: Vae, params: PyTree, pixels: Float[Array, "B T H W c"]) -> Float[Array, "B L h w M"]:
    """Moments of a clip with values in -1..1, chunk by chunk."""
    return _chunks(functools.partial(encode_chunk, model, params), pixels, PIXEL_CHUNK)


def decode(model: Vae, params: PyTree, latents: Float[Array, "B L h w C"]) -> Float[Array, "B T H W c"]:
    """Pixels of a clip, chunk by chunk. The latents are unscaled."""
    return _chunks(functools.partial(decode_chunk, model, params), latents, LATENT_CHUNK)


def _chunks(step: Callable, clip: Array, chunk: int) -> Array:
    cache, start, done = None, 0, []
    for length in chunk_lengths(clip.shape[1], chunk):
        result, cache = step(clip[:, start : start + length], cache)
        done.append(result)
        start += length
    return jnp.concatenate(done, axis=1)


def encode_programs(model: Vae, params: PyTree, pixels: jax.ShapeDtypeStruct) -> list[Program]:
    """All programs of `encode` for a clip of this shape, from shapes alone."""
    return _programs(encode_chunk, (model, params), pixels, PIXEL_CHUNK)


def decode_programs(model: Vae, params: PyTree, latents: jax.ShapeDtypeStruct) -> list[Program]:
    """All programs of `decode` for latents of this shape, from shapes alone."""
    return _programs(decode_chunk, (model, params), latents, LATENT_CHUNK)


def _programs(step, start: tuple, clip: jax.ShapeDtypeStruct, chunk: int) -> list[Program]:
    batch, frames, *frame = clip.shape
    first, *later = (
        jax.ShapeDtypeStruct((batch, length, *frame), clip.dtype) for length in chunk_lengths(frames, chunk)
    )
    programs = [Program(step.lower(*start, first, None), 1)]
    if later:
        _, cache = step.eval_shape(*start, first, None)
        programs.append(Program(step.lower(*start, later[0], cache), len(later)))
    return programs

"""Convolutional networks of the image tokenizer (CogView2's hierarchical VQ-VAE): pixels <-> code vectors.

    pixels --Encoder--> /4 --DownSampler--> /8 --DownSampler--> /16      latents of each rate
                         :                   :                   :       nearest code of the shared code book
                     Decoder(4)          Decoder(8)         Decoder(16)  a decoder for each rate

Arrays are channels-last. A *rate* is the number of pixels per token side: 160x160 pixels at rate 8 are 20x20 tokens.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.vq.config import Norm, VQConfig
from cogvideo_jax.notation import Array, Float, UInt8
from cogvideo_jax.runtime.mesh import constrain


def normalise(frames: UInt8[Array, "*B H W 3"], config: VQConfig) -> Float[Array, "*B H W 3"]:
    """Pixels 0..255 -> the networks' scale."""
    return (frames.astype(jnp.float32) / 255.0 - jnp.asarray(config.mean)) / jnp.asarray(config.std)


def to_unit_range(images: Float[Array, "*B H W 3"], config: VQConfig) -> Float[Array, "*B H W 3"]:
    """The networks' scale -> 0..1, not clipped."""
    return images.astype(jnp.float32) * jnp.asarray(config.std) + jnp.asarray(config.mean)


split_by = nn.with_logical_partitioning  # names the logical axes of a parameter; runtime/mesh.py maps them to mesh axes


def pixel_attention(
    query: Float[Array, "B h w F"], key: Float[Array, "B h w F"], value: Float[Array, "B h w F"]
) -> Float[Array, "B h w F"]:
    """Attention with one head over all positions, with the softmax in float32."""
    scores = jnp.einsum("bhwf,bijf->bhwij", query, key).astype(jnp.float32) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores.reshape(*scores.shape[:3], -1), axis=-1).reshape(scores.shape)
    return jnp.einsum("bhwij,bijf->bhwf", weights.astype(value.dtype), value)


class Normalise(nn.Module):
    """GroupNorm over the image or layer norm over one position, epsilon 1e-6."""

    norm: Norm
    groups: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"]) -> Float[Array, "B h w F"]:
        shape, width = x.shape, x.shape[-1]
        ones, zeros = (split_by(init, ("channels",)) for init in (nn.initializers.ones, nn.initializers.zeros))
        scale = self.param("scale", ones, (width,), self.param_dtype)
        bias = self.param("bias", zeros, (width,), self.param_dtype)
        x = x.astype(jnp.float32)
        if self.norm is Norm.GROUP:
            x = x.reshape(shape[0], shape[1] * shape[2], self.groups, width // self.groups)
            axes = (1, 3)
        else:
            axes = (-1,)
        centred = x - x.mean(axes, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-6)
        return (x.reshape(shape) * scale + bias).astype(self.dtype)


class _Block(nn.Module):
    """Settings that all blocks share, and the layers that use them."""

    kernel: int
    norm: Norm
    groups: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def conv(
        self,
        width: int,
        name: str,
        *,
        kernel: int | None = None,
        stride: int = 1,
        padding="SAME",
        axis: str | None = "channels",
    ) -> nn.Conv:
        side = self.kernel if kernel is None else kernel
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        settings = dict(strides=(stride, stride), padding=padding, name=name)
        return nn.Conv(width, (side, side), **settings, **types, **_split_convolution(axis))

    def normalised(self, x: Float[Array, "B h w F"], name: str) -> Float[Array, "B h w F"]:
        return Normalise(self.norm, self.groups, self.dtype, self.param_dtype, name=name)(x)

    def same(self, kind: type, name: str, **fields) -> nn.Module:
        """Block of another kind with this block's settings."""
        return kind(self.kernel, self.norm, self.groups, self.dtype, self.param_dtype, name=name, **fields)

    def middle(self, x: Float[Array, "B h w F"], *, attention: bool) -> Float[Array, "B h w F"]:
        """Residual block, attention, residual block at the lowest resolution."""
        x = self.same(ResidualBlock, "middle_block1", width=x.shape[-1])(x)
        if attention:
            x = self.same(AttentionBlock, "middle_attention")(x)
        return self.same(ResidualBlock, "middle_block2", width=x.shape[-1])(x)


class ResidualBlock(_Block):
    """Twice norm, swish and convolution, with a 1x1 shortcut when the width changes."""

    width: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B h w O"]:
        y = self.conv(self.width, "conv1")(nn.swish(self.normalised(x, "norm1")))
        y = self.conv(self.width, "conv2")(nn.swish(self.normalised(y, "norm2")))
        if x.shape[-1] != self.width:
            x = self.conv(self.width, "shortcut", kernel=1)(x)
        return x + y


class AttentionBlock(_Block):
    """Norm and attention over all positions, with a residual."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"]) -> Float[Array, "B h w F"]:
        width = x.shape[-1]
        y = self.normalised(x, "norm")
        query, key, value = (self.conv(width, name, kernel=1)(y) for name in ("query", "key", "value"))
        return x + self.conv(width, "out", kernel=1)(pixel_attention(query, key, value))


class Encoder(_Block):
    """Normalised pixels -> latents at the first rate."""

    channels: int = 0
    multipliers: tuple[int, ...] = ()
    res_blocks: int = 0
    patch: int = 1
    downsample_kernel: int = 3
    attention: bool = True
    latent_channels: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w F"]:
        if self.patch == 1:
            x = self.conv(self.channels, "conv_in")(x)
        else:
            x = self.conv(self.channels, "conv_in", kernel=self.patch, stride=self.patch, padding="VALID")(x)
        for level, multiplier in enumerate(self.multipliers):
            if level > 0:
                pad = (0, self.downsample_kernel - 2)  # right and bottom only, as in the released model
                down = dict(kernel=self.downsample_kernel, stride=2, padding=(pad, pad))
                x = self.conv(x.shape[-1], f"level{level - 1}_down", **down)(x)
            for block in range(self.res_blocks):
                x = self.same(ResidualBlock, f"level{level}_block{block}", width=self.channels * multiplier)(x)
        x = self.middle(x, attention=self.attention)
        return self.conv(self.latent_channels, "conv_out")(nn.swish(self.normalised(x, "norm_out")))


class DownSampler(_Block):
    """Latents of one rate -> latents of twice the rate: 2x2 average plus a convolution of stride 2."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w F"]) -> Float[Array, "B h/2 w/2 F"]:
        pad = (0, self.kernel - 2)
        strided = self.conv(x.shape[-1], "conv", stride=2, padding=(pad, pad))(x)
        return nn.avg_pool(x, (2, 2), strides=(2, 2)) + strided


class Decoder(_Block):
    """Code vectors of one rate -> normalised pixels."""

    channels: int = 0
    multipliers: tuple[int, ...] = ()
    res_blocks: int = 0
    patch: int = 1
    attention: bool = True
    lowest_attention: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w E"]) -> Float[Array, "B H W 3"]:
        x = self.conv(self.channels * self.multipliers[-1], "conv_in")(x)
        x = self.middle(x, attention=self.attention)
        lowest = len(self.multipliers) - 1
        for level in reversed(range(len(self.multipliers))):
            for block in range(self.res_blocks):
                width = self.channels * self.multipliers[level]
                x = self.same(ResidualBlock, f"level{level}_block{block}", width=width)(x)
                if level == lowest and self.lowest_attention:
                    x = self.same(AttentionBlock, f"level{level}_attention{block}")(x)
            if level > 0:
                x = x.repeat(2, axis=1).repeat(2, axis=2)  # nearest neighbour
                x = self.conv(x.shape[-1], f"level{level}_up")(x)
        x = self.conv(3 * self.patch**2, "conv_out", axis=None)(nn.swish(self.normalised(x, "norm_out")))
        return _patches_to_pixels(x, self.patch)


def _patches_to_pixels(x: Float[Array, "B h w F"], patch: int) -> Float[Array, "B H W 3"]:
    """Channels (row in patch, column in patch, colour) -> pixels."""
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows, columns, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * patch, columns * patch, 3)


class VQNetworks(nn.Module):
    """All encoders and decoders of a config; use `encode` and `decode` through `apply(..., method=)`."""

    config: VQConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        c = self.config
        types = (self.dtype, self.param_dtype)
        encoder = (c.encoder_kernel, c.encoder_norm, c.groups, *types)
        decoder = (c.decoder_kernel, c.decoder_norm, c.groups, *types)
        self.encoder = Encoder(
            *encoder,
            channels=c.encoder_channels,
            multipliers=c.encoder_multipliers,
            res_blocks=c.encoder_res_blocks,
            patch=c.encoder_patch,
            downsample_kernel=c.encoder_downsample_kernel,
            attention=c.encoder_attention,
            latent_channels=c.latent_channels,
        )
        sampler = (c.encoder_downsample_kernel, c.encoder_norm, c.groups, *types)
        self.down_samplers = [DownSampler(*sampler, name=f"down_sampler_{rate}") for rate in c.rates[1:]]
        types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.project = nn.Conv(c.code_width, (1, 1), **types, **_split_convolution("channels"))
        self.decoders = [
            Decoder(
                *decoder,
                channels=c.decoder_channels,
                multipliers=multipliers,
                res_blocks=c.decoder_res_blocks,
                patch=c.decoder_patch,
                attention=c.decoder_attention,
                lowest_attention=lowest,
                name=f"decoder_{rate}",
            )
            for rate, multipliers, lowest in zip(c.rates, c.decoder_multipliers, c.decoder_lowest_attention)
        ]

    def encode(self, images: Float[Array, "B H W 3"], *, rate: int) -> Float[Array, "B h w E"]:
        """Normalised pixels -> latents to compare with the code book."""
        x = self.encoder(constrain(images, "batch", None, None, None))
        for down_sampler in self.down_samplers[: self.config.rates.index(rate)]:
            x = down_sampler(x)
        return self.project(x)

    def decode(self, vectors: Float[Array, "B h w E"], *, rate: int) -> Float[Array, "B H W 3"]:
        """Code vectors -> normalised pixels."""
        return self.decoders[self.config.rates.index(rate)](constrain(vectors, "batch", None, None, None))

    def __call__(self, images: Float[Array, "B H W 3"]) -> list[Float[Array, "B H W 3"]]:
        """Reconstructs at every rate without quantisation; used to create all parameters."""
        return [self.decode(self.encode(images, rate=rate), rate=rate) for rate in self.config.rates]


def init_networks(config: VQConfig, rng: Array) -> dict:
    """Initialises float32 parameters of VQNetworks (the tree below 'params')."""
    return nn.meta.unbox(_init(config, rng))


def abstract_networks(config: VQConfig) -> dict:
    """Shapes of the parameters of VQNetworks, with their logical axes."""
    return jax.eval_shape(functools.partial(_init, config), jax.random.key(0))


def _init(config: VQConfig, rng: Array) -> dict:
    side = 2 * config.rates[-1]
    return VQNetworks(config).init(rng, jnp.zeros((1, side, side, 3)))["params"]


def _split_convolution(axis: str | None) -> dict:
    """Initialisers of a convolution with this logical axis for its output channels."""
    return dict(
        kernel_init=split_by(nn.initializers.lecun_normal(), (None, None, None, axis)),
        bias_init=split_by(nn.initializers.zeros, (axis,)),
    )

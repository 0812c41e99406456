"""Expert transformer of CogVideoX: text and video tokens in one sequence, each with its own modulation.

    x -> norm1 -> (1 + scale) x + shift -> attention -> x + gate * .      six numbers a feature, from the timestep,
    x -> norm2 -> (1 + scale) x + shift -> MLP       -> x + gate * .      three for the video and three for the text

The LayerNorms and matrices are shared by text and video; "expert" is the modulation alone (paper section 2.2).
Submodules are named as in diffusers, so that every parameter has one tensor there.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.nn.attention import Kernel, KeysValues, attend_all
from cogvideo_jax.nn.embeddings import rotate, sinusoid
from cogvideo_jax.nn.init import partitioned
from cogvideo_jax.nn.linear import Linear
from cogvideo_jax.nn.remat import POLICIES, Remat
from cogvideo_jax.notation import Array, Float
from cogvideo_jax.runtime.mesh import constrain

QK_NORM_EPS = 1e-6


@flax.struct.dataclass
class Positions:
    """Position tables of a grid of tokens.

    Attributes:
      cosines, sines: rotations of the video's queries and keys; None for models that do not rotate.
      table: added to text and video; None for models without it, and where the table in the weights is added.
    """

    cosines: Float[Array, "N K"] | None = None
    sines: Float[Array, "N K"] | None = None
    table: Float[Array, "L D"] | None = None


Turns = tuple[Float[Array, "L K"], Float[Array, "L K"]] | None  # cosines and sines for text and video


class Transformer(nn.Module):
    """Predicts the velocity of noisy latents.

    Attributes:
      config: all dimensions.
      dtype: compute type; modulation, norms, softmax and rotations are float32.
      remat: parts of a block that the backward pass recomputes.
      kernel: attention kernel.
      unrolled: give each block its own code and arrays, as in sampling; otherwise blocks are scanned.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32
    remat: Remat = Remat.NOTHING
    kernel: Kernel = Kernel.BLOCKED
    unrolled: bool = True

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "B F h w C"],
        text: Float[Array, "B S E"],
        timestep: Float[Array, "B"],
        positions: Positions,
        *,
        ofs: Float[Array, "B"] | None = None,
    ) -> Float[Array, "B F h w c"]:
        """Velocity of every latent pixel, in float32.

        Args:
          latents: noisy latents; image to video has the image's latents behind them, on channels.
          text: T5 states; pads are tokens like others.
          positions: of the latents' grid.
          ofs: second number of 1.5-I2V, which says how far apart its frames are.
        """
        config = self.config
        if (ofs is None) != (config.ofs_embed_dim is None):
            raise UserError("ofs is for models with ofs_embed_dim, and for no others")
        embedded = TimeEmbedding(config.width, config.time_embed_dim, self.dtype, name="time_embedding")(timestep)
        if ofs is not None:
            width = config.ofs_embed_dim
            embedded += TimeEmbedding(width, width, self.dtype, name="ofs_embedding")(ofs)
        x = PatchEmbedding(config, self.dtype, name="patch_embed")(latents, text, positions.table)
        conditioning, turns = jax.nn.silu(embedded), _of_sequence(positions, text.shape[1])
        x = self._blocks(x, conditioning, turns, text.shape[1])
        x = layer_norm("norm_final", config.norm_eps)(x[:, text.shape[1] :])
        x = OutputNorm(config, self.dtype, name="norm_out")(x, conditioning)
        features = config.out_channels * config.frames_per_token * config.patch_size**2
        out = Linear(features, ("embed", None), dtype=self.dtype, name="proj_out")(x)
        return from_patches(out.astype(jnp.float32), config, latents.shape[1:4])

    def _blocks(self, x, conditioning, turns: Turns, text_length: int) -> Float[Array, "B L D"]:
        block = Block
        if self.remat != Remat.NOTHING:
            block = nn.remat(block, prevent_cse=False, policy=POLICIES[self.remat], static_argnums=(4,))
        args = (self.config, self.dtype, self.kernel)
        if self.unrolled:
            for number in range(self.config.num_layers):
                x, _ = block(*args, name=f"transformer_blocks_{number}")(x, conditioning, turns, text_length)
            return x
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(*args, name="transformer_blocks")(x, conditioning, turns, text_length)[0]

    @nn.nowrap
    def empty_inputs(self) -> tuple[Any, ...]:
        """Arguments of `__call__` for the smallest latents that the model takes, for their shapes."""
        config = self.config
        _, rows, columns = config.sample_grid if config.adds_table else (1, 1, 1)
        frames, patch = config.frames_per_token, config.patch_size
        if config.use_learned_positional_embeddings:
            frames *= config.sample_grid[0]
        latents = jnp.zeros((1, frames, rows * patch, columns * patch, config.in_channels))
        text = jnp.zeros((1, config.max_text_seq_length, config.text_embed_dim))
        tokens = latents.shape[1] // config.frames_per_token * rows * columns
        turns = jnp.zeros((tokens, config.attention_head_dim)) if config.use_rotary_positional_embeddings else None
        table = None
        if not config.use_rotary_positional_embeddings:
            table = jnp.zeros((config.max_text_seq_length + tokens, config.width))
        return latents, text, jnp.zeros(1), Positions(turns, turns, table)

    @nn.nowrap
    def empty_options(self) -> dict[str, Array]:
        """Options of `__call__` that go with `empty_inputs`."""
        return {} if self.config.ofs_embed_dim is None else {"ofs": jnp.zeros(1)}


class TimeEmbedding(nn.Module):
    """Sinusoid of a number, through a small MLP."""

    inner: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, values: Float[Array, "B"]) -> Float[Array, "B E"]:
        x = sinusoid(values, self.inner).astype(self.dtype)
        x = Linear(self.features, ("embed", None), dtype=self.dtype, name="linear_1")(x)
        return Linear(self.features, (None, None), dtype=self.dtype, name="linear_2")(jax.nn.silu(x))


class PatchEmbedding(nn.Module):
    """Embeds text states and patches of latents, text first, and adds a position table where the model has one."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B F h w C"], text: Float[Array, "B S E"], table: Float[Array, "L D"] | None
    ) -> Float[Array, "B L D"]:
        config, axes = self.config, (None, "embed")
        text = Linear(config.width, axes, dtype=self.dtype, name="text_proj")(text)
        video = Linear(config.width, axes, dtype=self.dtype, name="proj")(to_patches(latents, config))
        x = jnp.concatenate([text, video], axis=1)
        if config.use_learned_positional_embeddings:
            frames, rows, columns = config.sample_grid
            shape = (1, config.max_text_seq_length + frames * rows * columns, config.width)
            stored = self.param("pos_embedding", partitioned(nn.initializers.zeros, None, None, "embed"), shape)
            table = stored[0] if table is None else table
        if table is not None:
            if len(table) != x.shape[1]:
                raise UserError(f"a position table for {len(table)} tokens cannot be added to {x.shape[1]}")
            x = x + table.astype(self.dtype)
        return constrain(x, "batch", "length", "width")


class Block(nn.Module):
    """Attention over text and video together, then the MLP."""

    config: TransformerConfig
    dtype: Any
    kernel: Kernel

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], conditioning: Float[Array, "B E"], turns: Turns, text_length: int
    ) -> tuple[Float[Array, "B L D"], None]:
        config = self.config
        normed, gate = Modulation(config, self.dtype, name="norm1")(x, conditioning, text_length)
        attended = Attention(config, self.dtype, self.kernel, name="attn1")(normed, turns)
        x = x + gate * attended
        normed, gate = Modulation(config, self.dtype, name="norm2")(x, conditioning, text_length)
        x = x + gate * Mlp(config.width, self.dtype, name="ff")(normed)
        return constrain(x.astype(self.dtype), "batch", "length", "width"), None


class Modulation(nn.Module):
    """LayerNorm, then a shift and a scale of the text's features and others of the video's."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], conditioning: Float[Array, "B E"], text_length: int):
        """Modulated x [B L D], and the gate [B L D] of what is made of it."""
        numbers = Linear(6 * self.config.width, (None, "embed"), dtype=self.dtype, name="linear")(conditioning)
        of_video, of_text = jnp.split(numbers.astype(jnp.float32)[:, None], 2, axis=-1)
        is_text = (jnp.arange(x.shape[1]) < text_length)[:, None]
        shift, scale, gate = (
            jnp.where(is_text, text, video)
            for text, video in zip(jnp.split(of_text, 3, axis=-1), jnp.split(of_video, 3, axis=-1))
        )
        normed = layer_norm("norm", self.config.norm_eps)(x)
        return (normed * (1 + scale) + shift).astype(self.dtype), gate.astype(self.dtype)


class Attention(nn.Module):
    """Attention with normalised queries and keys, of which those of the video are rotated."""

    config: TransformerConfig
    dtype: Any
    kernel: Kernel

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], turns: Turns) -> Float[Array, "B L D"]:
        width, size = self.config.width, self.config.attention_head_dim

        def project(name: str) -> Float[Array, "B L A K"]:
            y = Linear(width, ("embed", "heads"), dtype=self.dtype, name=f"to_{name}")(x)
            return constrain(y.reshape(*y.shape[:2], -1, size), "batch", "length", "heads", None)

        def turned(name: str) -> Float[Array, "B L A K"]:
            y = layer_norm(f"norm_{name}", QK_NORM_EPS, axis=None)(project(name))
            y = (y if turns is None else rotate(y, *turns)).astype(self.dtype)
            return constrain(y, "batch", "length", "heads", None)  # what devices exchange, in its smallest form

        context = attend_all(turned("q"), KeysValues(turned("k"), project("v")), kernel=self.kernel)
        context = constrain(context.reshape(x.shape), "batch", "length", "heads")
        return Linear(width, ("heads", "embed"), dtype=self.dtype, name="to_out_0")(context)


class Mlp(nn.Module):
    """MLP of four times the width, with the tanh form of GELU."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        x = Projected(4 * self.width, self.dtype, name="net_0")(x)
        x = constrain(jax.nn.gelu(x, approximate=True), "batch", "length", "mlp")
        return Linear(self.width, ("mlp", "embed"), dtype=self.dtype, name="net_2")(x)


class Projected(nn.Module):
    """The first matrix of the MLP, which diffusers keeps one module deeper than the second."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L F"]:
        return Linear(self.features, ("embed", "mlp"), dtype=self.dtype, name="proj")(x)


class OutputNorm(nn.Module):
    """LayerNorm with a shift and a scale, before the output matrix."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], conditioning: Float[Array, "B E"]) -> Float[Array, "B N D"]:
        numbers = Linear(2 * self.config.width, (None, "embed"), dtype=self.dtype, name="linear")(conditioning)
        shift, scale = jnp.split(numbers.astype(jnp.float32)[:, None], 2, axis=-1)
        normed = layer_norm("norm", self.config.norm_eps)(x)
        return (normed * (1 + scale) + shift).astype(self.dtype)


def _of_sequence(positions: Positions, text_length: int) -> Turns:
    """Rotations of the whole sequence, of which the text is not turned."""
    if positions.cosines is None:
        return None
    around = ((text_length, 0), (0, 0))
    return jnp.pad(positions.cosines, around, constant_values=1), jnp.pad(positions.sines, around)


def layer_norm(name: str, epsilon: float, axis: str | None = "embed") -> nn.LayerNorm:
    """Float32 LayerNorm over the last axis."""
    ones, zeros = (partitioned(init, axis) for init in (nn.initializers.ones, nn.initializers.zeros))
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, scale_init=ones, bias_init=zeros, name=name)


def to_patches(latents: Float[Array, "B F h w C"], config: TransformerConfig) -> Float[Array, "B N P"]:
    """Patches as rows, in the order (channel, frame, row, column); tokens in the order (time, row, column)."""
    batch, channels = latents.shape[0], latents.shape[-1]
    frames, rows, columns = config.grid(latents.shape[1:4])
    side, deep = config.patch_size, config.frames_per_token
    x = latents.reshape(batch, frames, deep, rows, side, columns, side, channels)
    return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, frames * rows * columns, -1)


def from_patches(
    patches: Float[Array, "B N P"], config: TransformerConfig, shape: tuple[int, int, int]
) -> Float[Array, "B F h w c"]:
    """The inverse of `to_patches`, for latents of `shape` [F, h, w]."""
    frames, rows, columns = config.grid(shape)
    side, deep = config.patch_size, config.frames_per_token
    x = patches.reshape(len(patches), frames, rows, columns, -1, deep, side, side)
    return x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(len(patches), *shape, -1)

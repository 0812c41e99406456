"""Sizes of the CogVideoX transformer, named as in `transformer/config.json` of a diffusers snapshot."""

import dataclasses
from typing import Literal

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import STRICT, Few, PositiveFloat, Size, dataclass_schema


@dataclass_schema(STRICT | {"extra": "ignore"})
class TransformerConfig:
    """Dimensions of a transformer; the defaults are those of the 2b model. Only what is released can be set.

    Attributes:
      num_attention_heads, attention_head_dim: A and K; the width D is their product.
      in_channels, out_channels: of the latents; image to video reads twice as many as it writes.
      num_layers: G.
      time_embed_dim: width of the embedded timestep.
      ofs_embed_dim: the same of the second number that 1.5-I2V reads; None for models without it.
      text_embed_dim: width of the T5 states.
      max_text_seq_length: S of position tables; models that only rotate take any length.
      sample_height, sample_width: of the latents that the model was made for.
      sample_frames: of its videos, in pixels.
      temporal_compression_ratio: frames a latent frame stands for, except the first.
      patch_size, patch_size_t: latent pixels and frames of a token.
      use_rotary_positional_embeddings: rotate queries and keys; else add a sine-cosine table.
      use_learned_positional_embeddings: add the table that the weights hold.
      spatial_interpolation_scale, temporal_interpolation_scale: divide positions of the sine-cosine table.
    """

    num_attention_heads: Few = 30
    attention_head_dim: Few = 64
    in_channels: Size = 16
    out_channels: Size = 16
    num_layers: Few = 30
    time_embed_dim: Size = 512
    ofs_embed_dim: Size | None = None
    text_embed_dim: Size = 4096
    max_text_seq_length: Few = 226
    sample_height: Size = 60
    sample_width: Size = 90
    sample_frames: Size = 49
    temporal_compression_ratio: Size = 4
    patch_size: Few = 2
    patch_size_t: Few | None = None
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    spatial_interpolation_scale: PositiveFloat = 1.875
    temporal_interpolation_scale: PositiveFloat = 1.0
    norm_eps: PositiveFloat = 1e-5
    attention_bias: Literal[True] = True
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    timestep_activation_fn: Literal["silu"] = "silu"
    norm_elementwise_affine: Literal[True] = True

    def __post_init__(self):
        if self.attention_head_dim % 16:
            raise UserError(f"attention_head_dim {self.attention_head_dim} is not a multiple of 16")
        if self.ofs_embed_dim not in (None, self.time_embed_dim):
            raise UserError(f"ofs_embed_dim {self.ofs_embed_dim} should be time_embed_dim {self.time_embed_dim}")
        if self.use_learned_positional_embeddings and not self.use_rotary_positional_embeddings:
            raise UserError("use_learned_positional_embeddings needs use_rotary_positional_embeddings")

    @property
    def width(self) -> int:
        """D."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def frames_per_token(self) -> int:
        """Latent frames of a token."""
        return self.patch_size_t or 1

    @property
    def adds_table(self) -> bool:
        """Whether a position table is added to the sequence, whose text then has exactly the longest length."""
        return self.use_learned_positional_embeddings or not self.use_rotary_positional_embeddings

    def grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tokens along time, height and width of latents of a shape [F, h, w].

        Raises:
          UserError: the shape cannot be cut into patches.
        """
        patch = (self.frames_per_token, self.patch_size, self.patch_size)
        if any(size % part or not size for size, part in zip(shape, patch)):
            raise UserError(f"latents of {list(shape)} frames, rows and columns cannot be cut into patches of {patch}")
        frames, rows, columns = (size // part for size, part in zip(shape, patch))
        return frames, rows, columns

    @property
    def sample_grid(self) -> tuple[int, int, int]:
        """Tokens of the videos that the model was made for."""
        frames = (self.sample_frames - 1) // self.temporal_compression_ratio + 1
        return frames, self.sample_height // self.patch_size, self.sample_width // self.patch_size


TWO_B = TransformerConfig()
FIVE_B = TransformerConfig(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True)
LATER = dataclasses.replace(FIVE_B, patch_size_t=2, sample_height=96, sample_width=170, sample_frames=81)
RELEASED = {
    "CogVideoX-2B": TWO_B,
    "CogVideoX-5B": FIVE_B,
    "CogVideoX-5B-I2V": dataclasses.replace(FIVE_B, in_channels=32, use_learned_positional_embeddings=True),
    "CogVideoX1.5-5B": LATER,
    "CogVideoX1.5-5B-I2V": dataclasses.replace(
        LATER, in_channels=32, ofs_embed_dim=512, sample_height=300, sample_width=300
    ),
}

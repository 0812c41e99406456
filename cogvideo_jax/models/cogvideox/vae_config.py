"""Sizes of the autoencoder, named as in `vae/config.json` of a diffusers snapshot."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import STRICT, PositiveFloat, Size, dataclass_schema

Scale = Annotated[float, Field(strict=True, ge=1e-3, le=1e3)]


@dataclass_schema(STRICT | {"extra": "ignore"})
class VaeConfig:
    """Sizes of the autoencoder, named as in the released config. Only what is released can be set.

    Attributes:
      block_out_channels: widths of the levels, highest resolution first; all but the last halve height and width.
      latent_channels: C.
      layers_per_block: residual blocks of an encoder level; a decoder level has one more.
      norm_num_groups, eps: of GroupNorm.
      sample_height, sample_width: pixels of the clips it was made for; tiles are half as large.
      scaling_factor, invert_scale_latents: of the latents, for the caller; these are those of the 2b model.
      temporal_compression_ratio: pixel frames per latent frame.
      in_channels, out_channels: colours.
      down_block_types, up_block_types: one a level, if they are told; they are all of one kind.
    """

    block_out_channels: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)] = (128, 256, 256, 512)
    latent_channels: Size = 16
    layers_per_block: Annotated[int, Field(strict=True, gt=0, le=16)] = 3
    norm_num_groups: Size = 32
    sample_height: Size = 480
    sample_width: Size = 720
    scaling_factor: Scale = 1.15258426
    invert_scale_latents: bool = False
    temporal_compression_ratio: Literal[1, 2, 4, 8] = 4
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    eps: Annotated[PositiveFloat, Field(alias="norm_eps")] = 1e-6
    act_fn: Literal["silu"] = "silu"
    use_quant_conv: Literal[False] = False
    use_post_quant_conv: Literal[False] = False
    down_block_types: tuple[Literal["CogVideoXDownBlock3D"], ...] = dataclasses.field(default=(), compare=False)
    up_block_types: tuple[Literal["CogVideoXUpBlock3D"], ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self):
        odd = [width for width in self.block_out_channels if width % self.norm_num_groups]
        if odd:
            raise UserError(f"norm_num_groups {self.norm_num_groups} does not divide the width {odd[0]}")

    @property
    def spatial_ratio(self) -> int:
        """Pixels per side of a latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    def changes_time(self, step: int) -> bool:
        """Whether the step from level `step` to the next, or back, changes the number of frames."""
        return 2**step < self.temporal_compression_ratio

"""Sizes of the image tokenizer, and its presets.

`OFFICIAL` is the released model. `DEMO` has a *local* encoder: the code of an 8x8 patch depends on that patch alone, so
an empty background is always the same code.
"""

import dataclasses
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import STRICT, Few, Size, check

Multipliers = Annotated[tuple[Few, ...], Field(min_length=1, max_length=10)]
Blocks = Annotated[int, Field(strict=True, ge=0, le=1000)]
Colour = Annotated[float, Field(ge=-10, le=10)]
Spread = Annotated[float, Field(gt=0, le=10)]


class Norm(StrEnum):
    """Extent of a norm: GROUP is GroupNorm over the image, PIXEL is layer norm over one position."""

    GROUP = "group"
    PIXEL = "pixel"


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """Sizes of the tokenizer; tuples "per rate" are ordered like `rates`.

    Attributes:
      rates: pixels per token side, each twice the one before; the first is that of the encoder itself.
      codebook_size: C.
      code_width: size of a code vector and of the latent that is compared with it.
      latent_channels: channels of the encoder's output, before the projection to `code_width`.
      encoder_channels, encoder_multipliers: widths of the encoder's levels, highest resolution first.
      encoder_res_blocks: residual blocks of each level.
      encoder_patch: kernel and stride of the first convolution; 1 keeps the pixels, with `encoder_kernel`.
      encoder_kernel: side of the other encoder convolutions.
      encoder_downsample_kernel: 3 (padded right and bottom, the released model) or 2 (no padding).
      encoder_norm, encoder_attention: the norm, and whether the middle has an attention block.
      decoder_channels, decoder_multipliers: widths of its levels, highest resolution first, per rate.
      decoder_res_blocks: residual blocks of each level.
      decoder_patch: side of the patches that the last convolution writes; 1 writes pixels.
      decoder_kernel: side of the decoder convolutions.
      decoder_norm, decoder_attention: as in the encoder.
      decoder_lowest_attention: attention after the blocks of the lowest level, per rate.
      groups: groups of GROUP norms.
      mean, std: mean and standard deviation of the pixels in 0..1, per colour channel.
    """

    __pydantic_config__ = STRICT

    rates: Annotated[tuple[Few, ...], Field(min_length=1, max_length=8)]
    codebook_size: Size
    code_width: Size
    latent_channels: Size
    encoder_channels: Size
    encoder_multipliers: Multipliers
    encoder_res_blocks: Blocks
    encoder_patch: Few
    encoder_kernel: Few
    encoder_downsample_kernel: Annotated[int, Field(ge=2, le=3)]
    encoder_norm: Norm
    encoder_attention: bool
    decoder_channels: Size
    decoder_multipliers: tuple[Multipliers, ...]
    decoder_res_blocks: Blocks
    decoder_patch: Few
    decoder_kernel: Few
    decoder_norm: Norm
    decoder_attention: bool
    decoder_lowest_attention: tuple[bool, ...]
    groups: Size
    mean: tuple[Colour, Colour, Colour]
    std: tuple[Spread, Spread, Spread]

    def __post_init__(self):
        reached = self.encoder_patch * 2 ** (len(self.encoder_multipliers) - 1)
        if self.rates != tuple(reached * 2**i for i in range(len(self.rates))) or not self.rates:
            raise UserError(f"rates must double from the encoder's {reached}, got {self.rates}")
        if len(self.decoder_multipliers) != len(self.rates) or len(self.decoder_lowest_attention) != len(self.rates):
            raise UserError(f"decoder settings must have one entry per rate {self.rates}")
        for rate, multipliers in zip(self.rates, self.decoder_multipliers):
            if self.decoder_patch * 2 ** (len(multipliers) - 1) != rate:
                raise UserError(f"decoder of rate {rate} cannot reach it with {len(multipliers)} levels")
        self._check_groups("encoder", self.encoder_norm, self.encoder_channels, (1, *self.encoder_multipliers))
        for multipliers in self.decoder_multipliers:
            self._check_groups("decoder", self.decoder_norm, self.decoder_channels, multipliers)

    def _check_groups(self, half: str, norm: Norm, channels: int, multipliers: tuple[int, ...]) -> None:
        if norm == Norm.GROUP and any(channels * multiplier % self.groups for multiplier in multipliers):
            raise UserError(f"groups {self.groups} do not divide the {half}'s channels {channels} x {multipliers}")

    @property
    def default_rate(self) -> int:
        """The only rate, or 8, CogVideo's rate."""
        return self.rates[0] if len(self.rates) == 1 else 8


OFFICIAL = VQConfig(
    rates=(4, 8, 16),
    codebook_size=20_000,
    code_width=256,
    latent_channels=256,
    encoder_channels=128,
    encoder_multipliers=(1, 2, 4),
    encoder_res_blocks=2,
    encoder_patch=1,
    encoder_kernel=3,
    encoder_downsample_kernel=3,
    encoder_norm=Norm.GROUP,
    encoder_attention=True,
    decoder_channels=128,
    decoder_multipliers=((1, 2, 4), (1, 1, 2, 4), (1, 1, 1, 2, 4)),
    decoder_res_blocks=1,
    decoder_patch=1,
    decoder_kernel=3,
    decoder_norm=Norm.GROUP,
    decoder_attention=True,
    decoder_lowest_attention=(False, False, True),
    groups=32,
    mean=(0.79093, 0.76271, 0.75340),
    std=(0.30379, 0.32279, 0.32800),
)

DEMO = VQConfig(
    rates=(8,),
    codebook_size=1024,
    code_width=32,
    latent_channels=64,
    encoder_channels=96,
    encoder_multipliers=(1,),
    encoder_res_blocks=1,
    encoder_patch=8,
    encoder_kernel=1,
    encoder_downsample_kernel=2,
    encoder_norm=Norm.PIXEL,
    encoder_attention=False,
    decoder_channels=40,
    decoder_multipliers=((1, 2),),
    decoder_res_blocks=1,
    decoder_patch=4,
    decoder_kernel=3,
    decoder_norm=Norm.PIXEL,
    decoder_attention=False,
    decoder_lowest_attention=(False,),
    groups=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def config_from_dict(values: dict) -> VQConfig:
    """The inverse of `dataclasses.asdict`. Raises UserError if a key is wrong, missing or unknown."""
    return check(values, VQConfig, where="the tokenizer's configuration")

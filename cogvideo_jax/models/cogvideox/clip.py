"""Lengths and sizes of clips, in pixels and in latents, and what the released models are made for."""

import dataclasses
from typing import NamedTuple

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.config import TransformerConfig

RATIO = 8  # pixels to a side of a latent; the same in every release
STEP = 16  # pixels that height and width are multiples of: two latents make a token


class Latents(NamedTuple):
    """Shape of a clip's latents.

    Attributes:
      frames: that the transformer sees.
      dropped: first frames that are not decoded: 1.5 needs an even number.
      rows, columns: of each.
    """

    frames: int
    dropped: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[F, h, w]."""
        return self.frames, self.rows, self.columns


@dataclasses.dataclass(frozen=True)
class Published:
    """How the maintainers of a model run it.

    Attributes:
      frames: of a clip, by default; `every` is the step of lengths, and `most` the longest.
      size: largest height and width.
      fps: of its clips.
      sampler, dynamic_guidance: how it is sampled.
    """

    frames: int
    every: int
    most: int
    size: tuple[int, int]
    fps: float
    sampler: str
    dynamic_guidance: bool


FIRST = Published(49, 8, 49, (480, 720), 8.0, "dpm", True)
TWO_B = dataclasses.replace(FIRST, sampler="ddim", dynamic_guidance=False)
LATER = Published(81, 16, 161, (768, 1360), 16.0, "dpm", True)


def published(config: TransformerConfig) -> Published:
    """Of the release that a transformer belongs to, no larger than what it was made for."""
    found = LATER if config.patch_size_t else FIRST if config.use_rotary_positional_embeddings else TWO_B
    height, width = (RATIO * side for side in (config.sample_height, config.sample_width))
    size = min(found.size[0], height), min(found.size[1], width)
    longest = (config.sample_frames - 1) // found.every * found.every + 1
    return dataclasses.replace(found, size=size, frames=min(found.frames, longest))


def latents_of(config: TransformerConfig, frames: int, size: tuple[int, int]) -> Latents:
    """Shape of the latents of a clip of so many frames, at (height, width) in pixels."""
    count = (frames - 1) // config.temporal_compression_ratio + 1
    missing = -count % config.frames_per_token
    return Latents(count + missing, missing, size[0] // RATIO, size[1] // RATIO)


def require_frames(config: TransformerConfig, frames: int) -> None:
    """Raises UserError unless a released model of this kind makes clips of this length."""
    rule = published(config)
    if frames % rule.every != 1 or not 1 <= frames <= rule.most:
        below = (min(frames, rule.most) - 1) // rule.every * rule.every + 1
        raise UserError(
            f"these weights make {rule.every}n + 1 frames, at most {rule.most}; got {frames}, choose {max(1, below)}"
        )


def require_size(config: TransformerConfig, size: tuple[int, int]) -> None:
    """Raises UserError unless height and width in pixels are whole tokens, and few enough."""
    if any(side % STEP for side in size):
        near = "x".join(str(max(STEP, round(side / STEP) * STEP)) for side in size)
        raise UserError(f"height and width must be multiples of {STEP}, got {size[0]}x{size[1]}; {near} is near")
    largest = RATIO * config.sample_height, RATIO * config.sample_width
    exact = config.use_learned_positional_embeddings
    if (exact and size != largest) or (config.patch_size_t and any(a > b for a, b in zip(size, largest))):
        how = "exactly" if exact else "at most"
        raise UserError(f"these weights make {how} {largest[0]}x{largest[1]} pixels, not {size[0]}x{size[1]}")


def size_warnings(config: TransformerConfig, size: tuple[int, int]) -> list[str]:
    """Sizes that models of the first release were not trained on."""
    usual = published(config).size
    if config.patch_size_t or size == usual:
        return []
    return [f"these weights were trained on {usual[0]}x{usual[1]} pixels; {size[0]}x{size[1]} may look worse"]

"""Spatial tiles of the autoencoder: overlapping pieces of every frame, each a whole clip in time, blended at the seams.

Memory then depends on the tile, not on the clip. GroupNorm sees a tile instead of the frame, so the result is another
one than without tiles. Tiles are half the size that the config names, and overlap by 1/6 in height and 1/5 in width.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Program
from cogvideo_jax.models.cogvideox.vae import (
    Vae,
    decode,
    decode_programs,
    encode,
    encode_programs,
)
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.notation import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A tiling of frames. Pairs are (rows, columns).

    Attributes:
      size: the tile that goes in; those at the lower and right edges are smaller.
      stride: distance of tiles that go in.
      blend: seam of results that come out.
      kept: part of a result that stays, from its top left; all but the seam.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    blend: tuple[int, int]
    kept: tuple[int, int]

    def needed(self, shape: tuple[int, ...]) -> bool:
        """Whether the frames of a clip of a shape [B T H W C] exceed one tile."""
        return shape[2] > self.size[0] or shape[3] > self.size[1]

    def cut(self, clip: Float[Array, "B T H W C"]) -> Iterator[list[Array]]:
        """The rows of overlapping tiles."""
        height, width = self.size
        for top in range(0, clip.shape[2], self.stride[0]):
            band = clip[:, :, top : top + height]
            yield [band[:, :, :, left : left + width] for left in range(0, clip.shape[3], self.stride[1])]


def tiles(config: VaeConfig) -> tuple[Tiles, Tiles]:
    """The tilings of pixels, for the encoder, and of latents, for the decoder.

    Raises:
      UserError: the overlaps are not whole latents; the parts that are kept would not add up to the frame.
    """
    ratio = config.spatial_ratio
    rows, columns = (side // 2 // ratio for side in (config.sample_height, config.sample_width))
    if not rows or not columns or rows % 6 or columns % 5:
        raise UserError(
            f"A tile of {rows}x{columns} latents cannot be blended: sample_height must be a multiple of {12 * ratio}"
            f" and sample_width one of {10 * ratio}."
        )
    size, blend = (rows, columns), (rows // 6, columns // 5)
    stride = (rows - blend[0], columns - blend[1])
    pixel_size, pixel_blend, pixel_stride = (_times(pair, ratio) for pair in (size, blend, stride))
    return Tiles(pixel_size, pixel_stride, blend, stride), Tiles(size, stride, pixel_blend, pixel_stride)


def tiled_encode(model: Vae, params: PyTree, pixels: Float[Array, "B T H W c"]) -> Float[Array, "B L h w M"]:
    """Moments of a clip, tile by tile where frames exceed one tile."""
    tiling, _ = tiles(model.config)
    return _run(lambda tile: encode(model, params, tile), pixels, tiling)


def tiled_decode(model: Vae, params: PyTree, latents: Float[Array, "B L h w C"]) -> Float[Array, "B T H W c"]:
    """Pixels of a clip, tile by tile where frames exceed one tile."""
    _, tiling = tiles(model.config)
    return _run(lambda tile: decode(model, params, tile), latents, tiling)


def _run(run: Callable[[Array], Array], clip: Array, tiling: Tiles) -> Array:
    """Runs every tile and joins the results row by row, so that two rows of tiles are kept at a time."""
    if not tiling.needed(clip.shape):
        return run(clip)
    height, width = tiling.kept
    above, joined = None, []
    for tiles_of_row in tiling.cut(clip):
        above = blend_row([run(tile) for tile in tiles_of_row], above, tiling.blend)
        joined.append(jnp.concatenate([tile[:, :, :height, :width] for tile in above], axis=3))
    return jnp.concatenate(joined, axis=2)


def blend_row(row: list[Array], above: list[Array] | None, blend: tuple[int, int]) -> list[Array]:
    """Blends each tile into the one above and then into the one on its left, both as they are after blending."""
    blended = []
    for column, tile in enumerate(row):
        if above is not None:
            tile = fade(above[column], tile, axis=2, seam=blend[0])
        if blended:
            tile = fade(blended[-1], tile, axis=3, seam=blend[1])
        blended.append(tile)
    return blended


def fade(
    before: Float[Array, "B T P Q C"], after: Float[Array, "B T H W C"], *, axis: int, seam: int
) -> Float[Array, "B T H W C"]:
    """Replaces the start of `after` by a linear transition from the end of `before`."""
    seam = min(before.shape[axis], after.shape[axis], seam)
    weight = jnp.arange(seam) / seam
    weight = weight.reshape([seam if i == axis else 1 for i in range(after.ndim)]).astype(after.dtype)
    ending = jnp.take(before, jnp.arange(before.shape[axis] - seam, before.shape[axis]), axis=axis)
    start, rest = jnp.split(after, [seam], axis=axis)
    return jnp.concatenate([ending * (1 - weight) + start * weight, rest], axis=axis)


def _times(pair: tuple[int, int], factor: int) -> tuple[int, int]:
    return pair[0] * factor, pair[1] * factor


def tiled_encode_programs(model: Vae, params: PyTree, pixels: jax.ShapeDtypeStruct) -> list[Program]:
    """All programs of `tiled_encode` for a clip of this shape, from shapes alone."""
    tiling, _ = tiles(model.config)
    return _programs(lambda tile: encode_programs(model, params, tile), pixels, tiling)


def tiled_decode_programs(model: Vae, params: PyTree, latents: jax.ShapeDtypeStruct) -> list[Program]:
    """All programs of `tiled_decode` for latents of this shape, from shapes alone."""
    _, tiling = tiles(model.config)
    return _programs(lambda tile: decode_programs(model, params, tile), latents, tiling)


def _programs(lower: Callable[[jax.ShapeDtypeStruct], list[Program]], clip: jax.ShapeDtypeStruct, tiling: Tiles):
    """Programs of every shape that tiles have, with the calls of all tiles of that shape."""
    if not tiling.needed(clip.shape):
        return lower(clip)
    sides = (
        collections.Counter(min(size, length - start) for start in range(0, length, stride))
        for length, size, stride in zip(clip.shape[2:4], tiling.size, tiling.stride)
    )
    rows, columns = sides
    found = []
    for height, down in rows.items():
        for width, along in columns.items():
            tile = jax.ShapeDtypeStruct((*clip.shape[:2], height, width, clip.shape[4]), clip.dtype)
            found += [Program(one.lowered, one.calls * down * along) for one in lower(tile)]
    return found

"""Local attention in two dimensions: a fine token looks at a few rows and columns around it, on one grid or two.

This replaces the release's CUDA kernel on every device. The picture is cut into tiles; the queries of a tile attend to
the rectangle of keys that holds all their neighbourhoods, under a mask. More products than needed, but of matrices:
on a CPU they take a fraction of the time of one key after another, and memory grows with the number of tokens, not with
its square.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.nn.attention import Groups, Kernel, KeysValues, attend
from cogvideo_jax.nn.dropout import Drops
from cogvideo_jax.notation import Array, Bool, Float

TILE = 2  # kernels along each side of a tile, at most


class Neighbourhood(NamedTuple):
    """A grid of keys and the kernel in which a query sees it.

    The grid is the queries' own, or one that is coarser by a factor f; query (y, x) then looks around the cell
    (y // f, x // f).
    """

    keys: KeysValues  # [B, h, w, A, K]
    kernel: tuple[int, int]  # rows and columns, odd


class Line(NamedTuple):
    """Tiles along one side of the picture, and the keys that each of them reads.

    Attributes:
      tiles: how many.
      queries: in a tile; the last tile may reach beyond the picture.
      first: key that the first tile starts with; negative if it is outside the picture.
      step: keys from one tile to the next.
      keys: in a tile.
    """

    tiles: int
    queries: int
    first: int
    step: int
    keys: int


def attend_locally(
    query: Float[Array, "B H W A K"],
    sources: tuple[Neighbourhood, ...],
    *,
    text: KeysValues | None = None,
    text_mask: Bool[Array, "B S"] | None = None,
    drops: Drops | None = None,
    kernel: Kernel = Kernel.BLOCKED,
) -> Float[Array, "B H W A K"]:
    """Joint softmax over text keys, if given, and the neighbourhoods in order.

    Args:
      query: queries on the fine grid.
      sources: neighbourhoods, e.g. (coarse, fine) in the direct model; what is outside the picture is not seen.
      text: keys and values [B S A K] that every query sees.
      text_mask: False on padding of `text`.
      drops: dropped probabilities.
      kernel: PLAIN or BLOCKED.
    """
    grid = query.shape[1:3]
    factors = [grid[0] // source.keys.k.shape[1] for source in sources]
    largest = np.max([source.kernel for source in sources], axis=0)
    sides = [_tile_side(length, TILE * int(k), int(np.lcm.reduce(factors))) for length, k in zip(grid, largest)]
    lines = [
        [_line(length, side, factor, size) for length, side, size in zip(grid, sides, source.kernel)]
        for source, factor in zip(sources, factors)
    ]
    keys = [KeysValues(*(_cut(x, line) for x in source.keys)) for source, line in zip(sources, lines)]
    masks = [
        _seen(source.keys.k.shape[1:3], line, factor, source.kernel)
        for source, line, factor in zip(sources, lines, factors)
    ]
    joined = KeysValues(*(jnp.concatenate(parts, axis=2) for parts in zip(*keys)))
    out = attend(
        _cut(query, [_line(length, side, 1, 1) for length, side in zip(grid, sides)]),
        text=text,
        text_mask=text_mask,
        groups=Groups(joined, np.concatenate(masks, axis=-1)[None]),
        drops=drops,
        kernel=kernel,
    )
    return _joined(out, lines[0], grid)


def _tile_side(length: int, most: int, factor: int) -> int:
    """Queries along a side of a tile, a multiple of `factor`: tiles are as equal as they can be."""
    tiles = -(-length // max(most, factor))
    return -(-length // (tiles * factor)) * factor


def _line(length: int, side: int, factor: int, kernel: int) -> Line:
    """Tiles along a side of `length` queries, and their keys, on a grid coarser by `factor`."""
    return Line(-(-length // side), side, -(kernel // 2), side // factor, side // factor + kernel - 1)


def _cut(x: Float[Array, "B h w A K"], lines: list[Line]) -> Float[Array, "B tiles m A K"]:
    """Rectangles of all tiles, row by row; zeros outside the picture."""
    for axis, line in zip((1, 3), lines):  # the first cut adds an axis before the columns
        last = line.first + (line.tiles - 1) * line.step + line.keys
        ends = [(0, 0)] * x.ndim
        ends[axis] = (-line.first, max(0, last - x.shape[axis]))
        x = jnp.pad(x, ends)
        starts = range(0, line.tiles * line.step, line.step)
        x = jnp.stack([jnp.take(x, np.arange(start, start + line.keys), axis) for start in starts], axis)
    batch, rows, high, columns, wide, *rest = x.shape
    return x.swapaxes(2, 3).reshape(batch, rows * columns, high * wide, *rest)


def _joined(x: Float[Array, "B tiles q A K"], lines: list[Line], grid: tuple[int, int]) -> Float[Array, "B H W A K"]:
    """The picture of the queries' tiles."""
    rows, columns = lines
    batch, rest = x.shape[0], x.shape[3:]
    x = x.reshape(batch, rows.tiles, columns.tiles, rows.queries, columns.queries, *rest).swapaxes(2, 3)
    x = x.reshape(batch, rows.tiles * rows.queries, columns.tiles * columns.queries, *rest)
    return x[:, : grid[0], : grid[1]]


def _seen(
    grid: tuple[int, int], lines: list[Line], factor: int, kernel: tuple[int, int]
) -> Bool[np.ndarray, "tiles q m"]:
    """Keys of its tile's rectangle that each query sees: in its kernel, and inside the grid of keys.

    Along one side of 6 queries in two tiles of 3, with their own keys and a kernel of 3 (the first and the last key of
    a tile are its neighbours'):

        tile 0  0 1 1 0 0      tile 1  1 1 1 0 0
                0 1 1 1 0              0 1 1 1 0
                0 0 1 1 1              0 0 1 1 0
    """
    sides = []
    for length, line, size in zip(grid, lines, kernel):
        tile, query, key = np.ix_(range(line.tiles), range(line.queries), range(line.keys))
        place = line.first + tile * line.step + key
        near = (key >= query // factor) & (key < query // factor + size)
        sides.append(near & (place >= 0) & (place < length))
    rows, columns = sides
    mask = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return mask.reshape(mask.shape[0] * mask.shape[1], mask.shape[2] * mask.shape[3], -1)

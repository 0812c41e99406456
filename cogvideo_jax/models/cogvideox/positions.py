"""Positions of video tokens: rotations of queries and keys, and tables added to the sequence.

Tokens are ordered (time, row, column). Tables are made on the host, for one grid at a time.
"""

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.nn.embeddings import rotary_angles, sine_cosine
from cogvideo_jax.notation import Float

Grid = tuple[int, int, int]  # tokens along time, height and width


def rotations(config: TransformerConfig, grid: Grid) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N K"]]:
    """Cosines and sines for the tokens of a grid, in float32.

    A quarter of a head's features turns with time, three eighths each with the row and the column. Models with patches
    in time count positions; the others stretch the grid over the middle of the one that they were made for.

    Raises:
      UserError: more rows or columns than a model that counts was made for.
    """
    frames, rows, columns = grid
    if config.patch_size_t is None:
        tops, lefts = cropped((rows, columns), config.sample_grid[1:])
        down, along = _stretched(*tops, rows), _stretched(*lefts, columns)
    else:
        _require_room(config, grid)
        down, along = np.arange(rows), np.arange(columns)
    size = config.attention_head_dim
    parts = zip((np.arange(frames), down, along), (size // 4, size // 8 * 3, size // 8 * 3))
    tables = tuple(rotary_angles(positions, width) for positions, width in parts)
    angles = _side_by_side(grid, tables, (0, 1, 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def cropped(size: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, bottom) and (left, right) of the largest middle part of a base grid that has the shape of another."""
    (rows, columns), (height, width) = size, base
    if rows / columns > height / width:
        part = height, round(height / rows * columns)
    else:
        part = round(width / columns * rows), width
    top, left = round((height - part[0]) / 2), round((width - part[1]) / 2)
    return (top, top + part[0]), (left, left + part[1])


def sine_cosine_table(config: TransformerConfig, grid: Grid) -> Float[np.ndarray, "L D"]:
    """Table to add to text and video tokens, in float32: time, column, row; zero for the text."""
    scale = np.float32(config.spatial_interpolation_scale), np.float32(config.temporal_interpolation_scale)
    time, rows, columns = (np.arange(count, dtype=np.float32) for count in grid)
    part = config.width // 8
    tables = (
        sine_cosine(time / scale[1], 2 * part),
        sine_cosine(rows / scale[0], 3 * part),
        sine_cosine(columns / scale[0], 3 * part),
    )
    video = _side_by_side(grid, tables, (0, 2, 1))
    text = np.zeros((config.max_text_seq_length, config.width))
    return np.concatenate([text, video]).astype(np.float32)


def takes_stored_table(config: TransformerConfig, grid: Grid) -> bool:
    """Whether the table in the weights fits a grid; for another number of frames, sines and cosines replace it.

    Raises:
      UserError: the table is of another height or width.
    """
    frames, rows, columns = config.sample_grid
    if grid[1:] != (rows, columns):
        height, width = 8 * config.sample_height, 8 * config.sample_width
        raise UserError(f"these weights make videos of {height}x{width} pixels only; leave the size out")
    return grid[0] == frames


def _stretched(start: int, stop: int, count: int) -> Float[np.ndarray, "count"]:
    """Evenly spaced positions from `start`, as the released inference has them.

    The last is stop * (n-1) / n, whatever the start, so the spacing is not (stop - start) / n.
    """
    return np.linspace(start, stop * (count - 1) / count, count, dtype=np.float32)


def _side_by_side(grid: Grid, tables: tuple[np.ndarray, ...], order: tuple[int, ...]) -> Float[np.ndarray, "N D"]:
    """For every token of a grid, the rows of the tables of its time, row and column, in some order of these."""
    places = np.indices(grid).reshape(len(grid), -1)
    return np.concatenate([tables[axis][places[axis]] for axis in order], axis=-1)


def _require_room(config: TransformerConfig, grid: Grid) -> None:
    _, rows, columns = config.sample_grid
    if grid[1] > rows or grid[2] > columns:
        raise UserError(
            f"a grid of {grid[1]} x {grid[2]} tokens is larger than the {rows} x {columns} that these weights were "
            "made for; choose a smaller size"
        )

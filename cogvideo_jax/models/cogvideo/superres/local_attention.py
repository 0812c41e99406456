"""Local attention in two dimensions: a fine token looks at a few rows and columns around it, on one grid or two.

This replaces the release's CUDA kernel on every device: the grid of keys is shifted by each offset of the kernel in
turn and multiplied with all queries at once. The largest arrays are one shifted grid and the scores [.., offsets], so
memory grows with the number of tokens, not with its square.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.transformer.attention import MASKED, KeysValues
from cogvideo_jax.notation import Array, Bool, Float, Int


class Neighbourhood(NamedTuple):
    """A grid of keys and the kernel in which a query sees it.

    The grid is the queries' own, or one that is coarser by a factor f; query (y, x) then looks around the cell
    (y // f, x // f).
    """

    keys: KeysValues  # [B, h, w, A, K]
    kernel: tuple[int, int]  # rows and columns, odd


def attend_locally(
    query: Float[Array, "B H W A K"],
    sources: tuple[Neighbourhood, ...],
    *,
    text: KeysValues | None = None,
    text_mask: Bool[Array, "B S"] | None = None,
    dropout: nn.Dropout | None = None,
) -> Float[Array, "B H W A K"]:
    """Joint softmax over text keys, if given, and the neighbourhoods in order. Softmax and sums are float32.

    Args:
      query: queries on the fine grid.
      sources: neighbourhoods, e.g. (coarse, fine) in the direct model. Outside the picture scores are MASKED and
        values are 0.
      text: keys and values [B S A K] that every query sees.
      text_mask: False on padding of `text`.
      dropout: applied to the probabilities.
    """
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    scores = [_scores(query, source) for source in sources]
    if text is not None:
        on_text = jnp.einsum("bhwak,bsak->bhwas", query, text.k, preferred_element_type=jnp.float32)
        scores.insert(0, jnp.where(text_mask[:, None, None, None, :], on_text, MASKED))
    ends = np.cumsum([score.shape[-1] for score in scores])
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
    if dropout is not None:
        probabilities = dropout(probabilities)
    parts = jnp.split(probabilities, ends[:-1], axis=-1)
    out = 0.0
    if text is not None:
        out = jnp.einsum("bhwas,bsak->bhwak", parts.pop(0), text.v, preferred_element_type=jnp.float32)
    for part, source in zip(parts, sources):
        out += _weighted_values(part, source)
    return out.astype(query.dtype)


def inside(grid: tuple[int, int], kernel: tuple[int, int], factor: int) -> Bool[np.ndarray, "H W M"]:
    """Mask of the M offsets (row-major) of each query that are inside the grid of keys.

    A 3 x 3 kernel on a grid of 3 x 3 with factor 1; the offsets of three queries, drawn as squares:

        query (0, 0)  0 0 0      query (1, 1)  1 1 1      query (2, 1)  1 1 1
                      0 1 1                    1 1 1                    1 1 1
                      0 1 1                    1 1 1                    0 0 0

    Args:
      grid: rows and columns of the keys' grid.
      factor: f, queries per cell along each axis.
    """
    lines = []
    for cells, size in zip(grid, kernel):
        cell = np.arange(cells * factor)[:, None] // factor + np.arange(size) - size // 2
        lines.append((cell >= 0) & (cell < cells))  # [H, rows of the kernel], [W, columns]
    mask = lines[0][:, None, :, None] & lines[1][None, :, None, :]
    return mask.reshape(*mask.shape[:2], -1)


def _scores(query: Float[Array, "B H W A K"], source: Neighbourhood) -> Float[Array, "B H W A M"]:
    """Scores of all offsets, float32."""
    keys = source.keys.k
    factor = query.shape[1] // keys.shape[1]
    blocked, padded = _by_cell(query, keys.shape), _padded(keys, source.kernel)

    @jax.checkpoint  # otherwise every shifted grid is kept for the backward pass
    def at_offset(corner):
        shifted = _shifted(padded, corner, keys.shape)
        return jnp.einsum("bhiwjak,bhwak->bhiwja", blocked, shifted, preferred_element_type=jnp.float32)

    scores = jax.lax.map(at_offset, _corners(source.kernel))
    scores = jnp.moveaxis(scores, 0, -1).reshape(*query.shape[:-1], -1)
    visible = inside(keys.shape[1:3], source.kernel, factor)
    return jnp.where(visible[:, :, None], scores, MASKED)


def _weighted_values(weights: Float[Array, "B H W A M"], source: Neighbourhood) -> Float[Array, "B H W A K"]:
    """Sum over the offsets of weight times value, float32."""
    values = source.keys.v
    blocked, padded = _by_cell(weights, values.shape), _padded(values, source.kernel)

    @jax.checkpoint
    def at_offset(weight, corner):
        shifted = _shifted(padded, corner, values.shape).astype(jnp.float32)
        return weight.astype(jnp.float32)[..., None] * shifted[:, :, None, :, None]  # [B h f w f A K]

    def add(total, item):
        return total + at_offset(*item), None

    start = jnp.zeros((*blocked.shape[:-1], values.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add, start, (jnp.moveaxis(blocked, -1, 0), _corners(source.kernel)))
    return total.reshape(*weights.shape[:-1], -1)


def _by_cell(x: Float[Array, "B H W A n"], keys: tuple[int, ...]) -> Float[Array, "B h f w f A n"]:
    """Groups queries by their cell of the key grid."""
    batch, rows, columns = keys[:3]
    return x.reshape(batch, rows, x.shape[1] // rows, columns, x.shape[2] // columns, *x.shape[3:])


def _padded(x: Float[Array, "B h w A K"], kernel: tuple[int, int]) -> Array:
    """Pads the grid with half a kernel of zeros."""
    rows, columns = kernel[0] // 2, kernel[1] // 2
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0), (0, 0)))


def _corners(kernel: tuple[int, int]) -> Int[np.ndarray, "M 2"]:
    """First row and column of each offset's shifted grid in the padded one, in row-major order."""
    return np.stack(np.meshgrid(*map(np.arange, kernel), indexing="ij"), axis=-1).reshape(-1, 2)


def _shifted(padded: Array, corner: Int[Array, "2"], shape: tuple[int, ...]) -> Float[Array, "B h w A K"]:
    """Grid of keys shifted by one offset."""
    return jax.lax.dynamic_slice(padded, (0, corner[0], corner[1], 0, 0), shape)

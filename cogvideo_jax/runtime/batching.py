"""Splits many rows into calls of one fixed size, so that one program is compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.mesh import round_up


def calls_of(rows: int, size: int) -> int:
    """Number of calls of `size` rows that cover all rows."""
    return -(-rows // size)


def in_chunks(
    call: Callable[..., PyTree],
    arrays: Sequence[Any],
    *,
    rows: int,
    on_call: Callable[[], Any] = lambda: None,
) -> PyTree:
    """Runs `call` on equal chunks of all rows, so that one program is compiled; returns NumPy arrays.

    The last chunk is padded with copies of the last row, whose results are dropped.

    Args:
      call: chunks of the arrays -> results with as many rows.
      arrays: have rows along their first axis.
      rows: rows of one call; rounded up to a number that the mesh can share equally.
      on_call: called after each call.
    """
    if rows < 1:
        raise UserError(f"rows of one call must be at least 1, got {rows}")
    total = len(arrays[0])
    size = round_up(rows)
    parts = []
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        parts.append(jax.tree.map(np.asarray, call(*(_rows(array, index) for array in arrays))))
        on_call()
    return jax.tree.map(lambda *chunks: np.concatenate(chunks)[:total], *parts)


def _rows(array: Any, index: np.ndarray) -> Any:
    """Selects rows: on the host for a host array, by a small program for a device array."""
    return _device_rows(array, index) if isinstance(array, jax.Array) else array[index]


@jax.jit
def _device_rows(array: jax.Array, index: jax.Array) -> jax.Array:
    return array[index]

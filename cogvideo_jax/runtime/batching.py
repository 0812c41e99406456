"""Many rows through a program of one fixed size: the split that every part of a chain uses."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.mesh import round_up


def calls_of(rows: int, size: int) -> int:
    """Calls of `size` rows that cover all rows."""
    return -(-rows // size)


def in_chunks(
    call: Callable[..., PyTree],
    arrays: Sequence[Any],
    *,
    rows: int,
    on_call: Callable[[], Any] = lambda: None,
) -> PyTree:
    """Calls with equal chunks of all rows, so that one program is compiled; results come as NumPy arrays.

    The last chunk is filled up with copies of the last row, whose results are cut off.

    Args:
      call: chunks of the arrays -> results with as many rows.
      arrays: with rows along their first axis.
      rows: of one call; rounded up to what the mesh shares equally.
      on_call: told after each call.
    """
    if rows < 1:
        raise UserError(f"rows of one call must be at least 1, got {rows}")
    total = len(arrays[0])
    size = round_up(min(rows, total))
    parts = []
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        parts.append(jax.tree.map(np.asarray, call(*(_rows(array, index) for array in arrays))))
        on_call()
    return jax.tree.map(lambda *chunks: np.concatenate(chunks)[:total], *parts)


def _rows(array: Any, index: np.ndarray) -> Any:
    """Rows of a host array on the host, of a device array by one small program."""
    return _device_rows(array, index) if isinstance(array, jax.Array) else array[index]


@jax.jit
def _device_rows(array: jax.Array, index: jax.Array) -> jax.Array:
    return array[index]

"""Safetensors files larger than memory, written chunk by chunk and read slice by slice.

In: types and shapes of all leaves, then their data in chunks. Out: a file that the safetensors library reads.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import require_regular_file, whole_file

TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class Leaf(NamedTuple):
    """Type and shape of an array on disk."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def write_stream(
    path: str | Path,
    leaves: dict[str, Leaf],
    *,
    chunks: Callable[[str], Iterable[np.ndarray]],
    metadata: dict[str, str],
    replace: bool = False,
) -> None:
    """Writes a file with one chunk in memory at a time.

    Args:
      chunks: name -> arrays of the leaf's type that fill it from its first byte to its last.

    Raises:
      UserError: chunks of another type, too few or too many of them, or the file cannot be written; see `whole_file`.
    """
    order = sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name))  # keeps every leaf aligned
    with whole_file(path, replace=replace) as draft, draft.open("wb") as file:
        file.write(_header({name: leaves[name] for name in order}, metadata))
        for name in order:
            _write_leaf(file, name, leaves[name], chunks(name))


def read_header(path: str | Path) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Leaves and metadata of a file.

    Raises:
      UserError: the file is missing, damaged or not a safetensors file, or has a type that NumPy lacks.
    """
    require_regular_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            leaves = {name: Leaf(TYPES[s.get_dtype()], tuple(s.get_shape())) for name, s in slices.items()}
            return leaves, file.metadata() or {}
    except KeyError as error:
        raise UserError(f"{path} has an array of type {error}, which is not supported") from error
    except (safetensors.SafetensorError, OSError, MemoryError) as error:  # of a file that claims too much
        raise UserError(f"{path} is not a safetensors file, or it is damaged") from error


def read_leaf(path: str | Path, name: str, index: slice | tuple[slice, ...] | None = None) -> np.ndarray:
    """Reads a leaf, or a slice of it. The file is mapped for this call only, so that its pages do not add up.

    Raises:
      UserError: the file was replaced since its header was read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.get_tensor(name) if index is None else file.get_slice(name)[index]
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} has no array {name!r} any more, or it is damaged") from error


def require_finite(array: np.ndarray, *, name: str, path: str | Path) -> np.ndarray:
    """The array. Raises UserError if one of its numbers is NaN or infinite."""
    if not np.isfinite(array).all():
        raise UserError(f"{path} is damaged: {name} has numbers that are NaN or infinite")
    return array


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Bytes of an array in C order, without a copy if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _header(leaves: dict[str, Leaf], metadata: dict[str, str]) -> bytes:
    """Header of a file: its length, then JSON padded with spaces to a multiple of 8 bytes."""
    names = {dtype: name for name, dtype in TYPES.items()}
    table, offset = {"__metadata__": metadata}, 0
    for name, leaf in leaves.items():
        span = [offset, offset + leaf.nbytes]
        table[name] = {"dtype": names[leaf.dtype], "shape": list(leaf.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_leaf(file: BinaryIO, name: str, leaf: Leaf, chunks: Iterable[np.ndarray]) -> None:
    written = 0
    for chunk in chunks:
        if chunk.dtype != leaf.dtype:
            raise UserError(f"{name} is {leaf.dtype}, but a chunk of it is {chunk.dtype}")
        written += file.write(as_bytes(chunk))
    if written != leaf.nbytes:
        raise UserError(f"{name} has {leaf.nbytes} bytes, but its chunks have {written}")

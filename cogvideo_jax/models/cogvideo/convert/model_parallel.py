"""Ranks of a model-parallel save -> one checkpoint.

Each rank has its heads' rows of q, of k and of v, its rows of the vocabulary and of the MLP's first matrix, and its
columns of the matrices that follow; everything else is equal in all ranks.
"""

import re
from pathlib import Path

import numpy as np

from cogvideo_jax.convert.checkpoint_files import Rank
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideo.convert.transformer_names import Split, video_rules
from cogvideo_jax.runtime.safetensors_stream import Leaf, as_bytes

SPLITS = {rule.official: rule.split for rule in video_rules().values()}
AXES = {Split.ROWS: 0, Split.QKV: 0, Split.COLUMNS: 1}


def split_of(name: str) -> Split:
    """Split of an official array over ranks; unknown names count as not split."""
    return SPLITS.get(re.sub(r"\.\d+(?=\.|$)", ".{i}", name), Split.NONE)


def merge_ranks(ranks: list[Rank], source: Path) -> Rank:
    """Joins ranks to one set of leaves and one reader.

    Raises:
      ConversionError: the ranks differ in names, types or shapes; while reading, if a shared array differs.
    """
    if len(ranks) == 1:
        return ranks[0]
    first = ranks[0][0]
    for number, (leaves, _) in enumerate(ranks):
        if leaves != first:
            odd = sorted(name for name in leaves.keys() | first.keys() if leaves.get(name) != first.get(name))
            raise ConversionError(f"{source} is damaged: {odd[0][:80]!r} of rank {number} does not fit that of rank 0")
    whole = {name: _whole(name, leaf, len(ranks), source) for name, leaf in first.items()}

    def read(name: str) -> np.ndarray:
        return _join(name, [read_rank(name) for _, read_rank in ranks], source)

    return whole, read


def _whole(name: str, leaf: Leaf, ranks: int, source: Path) -> Leaf:
    axis, shape = AXES.get(split_of(name)), list(leaf.shape)
    if axis is None:
        return leaf
    if axis >= len(shape) or (split_of(name) == Split.QKV and shape[0] % 3):
        raise ConversionError(f"{source} is damaged: {name} has the shape {leaf.shape} in each rank")
    shape[axis] *= ranks
    return Leaf(leaf.dtype, tuple(shape))


def _join(name: str, parts: list[np.ndarray], source: Path) -> np.ndarray:
    match split_of(name):
        case Split.ROWS:
            return np.concatenate(parts)
        case Split.COLUMNS:
            return np.concatenate(parts, axis=1)
        case Split.QKV:
            thirds = [part.reshape(3, -1, *part.shape[1:]) for part in parts]
            joined = np.concatenate(thirds, axis=1)
            return joined.reshape(-1, *parts[0].shape[1:])
    if any(not np.array_equal(as_bytes(part), as_bytes(parts[0])) for part in parts[1:]):
        raise ConversionError(f"{source} is damaged: its model-parallel files disagree on {name}")
    return parts[0]

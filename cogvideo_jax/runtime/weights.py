"""Safetensors files of a tree of arrays and a JSON description. Reading one cannot run code."""

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.files import require_regular_file
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf, require_finite, write_stream
from cogvideo_jax.runtime.schemas import parse_json

T = TypeVar("T")


def save_weights(path: str | Path, tree: PyTree, description: dict, *, replace: bool = False) -> None:
    """Writes a file. Raises UserError if it cannot be written; see `whole_file`."""
    flat = {name: np.asarray(value) for name, value in flatten_dict(tree, sep="/").items()}
    leaves = {name: Leaf(array.dtype, array.shape) for name, array in flat.items()}
    metadata = {"description": json.dumps(description)}
    write_stream(path, leaves, chunks=lambda name: [flat[name]], metadata=metadata, replace=replace)


def load_weights(path: str | Path, schema: type[T] = dict) -> tuple[PyTree, T]:
    """Reads the tree (NumPy arrays) and its description.

    Raises:
      UserError: the file is missing or damaged, has NaN, or its description is missing or does not fit the schema.
    """
    require_regular_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description = _parsed(path, file.metadata() or {}, schema)
            flat = {name: require_finite(file.get_tensor(name), name=name, path=path) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a weights file of this project, or it is damaged") from error
    return unflatten_dict(flat, sep="/"), description


def read_description(path: str | Path, schema: type[T] = dict) -> tuple[dict[str, Leaf], T]:
    """Type and shape by path "a/b/c", and the description, without reading arrays.

    Raises:
      UserError: the file is missing or damaged, or its description is missing or does not fit the schema.
    """
    leaves, metadata = read_header(path)
    return leaves, _parsed(path, metadata, schema)


def require_whole(path: str | Path) -> None:
    """Reads a file to its end, an array at a time. Raises UserError if it is damaged or has NaN."""
    for name in read_description(path)[0]:
        require_finite(read_leaf(path, name), name=name, path=path)


def _parsed(path: str | Path, metadata: dict[str, str], schema: type[T]) -> T:
    if "description" not in metadata:
        raise UserError(f"{path} is not a weights file of this project: it has no description")
    return parse_json(metadata["description"], schema, where=f"the description in {path}")

"""Safetensors files of a tree of arrays and a JSON description. Reading one cannot run code."""

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, require_regular_file
from cogvideo_jax.runtime.schemas import parse_json

T = TypeVar("T")


def save_weights(path: str | Path, tree: PyTree, description: dict) -> None:
    """Writes a file under a temporary name first, so that an interrupted write leaves no partial file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: np.ascontiguousarray(value) for name, value in flatten_dict(tree, sep="/").items()}
    draft = path.with_name(path.name + ".partial")
    safetensors.numpy.save_file(flat, draft, metadata={"description": json.dumps(description)})
    draft.chmod(0o644)  # safetensors makes files readable by their owner only
    draft.replace(path)


def load_weights(path: str | Path, schema: type[T] = dict) -> tuple[PyTree, T]:
    """Reads the tree (NumPy arrays) and its description.

    Raises:
      UserError: the file is missing or damaged, or its description is missing or does not fit the schema.
    """
    require_regular_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description = _parsed(path, file.metadata() or {}, schema)
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"weights {path} do not exist; train them or pass another folder") from error
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


def _parsed(path: str | Path, metadata: dict[str, str], schema: type[T]) -> T:
    if "description" not in metadata:
        raise UserError(f"{path} is not a weights file of this project: it has no description")
    return parse_json(metadata["description"], schema, where=f"the description in {path}")

"""Safetensors files of a tree of arrays and a JSON description. Reading one cannot run code."""

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header


def save_weights(path: str | Path, tree: PyTree, description: dict) -> None:
    """Writes a file under a temporary name first, so that an interrupted write leaves no partial file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: np.ascontiguousarray(value) for name, value in flatten_dict(tree, sep="/").items()}
    draft = path.with_name(path.name + ".partial")
    safetensors.numpy.save_file(flat, draft, metadata={"description": json.dumps(description)})
    draft.chmod(0o644)  # safetensors makes files readable by their owner only
    draft.replace(path)


def load_weights(path: str | Path) -> tuple[PyTree, dict]:
    """Reads the tree (NumPy arrays) and its description.

    Raises:
      UserError: the file is missing, damaged or lacks the description.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {})["description"])
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"weights {path} do not exist; train them or pass another folder") from error
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path} is not a weights file of this project, or it is damaged") from error
    return unflatten_dict(flat, sep="/"), description


def read_description(path: str | Path) -> tuple[dict[str, Leaf], dict]:
    """Type and shape by path "a/b/c", and the description, without reading arrays.

    Raises:
      UserError: the file is missing, damaged or lacks the description.
    """
    leaves, metadata = read_header(path)
    try:
        return leaves, json.loads(metadata["description"])
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a weights file of this project") from error

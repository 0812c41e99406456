"""What training starts from: fresh parameters, under others that come from files.

Every array is born where it stays: fresh ones are drawn on the devices that hold them, and of a file each process reads
only the slices of its own devices.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Key, PyTree
from cogvideo_jax.runtime.safetensors_stream import read_leaf
from cogvideo_jax.runtime.weights import read_description


class Origin(NamedTuple):
    """Where the value of one parameter comes from.

    Attributes:
      file: for errors.
      shape: of the value.
      place: makes the array, given its shape, type and sharding.
    """

    file: str | Path
    shape: tuple[int, ...]
    place: Callable[[jax.ShapeDtypeStruct], Array]


Origins = dict[tuple[str, ...], Origin]  # path of a parameter -> its origin


def fresh_params(init: Callable[[Key[Array, ""]], PyTree], rng: Key[Array, ""], like: PyTree) -> PyTree:
    """Fresh values of the parameters in `like` (some or all of the model's), with its shardings.

    Args:
      init: makes all parameters of the model, boxed with their logical axes.
    """
    wanted = flatten_dict(like)

    def some(rng):
        flat = flatten_dict(nn.meta.unbox(init(rng)))
        return unflatten_dict({path: flat[path] for path in wanted})

    return jax.jit(some, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(rng)


def read_params(like: PyTree, origins: Origins) -> PyTree:
    """All parameters in `like`, from their origins. Raises UserError if one has none, or another shape."""
    check_complete(like, origins)
    return unflatten_dict({path: origins[path].place(leaf) for path, leaf in flatten_dict(like).items()})


def read_known_params(like: PyTree, origins: Origins) -> PyTree:
    """Those parameters in `like` that have an origin. Raises UserError if one has another shape."""
    check_shapes(like, origins)
    flat = flatten_dict(like)
    return unflatten_dict({path: origins[path].place(leaf) for path, leaf in flat.items() if path in origins})


def check_complete(like: PyTree, origins: Origins) -> None:
    """Raises UserError unless every parameter in `like` has an origin of its shape."""
    missing = ["/".join(path) for path in flatten_dict(like) if path not in origins]
    if missing:
        raise UserError(f"the base does not fit this model: it lacks {missing[0]} and {len(missing) - 1} more")
    check_shapes(like, origins)


def check_shapes(like: PyTree, origins: Origins) -> None:
    """Raises UserError if an origin has another shape than its parameter in `like`."""
    for path, leaf in flatten_dict(like).items():
        origin = origins.get(path)
        if origin is not None and origin.shape != leaf.shape:
            name, found, wanted = "/".join(path), list(origin.shape), list(leaf.shape)
            raise UserError(f"{origin.file} does not fit this model: its {name} is {found}, not {wanted}")


def from_file(path: str | Path) -> Origins:
    """The parameters of a weights file, by their own paths. Raises UserError if it is missing or damaged."""

    def origin(name: str, shape: tuple[int, ...]) -> Origin:
        return Origin(path, shape, _placing(lambda index: read_leaf(path, name, index)))

    leaves, _ = read_description(path)
    return {tuple(name.split("/")): origin(name, leaf.shape) for name, leaf in leaves.items()}


def from_array(whole: np.ndarray, *, file: str | Path) -> Origin:
    """An array that was made from what a file holds."""
    return Origin(file, whole.shape, _placing(lambda index: whole[index]))


def _placing(read: Callable) -> Callable[[jax.ShapeDtypeStruct], Array]:
    def place(like):
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: read(index).astype(like.dtype))

    return place

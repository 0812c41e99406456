"""A Flax module whose parameters are tensors of a torch checkpoint: shapes first, arrays one at a time."""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding

from cogvideo_jax.convert.check import check_leaves
from cogvideo_jax.convert.torch_names import from_torch, torch_name
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.memory import tree_bytes
from cogvideo_jax.runtime.safetensors_stream import Leaf

LISTED = 2  # groups of names that an error writes out for each kind of fault


class Tensors(Protocol):
    """Tensors by their torch names."""

    folder: Path
    leaves: Mapping[str, Leaf]

    def read(self, name: str) -> np.ndarray:
        """A tensor."""


class Storage(NamedTuple):
    """How parameters are kept on the device.

    Attributes:
      dtype: of matrices and tables; vectors stay float32.
      replace: (path, leaf) -> the leaves that take its place, as for int8; itself by default.
      sharding: (path of such a leaf, sharding of the one that it replaces) -> its sharding.
    """

    dtype: Any
    replace: Callable[[str, jax.Array], dict[str, jax.Array]] = lambda path, leaf: {path: leaf}
    sharding: Callable[[str, NamedSharding], NamedSharding] = lambda path, sharding: sharding


class TorchPart:
    """Parameters of a module in a checkpoint.

    Args:
      init: rng -> boxed parameters of the module.
      tensors: of the checkpoint.
      storage: how they are kept.
      ignored: torch names that may be there and are not read.

    Raises:
      ConversionError: names or shapes of the checkpoint are not those of the module.
    """

    def __init__(
        self,
        init: Callable[[jax.Array], PyTree],
        tensors: Tensors,
        *,
        storage: Storage,
        ignored: Callable[[str], bool] = lambda name: False,
    ):
        self._boxed = jax.eval_shape(lambda: init(jax.random.key(0)))  # nothing is compiled
        self.tensors, self._storage = tensors, storage
        self.leaves = flatten_dict(nn.meta.unbox(self._boxed), sep="/")
        found = {name: _at_most_float32(leaf) for name, leaf in tensors.leaves.items() if not ignored(name)}
        shapes = {torch_name(path): torch_shape(path, leaf.shape, found) for path, leaf in self.leaves.items()}
        check_leaves(found, shapes, source=tensors.folder, listed=LISTED)

    @functools.cached_property
    def abstract(self) -> PyTree:
        """Shapes, types and shardings of the parameters on the device."""
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for path, leaf in self.leaves.items():
            kept = jax.eval_shape(functools.partial(self._kept, path), jax.ShapeDtypeStruct(leaf.shape, jnp.float32))
            found |= {
                own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(own, path))
                for own, x in kept.items()
            }
        return unflatten_dict(found, sep="/")

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters on each device."""
        return tree_bytes(self.abstract)

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor in the files."""
        return max(leaf.nbytes for leaf in self.tensors.leaves.values())

    def load(self, changed: Callable[[str, np.ndarray], np.ndarray] = lambda name, tensor: tensor) -> PyTree:
        """The parameters, each read, changed, cast and sent to its devices; while one is read the last is transposed.

        Args:
          changed: (torch name, tensor) -> tensor, as for LoRA.
        """
        loaded: dict[str, jax.Array] = {}
        latest: dict[str, jax.Array] = {}
        for path, leaf in self.leaves.items():
            name = torch_name(path)
            tensor = jax.device_put(changed(name, self.tensors.read(name)))
            jax.block_until_ready(latest)  # no more than one waits on its way
            kept = self._kept(path, from_torch(path, tensor, leaf.shape)).items()
            latest = {own: jax.device_put(x, self._sharding(own, path)) for own, x in kept}
            loaded |= latest
        return unflatten_dict(loaded, sep="/")

    def _kept(self, path: str, leaf: jax.Array) -> dict[str, jax.Array]:
        """The leaf in its storage type, or the leaves that replace it."""
        kept = self._storage.replace(path, leaf)
        return {own: x if x.dtype == jnp.int8 else x.astype(self._dtype_of(x)) for own, x in kept.items()}

    def _dtype_of(self, leaf: jax.Array) -> Any:
        return self._storage.dtype if leaf.ndim > 1 else jnp.float32

    def _sharding(self, own: str, path: str) -> NamedSharding | None:
        """Sharding of a leaf that takes the place of the one at `path`."""
        return self._storage.sharding(own, self._shardings[path]) if self._shardings else None

    @functools.cached_property
    def _shardings(self) -> dict[str, NamedSharding]:
        """Shardings by path on the current mesh; empty without one."""
        mesh = jax.sharding.get_mesh()
        return {} if mesh.empty else flatten_dict(meshes.shardings(self._boxed, mesh), sep="/")


def _at_most_float32(leaf: Leaf) -> Leaf:
    """Float64, in which torch makes some position tables, is read as float32."""
    return leaf._replace(dtype=np.dtype(np.float32)) if leaf.dtype == np.float64 else leaf


def torch_shape(path: str, shape: tuple[int, ...], found: Mapping[str, Leaf]) -> tuple[int, ...]:
    """Shape of our leaf in a state dict; a linear map may stand there as a convolution of the same size."""
    if not path.endswith("/kernel"):
        return shape
    *window, inputs, outputs = shape
    there = found[torch_name(path)].shape if torch_name(path) in found else ()
    if not window and len(there) > 2 and there[0] == outputs and math.prod(there[1:]) == inputs:
        return there
    return (outputs, inputs, *window)

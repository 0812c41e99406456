"""What a run carries and a checkpoint holds: trained parameters and their optimizer state, with their shardings."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding

from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.runtime import mesh as meshes


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint holds.

    Attributes:
      step: steps taken.
      trained: parameters under training.
      opt_state: optimizer state of exactly these.
    """

    step: Int[Array, ""]
    trained: PyTree
    opt_state: PyTree

    @classmethod
    def create(cls, trained: PyTree, tx: optax.GradientTransformation) -> "TrainState":
        """Step zero."""
        return cls(step=jnp.zeros((), jnp.int32), trained=trained, opt_state=tx.init(trained))


class Split(NamedTuple):
    """One parameter tree in two."""

    frozen: PyTree
    trained: PyTree


def all_trained(params: PyTree) -> Split:
    """Nothing is frozen."""
    return Split({}, params)


def merge(frozen: PyTree, trained: PyTree) -> PyTree:
    """The whole tree; no gradient flows into the frozen part."""
    frozen = jax.tree.map(jax.lax.stop_gradient, frozen)
    return unflatten_dict(flatten_dict(frozen) | flatten_dict(trained))


def state_shardings(trained: PyTree, shardings: PyTree, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Sharding of every leaf: moments as the parameters whose names they bear, counters on every device."""
    everywhere = meshes.replicated(mesh)
    opt_state = beside_parameters(jax.eval_shape(tx.init, trained), shardings, everywhere)
    return TrainState(step=everywhere, trained=shardings, opt_state=opt_state)


def beside_parameters(opt_state: PyTree, shardings: PyTree, otherwise: NamedSharding) -> PyTree:
    """Sharding of every leaf of an optimizer's state: that of the parameter whose name it bears, if any."""
    of_params = flatten_dict(shardings)

    def sharding(path, _):
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        beside = (of_params[names[i:]] for i in range(len(names)) if names[i:] in of_params)
        return next(beside, otherwise)

    return jax.tree_util.tree_map_with_path(sharding, opt_state)


def placed(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Shapes and types with shardings: one for every leaf, or one for all."""
    leaf = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda x: leaf(x, shardings), abstract)
    return jax.tree.map(leaf, abstract, shardings)


def abstract_key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    """A step's random key: the same on every device."""
    return placed(jax.eval_shape(lambda: jax.random.key(0)), meshes.replicated(mesh))


def count(tree: PyTree) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

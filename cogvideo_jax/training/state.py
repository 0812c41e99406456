"""What a transformer run carries: the parameters that train, their optimizer state, and beside it the frozen base."""

from typing import TYPE_CHECKING, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from optax.contrib import MuonDimensionNumbers

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.transformer.transformer import is_attention_plus, stored_dtype
from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.runtime import mesh as meshes

if TYPE_CHECKING:  # measuring speed needs no config files
    from ml_collections import ConfigDict

# Axes of input and output from the end, for layers are stacked; q, k and v are matrices of their own.
MATRICES = {
    "qkv_kernel": MuonDimensionNumbers((-4,), (-2, -1)),
    "out_kernel": MuonDimensionNumbers((-3, -2), (-1,)),
    "kernel_in": MuonDimensionNumbers((-2,), (-1,)),
    "kernel_out": MuonDimensionNumbers((-2,), (-1,)),
}
ADAM_RMS = 0.2  # root mean square of AdamW's steps, in learning rates


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


def state_shardings(trained: PyTree, shardings: PyTree, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Where every leaf of the state lies: moments beside the parameters whose names they bear, counters everywhere."""
    everywhere = meshes.replicated(mesh)
    opt_state = beside_parameters(jax.eval_shape(tx.init, trained), shardings, everywhere)
    return TrainState(step=everywhere, trained=shardings, opt_state=opt_state)


def beside_parameters(opt_state: PyTree, shardings: PyTree, otherwise: NamedSharding) -> PyTree:
    """Sharding of every leaf of an optimizer's state: that of the parameter whose name it bears, if any."""
    of_params = flatten_dict(shardings)

    def lies(path, _):
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        beside = (of_params[names[i:]] for i in range(len(names)) if names[i:] in of_params)
        return next(beside, otherwise)

    return jax.tree_util.tree_map_with_path(lies, opt_state)


def placed(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Shapes and types, with where they lie: a sharding for every leaf, or one for all."""
    leaf = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda x: leaf(x, shardings), abstract)
    return jax.tree.map(leaf, abstract, shardings)


def abstract_key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    """A step's random key: the same on every device."""
    return placed(jax.eval_shape(lambda: jax.random.key(0)), meshes.replicated(mesh))


class Split(NamedTuple):
    """One parameter tree in two."""

    frozen: PyTree
    trained: PyTree


def split_attention_plus(params: PyTree) -> Split:
    """Inherited parameters are frozen, those added to CogView2 are trained."""
    flat = flatten_dict(params)
    frozen = {path: leaf for path, leaf in flat.items() if not is_attention_plus(path)}
    trained = {path: leaf for path, leaf in flat.items() if is_attention_plus(path)}
    return Split(unflatten_dict(frozen), unflatten_dict(trained))


def stored(abstract: PyTree, dtype: jnp.dtype) -> PyTree:
    """A frozen tree's shapes, in the types in which it is kept."""
    flat = flatten_dict(abstract)
    kept = {path: jax.ShapeDtypeStruct(leaf.shape, stored_dtype(path, dtype)) for path, leaf in flat.items()}
    return unflatten_dict(kept)


def merge(frozen: PyTree, trained: PyTree) -> PyTree:
    """The whole tree; no gradient flows into the frozen part."""
    frozen = jax.tree.map(jax.lax.stop_gradient, frozen)
    return unflatten_dict(flatten_dict(frozen) | flatten_dict(trained))


def make_schedule(config: "ConfigDict", *, steps: int) -> optax.Schedule:
    """Warm-up, then a cosine down to `final_fraction` of the peak.

    Raises:
      UserError: the warm-up would last to the end.
    """
    if config.warmup_steps >= steps:
        raise UserError(f"optimizer.warmup_steps={config.warmup_steps} must be fewer than steps={steps}")
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(config: "ConfigDict", *, steps: int) -> optax.GradientTransformation:
    """AdamW with gradient clipping; norms and biases are not decayed (as in the 2022 script).

    With `config.muon` the matrices of the layers take orthogonalised steps (Muon; Jordan 2024), as large as those of
    AdamW (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both; tables, norms and biases take
    those of Adam with Nesterov's momentum and are not decayed.
    """
    schedule = make_schedule(config, steps=steps)
    common = dict(eps=config.eps, weight_decay=config.weight_decay)
    if config.muon:  # Differs from the 2022 code: 1,300 steps took a demo base where AdamW took it in 3,700
        betas = dict(adam_b1=config.b1, adam_b2=config.b2)
        matrices = dict(muon_weight_dimension_numbers=_matrices, consistent_rms=ADAM_RMS)
        descent = optax.contrib.muon(schedule, **common, **betas, **matrices)
    else:
        descent = optax.adamw(schedule, **common, b1=config.b1, b2=config.b2, mask=_decays)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), descent)


def _matrices(params: PyTree) -> PyTree:
    """Which axes of a leaf are the input and the output of a layer's matrix; None for other leaves."""
    return unflatten_dict({path: MATRICES.get(path[-1]) for path in flatten_dict(params)})


def _decays(params: PyTree) -> PyTree:
    return unflatten_dict({path: _is_decayed(path) for path in flatten_dict(params)})


def _is_decayed(path: tuple[str, ...]) -> bool:
    return not path[-1].endswith("bias") and not any(name.startswith("norm") for name in path)


def count(tree: PyTree) -> int:
    """Number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))

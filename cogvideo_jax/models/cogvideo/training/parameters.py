"""What the trainer knows about the parameters of transformers: which train, how the others are kept, Muon's axes."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from optax.contrib import MuonDimensionNumbers

from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, is_attention_plus, stored_dtype
from cogvideo_jax.notation import PyTree
from cogvideo_jax.training.state import Split

# Axes of input and output from the end, for layers are stacked; q, k and v are matrices of their own.
MATRICES = {
    "qkv_kernel": MuonDimensionNumbers((-4,), (-2, -1)),
    "out_kernel": MuonDimensionNumbers((-3, -2), (-1,)),
    "kernel_in": MuonDimensionNumbers((-2,), (-1,)),
    "kernel_out": MuonDimensionNumbers((-2,), (-1,)),
}


def abstract_params(model: Backbone) -> PyTree:
    """Shapes of all parameters, with their logical axes."""
    return jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs()), jax.random.key(0))["params"]


def split_attention_plus(params: PyTree) -> Split:
    """Parameters of the base are frozen, those added to it are trained."""
    flat = flatten_dict(params)
    frozen = {path: leaf for path, leaf in flat.items() if not is_attention_plus(path)}
    trained = {path: leaf for path, leaf in flat.items() if is_attention_plus(path)}
    return Split(unflatten_dict(frozen), unflatten_dict(trained))


def stored(abstract: PyTree, dtype: jnp.dtype) -> PyTree:
    """A frozen tree's shapes, in the types in which it is kept."""
    flat = flatten_dict(abstract)
    kept = {path: jax.ShapeDtypeStruct(leaf.shape, stored_dtype(path, dtype)) for path, leaf in flat.items()}
    return unflatten_dict(kept)

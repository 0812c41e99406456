"""Random parameters of any model, drawn by numpy: nothing is compiled to make them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def random_params(init: Callable, *inputs, deviation: float = 0.3, seed: int = 0):
    """Every leaf random, so that no term can hide behind a zero; scales of norms lie around one.

    Args:
      init: as a model's `init`: a key, then inputs -> {"params": tree}, or a tree.
      deviation: of the normal distribution; 0.3 makes attention sharp.
    """
    shapes = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)

    def draw(path, leaf) -> jax.Array:
        centre = 1.0 if path[-1] == jax.tree_util.DictKey("scale") else 0.0
        return jnp.asarray(rng.normal(centre, deviation, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes.get("params", shapes))

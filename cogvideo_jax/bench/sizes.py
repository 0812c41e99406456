"""Transformers to measure: the demo's, the release's, one in between, with random weights. Nothing is downloaded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from cogvideo_jax.model import config as presets
from cogvideo_jax.model.config import TransformerConfig
from cogvideo_jax.model.transformer import Backbone
from cogvideo_jax.notation import PyTree
from cogvideo_jax.training.state import stored

STAGES = {
    "stage1": (presets.demo_stage1, presets.cogvideo_stage1),
    "stage2": (presets.demo_stage2, presets.cogvideo_stage2),
}
MIDDLE = dict(width=512, heads=8, layers=8, mlp_width=2048, vocab_size=20_100, boi=20_050)
SIZES = ("demo", "middle", "full")


def sized(size: str, stage: str) -> TransformerConfig:
    """demo, middle (width 512, 8 layers, 20 x 20 tokens of 20,000 codes) or full."""
    demo, full = (make() for make in STAGES[stage])
    return {"demo": demo, "middle": dataclasses.replace(full, **MIDDLE), "full": full}[size]


def abstract_params(model: Backbone, dtype: jnp.dtype) -> PyTree:
    """Shapes of all parameters, in the types in which they are kept when they are only read."""
    params = jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs())["params"], jax.random.key(0))
    return stored(nn.meta.unbox(params), jnp.dtype(dtype))


def random_like(tree: PyTree) -> PyTree:
    """Small random numbers, one leaf at a time: no second copy of a large model is ever in memory."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten([_random(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves)])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random(key, shape: tuple[int, ...], dtype: jnp.dtype):
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros(shape, dtype)  # counters of the optimizer
    return jnp.abs(0.02 * jax.random.normal(key, shape, dtype))  # second moments are not negative

"""Where the time of a training step goes: its parts, each compiled and timed by itself, forward and backward.

What is left of the step is its rest: norms, activations, embeddings, copies between layers, and what the remat setting
computes again. It can be less than nothing where the compiler runs parts of a step side by side.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.bench.machine import best_seconds
from cogvideo_jax.models.cogvideo.bench.sizes import random_like
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.training.losses import cross_entropy
from cogvideo_jax.models.cogvideo.transformer.spatial import spatial_attention
from cogvideo_jax.models.cogvideo.transformer.temporal import temporal_attention
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.nn.attention import KeysValues
from cogvideo_jax.nn.dropout import Drops
from cogvideo_jax.notation import Array, Float, PyTree
from cogvideo_jax.training.state import TrainState


class Parts(NamedTuple):
    """Seconds of a step in each part.

    Attributes:
      attention: scores, softmax, dropout and sums of both channels, in all layers.
      products: products with the weights of all layers.
      loss: logits and cross-entropy.
      update: the optimizer.
    """

    attention: float
    products: float
    loss: float
    update: float


def measure_parts(model: Transformer, state: TrainState, tx: optax.GradientTransformation, *, batch: int) -> Parts:
    """Times one layer and multiplies; consumes `state`, which is that of the step."""
    config = model.config
    return Parts(
        attention=config.layers * _attention_seconds(model, batch),
        products=config.layers * _products_seconds(config, model.dtype, batch),
        loss=_loss_seconds(config, model.dtype, batch),
        update=_update_seconds(state, tx),
    )


def _attention_seconds(model: Transformer, batch: int) -> float:
    """Of one layer, forward and backward."""
    config, layout = model.config, model.config.layout
    mask = jnp.ones((batch, layout.text_length), bool)
    how = dict(layout=layout, text_mask=mask, text_log_weight=0.0, kernel=model.kernel)
    drops = Drops(jnp.array([1, 2], jnp.uint32), config.dropout) if config.dropout else None

    def spatial(query: Array, keys: KeysValues) -> Array:
        return spatial_attention(query, keys, next_drops=lambda: drops, **how)

    def temporal(query: Array, keys: KeysValues) -> Array:
        return temporal_attention(query, keys, window=config.window, shifted=0, regions=True, drops=drops, **how)

    shape = jax.ShapeDtypeStruct((batch, layout.length, config.heads, config.head_size), model.dtype)
    query, keys = random_like((shape, KeysValues(shape, shape)))
    channels = [spatial, temporal] if config.temporal else [spatial]
    return sum(_seconds(_with_gradients(channel), query, keys) for channel in channels)


def _products_seconds(config: TransformerConfig, dtype: jnp.dtype, batch: int) -> float:
    """Of one layer: every product with weights, its gradient towards the input, and towards weights that train."""
    layout, width = config.layout, config.width
    everywhere, frames = batch * layout.length, batch * layout.image_length
    frozen = [(everywhere, *sides) for sides in ((width, 3 * width), (width, width))]
    frozen += [(everywhere, *sides) for sides in ((width, config.mlp_width), (config.mlp_width, width))]
    trained = [(everywhere, width, 3 * width), (frames, width, width)] if config.temporal else []

    def products(given: list[tuple[Array, Array, Array]]) -> list[Array]:
        done = []
        for number, (x, weights, gradient) in enumerate(given):
            done += [x @ weights, gradient @ weights.T]
            done += [x.T @ gradient] if number >= len(frozen) else []
        return done

    shapes = [((rows, wide), (wide, out), (rows, out)) for rows, wide, out in frozen + trained]
    given = [tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in one) for one in shapes]
    return _seconds(products, random_like(given))


def _loss_seconds(config: TransformerConfig, dtype: jnp.dtype, batch: int) -> float:
    layout = config.layout
    positions = (layout.frames - layout.first_loss_slot) * layout.frame_tokens
    hidden = jax.ShapeDtypeStruct((batch, positions, config.width), dtype)
    hidden, table = random_like((hidden, jax.ShapeDtypeStruct((config.image_codes, config.width), dtype)))
    targets, weights = jnp.zeros((batch, positions), jnp.int32), jnp.ones((batch, positions))
    return _seconds(jax.grad(lambda *given: cross_entropy(*given)[0]), hidden, table, targets, weights)


def _update_seconds(state: TrainState, tx: optax.GradientTransformation) -> float:
    """In place, as in the step: a second copy of the state may not fit."""

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def update(gradients: PyTree, params: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]:
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    gradients, kept = jax.tree.map(jnp.zeros_like, state.trained), (state.trained, state.opt_state)

    def run() -> tuple[PyTree, PyTree]:
        nonlocal kept
        kept = update(gradients, *kept)
        return kept

    return best_seconds(run)


def _with_gradients(function: Callable[..., Float[Array, "..."]]) -> Callable[..., PyTree]:
    """The function's gradients towards its arguments for a gradient that is its own output."""
    return jax.grad(lambda *given: jnp.square(function(*given)).sum() / 2, argnums=(0, 1))


def _seconds(function: Callable[..., PyTree], *given: PyTree) -> float:
    compiled = jax.jit(function)
    return best_seconds(lambda: compiled(*given))

"""Small random transformers for tests: every leaf random, so that no term can hide behind a zero."""

import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.layout import ClipLayout, base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, as_int8, unroll
from tests.random_weights import random_params

KEYFRAMES = keyframe_layout(text_length=5, grid=4)
INTERPOLATION = interpolation_layout(text_length=5, grid=4)
BASE = base_layout(text_length=5, grid=4)


def config(layout: ClipLayout, *, window: int | None = None, **changes) -> TransformerConfig:
    """Width 16, two heads, two layers, 40 image codes, 60 ids."""
    temporal = layout.frames > 1
    sizes = dict(
        layout=layout,
        vocab_size=60,
        image_codes=40,
        boi=57,
        width=16,
        heads=2,
        layers=2,
        mlp_width=32,
        base_positions=30,
        first_frame_position=8,
        extra_positions=80 if temporal else 0,
        temporal=temporal,
        window=window,
        dropout=0.0,
    )
    return TransformerConfig(**{**sizes, **changes})


@functools.cache
def random_model(config: TransformerConfig):
    """(model, params) with every leaf random."""
    model = Transformer(config)
    return model, random_params(model.init, *model.empty_inputs())


@functools.cache
def random_sampler(config: TransformerConfig):
    """The same (model, params), unrolled for sampling."""
    return unroll(*random_model(config))


def random_batch(config: TransformerConfig, *, rows: int = 2, pads: int = 2, seed: int = 2):
    """text, text_mask (the first row padded on the left) and target frames."""
    layout = config.layout
    text_key, frame_key = jax.random.split(jax.random.key(seed))
    text = jax.random.randint(text_key, (rows, layout.text_length), config.image_codes, config.vocab_size - 3)
    mask = jnp.arange(layout.text_length)[None] >= jnp.where(jnp.arange(rows) == 0, pads, 0)[:, None]
    frames = jax.random.randint(frame_key, (rows, layout.frames, layout.frame_tokens), 0, config.image_codes)
    return text, mask, frames


def hidden_states(config: TransformerConfig, text, mask, inputs, **options):
    """The whole pass, jitted."""
    model, params = random_model(config)
    return jax.jit(functools.partial(model.apply, **options))({"params": params}, text, mask, inputs)


def int8_params(params, codes: int):
    """Parameters of unrolled layers as they are kept with int8 weights."""
    kept: dict = {}
    for own, leaf in flatten_dict(params, sep="/").items():
        kept |= as_int8(own, leaf, image_codes=codes)
    return unflatten_dict(kept, sep="/")

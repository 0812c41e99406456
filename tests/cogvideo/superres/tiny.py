"""Small random super-resolution models: every leaf random, so that no term can hide behind a zero."""

import functools

import jax
import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.superres.config import CoarseGrid, SuperResolutionConfig
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from tests.random_weights import random_params

COARSE = CoarseGrid(grid=2, first_position=8, kernel=(3, 3))


def config(coarse: CoarseGrid | None = COARSE, **changes) -> SuperResolutionConfig:
    """Width 16, two heads, two layers, 40 image codes; 2 x 2 -> 6 x 6 tokens."""
    sizes = dict(
        text_length=5,
        coarse=coarse,
        fine_grid=6,
        fine_kernel=(5, 3),
        vocab_size=60,
        image_codes=40,
        boi=57,
        width=16,
        heads=2,
        layers=2,
        mlp_width=32,
        base_positions=30,
        dropout=0.0,
    )
    return SuperResolutionConfig(**{**sizes, **changes})


@functools.cache
def random_model(config: SuperResolutionConfig):
    """(model, params), the direct or the iterative one."""
    model = (DirectSuperResolution if config.coarse else IterativeSuperResolution)(config)
    return model, random_params(model.init, *model.empty_inputs())


def random_batch(config: SuperResolutionConfig, *, rows: int = 2, seed: int = 2):
    """text, text_mask (the first row padded), coarse and fine ids."""
    keys = jax.random.split(jax.random.key(seed), 3)
    text = jax.random.randint(keys[0], (rows, config.text_length), config.image_codes, config.vocab_size - 3)
    mask = jnp.arange(config.text_length)[None] >= jnp.where(jnp.arange(rows) == 0, 2, 0)[:, None]
    coarse = jax.random.randint(keys[1], (rows, 4), 0, config.image_codes)
    fine = jax.random.randint(keys[2], (rows, config.fine_tokens), 0, config.image_codes)
    return text, mask, coarse, fine

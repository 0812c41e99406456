"""Int8 weights and caches: their accuracy and their memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head, project
from cogvideo_jax.nn.quantized import CONTRACTED, Matrix, quantize, to_int8
from tests.cogvideo.transformer import tiny

FORMULAS = {
    "qkv_kernel": ("bld,dcak->blcak", (6, 3, 2, 4), (2, 5, 6)),
    "out_kernel": ("blak,akd->bld", (2, 4, 6), (2, 5, 2, 4)),
    "kernel_in": ("bld,df->blf", (6, 7), (2, 5, 6)),
    "image_head": ("...d,vd->...v", (9, 6), (2, 5, 6)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_product_is_that_with_the_numbers_that_int8_stands_for(name):
    formula, shape, of_input = FORMULAS[name]
    leaf, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate((shape, of_input)))
    kept = quantize(name, leaf)
    assert kept[name].dtype == jnp.int8
    meant = kept[name] * jnp.expand_dims(kept[f"{name}_scale"], CONTRACTED[name])
    assert np.abs(meant - leaf).max() <= kept[f"{name}_scale"].max() / 2 * 1.001
    product = Matrix(kept[name], kept[f"{name}_scale"]).multiply(formula, x)
    np.testing.assert_allclose(product, jnp.einsum(formula, x, meant), rtol=1e-4, atol=1e-5)


def test_other_parameters_stay_as_they_are():
    bias = jnp.ones(3)
    assert quantize("qkv_bias", bias) == {"qkv_bias": bias}


def test_nothing_but_zeros_stays_zero():
    values, scale = to_int8(jnp.zeros((2, 3)), 1)
    assert not values.any() and np.isfinite(1 / scale).all()


def logits_of_steps(config, given: int, params, *, int8_cache: bool):
    """Logits of every generated position, one cached step after another."""
    model, _ = tiny.random_sampler(config)
    text, mask, frames = tiny.random_batch(config)
    inputs, variables = shift_right(frames, boi=config.boi), {"params": params}
    prefill = jax.jit(functools.partial(model.apply, int8=int8_cache, method=Transformer.prefill))
    _, cache = prefill(variables, text, mask, inputs[:, :given])
    flat, head = inputs.reshape(len(text), -1), image_head(params, config)

    def step(cache, index):
        hidden, cache = model.apply(variables, flat[:, index[None]], index[None], cache, method=Transformer.step)
        return cache, project(hidden[:, 0], head, jnp.float32)

    return jax.lax.scan(step, cache, jnp.arange(given * config.layout.frame_tokens, config.layout.image_length))[1]


@pytest.mark.parametrize("what", ["weights", "cache"])
@pytest.mark.parametrize("window", [None, 2])
def test_logits_stay_near_those_of_full_precision(what, window, record_property):
    config, given = tiny.config(tiny.KEYFRAMES, window=window), 1
    _, params = tiny.random_sampler(config)
    exact = logits_of_steps(config, given, params, int8_cache=False)
    if what == "weights":
        rounded = logits_of_steps(config, given, tiny.int8_params(params, config.image_codes), int8_cache=False)
    else:
        rounded = logits_of_steps(config, given, params, int8_cache=True)
    error = float(jnp.sqrt(jnp.mean((rounded - exact) ** 2)) / jnp.std(exact))
    record_property("relative_error", error)
    print(f"{what} {window}: {error:.4f} of the logits' deviation")
    assert 0 < error < 0.05

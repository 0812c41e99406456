"""The T5 encoder against the transformers library: outputs, blocks, position buckets, names and sizes."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.convert.torch_names import torch_name
from cogvideo_jax.nn.t5 import Block, T5Config, T5Encoder, relative_buckets
from tests.cogvideox.goldens import load, params_of

TOLERANCE = 1e-4
XXL_PARAMETERS = 4_762_310_656
BUCKETS = {"buckets": 32, "max_distance": 128}  # of every release
CONFIG, ARRAYS = load("x_t5")
PIPELINE_CONFIG, PIPELINE = load("x_pipeline_t2v")


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_it(full_optimisation):
    """Goldens hold for programs as users run them."""


def config_of(values: dict) -> T5Config:
    """The sizes among the values of a `config.json`."""
    names = {field.name for field in dataclasses.fields(T5Config)}
    return T5Config(**{name: value for name, value in values.items() if name in names})


SIZES = config_of(CONFIG["config"])


@functools.cache
def golden_params() -> dict:
    return params_of(T5Encoder(SIZES), (ARRAYS["b.input_ids"],), ARRAYS)


def encoded(ids: np.ndarray, dtype=jnp.float32, params: dict | None = None) -> np.ndarray:
    run = jax.jit(T5Encoder(SIZES, dtype).apply)
    return np.asarray(run({"params": golden_params() if params is None else params}, ids))


@pytest.mark.parametrize("case", ["a", "b"])
def test_outputs_equal_the_goldens(case):
    out = encoded(ARRAYS[f"{case}.input_ids"])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, ARRAYS[f"{case}.out"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["a", "b"])
def test_pads_are_read_like_other_tokens(case):
    with_mask = ARRAYS[f"{case}.out_with_pad_mask"]
    assert np.abs(encoded(ARRAYS[f"{case}.input_ids"]) - with_mask).max() > 0.5


def test_every_block_equals_the_goldens():
    apply = functools.partial(T5Encoder(SIZES).apply, capture_intermediates=lambda module, _: isinstance(module, Block))
    _, state = jax.jit(apply)({"params": golden_params()}, ARRAYS["b.input_ids"])
    for index in range(SIZES.num_layers):
        [(x, _)] = state["intermediates"]["encoder"][f"block_{index}"]["__call__"]
        np.testing.assert_allclose(x, ARRAYS[f"b.block{index}"], rtol=0, atol=TOLERANCE)


def test_embeddings_of_the_pipeline_equal_the_goldens():
    encoder = T5Encoder(config_of(PIPELINE_CONFIG["text_encoder"]))
    ids = PIPELINE["input_ids"]
    params = params_of(encoder, (ids,), PIPELINE, prefix="param:text_encoder.")
    out = jax.jit(encoder.apply)({"params": params}, ids)
    np.testing.assert_allclose(out, PIPELINE["embeds"], rtol=0, atol=TOLERANCE)


def test_position_buckets_equal_the_golden_table():
    [name] = [name for name in ARRAYS if name.startswith("bucket")]
    length = int(name.removeprefix("bucket"))
    table = relative_buckets(length, **BUCKETS)
    np.testing.assert_array_equal(table, ARRAYS[name])


def test_position_buckets_grow_up_to_the_largest_distance():
    first_query = relative_buckets(200, **BUCKETS)[0]
    starts = [int(np.flatnonzero(first_query == 16 + bucket)[0]) for bucket in range(1, 16)]
    assert starts == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]


def test_names_are_those_of_the_released_file():
    shapes = jax.eval_shape(T5Encoder(SIZES).init, jax.random.key(0), ARRAYS["b.input_ids"])
    leaves = flatten_dict(nn.unbox(shapes["params"]), sep="/")
    assert {torch_name(path) for path in leaves} == set(CONFIG["saved_safetensors_names"])


def test_the_defaults_are_xxl():
    shapes = jax.eval_shape(T5Encoder(T5Config()).init, jax.random.key(0), np.zeros((1, 2), np.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == XXL_PARAMETERS


def test_bfloat16_comes_close_to_float32():
    ids = ARRAYS["b.input_ids"]
    out = encoded(ids, jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    error = out.astype(np.float32) - ARRAYS["b.out"]
    assert np.square(error).mean() ** 0.5 < 0.05 * ARRAYS["b.out"].std()


def test_float16_survives_sums_that_it_cannot_hold():
    ids, params = ARRAYS["b.input_ids"], flatten_dict(golden_params())
    large = {path: leaf * (1e5 if "wo" in path else 1) for path, leaf in params.items()}
    tree = unflatten_dict(large)
    single, half = encoded(ids, params=tree), encoded(ids, jnp.float16, tree)
    assert half.dtype == np.float16 and np.isfinite(half).all()
    assert np.square(half - single).mean() ** 0.5 < 0.05 * single.std()


def test_logical_axes_follow_the_matrices():
    shapes = jax.eval_shape(T5Encoder(SIZES).init, jax.random.key(0), ARRAYS["b.input_ids"])["params"]
    axes = {path[-2:]: leaf.names for path, leaf in flatten_dict(shapes).items()}
    assert axes["shared", "embedding"] == ("vocab", "embed")
    assert axes["q", "kernel"] == axes["v", "kernel"] == ("embed", "heads")
    assert axes["o", "kernel"] == ("heads", "embed")
    assert axes["wi_0", "kernel"] == ("embed", "mlp")
    assert axes["wo", "kernel"] == ("mlp", "embed")

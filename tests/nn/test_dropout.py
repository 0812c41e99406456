"""Dropout drops the right share, without a pattern, the same on any devices, and so does its gradient."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cogvideo_jax.nn.dropout import Dropout, Drops, dropped
from tests.devices import environment

RATE, SHAPE = 0.1, (4, 512, 1024)
WORST = 4.5  # standard deviations; the seeds are fixed, so a test passes always or never


def drops(seed: int = 0) -> Drops:
    return Drops(jax.random.bits(jax.random.key(seed), (2,), jnp.uint32), RATE)


def is_dropped(drops: Drops, shape=SHAPE) -> np.ndarray:
    return np.asarray(jax.jit(lambda: dropped(jnp.ones(shape), drops))()) == 0


def standardised(mask: np.ndarray) -> np.ndarray:
    """With mean 0 and variance 1 if it is random."""
    return ((mask - RATE) / np.sqrt(RATE * (1 - RATE))).astype(np.float32)


def deviation(products: np.ndarray) -> float:
    """Of a mean from 0, in standard deviations."""
    return float(products.mean(dtype=np.float64)) * products.size**0.5


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    out = np.asarray(dropped(jnp.full((8, 64), 2.0), drops()))
    assert set(np.unique(out)) == {np.float32(0), np.float32(2) / np.float32(0.9)}


@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_the_rate_in_all_and_in_every_row_and_column(seed):
    mask = standardised(is_dropped(drops(seed)))
    assert abs(deviation(mask)) < WORST
    for axis in range(mask.ndim):  # sums along other axes vary as much as those of independent draws, not less or more
        others = tuple(other for other in range(mask.ndim) if other != axis)
        sums = mask.sum(axis=others, dtype=np.float64)
        spread = (np.square(sums) / (mask.size / len(sums)) - 1).sum() / (2 * len(sums)) ** 0.5
        assert abs(spread) < WORST, (axis, spread)


@pytest.mark.parametrize(
    "lag", [(0, 0, 1), (0, 0, 2), (0, 0, 16), (0, 1, 0), (0, 4, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]
)
def test_neighbours_are_independent(lag):
    mask = standardised(is_dropped(drops()))
    here, there = (
        mask[tuple(slice(step if side else None, None if side or not step else -step) for step in lag)]
        for side in (0, 1)
    )
    assert abs(deviation(here * there)) < WORST


@pytest.mark.parametrize("bit", [0, 1, 15, 31])
@pytest.mark.parametrize("word", [0, 1])
def test_seeds_that_differ_in_one_bit_are_independent(word, bit):
    first = drops()
    second = first.replace(seed=first.seed.at[word].set(first.seed[word] ^ np.uint32(1 << bit)))
    a, b = (standardised(is_dropped(one)) for one in (first, second))
    assert abs(deviation(a * b)) < WORST
    assert abs(deviation(a[..., 1:] * b[..., :-1])) < WORST and abs(deviation(a[:, 1:] * b[:, :-1])) < WORST


class Layer(nn.Module):
    """Two dropouts in a scanned layer."""

    @nn.compact
    def __call__(self, x, _):
        dropout = Dropout(RATE)
        return x, (dropout(x), dropout(x))


def test_layers_steps_and_the_dropouts_of_a_layer_are_independent():
    layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"dropout": True}, length=2)()
    steps = [jax.random.fold_in(jax.random.key(0), step) for step in (0, 1)]
    x = jnp.ones(SHAPE[1:])
    outs = [layers.apply({}, x, None, rngs={"dropout": key})[1] for key in steps]
    masks = [standardised(np.asarray(part[layer]) == 0) for out in outs for part in out for layer in (0, 1)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(deviation(one * other)) < WORST


def test_the_gradient_drops_the_same_numbers_and_keeps_no_factors():
    x, one = jax.random.normal(jax.random.key(1), (64, 128)), drops()
    out, backward = jax.vjp(lambda x: dropped(x, one), x)
    (gradient,) = backward(jnp.ones_like(x))
    np.testing.assert_array_equal(out, x * gradient)
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) < x.size


def test_rate_zero_and_evaluation_drop_nothing():
    x = jnp.ones(SHAPE[1:])
    assert Dropout(0.0).apply({}, x) is x and Dropout(RATE, deterministic=True).apply({}, x) is x


def on_devices() -> dict:
    """Sums of a dropped array that eight devices share in three ways, and of one device's."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    places = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1009

    def total(spec):
        ones = jax.device_put(jnp.ones(SHAPE), NamedSharding(mesh, spec))
        kept = jax.jit(lambda x: dropped(x, drops()))(ones)
        return int((np.asarray(kept == 0) * places).sum())

    shared = [total(PartitionSpec(*axes)) for axes in ((None, "x", None), (None, None, "x"))]
    return {"shared": shared, "alone": total(PartitionSpec())}


def test_eight_devices_drop_the_same_numbers_as_one():
    code = "import json; from tests.nn.test_dropout import on_devices; print(json.dumps(on_devices()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(8), check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    places = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1009
    assert found["shared"] == [found["alone"]] * 2 == [int((is_dropped(drops()) * places).sum())] * 2

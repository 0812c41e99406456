"""Masking of logits: the kept ones, and ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.sampling.logits import MOST_PASSES, first_of_largest, kth_largest


@pytest.mark.parametrize("k", [1, 2, 5, MOST_PASSES, MOST_PASSES + 1, 40])
def test_the_kth_largest_is_that_of_a_sort(k):
    different = jax.random.uniform(jax.random.key(0), (6, 40))
    equal = jax.random.randint(jax.random.key(1), (6, 40), 0, 4).astype(jnp.float32)  # a number occurs ten times
    for x in (different, equal, jnp.zeros((2, 40))):
        np.testing.assert_array_equal(kth_largest(x, k), np.sort(x, axis=-1)[:, -k])


def test_the_first_of_the_largest_is_that_of_argmax():
    ties = jax.random.randint(jax.random.key(1), (50, 40), 0, 4).astype(jnp.float32)
    for x in (jax.random.normal(jax.random.key(0), (50, 40)), ties, jnp.full((2, 40), -jnp.inf)):
        np.testing.assert_array_equal(first_of_largest(x), jnp.argmax(x, axis=-1))

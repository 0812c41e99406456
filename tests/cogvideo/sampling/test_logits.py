"""Masking of logits: the kept ones, ties, and numbers that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.sampling.logits import (
    MOST_PASSES,
    Strategy,
    first_of_largest,
    kth_largest,
    require_drawn,
    sample,
    sample_top_k,
)


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


def test_a_row_with_a_nan_is_told_from_every_code():
    logits = jnp.asarray([[0.0, 1.0, 2.0], [0.0, jnp.nan, 2.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    for greedy in (False, True):
        drawn = sample(keys, logits, Strategy(1.0, 3, greedy=greedy), jnp.arange(3), 3)
        assert drawn[0] < 3 and drawn[1] == 3
        assert sample_top_k(keys, logits, top_k=jnp.int32(2), most=2, greedy=greedy)[1] == 3
    require_drawn(drawn[:1], 3)
    with pytest.raises(UserError, match="NaN in place of a token"):
        require_drawn(drawn, 3)

"""Checksums of arrays: every bit counts, and nothing but the bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.runtime.checksums import checksum, tree_checksums


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, jnp.bfloat16])
def test_every_bit_of_every_element_counts(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    as_it_was = int(checksum(array))
    for bit in range(8 * array.nbytes):
        changed = bytearray(array.tobytes())
        changed[bit // 8] ^= 1 << bit % 8
        assert int(checksum(np.frombuffer(bytes(changed), dtype).reshape(2, 3))) != as_it_was
    assert int(checksum(array.copy())) == as_it_was


def test_it_is_the_sum_that_it_is_said_to_be():
    array = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    places = np.arange(array.size, dtype=np.uint64)
    words = array.view(np.uint32).reshape(-1).astype(np.uint64)
    assert int(checksum(array)) == int(np.sum(words * (2 * places + 1) % 2**32) % 2**32)


def test_scalars_and_flags_have_one_each_by_their_names():
    tree = {"a": [jnp.asarray(3), np.zeros(2, np.bool_)], "b": {"c": jnp.ones(1)}}
    assert tree_checksums(tree).keys() == {"a.0", "a.1", "b.c"}
    assert tree_checksums(tree)["a.0"] == 3 != tree_checksums(jax.tree.map(lambda x: x + 1, tree))["a.0"]

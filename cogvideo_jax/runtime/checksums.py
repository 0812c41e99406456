"""Checksums of arrays, which tell whether a bit has changed, on whatever devices an array lies."""

import hashlib
import json

import jax
import jax.numpy as jnp

from cogvideo_jax.notation import Array, PyTree, Shaped, UInt32

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by the bytes of an element


def tree_checksums(tree: PyTree) -> dict[str, int]:
    """Checksum of every array by its path, as "a.b.0".

    One after the other: processes that each run several programs at once may wait for each other forever.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): int(checksum(leaf)) for path, leaf in leaves}


def json_digest(value: object) -> str:
    """SHA-256 of a JSON value, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@jax.jit
def checksum(array: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Sum of the bits of all elements, each times an odd number that depends on its place, modulo 2^32.

    No single flipped bit leaves it as it was, and as integers are summed, no order of summation changes it.
    """
    if array.dtype != jnp.bool_:
        array = jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize])
    places, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):  # no reshape, which would move an array between devices
        places += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(array.astype(jnp.uint32) * (2 * places + 1), dtype=jnp.uint32)

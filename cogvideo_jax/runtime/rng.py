"""Random keys of rows; a row's key does not depend on the number of rows."""

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.notation import Array, Int, Key


def seed_key(seed: int) -> Key[Array, ""]:
    """Key of a seed of up to 64 bits, of which `jax.random.key` takes the lower half."""
    key = jax.random.key(seed & 0xFFFF_FFFF)
    return jax.random.fold_in(key, seed >> 32) if seed >> 32 else key


def row_keys(rng: Key[Array, ""] | Key[Array, "B"], rows: int) -> Key[Array, "B"]:
    """One key per row; given row keys are returned unchanged."""
    return rng if rng.ndim else fold(rng[None], np.zeros(rows, np.int32), np.arange(rows))


def stage_keys(rngs: Key[Array, "B"], stage: int) -> Key[Array, "B"]:
    """Keys of the same rows for another stage."""
    return fold(rngs, np.arange(len(rngs)), np.full(len(rngs), stage))


@jax.jit
def fold(rngs: Key[Array, "B"], rows: Int[Array, "n"], numbers: Int[Array, "n"]) -> Key[Array, "n"]:
    """Keys of `rows` with `numbers` folded in."""
    return jax.vmap(jax.random.fold_in)(rngs[rows], jnp.asarray(numbers))

"""Cross-entropy in chunks equals the plain one, with its gradients, and never holds all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cogvideo_jax.models.cogvideo.training import losses
from cogvideo_jax.models.cogvideo.training.losses import cross_entropy

ROWS, POSITIONS, WIDTH, CODES = 2, 10, 6, 20


def batch():
    """hidden states, table, targets, weights; some positions carry no loss."""
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (ROWS, POSITIONS, WIDTH))
    table = jax.random.normal(keys[1], (CODES, WIDTH))
    targets = jax.random.randint(keys[2], (ROWS, POSITIONS), 0, CODES)
    return hidden, table, targets, jnp.maximum(0, jax.random.normal(keys[3], (ROWS, POSITIONS)))


def plain(hidden, table, targets, weights):
    logits = jnp.einsum("bnd,cd->bnc", hidden, table)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return (weights * each).sum(), each, jnp.argmax(logits, -1) == targets


@pytest.mark.parametrize("chunk", [3, 5, 512])
def test_losses_and_gradients_equal_those_of_all_logits_at_once(monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    given = batch()

    def squared(function):  # a gradient other than 1 arrives from above
        return jax.value_and_grad(lambda hidden, table: function(hidden, table, *given[2:])[0] ** 2, argnums=(0, 1))

    for ours, theirs in zip(cross_entropy(*given), plain(*given)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    ours, theirs = (jax.tree.leaves(jax.jit(squared(function))(*given[:2])) for function in (cross_entropy, plain))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_large_logits_do_not_overflow():
    hidden, *rest = batch()
    loss, _, _ = cross_entropy(1e4 * hidden, *rest)
    np.testing.assert_allclose(loss, plain(1e4 * hidden, *rest)[0], rtol=1e-5)


def test_all_logits_are_never_in_memory():
    rows, positions, width, codes = 1, 4096, 8, 4096
    hidden, table = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, positions, width), (codes, width)))
    targets, weights = (jax.ShapeDtypeStruct((rows, positions), dtype) for dtype in (jnp.int32, jnp.float32))
    step = jax.grad(lambda *given: cross_entropy(*given)[0], argnums=(0, 1))
    compiled = jax.jit(step).lower(hidden, table, targets, weights).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * positions * codes

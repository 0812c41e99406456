"""Blocked attention equals the plain one, with its gradients, under every mask, with dropout, in blocks of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.nn import blocked_attention
from cogvideo_jax.nn.attention import Groups, Kernel, KeysValues, attend
from cogvideo_jax.nn.blocked_attention import Plan
from cogvideo_jax.nn.dropout import Drops

ROWS, HEADS, SIZE, TEXT, GROUPS, QUERIES = 2, 2, 4, 3, 2, 10
CAUSAL = np.tril(np.ones((QUERIES, QUERIES), bool))
FULL = np.ones((QUERIES, QUERIES), bool)
NEAR = np.abs(np.subtract.outer(np.arange(QUERIES), np.arange(QUERIES))) < 3
MASKS = {
    "causal": np.stack([CAUSAL, CAUSAL])[None],
    "full": np.stack([FULL, FULL])[None],
    "a mask for each group": np.stack([CAUSAL, NEAR])[None],
    "two kinds": np.stack([np.stack([CAUSAL, CAUSAL & NEAR]), np.stack([CAUSAL & NEAR, CAUSAL])]),
}


def arrays(dtype=jnp.float32):
    """query, text keys and values, keys and values of the groups."""
    text, group = (ROWS, TEXT, HEADS, SIZE), (ROWS, GROUPS, QUERIES, HEADS, SIZE)
    shapes = [group, text, text, group, group]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(jax.random.split(jax.random.key(0), 5), shapes)]


def outputs(kernel, masks, given, *, with_text=True, drops=None):
    """Attention, and the gradients of a weighted sum of it towards all arrays and the weight of the text."""

    def weighted(given, weight, kind):
        query, text_k, text_v, k, v = given
        text = dict(text=KeysValues(text_k, text_v), text_mask=text_mask, text_log_weight=weight) if with_text else {}
        out = attend(query, groups=Groups(KeysValues(k, v), masks, kind), drops=drops, kernel=kernel, **text)
        return (out.astype(jnp.float32) * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

    text_mask = jnp.array([[False, True, True], [True, True, True]])
    last = jnp.array(len(masks) - 1)  # traced, as in scanned layers
    gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(given, jnp.array(0.5), last)
    return [out, *jax.tree.leaves(gradients)]


def assert_equal(ours, plain, **tolerance):
    for one, other in zip(ours, plain, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), **tolerance)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocked_attention, "BLOCK", 4)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_outputs_and_gradients_equal_those_of_plain_attention(small_blocks, masks, with_text):
    plain, ours = (outputs(kernel, masks, arrays(), with_text=with_text) for kernel in (Kernel.PLAIN, Kernel.BLOCKED))
    assert_equal(ours, plain, atol=3e-6)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_same_numbers_are_dropped_whatever_the_blocks(monkeypatch, block):
    monkeypatch.setattr(blocked_attention, "BLOCK", block)
    drops = Drops(jnp.array([1, 2], jnp.uint32), 0.3)
    plain, ours = (
        outputs(kernel, MASKS["two kinds"], arrays(), drops=drops) for kernel in (Kernel.PLAIN, Kernel.BLOCKED)
    )
    assert_equal(ours, plain, atol=3e-6)
    assert not np.allclose(ours[0], outputs(Kernel.BLOCKED, MASKS["two kinds"], arrays())[0], atol=1e-2)


def test_in_bfloat16_it_is_as_near_to_float32_as_plain_attention(small_blocks):
    exact = outputs(Kernel.PLAIN, MASKS["causal"], arrays())
    half = [x.astype(jnp.bfloat16) for x in arrays()]
    plain, ours = (outputs(kernel, MASKS["causal"], half) for kernel in (Kernel.PLAIN, Kernel.BLOCKED))
    for true, one, other in zip(exact, ours, plain):
        assert one.dtype == other.dtype
        errors = [float(jnp.abs(x.astype(jnp.float32) - true).max()) for x in (one, other)]
        assert errors[0] <= 1.5 * errors[1] + 1e-3, errors


def test_large_scores_do_not_overflow(small_blocks):
    given = [100 * x for x in arrays()]
    plain, ours = (outputs(kernel, MASKS["causal"], given) for kernel in (Kernel.PLAIN, Kernel.BLOCKED))
    assert all(np.isfinite(x).all() for x in ours)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-4, atol=1e-2)


def test_blocks_cover_all_queries_once_and_end_at_the_last_key_that_is_seen(small_blocks):
    causal = MASKS["causal"]
    plan = Plan(*causal.shape[2:], causal, 0.0)
    assert [queries.stop - queries.start for queries, _ in plan.blocks] == [3, 3, 4]
    assert [(queries.stop, keys.stop) for queries, keys in plan.blocks] == [(3, 3), (6, 6), (10, 10)]


@pytest.mark.parametrize("gradient", [False, True])
def test_the_whole_matrix_of_scores_is_never_in_memory(gradient):
    queries = 2048
    masks = np.tril(np.ones((queries, queries), bool))[None, None]
    shape = jax.ShapeDtypeStruct((1, 1, queries, 1, SIZE), jnp.float32)

    def temporary_bytes(kernel):
        def attention(query, k, v):
            return attend(query, groups=Groups(KeysValues(k, v), masks), kernel=kernel)

        function = jax.grad(lambda *x: attention(*x).sum(), argnums=(0, 1, 2)) if gradient else attention
        return jax.jit(function).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes

    blocked, plain = (temporary_bytes(kernel) for kernel in (Kernel.BLOCKED, Kernel.PLAIN))
    print(f"{blocked} bytes of temporaries in blocks, {plain} at once; the scores are {4 * queries**2}")
    assert blocked < plain / 2.5

"""Local attention equals a dense masked softmax, at the borders too, and its memory grows with the tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.superres.local_attention import Neighbourhood, attend_locally
from cogvideo_jax.nn.attention import KeysValues

HEADS, SIZE = 2, 4


def random_grid(seed, *shape):
    return jax.random.normal(jax.random.key(seed), (2, *shape, HEADS, SIZE))


def neighbourhood(seed, grid, kernel):
    return Neighbourhood(KeysValues(random_grid(seed, *grid), random_grid(seed + 1, *grid)), kernel)


def reach(query_grid, grid, kernel):
    """Which key cell each query sees, written as the definition says: [H, W, h, w]."""
    factor = query_grid[0] // grid[0]
    mask = np.zeros((*query_grid, *grid), bool)
    for y, x, row, column in np.ndindex(mask.shape):
        near = abs(row - y // factor) <= kernel[0] // 2, abs(column - x // factor) <= kernel[1] // 2
        mask[y, x, row, column] = all(near)
    return mask


def dense(query, sources, text=None, text_mask=None):
    """The same as one softmax over all cells of all grids; a cell outside the picture is simply not there."""
    batch, rows, columns = query.shape[:3]
    keys = [source.keys.k.reshape(batch, -1, HEADS, SIZE) for source in sources]
    values = [source.keys.v.reshape(batch, -1, HEADS, SIZE) for source in sources]
    masks = [reach((rows, columns), source.keys.k.shape[1:3], source.kernel) for source in sources]
    masks = [
        jnp.broadcast_to(mask.reshape(rows, columns, -1), (batch, rows, columns, mask[0, 0].size)) for mask in masks
    ]
    if text is not None:
        keys, values = [text.k, *keys], [text.v, *values]
        masks = [jnp.broadcast_to(text_mask[:, None, None], (batch, rows, columns, text_mask.shape[1])), *masks]
    keys, values, mask = (jnp.concatenate(part, axis) for part, axis in ((keys, 1), (values, 1), (masks, -1)))
    scores = jnp.einsum("bhwak,bmak->bhwam", query, keys) / SIZE**0.5
    scores = jnp.where(mask[:, :, :, None], scores, -jnp.inf)
    return jnp.einsum("bhwam,bmak->bhwak", jax.nn.softmax(scores, axis=-1), values)


CASES = {
    "own grid": [((6, 6), (5, 3))],
    "kernel larger than the picture": [((6, 6), (9, 9))],
    "coarse, then own": [((2, 2), (3, 3)), ((6, 6), (5, 3))],
    "one token": [((6, 6), (1, 1))],
    "higher than wide": [((6, 4), (3, 5))],
    "tiles": [((24, 36), (9, 5))],
    "tiles that do not divide the picture": [((13, 30), (3, 7))],
    "tiles on two grids": [((10, 5), (5, 5)), ((30, 15), (9, 5))],
}


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("grids", CASES.values(), ids=CASES.keys())
def test_local_attention_equals_a_dense_masked_softmax(grids, with_text):
    sources = tuple(neighbourhood(10 * i, grid, kernel) for i, (grid, kernel) in enumerate(grids))
    query = random_grid(99, *grids[-1][0])
    options = {}
    if with_text:
        text = KeysValues(*(jax.random.normal(jax.random.key(seed), (2, 3, HEADS, SIZE)) for seed in (7, 8)))
        options = dict(text=text, text_mask=jnp.asarray([[False, True, True], [True, True, True]]))
    np.testing.assert_allclose(attend_locally(query, sources, **options), dense(query, sources, **options), atol=1e-6)


def test_gradients_equal_those_of_the_dense_softmax():
    def loss(attention, arrays):
        query, *rest = arrays
        sources = tuple(
            Neighbourhood(KeysValues(*rest[2 * i : 2 * i + 2]), kernel) for i, kernel in enumerate([(3, 3), (5, 3)])
        )
        return (attention(query, sources) ** 2).sum()

    arrays = [
        random_grid(0, 6, 6),
        random_grid(1, 2, 2),
        random_grid(2, 2, 2),
        random_grid(3, 6, 6),
        random_grid(4, 6, 6),
    ]
    ours, theirs = (jax.grad(loss, argnums=1)(attention, arrays) for attention in (attend_locally, dense))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_grows_with_the_number_of_tokens(gradient):
    def attention(query, coarse, fine):
        sources = Neighbourhood(coarse, (5, 5)), Neighbourhood(fine, (9, 5))
        return attend_locally(query, sources)

    def loss(*arrays):
        return (attention(*arrays) ** 2).sum()

    def temporary_bytes(side):
        query, coarse = (jax.ShapeDtypeStruct((1, n, n, 4, 32), jnp.float32) for n in (side, side // 3))
        function = jax.grad(loss, argnums=(0, 1, 2)) if gradient else attention
        compiled = jax.jit(function).lower(query, KeysValues(coarse, coarse), KeysValues(query, query)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(36), temporary_bytes(72)  # tiles of 18 x 9 in both
    print(f"{small} bytes for {36**2} tokens, {large} for {72**2}: {large / small:.2f} times for 4 times the tokens")
    assert large < 1.05 * 4 * small
    one_grid = 4 * 72 * 72 * 4 * 32
    assert large < 70 * one_grid  # a grid kept for each of the 70 keys that a query sees would take more

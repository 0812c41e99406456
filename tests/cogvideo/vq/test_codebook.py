"""The code book: search, gradient, moving averages and restarts on cases small enough to see."""

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.vq import codebook as codes
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook

CORNERS = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_nearest_code_is_the_one_of_smallest_distance():
    rng = np.random.default_rng(0)
    latents, vectors = rng.normal(size=(3, 5, 8)), rng.normal(size=(50, 8))
    distance = np.square(latents[..., None, :] - vectors).sum(-1)
    found = codes.nearest(jnp.asarray(latents, jnp.float32), jnp.asarray(vectors, jnp.float32))
    np.testing.assert_array_equal(found.ids, distance.argmin(-1))
    np.testing.assert_allclose(found.squared_distance, distance.min(-1), rtol=1e-4)


def test_first_code_wins_a_tie():
    vectors = jnp.asarray([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert codes.nearest_code(jnp.zeros((1, 2)), vectors).tolist() == [1]


def test_search_is_the_same_over_several_chunks(monkeypatch):
    latents = jax.random.normal(jax.random.key(0), (23, 4))
    vectors = jax.random.normal(jax.random.key(1), (9, 4))
    whole = codes.nearest_code(latents, vectors)
    monkeypatch.setattr(codes, "LATENTS_PER_CHUNK", 5)
    np.testing.assert_array_equal(codes.nearest_code(latents, vectors), whole)


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_latent():
    latents, quantised = jnp.asarray([0.2, 0.9]), jnp.asarray([0.0, 1.0])
    value, gradient = jax.value_and_grad(lambda x: (3.0 * codes.straight_through(x, quantised)).sum())(latents)
    np.testing.assert_allclose(value, 3.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [3.0, 3.0])


def test_codes_move_to_the_mean_of_their_latents():
    book = Codebook(CORNERS[:2], jnp.ones(2), CORNERS[:2])
    latents = jnp.asarray([[0.0, 2.0], [0.0, 4.0], [5.0, 0.0]])
    moved, counts = codes.ema_update(book, latents, jnp.asarray([0, 0, 1]), decay=0.0)
    np.testing.assert_allclose(moved.vectors, [[0.0, 3.0], [5.0, 0.0]])
    np.testing.assert_allclose(counts, [2.0, 1.0])
    half, _ = codes.ema_update(book, latents, jnp.asarray([0, 0, 1]), decay=0.5)
    np.testing.assert_allclose(half.cluster_size, [1.5, 1.0])
    np.testing.assert_allclose(half.vectors, [[0.0, 2.0], [3.0, 0.0]])


def test_dead_code_restarts_on_the_latent_that_no_code_fits():
    book = Codebook(CORNERS, jnp.asarray([1.0, 0.001, 1.0, 1.0]), CORNERS)
    latents = jnp.asarray([[0.0, 0.0], [7.0, 7.0], [0.0, 1.0]])
    distance = codes.nearest(latents, book.vectors).squared_distance
    fresh, moved = codes.restart_dead_codes(book, latents, distance, jax.random.key(0), below=0.05)
    assert int(moved) == 1
    np.testing.assert_allclose(fresh.vectors, CORNERS.at[1].set(7.0))
    np.testing.assert_allclose(fresh.cluster_size, 1.0)
    np.testing.assert_allclose(fresh.embed_avg[1], [7.0, 7.0])


def test_more_dead_codes_than_latents_moves_only_as_many():
    book = Codebook(CORNERS, jnp.zeros(4), CORNERS)
    fresh, moved = codes.restart_dead_codes(book, jnp.full((2, 2), 9.0), jnp.ones(2), jax.random.key(0), below=0.05)
    assert int(moved) == 2
    np.testing.assert_allclose(fresh.vectors[2:], CORNERS[2:])


def test_well_fitted_background_is_never_a_new_code():
    book = Codebook(CORNERS, jnp.zeros(4), CORNERS)
    latents = jnp.concatenate([jnp.zeros((50, 2)), jnp.full((1, 2), 9.0)])
    distance = jnp.square(latents).sum(axis=-1)
    fresh, moved = codes.restart_dead_codes(book, latents, distance, jax.random.key(0), below=0.05)
    assert int(moved) == 1
    np.testing.assert_allclose(fresh.vectors, CORNERS.at[0].set(9.0))


def test_threshold_zero_restarts_nothing():
    book = Codebook(CORNERS, jnp.zeros(4), CORNERS)
    fresh, moved = codes.restart_dead_codes(book, CORNERS, jnp.ones(4), jax.random.key(0), below=0.0)
    assert int(moved) == 0
    np.testing.assert_array_equal(fresh.vectors, book.vectors)


def test_first_codes_take_the_background_once_and_every_rare_latent():
    background = jnp.zeros((500, 2))
    rare = jnp.asarray([[3.0, 0.0], [0.0, 3.0], [3.0, 3.0]])
    book = codes.init_from_latents(jnp.concatenate([background, rare]), jax.random.key(0), size=4)
    found = sorted(map(tuple, np.asarray(book.vectors).tolist()))
    assert found == [(0.0, 0.0), (0.0, 3.0), (3.0, 0.0), (3.0, 3.0)]


def test_spare_codes_start_unused():
    book = codes.init_from_latents(jnp.repeat(CORNERS, 3, axis=0), jax.random.key(0), size=6)
    assert sorted(book.cluster_size.tolist()) == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


def test_look_up_returns_the_vectors_of_a_grid():
    ids = jnp.asarray([[3, 0], [1, 2]])
    np.testing.assert_array_equal(codes.look_up(ids, CORNERS), np.asarray(CORNERS)[np.asarray(ids)])

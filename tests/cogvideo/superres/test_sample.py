"""Schedules drawn by hand, and draws that do not depend on how many rows are drawn together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.sampling.logits import FORBIDDEN, Strategy, sample_top_k, top_k_logits
from cogvideo_jax.models.cogvideo.superres import sample
from tests.cogvideo.superres import tiny

CODES = 40
STRATEGY = Strategy(temperature=1.0, top_clusters=6, token_temperature=0.6)
GREEDY = Strategy(temperature=1.0, top_clusters=1, token_temperature=1.0, greedy=True)


def test_a_schedule_is_warm_up_and_then_the_diagonals_of_every_block():
    np.testing.assert_array_equal(
        sample.schedule(4, warmup=0, block=(2, 3)),
        [[1, 2, 3, 1], [2, 3, 4, 2], [1, 2, 3, 1], [2, 3, 4, 2]],
    )
    np.testing.assert_array_equal(sample.schedule(2, warmup=2, block=(2, 2)), [[3, 4], [4, 5]])
    np.testing.assert_array_equal(sample.schedule(2, warmup=1, block=(1, 0)), np.ones((2, 2)))


def test_every_warm_up_step_draws_all_and_every_later_step_one_diagonal():
    drawn = sample.drawn_at_step(2, warmup=1, block=(2, 2)).astype(int)
    np.testing.assert_array_equal(drawn, [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    assert len(sample.drawn_at_step(60, warmup=1, block=(1, 0))) == 1


def test_rounds_shrink_and_cover_all_but_the_kept_tokens():
    drawn = sample.drawn_in_round(60, rounds=6)
    assert drawn.sum(1).tolist() == [2300, 1900, 1500, 1000, 600, 200]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(drawn))
    np.testing.assert_array_equal(sample.drawn_in_round(8, rounds=1).reshape(8, 8)[6:, :2], [[0, 0], [0, 0]])


@pytest.mark.parametrize("warmup, block", [(0, (1, 0)), (-1, (2, 2)), (1, (-1, 2))])
def test_a_schedule_that_draws_nothing_is_refused(warmup, block):
    with pytest.raises(ValueError, match="schedule"):
        sample.DirectSettings(strategy=STRATEGY, clusters=CODES, warmup=warmup, block=block)


@pytest.mark.parametrize("top_k", [(), (40,) * 7, (0,)])
def test_rounds_that_cannot_be_are_refused(top_k):
    with pytest.raises(ValueError, match="rounds"):
        sample.RefineSettings(1.0, top_k)


def superres_direct(rows, *, rows_per_call, warmup=1, block=(2, 2), strategy=STRATEGY):
    config = tiny.config()
    model, params = tiny.random_model(config)
    text, mask, coarse, _ = tiny.random_batch(config, rows=5)
    rngs = jax.random.split(jax.random.key(4), 5)
    settings = sample.DirectSettings(strategy=strategy, clusters=10, warmup=warmup, block=block)
    labels = jnp.arange(CODES) % 10
    inputs = [array[:rows] for array in (text, mask, coarse, rngs)]
    return sample.superres_direct(params, *inputs, labels, model=model, settings=settings, rows_per_call=rows_per_call)


def test_batch_size_does_not_change_a_direct_sample_and_no_row_is_dropped():
    all_rows = superres_direct(5, rows_per_call=5)
    assert all_rows.shape == (5, 36) and int(all_rows.max()) < CODES
    for rows_per_call in (2, 8):
        np.testing.assert_array_equal(superres_direct(5, rows_per_call=rows_per_call), all_rows)
    np.testing.assert_array_equal(superres_direct(2, rows_per_call=2), all_rows[:2])
    assert len(np.unique(all_rows, axis=0)) == 5


def test_batch_size_does_not_change_a_refinement_and_no_row_is_dropped():
    config = tiny.config(None)
    model, params = tiny.random_model(config)
    text, mask, _, fine = tiny.random_batch(config, rows=5)
    rngs = jax.random.split(jax.random.key(4), 5)
    settings = sample.RefineSettings(1.0, (12, 6, 3))

    def superres_iterative(rows_per_call):
        return sample.superres_iterative(
            params, text, mask, fine, rngs, model=model, settings=settings, rows_per_call=rows_per_call
        )

    all_rows = superres_iterative(5)
    np.testing.assert_array_equal(superres_iterative(2), all_rows)
    kept = ~sample.drawn_in_round(6, rounds=1)[0]
    np.testing.assert_array_equal(all_rows[:, kept], fine[:, kept])
    assert (np.asarray(all_rows)[:, ~kept] != np.asarray(fine)[:, ~kept]).mean() > 0.5


def test_later_steps_see_what_earlier_steps_drew():
    """Two steps by the sampler equal two passes by hand."""
    config = tiny.config()
    model, params = tiny.random_model(config)
    text, mask, coarse, _ = tiny.random_batch(config, rows=5)

    @jax.jit
    def greedy_pass(fine):
        hidden = model.apply({"params": params}, text, mask, coarse, fine)[:, -config.fine_tokens :]
        return jnp.argmax(model.apply({"params": params}, hidden, method=type(model).image_logits), -1)

    fine = jnp.full((5, config.fine_tokens), config.boi)
    for written in sample.drawn_at_step(config.fine_grid, warmup=0, block=(2, 1)):
        fine = jnp.where(written, greedy_pass(fine), fine)
    config = dict(strategy=GREEDY, clusters=CODES, warmup=0, block=(2, 1))
    settings = sample.DirectSettings(**config)
    rngs = jax.random.split(jax.random.key(4), 5)
    ours = sample.superres_direct(
        params, text, mask, coarse, rngs, jnp.arange(CODES), model=model, settings=settings, rows_per_call=5
    )
    np.testing.assert_array_equal(ours, fine)


def test_top_k_keeps_ties_at_the_border_and_draws_nothing_else():
    logits = jnp.asarray([[3.0, 1.0, 2.0, 2.0, 0.0]])
    kept = np.asarray(top_k_logits(logits, top_k=jnp.int32(2), most=4))
    np.testing.assert_array_equal(kept, [[3.0, FORBIDDEN, 2.0, 2.0, FORBIDDEN]])
    rows = jnp.repeat(logits, 500, axis=0)
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = np.asarray(sample_top_k(keys, rows, top_k=jnp.int32(2), most=4, greedy=False))
    assert set(drawn) == {0, 2, 3}
    assert (np.asarray(sample_top_k(keys, rows, top_k=jnp.int32(2), most=4, greedy=True)) == 0).all()

"""Average of the trained weights."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cogvideo_jax.runtime.weights import load_weights
from cogvideo_jax.training.ema import average_params, averaged
from tests.training.run import build, train


def test_the_average_follows_the_weights_and_soon_forgets_where_they_began():
    tx = optax.chain(optax.sgd(1.0), average_params(0.5))
    params = {"kernel": jnp.ones(2)}
    state = tx.init(params)
    expected = np.ones(2)
    for step in range(3):
        updates, state = tx.update({"kernel": jnp.full(2, 4.0)}, state, params)
        params = optax.apply_updates(params, updates)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * np.asarray(params["kernel"])
    np.testing.assert_allclose(averaged(state, params)["kernel"], expected, rtol=1e-6)


def test_the_average_is_validated_and_exported_and_off_changes_nothing(make_config, tmp_path):
    off, on = build(make_config("base")), build(make_config("base", ema=0.9))
    assert len(jax.tree.leaves(on.abstract.state.opt_state)) > len(jax.tree.leaves(off.abstract.state.opt_state))
    state, batch = on.first_state(), next(on.batches())
    for i in range(2):
        state, _ = on.step(state, {}, batch, jax.random.key(i))
    average = averaged(state.opt_state, state.trained)
    assert averaged(off.first_state().opt_state, state.trained) is state.trained
    table = state.trained["token_table"]
    assert np.any(np.asarray(average["token_table"]) != table) and average["token_table"].sharding == table.sharding
    loss = off.evaluate(off.first_state().replace(trained=average), {}, batch)["loss"]
    np.testing.assert_allclose(on.evaluate(state, {}, batch)["loss"], loss, rtol=1e-5)
    on.export(state, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(
        load_weights(tmp_path / "weights.safetensors")[0]["token_table"], average["token_table"]
    )


def test_a_run_with_an_average_goes_on_from_its_checkpoint(make_config, tmp_path):
    whole = load_weights(train(make_config("base", ema=0.9, steps=6), tmp_path / "whole"))[0]
    train(make_config("base", ema=0.9, steps=6, checkpoint_every=3), tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "6")
    again = load_weights(train(make_config("base", ema=0.9, steps=6), tmp_path / "broken"))[0]
    np.testing.assert_array_equal(again["token_table"], whole["token_table"])

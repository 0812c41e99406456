"""One training step of the image tokenizer, on squares of few colours."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cogvideo_jax.models.cogvideo.training.vq_step import (
    foreground_mask,
    foreground_windows,
    init_vq_state,
    peak_signal_to_noise,
    scaled,
    shrink,
    vq_evaluate,
    vq_train_step,
)
from cogvideo_jax.models.cogvideo.vq.config import DEMO
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer

SMALL = dataclasses.replace(
    DEMO,
    codebook_size=16,
    code_width=8,
    latent_channels=16,
    encoder_channels=24,
    groups=4,
    encoder_res_blocks=0,
    decoder_res_blocks=0,
    decoder_channels=24,
    decoder_multipliers=((1,),),
    decoder_patch=8,
)
WHITE = (255, 255, 255)
TX = optax.adam(3e-3)


def squares(seed: int) -> np.ndarray:
    """Four pictures of 32x32 with one coloured patch on white."""
    rng = np.random.default_rng(seed)
    frames = np.full((4, 32, 32, 3), 255, np.uint8)
    for frame in frames:
        y, x = 8 * rng.integers(4, size=2)
        frame[y : y + 8, x : x + 8] = [(220, 30, 30), (40, 70, 220), (20, 20, 20)][rng.integers(3)]
    return frames


def stepper(config=SMALL, restart_below: float = 0.02):
    settings = dict(config=config, tx=TX, commitment=0.25, ema_decay=0.95, restart_below=restart_below)
    step = functools.partial(vq_train_step, foreground_weight=4.0, background=WHITE, **settings)
    return jax.jit(step, donate_argnums=0)


@pytest.fixture(scope="module")
def trained():
    """State and the metrics of 150 steps."""
    state, step, rng = init_vq_state(SMALL, jax.random.key(0), squares(0), TX), stepper(), jax.random.key(1)
    history = []
    for i in range(150):
        state, metrics = step(state, squares(i), jax.random.fold_in(rng, i))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_training_lowers_the_loss_and_raises_psnr(trained):
    state, history = trained
    assert int(state.step) == 150
    assert history[-1]["loss"] < 0.1 * history[0]["loss"]
    assert history[-1]["psnr"] > history[0]["psnr"] + 10


def test_metrics_are_named_finite_scalars(trained):
    names = {"loss", "reconstruction", "commitment", "psnr", "psnr_foreground", "perplexity", "restarted"}
    names |= {"gradient_norm", "update_norm"}
    for metrics in trained[1]:
        assert metrics.keys() == names
        assert np.isfinite(list(metrics.values())).all()


def test_white_is_one_code_and_colours_are_others(trained):
    state, _ = trained
    frames = squares(9)
    ids = np.asarray(VQTokenizer(SMALL, state.tokenizer_params()).encode(frames))
    white = (frames.reshape(4, 4, 8, 4, 8, 3) == 255).all((2, 4, 5)).reshape(4, -1)
    assert len(np.unique(ids[white])) == 1
    assert not np.isin(ids[~white], ids[white]).any()


def test_same_state_frames_and_key_give_the_same_step():
    step = jax.jit(stepper().__wrapped__)
    state = init_vq_state(SMALL, jax.random.key(0), squares(0), TX)
    first, second = (step(state, squares(1), jax.random.key(2)) for _ in range(2))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))


def test_evaluation_says_what_a_step_says_before_its_update():
    settings = dict(config=SMALL, commitment=0.25, foreground_weight=4.0, background=WHITE)
    step = stepper().__wrapped__

    @jax.jit
    def both(frames):
        state = init_vq_state(SMALL, jax.random.key(0), frames, TX)
        return vq_evaluate(state.params, state.codebook, frames, **settings), step(state, frames, jax.random.key(2))[1]

    found, said = both(squares(1))
    assert found.keys() == said.keys() - {"perplexity", "restarted", "gradient_norm", "update_norm"}
    for name, value in found.items():
        np.testing.assert_allclose(value, said[name], rtol=1e-4, atol=1e-6)


def test_codes_follow_averages_and_not_the_optimizer():
    state = init_vq_state(SMALL, jax.random.key(0), squares(0), TX)
    settings = dict(config=SMALL, tx=optax.set_to_zero(), commitment=0.25, restart_below=0.0)
    settings |= dict(foreground_weight=1.0, background=WHITE)
    state = state.replace(opt_state=optax.set_to_zero().init(state.params))
    step = jax.jit(functools.partial(vq_train_step, **settings))
    frozen, _ = step(state, squares(1), jax.random.key(0), ema_decay=1.0)
    np.testing.assert_allclose(frozen.codebook.vectors, state.codebook.vectors, rtol=1e-6)
    other = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    moved, _ = step(state, other, jax.random.key(0), ema_decay=0.5)
    assert not np.allclose(moved.codebook.vectors, state.codebook.vectors)


def test_several_rates_train_one_code_book():
    ladder = dataclasses.replace(
        SMALL,
        rates=(4, 8),
        encoder_patch=4,
        decoder_patch=4,
        decoder_multipliers=((1,), (1, 1)),
        decoder_lowest_attention=(False, False),
    )
    state = init_vq_state(ladder, jax.random.key(0), squares(0), TX)
    before = state.params["decoder_4"]["conv_in"]["kernel"], state.params["decoder_8"]["conv_in"]["kernel"]
    before = [np.asarray(kernel) for kernel in before]
    state, metrics = stepper(ladder)(state, squares(1), jax.random.key(1))
    assert np.isfinite(float(metrics["loss"]))
    assert not np.allclose(before[0], state.params["decoder_4"]["conv_in"]["kernel"])
    assert not np.allclose(before[1], state.params["decoder_8"]["conv_in"]["kernel"])


def test_foreground_is_what_differs_from_the_background():
    frames = jnp.asarray([[[[255, 255, 255], [255, 254, 255]]]], jnp.uint8)
    np.testing.assert_array_equal(foreground_mask(frames, WHITE)[0, 0, :, 0], [0.0, 1.0])


def test_windows_hold_the_whole_object_and_start_on_the_grid():
    frames = np.full((40, 64, 64, 3), 255, np.uint8)
    frames[:, 30:46, 3:20] = np.arange(17, dtype=np.uint8)[:, None]
    windows = foreground_windows(frames, jax.random.key(0), side=40, grid=8, background=WHITE)
    assert windows.shape == (40, 40, 40, 3)
    ink = np.asarray(foreground_mask(windows, WHITE))[..., 0] > 0
    assert (ink.sum(axis=(1, 2)) == 16 * 17).all()
    assert set(ink.any(axis=2).argmax(axis=1).tolist()) == {6, 14, 22}
    assert set(ink.any(axis=1).argmax(axis=1).tolist()) == {3}


def test_window_of_an_empty_frame_is_anywhere_inside():
    frames = np.full((8, 32, 32, 3), 255, np.uint8)
    windows = foreground_windows(frames, jax.random.key(0), side=16, grid=8, background=WHITE)
    assert windows.shape == (8, 16, 16, 3) and (np.asarray(windows) == 255).all()


def test_step_in_windows_learns_from_the_object():
    frames = np.full((4, 48, 48, 3), 255, np.uint8)
    frames[:, 4:20, 20:36] = 20
    state = init_vq_state(SMALL, jax.random.key(0), frames, TX)
    settings = dict(config=SMALL, tx=TX, commitment=0.25, ema_decay=0.95, restart_below=0.0)
    settings |= dict(foreground_weight=4.0, background=WHITE, window=24)
    _, metrics = jax.jit(functools.partial(vq_train_step, **settings))(state, frames, jax.random.key(1))
    assert np.isfinite(float(metrics["loss"])) and float(metrics["perplexity"]) > 1.5


def test_frames_of_several_scales_share_one_step():
    frames = np.full((4, 96, 96, 3), 255, np.uint8)
    frames[:, 30:60, 30:60] = 20
    state = init_vq_state(SMALL, jax.random.key(0), frames, TX)
    settings = dict(config=SMALL, tx=TX, commitment=0.25, ema_decay=0.95, restart_below=0.0)
    settings |= dict(foreground_weight=4.0, background=WHITE, window=24, scales=(3, 1))
    _, metrics = jax.jit(functools.partial(vq_train_step, **settings))(state, frames, jax.random.key(1))
    assert np.isfinite(float(metrics["loss"]))


def test_each_part_of_a_batch_has_its_own_scale():
    frames = jnp.asarray(np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 96, 96, 3), np.uint8))
    small, large = scaled(frames, (3, 1), window=24)
    assert small.shape == (2, 32, 32, 3) and large.shape == (2, 96, 96, 3)
    assert small[:, 0, 0, 0].tolist() == [0, 1] and large[:, 0, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    "batch, scales, window, words",
    [(4, (3, 1), 0, "set vq.window"), (3, (3, 1), 24, "a batch of 3"), (4, (5, 1), 24, "96 x 96 pixels")],
)
def test_scales_that_do_not_divide_are_refused(batch, scales, window, words):
    with pytest.raises(ValueError, match=words):
        scaled(jnp.zeros((batch, 96, 96, 3), jnp.uint8), scales, window=window)


def test_shrunk_pixels_are_means():
    frames = jnp.asarray(np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1) * jnp.ones((1, 1, 1, 3), jnp.uint8))
    assert shrink(frames, 3)[0, :, :, 0].tolist() == [[7, 10], [25, 28]]


def test_psnr_of_a_tenth_off_is_twenty_decibels():
    target, weights = jnp.full((1, 2, 2, 3), 0.5), jnp.ones((1, 2, 2, 1))
    np.testing.assert_allclose(peak_signal_to_noise(target + 0.1, target, weights), 20.0, rtol=1e-4)

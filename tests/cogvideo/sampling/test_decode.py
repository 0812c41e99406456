"""Loops over tokens and windows: right places, right order, nothing depends on the neighbours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.sampling import decode
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, most_parallel_frames, write_slots
from cogvideo_jax.models.cogvideo.sampling.interpolate import interpolate_once, merge_windows, split_windows
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy, guide, sample
from cogvideo_jax.models.cogvideo.transformer.masks import smallest_lag
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.runtime.rng import row_keys
from tests.cogvideo.transformer import tiny

LABELS = jnp.arange(40)
GREEDY = DecodeSettings(Strategy(1.0, 40, greedy=True), clusters=40, guidance=None, text_log_weight=0.0)
RANDOM = DecodeSettings(Strategy(1.0, 40), clusters=40, guidance=None, text_log_weight=0.0)
CASES = {
    "base": (tiny.config(tiny.BASE), 0),
    "stage1": (tiny.config(tiny.KEYFRAMES), 1),
    "stage2": (tiny.config(tiny.INTERPOLATION, window=2), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_the_most_likely_of_the_uncached_model(name):
    config, given = CASES[name]
    model, params = tiny.random_sampler(config)
    text, mask, frames = tiny.random_batch(config)
    clip = write_slots(
        params, text, mask, frames[:, :given], row_keys(jax.random.key(0), 2), LABELS, model=model, settings=GREEDY
    )
    np.testing.assert_array_equal(clip[:, :given], frames[:, :given])
    hidden = tiny.hidden_states(config, text, mask, shift_right(clip, boi=config.boi))
    logits = model.apply({"params": params}, hidden[:, config.layout.text_length :], method=Transformer.image_logits)
    best = jnp.argmax(logits, axis=-1).reshape(clip.shape)
    np.testing.assert_array_equal(clip[:, given:], best[:, given:])


SIDE_BY_SIDE = {
    "stage1": (tiny.config(tiny.KEYFRAMES, window=2), 1),
    "stage2": (tiny.config(tiny.INTERPOLATION, window=2), 3),
}


def clip_in_lanes(config, given: int, parallel_frames: int, **how):
    model, params = tiny.random_sampler(config)
    text, mask, frames = tiny.random_batch(config)
    settings = dataclasses.replace(RANDOM, parallel_frames=parallel_frames, **how)
    keys = row_keys(jax.random.key(0), 2)
    return write_slots(params, text, mask, frames[:, :given], keys, LABELS, model=model, settings=settings)


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_frames_written_side_by_side_are_those_written_unrolled_layers(name):
    config, given = SIDE_BY_SIDE[name]
    parallel_frames = most_parallel_frames(config)
    assert parallel_frames == config.layout.frames - given
    np.testing.assert_array_equal(clip_in_lanes(config, given, parallel_frames), clip_in_lanes(config, given, 1))


@pytest.mark.parametrize(
    "name, given, parallel_frames, int8", [("stage1", 3, 1, True), ("stage1", 1, 2, False), ("stage2", 3, 1, False)]
)
def test_a_cache_that_grows_writes_the_same_frames(name, given, parallel_frames, int8):
    config, _ = SIDE_BY_SIDE[name]
    clips = [
        clip_in_lanes(config, given, parallel_frames, int8_cache=int8, growing_cache=grows) for grows in (False, True)
    ]
    np.testing.assert_array_equal(*clips)


def test_a_cache_with_full_attention_grows():
    config, _ = CASES["stage1"]
    np.testing.assert_array_equal(*(clip_in_lanes(config, 3, 1, growing_cache=grows) for grows in (False, True)))


@pytest.mark.parametrize("window, lag", [(10, 189), (5, 84), (4, 63)])
def test_the_lag_of_the_released_grid(window, lag):
    assert smallest_lag(20, window) == lag


def test_full_attention_is_written_unrolled_layers():
    assert most_parallel_frames(tiny.config(tiny.KEYFRAMES)) == most_parallel_frames(tiny.config(tiny.BASE)) == 1


def test_guidance_with_scale_one_is_no_guidance():
    config, given = CASES["stage1"]
    model, params = tiny.random_sampler(config)
    text, mask, frames = tiny.random_batch(config)
    keys = row_keys(jax.random.key(0), 2)
    doubled = jnp.concatenate([text, text[::-1]]), jnp.concatenate([mask, mask[::-1]])
    guided = DecodeSettings(RANDOM.strategy, 40, guidance=1.0, text_log_weight=0.0)
    one = write_slots(params, text, mask, frames[:, :given], keys, LABELS, model=model, settings=RANDOM)
    other = write_slots(params, *doubled, frames[:, :given], keys, LABELS, model=model, settings=guided)
    np.testing.assert_array_equal(one, other)


def test_guidance_moves_away_from_the_second_half():
    logits = jnp.asarray([[2.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(guide(logits, 3.0), [[4.0, 1.0]])


def test_chunks_of_any_size_give_the_same_interpolation():
    config, _ = CASES["stage2"]
    model, params = tiny.random_sampler(config)
    text, mask, _ = tiny.random_batch(config)
    frames = jax.random.randint(jax.random.key(5), (2, 5, 16), 0, 40)
    keys = row_keys(jax.random.key(0), 2)
    clips = [
        interpolate_once(params, text, mask, frames, keys, LABELS, model=model, settings=RANDOM, chunk=chunk)
        for chunk in (3, 4)
    ]
    assert clips[0].shape == (2, 9, 16)
    np.testing.assert_array_equal(*clips)
    np.testing.assert_array_equal(clips[0][:, ::2], frames)


def test_windows_overlap_by_one_frame_and_are_merged_in_order_of_time():
    frames = jnp.arange(9)[None, :, None]
    windows = split_windows(frames)
    assert windows[0, :, :, 0].tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]
    times = 4 * jnp.arange(4)[:, None] + jnp.asarray([0, 2, 4, 1, 3])
    merged = merge_windows(times[None, :, :, None])
    assert merged[0, :, 0].tolist() == list(range(17))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_interpolation_wants_an_odd_number_of_frames(length):
    config, _ = CASES["stage2"]
    model, params = tiny.random_sampler(config)
    text, mask, _ = tiny.random_batch(config)
    frames = jnp.zeros((2, length, 16), jnp.int32)
    with pytest.raises(ValueError, match="odd number"):
        interpolate_once(
            params, text, mask, frames, row_keys(jax.random.key(0), 2), LABELS, model=model, settings=RANDOM, chunk=1
        )


def test_the_last_token_can_have_a_strategy_of_its_own():
    config, _ = CASES["base"]
    model, params = tiny.random_sampler(config)
    text, mask, _ = tiny.random_batch(config)
    keys = row_keys(jax.random.key(0), 2)
    none = np.zeros((2, 0, 16), np.int32)
    settings = DecodeSettings(RANDOM.strategy, 40, None, 0.0, last_token=GREEDY.strategy)
    plain, quirk = (
        decode.write_slots(params, text, mask, none, keys, LABELS, model=model, settings=s)[:, 0]
        for s in (RANDOM, settings)
    )
    np.testing.assert_array_equal(plain[:, :-1], quirk[:, :-1])


def test_only_the_top_clusters_are_drawn():
    logits = jnp.tile(jnp.log(jnp.asarray([0.3, 0.3, 0.25, 0.1, 0.05])), (2000, 1))
    labels = jnp.asarray([0, 1, 0, 2, 2])
    drawn = sample(jax.random.split(jax.random.key(0), 2000), logits, Strategy(1.0, 2, 1.0), labels, 3)
    share = np.bincount(np.asarray(drawn), minlength=5) / 2000
    np.testing.assert_allclose(share, np.asarray([0.3, 0.3, 0.25, 0, 0]) / 0.85, atol=0.04)


@pytest.mark.parametrize("bad", [dict(temperature=0.0), dict(top_clusters=0), dict(token_temperature=-1.0)])
def test_settings_that_cannot_be_drawn_with_are_refused(bad):
    with pytest.raises(ValueError):
        Strategy(**{"temperature": 1.0, "top_clusters": 2} | bad)


def test_the_lag_between_lanes_is_the_smallest(monkeypatch):
    config, given = SIDE_BY_SIDE["stage1"]
    sequential = clip_in_lanes(config, given, 1)
    monkeypatch.setattr(decode, "smallest_lag", lambda grid, window: smallest_lag(grid, window) - 1)
    decode.write_frames.clear_cache()
    assert np.any(clip_in_lanes(config, given, 4) != sequential)
    decode.write_frames.clear_cache()

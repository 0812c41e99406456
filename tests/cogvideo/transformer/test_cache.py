"""Cached decoding equals the uncached forward at every step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from tests.cogvideo.transformer import tiny

CASES = {
    "base": (tiny.config(tiny.BASE), 0),
    "stage1_full": (tiny.config(tiny.KEYFRAMES), 1),
    "stage1_windows": (tiny.config(tiny.KEYFRAMES, window=2), 1),
    "stage1_from_nothing": (tiny.config(tiny.KEYFRAMES), 0),
    "stage2_full": (tiny.config(tiny.INTERPOLATION), 3),
    "stage2_windows": (tiny.config(tiny.INTERPOLATION, window=2), 3),
}
WEIGHT = 0.7


def whole_and_stepwise(config, given, *, limited, compat=Compat.EXACT):
    """Logits of every generated position: one uncached pass, and one cached step after another."""
    model, params = tiny.random_sampler(config)
    variables = {"params": params}
    text, mask, frames = tiny.random_batch(config)
    layout = config.layout
    inputs = shift_right(frames, boi=config.boi)
    hidden = tiny.hidden_states(config, text, mask, inputs, text_log_weight=WEIGHT)
    first = given * layout.frame_tokens
    whole = model.apply(variables, hidden[:, layout.text_length + first :], method=Transformer.image_logits)

    options = dict(text_log_weight=WEIGHT, limited=limited, compat=compat, method=Transformer.prefill)
    _, cache = jax.jit(functools.partial(model.apply, **options))(variables, text, mask, inputs[:, :given])
    flat = inputs.reshape(len(text), -1)

    def step(cache, index):
        token = flat[:, index[None]]
        hidden, cache = model.apply(
            variables, token, index[None], cache, text_log_weight=WEIGHT, method=Transformer.step
        )
        return cache, model.apply(variables, hidden[:, 0], method=Transformer.image_logits)

    _, stepwise = jax.lax.scan(step, cache, jnp.arange(first, layout.image_length))
    return np.asarray(whole), np.asarray(stepwise.swapaxes(0, 1))


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "unlimited"])
@pytest.mark.parametrize("name", CASES)
def test_cached_steps_equal_the_whole_pass(name, limited, record_property):
    whole, stepwise = whole_and_stepwise(*CASES[name], limited=limited)
    difference = np.abs(whole - stepwise).max()
    record_property("largest_difference", float(difference))
    print(f"{name} {difference:.2e} of {np.abs(whole).max():.1f}")
    assert difference < 1e-4


def test_the_released_prefill_differs_in_shifted_windows_only():
    whole, stepwise = whole_and_stepwise(*CASES["stage2_windows"], limited=True, compat=Compat.RELEASE)
    assert np.abs(whole - stepwise).max() > 1e-2


def test_padding_changes_nothing():
    """A text of three tokens gives the same logits with and without two pads in front."""
    config = tiny.config(tiny.KEYFRAMES)
    text, mask, frames = tiny.random_batch(config, rows=1, pads=2)
    inputs = shift_right(frames, boi=config.boi)
    padded = tiny.hidden_states(config, text, mask, inputs)
    repadded = tiny.hidden_states(config, text.at[:, :2].set(45), mask, inputs)
    np.testing.assert_allclose(padded[:, 2:], repadded[:, 2:], atol=1e-5)

"""Fused attention and its gradients equal plain attention, in both stages and in windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.nn.attention import Kernel, kernel_for
from tests.cogvideo.transformer import tiny


def hidden_states(config, kernel: Kernel):
    """Of all frames of two rows, one with padded text."""
    return hidden_and_gradient(config, kernel, gradient=False)[0]


def hidden_and_gradient(config, kernel: Kernel, *, gradient: bool = True):
    """Hidden states of all frames of two rows, one with padded text, and the gradient of the mean of their squares."""
    _, params = tiny.random_model(config)
    text, mask, frames = tiny.random_batch(config)
    model = Transformer(config, kernel=kernel)

    def loss(params):
        hidden = model.apply({"params": params}, text, mask, shift_right(frames, boi=config.boi))
        hidden = hidden[:, config.layout.text_length :]
        return jnp.square(hidden).mean(), hidden

    if not gradient:
        return jax.jit(loss)(params)[1], None
    gradients, hidden = jax.jit(jax.grad(loss, has_aux=True))(params)
    return hidden, gradients


@pytest.mark.parametrize("layout, window", [(tiny.KEYFRAMES, None), (tiny.KEYFRAMES, 2), (tiny.INTERPOLATION, None)])
def test_splash_attention_equals_the_plain_one(layout, window):
    config = tiny.config(layout, window=window)
    plain, fused = (hidden_states(config, kernel) for kernel in (Kernel.PLAIN, Kernel.INTERPRETED))
    np.testing.assert_allclose(fused, plain, atol=1e-4)


@pytest.mark.slow
def test_its_gradients_do_too():
    config = tiny.config(tiny.INTERPOLATION, window=2)
    plain, plain_gradient = hidden_and_gradient(config, Kernel.PLAIN)
    fused, gradient = hidden_and_gradient(config, Kernel.INTERPRETED)
    np.testing.assert_allclose(fused, plain, atol=1e-4)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient)):
        np.testing.assert_allclose(one, other, atol=1e-5 + 1e-4 * float(jnp.abs(other).max()))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("window", [None, 2])
def test_cudnn_attention_equals_the_plain_one(window):
    config = tiny.config(tiny.KEYFRAMES, window=window)
    plain, fused = (hidden_states(config, kernel) for kernel in (Kernel.PLAIN, Kernel.CUDNN))
    np.testing.assert_allclose(fused, plain, atol=5e-2)


def test_a_fused_kernel_refuses_to_weight_the_text():
    config = tiny.config(tiny.KEYFRAMES, layers=2)
    model, inputs = Transformer(config, kernel=Kernel.INTERPRETED), tiny.random_batch(config)
    with pytest.raises(UserError, match=r"attention=interpreted cannot weight the text .* use attention=blocked"):
        jax.eval_shape(lambda rng: model.init(rng, *inputs, text_log_weight=1.0), jax.random.key(0))


def test_auto_is_the_fastest_there():
    assert kernel_for("auto", platform="cpu", dtype="float32") == Kernel.BLOCKED
    assert kernel_for("auto", platform="tpu", dtype="float32") == Kernel.SPLASH
    assert kernel_for("auto", platform="gpu", dtype="bfloat16") == Kernel.CUDNN
    assert kernel_for("auto", platform="gpu", dtype="float32") == Kernel.BLOCKED
    assert kernel_for("auto", platform="tpu", dtype="bfloat16", fused=False) == Kernel.BLOCKED


@pytest.mark.parametrize("name, words", [("cudnn", "needs an NVIDIA GPU"), ("splash", "needs a TPU"), ("fast", "auto")])
def test_a_kernel_that_is_not_there_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        kernel_for(name, platform="cpu", dtype="float32")

"""The networks of the image tokenizer: sizes of the released model, and what a code of the demo can see."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.vq.config import DEMO, OFFICIAL
from cogvideo_jax.models.cogvideo.vq.networks import VQNetworks, init_networks, normalise, to_unit_range


def parameter_count(config) -> int:
    tree = jax.eval_shape(lambda: init_networks(config, jax.random.key(0)))
    codes = config.codebook_size * config.code_width
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) + codes


def test_released_model_has_97_439_497_parameters():
    assert parameter_count(OFFICIAL) == 97_439_497


def test_demo_fits_in_two_and_a_half_megabytes():
    assert 4 * parameter_count(DEMO) <= 2.5e6


@pytest.mark.parametrize("config", [DEMO, OFFICIAL], ids=["demo", "official"])
def test_every_rate_returns_to_the_size_of_the_picture(config):
    side = 4 * config.rates[-1]
    networks, images = VQNetworks(config), jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(lambda: networks.init_with_output(jax.random.key(0), images))[0]
    assert [image.shape for image in shapes] == [images.shape] * len(config.rates)


def test_latent_of_a_demo_patch_sees_its_own_patch_only():
    params = {"params": init_networks(DEMO, jax.random.key(0))}
    rng = np.random.default_rng(0)
    first = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    second = first.copy()
    second[:, 16:24, 40:48] += 1.0
    encode = jax.jit(lambda x: VQNetworks(DEMO).apply(params, x, rate=8, method="encode"))
    changed = (np.asarray(encode(first)) != np.asarray(encode(second))).any(axis=-1)[0]
    expected = np.zeros((8, 8), bool)
    expected[2, 5] = True
    np.testing.assert_array_equal(changed, expected)


def test_local_encoder_with_levels_sees_its_own_patch_only():
    levels = dataclasses.replace(
        DEMO,
        encoder_patch=2,
        encoder_multipliers=(1, 1, 1),
        encoder_channels=16,
    )
    params = {"params": init_networks(levels, jax.random.key(0))}
    images = np.zeros((1, 16, 16, 3), np.float32)
    moved = images.copy()
    moved[:, :8, 8:] = 1.0
    encode = jax.jit(lambda x: VQNetworks(levels).apply(params, x, rate=8, method="encode"))
    changed = (np.asarray(encode(images)) != np.asarray(encode(moved))).any(axis=-1)[0]
    np.testing.assert_array_equal(changed, [[False, True], [False, False]])


def test_pixels_survive_normalisation():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    back = to_unit_range(normalise(frames, OFFICIAL), OFFICIAL) * 255.0
    np.testing.assert_allclose(back, frames, atol=1e-3)


def test_config_is_plain_json():
    fields = json.loads(json.dumps(dataclasses.asdict(OFFICIAL)))
    assert fields["rates"] == [4, 8, 16]
    assert fields["encoder_norm"] == "group"


def test_rates_the_encoder_cannot_reach_are_refused():
    with pytest.raises(ValueError, match="must double from the encoder's 8"):
        dataclasses.replace(DEMO, rates=(4,))
    with pytest.raises(ValueError, match="cannot reach it with 3 levels"):
        dataclasses.replace(DEMO, decoder_multipliers=((1, 1, 1),))

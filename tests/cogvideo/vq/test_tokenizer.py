"""VQTokenizer: the two-method door, what it refuses, and when it compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.vq import tokenizer as vq_tokenizer
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook
from cogvideo_jax.models.cogvideo.vq.config import DEMO
from cogvideo_jax.models.cogvideo.vq.networks import init_networks
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer

SMALL = dataclasses.replace(
    DEMO,
    codebook_size=32,
    code_width=8,
    latent_channels=16,
    encoder_channels=16,
    decoder_channels=8,
    groups=4,
)
LADDER = dataclasses.replace(
    SMALL,
    rates=(4, 8),
    encoder_patch=4,
    decoder_multipliers=((1,), (1, 2)),
    decoder_lowest_attention=(False, True),
)


def random_tokenizer(config, seed: int = 0) -> VQTokenizer:
    network_rng, code_rng = jax.random.split(jax.random.key(seed))
    vectors = jax.random.normal(code_rng, (config.codebook_size, config.code_width))
    book = Codebook(vectors, jnp.ones(config.codebook_size), vectors)
    return VQTokenizer(config, {"networks": init_networks(config, network_rng), "codebook": book})


@pytest.fixture(scope="module")
def tokenizer() -> VQTokenizer:
    return random_tokenizer(SMALL)


def frames(batch: int = 2, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)


def test_encode_gives_one_id_a_patch_and_decode_gives_frames_back(tokenizer):
    ids = tokenizer.encode(frames())
    assert ids.shape == (2, 16) and ids.dtype == jnp.int32
    assert set(np.unique(ids)) <= set(range(SMALL.codebook_size))
    pictures = tokenizer.decode(ids)
    assert pictures.shape == (2, 32, 32, 3) and pictures.dtype == np.uint8


def test_decode_rounds_and_clips_the_float_image(tokenizer):
    ids = np.arange(16, dtype=np.int32)[None]
    exact = np.asarray(tokenizer.decode_float(ids))
    assert np.abs(tokenizer.decode(ids) - exact.clip(0, 1) * 255).max() <= 0.5 + 1e-4


def test_same_patch_gets_the_same_id_anywhere(tokenizer):
    patch = frames(1, 8)
    ids = np.asarray(tokenizer.encode(np.tile(patch, (1, 4, 4, 1))))
    assert len(np.unique(ids)) == 1


def test_frame_is_encoded_alike_alone_and_in_a_batch(tokenizer):
    batch = frames(3)
    np.testing.assert_array_equal(tokenizer.encode(batch)[1:2], tokenizer.encode(batch[1:2]))


def test_each_rate_has_its_own_grid():
    ladder = random_tokenizer(LADDER)
    for rate, tokens in ((4, 64), (8, 16), (None, 16)):
        ids = ladder.encode(frames(), rate)
        assert ids.shape == (2, tokens)
        assert ladder.decode(ids, rate).shape == (2, 32, 32, 3)


def test_same_shapes_compile_once(tokenizer):
    ids = tokenizer.encode(frames())
    tokenizer.decode(ids)
    before = vq_tokenizer._encode._cache_size(), vq_tokenizer._decode._cache_size()
    tokenizer.decode(tokenizer.encode(frames()[::-1].copy()))
    VQTokenizer(SMALL, tokenizer.params).encode(frames())
    assert (vq_tokenizer._encode._cache_size(), vq_tokenizer._decode._cache_size()) == before


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((1, 32, 32, 3), np.float32), "must be uint8"),
        (np.zeros((32, 32, 3), np.uint8), "must be uint8 of shape"),
        (np.zeros((1, 32, 24, 3), np.uint8), "must be square"),
        (np.zeros((1, 30, 30, 3), np.uint8), "side 30 is not divisible by the rate 8"),
    ],
)
def test_wrong_frames_are_refused(tokenizer, unchecked_annotations, wrong, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.full((1, 16), 32), r"must be in 0..31, got 32..32"),
        (np.full((1, 16), -1), r"must be in 0..31"),
        (np.zeros((1, 15), int), "square number"),
        (np.zeros(16, int), "square number"),
        (np.zeros((1, 16)), "must be integers"),
    ],
)
def test_wrong_ids_are_refused(tokenizer, unchecked_annotations, wrong, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(wrong)


def test_unknown_rate_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"rate must be one of \(8,\), got 16"):
        tokenizer.encode(frames(), 16)


def test_fingerprint_names_config_and_weights(tokenizer):
    assert len(tokenizer.fingerprint) == 16
    assert random_tokenizer(SMALL).fingerprint == tokenizer.fingerprint
    assert random_tokenizer(SMALL, seed=1).fingerprint != tokenizer.fingerprint
    other = VQTokenizer(dataclasses.replace(SMALL, mean=(0.4, 0.5, 0.5)), tokenizer.params)
    assert other.fingerprint != tokenizer.fingerprint


def test_code_book_of_another_size_is_refused(tokenizer):
    with pytest.raises(ValueError, match="code book must have shape"):
        VQTokenizer(dataclasses.replace(SMALL, codebook_size=64), tokenizer.params)

"""The 3-D autoencoder of CogVideoX against diffusers (x_vae.npz): chunks, caches, slicing, tiles and gradients.

Compiling takes most of the time, so only the last two tests optimise as for users.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cogvideo_jax.convert.torch_names import from_torch, torch_name
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox import causal_convolution, vae
from cogvideo_jax.models.cogvideox.tiling import Tiles, blend_row, fade, tiled_decode, tiled_encode, tiles
from cogvideo_jax.models.cogvideox.vae import Vae, chunk_lengths, sample
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.runtime.batching import in_chunks
from tests.cogvideox.goldens import load, params_of

GOLDEN, ARRAYS = load("x_vae")
EXACT, TILED = 1e-4, 2e-4  # GOLDENS_X.md
GRADIENT = 1e-4  # of the largest entry
SMALL = Vae(VaeConfig((4, 4), 2, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=2))


@pytest.fixture(scope="module")
def model() -> Vae:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in GOLDEN["config"].items()}
    return Vae(VaeConfig(**settings))


@pytest.fixture(scope="module")
def params(model) -> dict:
    side = model.config.spatial_ratio
    return params_of(model, (jnp.zeros((1, 1, side, side, 3)),), ARRAYS)


def golden(name: str) -> np.ndarray:
    """An array of the file with channels last."""
    return np.moveaxis(ARRAYS[name], 1, -1)


def cases(prefix: str, suffix: str) -> list[str]:
    """Names of cases: what stands before the suffix."""
    found = [name.removesuffix(suffix) for name in ARRAYS if name.startswith(prefix) and name.endswith(suffix)]
    assert found, f"no case {prefix}*{suffix}"
    return found


def every_fourth(x) -> np.ndarray:
    return x[:, :, ::4, ::4]


def assert_close(got, expected, *, atol: float = EXACT) -> None:
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


def assert_moments(moments, case: str, *, atol: float = EXACT) -> None:
    mean, log_variance = vae.posterior(moments)
    assert_close(mean, golden(f"{case}.mean"), atol=atol)
    assert_close(log_variance, golden(f"{case}.logvar"), atol=atol)


def check_pixels(case: str, model: Vae, params: dict) -> None:
    pixels = vae.decode(model, params, golden(f"{case}.z"))
    if f"{case}.frames" in ARRAYS:
        assert_close(pixels, golden(f"{case}.frames"))
    else:
        assert_close(every_fourth(pixels), golden(f"{case}.frames_sub4"))


def longest(prefix: str, suffix: str) -> str:
    """The case with the most frames."""
    return max(cases(prefix, suffix), key=lambda case: ARRAYS[f"{case}{suffix}"].shape[2])


def abstract_params(model: Vae) -> dict:
    side = model.config.spatial_ratio
    init = lambda rng: model.init(rng, jnp.zeros((1, 1, side, side, 3)))["params"]  # noqa: E731
    return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def random_params(model: Vae) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_params(model))


@pytest.mark.parametrize("case", cases("enc", ".x"))
def test_moments_of_every_length(case, model, params):
    assert_moments(vae.encode(model, params, golden(f"{case}.x")), case)


@pytest.mark.parametrize("case", cases("dec", ".z"))
def test_pixels_of_every_length(case, model, params):
    check_pixels(case, model, params)


@pytest.mark.parametrize("case", cases("tiledenc", ".x"))
def test_moments_of_tiles(case, model, params):
    assert_moments(tiled_encode(model, params, golden(f"{case}.x")), case, atol=TILED)


@pytest.mark.parametrize("case", cases("tileddec", ".z"))
def test_pixels_of_tiles(case, model, params):
    pixels = tiled_decode(model, params, golden(f"{case}.z"))
    assert_close(pixels[:, [0, 7]], golden(f"{case}.frames_t0_t7"), atol=TILED)
    assert_close(every_fourth(pixels), golden(f"{case}.frames_sub4"), atol=TILED)


@pytest.mark.parametrize("case", cases("onepass", ".mean"))
def test_one_pass_over_a_clip_gives_other_latents_than_its_chunks(case, model, params):
    pixels = golden(f"enc{case.removeprefix('onepass')}.x")
    moments, _ = vae.encode_chunk(model, params, pixels, None)
    assert_moments(moments, case)
    assert np.abs(vae.encode(model, params, pixels) - moments).max() > 100 * EXACT


@pytest.mark.parametrize("case", [case for case in cases("dec", ".z") if len(ARRAYS[f"{case}.z"]) > 1])
def test_rows_of_a_batch_by_themselves_give_the_same_pixels(case, model, params):
    latents = golden(f"{case}.z")
    decode = functools.partial(vae.decode, model, params)
    rows = in_chunks(decode, (latents,), rows=1)
    assert_close(rows, decode(latents))


def test_a_sample_is_the_mean_plus_noise_times_the_deviation():
    same_shape = [case for case in cases("enc", ".mean") if ARRAYS[f"{case}.mean"].shape == ARRAYS["post.eps"].shape]
    case = max(same_shape, key=lambda case: ARRAYS[f"{case}.x"].shape[2])
    moments = np.concatenate([golden(f"{case}.mean"), golden(f"{case}.logvar")], axis=-1)
    assert_close(sample(moments, golden("post.eps")), golden("post.z"))
    assert_close(vae.mode(moments), golden(f"{case}.mean"))


def test_log_variances_are_limited_to_minus_30_and_20():
    moments = jnp.array([0.0, 0.0, -99.0, 99.0]).reshape(1, 1, 1, 1, 4)
    assert vae.posterior(moments).log_variance.ravel().tolist() == [-30, 20]


def test_lengths_of_clips_latents_and_decoded_clips():
    for frames, latents, decoded in ARRAYS["length_table"]:
        assert sum(-(-length // 4) for length in chunk_lengths(frames, vae.PIXEL_CHUNK)) == latents
        steps = chunk_lengths(latents, vae.LATENT_CHUNK)
        assert sum(vae.doubled_frames(vae.doubled_frames(length)) for length in steps) == decoded


@pytest.mark.parametrize(
    ("frames", "chunk", "lengths"),
    [
        (1, 8, (1,)),
        (7, 8, (7,)),
        (15, 8, (15,)),
        (16, 8, (8, 8)),
        (49, 8, (9, 8, 8, 8, 8, 8)),
        (13, 2, (3, 2, 2, 2, 2, 2)),
    ],
)
def test_the_first_chunk_takes_the_remainder(frames, chunk, lengths):
    assert chunk_lengths(frames, chunk) == lengths


def run_first_chunk(model: Vae, params: dict, clip, method: str):
    """Results of every module, and the caches, of the first chunk."""
    chunk = vae.PIXEL_CHUNK if method == "encode" else vae.LATENT_CHUNK
    first = clip[:, : chunk_lengths(clip.shape[1], chunk)[0]]
    run = jax.jit(
        lambda params, x: model.apply(
            {"params": params}, x, method=method, capture_intermediates=True, mutable=["cache", "intermediates"]
        )
    )
    result, kept = run(params, first)
    return result, kept["intermediates"][f"{method}r"], kept["cache"][f"{method}r"]


def test_inside_the_encoder(model, params):
    last_pixels = golden("dbg.enc_conv_in.cache")
    first = golden("dbg.enc_conv_in.sub4").shape[1]
    clips = [golden(f"{case}.x") for case in cases("enc", ".x")]
    clip = next(clip for clip in clips if np.array_equal(clip[:, first - 2 : first], last_pixels))
    result, layers, cache = run_first_chunk(model, params, clip, "encode")
    assert_close(result, golden("dbg.enc_chunk0"))
    assert_close(every_fourth(layers["conv_in"]["__call__"][0]), golden("dbg.enc_conv_in.sub4"))
    assert_close(every_fourth(layers["down_blocks_0"]["__call__"][0]), golden("dbg.enc_down0.sub4"))
    assert_close(cache["conv_in"]["frames"], last_pixels)
    past = cache["down_blocks_0"]["resnets_0"]["conv2"]["frames"]
    assert_close(every_fourth(past), golden("dbg.enc_down0.resnet0.conv2.cache.sub4"))


def test_inside_the_decoder(model, params):
    expected = golden("dbg.dec_chunk0.sub4")
    first = expected.shape[1]
    whole = [case for case in cases("dec", ".frames") if golden(f"{case}.frames").shape[1] >= first]
    case = next(
        case for case in whole if np.allclose(every_fourth(golden(f"{case}.frames")[:, :first]), expected, atol=EXACT)
    )
    result, layers, _ = run_first_chunk(model, params, golden(f"{case}.z"), "decode")
    assert_close(every_fourth(result), expected)
    assert_close(layers["mid_block"]["__call__"][0], golden("dbg.dec_mid"))
    assert_close(every_fourth(layers["up_blocks_0"]["__call__"][0]), golden("dbg.dec_up0.sub4"))


def test_gradients_through_encoder_and_decoder(model, params):
    pixels = golden("enc9.x")

    def loss_of(params):
        mean, log_variance = vae.posterior(vae.encode(model, params, pixels))
        kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        return jnp.square(vae.decode(model, params, mean) - pixels).mean() + 0.1 * kl.mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    np.testing.assert_allclose(loss, ARRAYS["grad.loss"], rtol=1e-5)
    for path, gradient in flatten_dict(gradients, sep="/").items():
        name = torch_name(path)
        np.testing.assert_allclose(np.linalg.norm(gradient), GOLDEN["gradnorm"][name], rtol=GRADIENT, err_msg=name)
        if f"grad:{name}" in ARRAYS:
            expected = from_torch(path, ARRAYS[f"grad:{name}"], gradient.shape)
            np.testing.assert_allclose(gradient, expected, atol=GRADIENT * np.abs(expected).max(), rtol=0, err_msg=name)


def test_sizes_of_the_released_model():
    sizes = {
        part: [leaf.size for leaf in jax.tree.leaves(tree)] for part, tree in abstract_params(Vae(VaeConfig())).items()
    }
    assert {part: sum(leaves) for part, leaves in sizes.items()} == {"encoder": 92_215_456, "decoder": 123_368_451}
    assert sum(map(len, sizes.values())) == 436


def test_chunks_with_a_cache_equal_one_call():
    """In a convolution alone; norms differ by definition."""
    clip = jax.random.normal(jax.random.key(0), (2, 8, 3, 4, 2))
    conv = causal_convolution.CausalConv(3)
    params = conv.init(jax.random.key(1), clip)["params"]
    whole, cache, start = conv.apply({"params": params}, clip), {}, 0
    for length in (3, 1, 2, 2):
        chunk = clip[:, start : start + length]
        part, cache = conv.apply({"params": params, **cache}, chunk, mutable=["cache"])
        assert_close(part, whole[:, start : start + length], atol=1e-5)
        start += length


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_sums_of_2d_convolutions_equal_the_3d_convolution(frames):
    clip = jax.random.normal(jax.random.key(0), (2, frames + 2, 5, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4, 3))
    assert_close(
        causal_convolution.convolve_pairs(clip, kernel), causal_convolution.convolve_clip(clip, kernel), atol=5e-5
    )
    start = jnp.concatenate([clip[:, :1]] * 2 + [clip[:, :1], clip[:, 1:frames]], axis=1)
    assert_close(
        causal_convolution.convolve_pairs(start, kernel, start=True),
        causal_convolution.convolve_clip(start, kernel),
        atol=5e-5,
    )


def test_later_chunks_share_one_program():
    params, latents = random_params(SMALL), np.ones((1, 7, 2, 2, 2), np.float32)
    vae.decode_chunk.clear_cache()
    vae.decode(SMALL, params, latents)
    assert vae.decode_chunk._cache_size() == 2  # the first chunk, and the two after it


def test_programs_are_known_from_shapes_alone():
    params = abstract_params(SMALL)
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    encode = vae.encode_programs(SMALL, params, shape((2, 25, 4, 4, 3)))
    decode = vae.decode_programs(SMALL, params, shape((2, 7, 2, 2, 2)))
    assert [program.calls for program in encode + decode] == [1, 2, 1, 2]
    assert [program.lowered.out_info[0].shape for program in encode] == [(2, 5, 2, 2, 4), (2, 4, 2, 2, 4)]
    assert [program.lowered.out_info[0].shape for program in decode] == [(2, 5, 4, 4, 3), (2, 4, 4, 4, 3)]
    assert len(vae.encode_programs(SMALL, params, shape((1, 15, 4, 4, 3)))) == 1


def test_tiles_of_the_released_model():
    pixels = Tiles(size=(240, 360), stride=(200, 288), blend=(5, 9), kept=(25, 36))
    latents = Tiles(size=(30, 45), stride=(25, 36), blend=(40, 72), kept=(200, 288))
    assert tiles(VaeConfig()) == (pixels, latents)


@pytest.mark.parametrize("change", [{"sample_height": 464}, {"sample_width": 704}, {"sample_height": 8}])
def test_tiles_that_do_not_add_up_are_refused(change):
    with pytest.raises(UserError, match="a multiple of 96 and sample_width one of 80"):
        tiles(dataclasses.replace(VaeConfig(), **change))


def test_a_seam_is_a_line_from_the_tile_before_to_the_tile_after():
    before, after = (jnp.full((1, 1, 1, 5, 1), value) for value in (8.0, 0.0))
    assert fade(before, after, axis=3, seam=4).ravel().tolist() == [8, 6, 4, 2, 0]


def test_a_tile_is_blended_into_the_blended_tile_above_and_then_into_the_left_one():
    above, (left, right) = [jnp.full((1, 1, 2, 2, 1), value) for value in (1.0, 3.0)], jnp.zeros((2, 1, 1, 2, 2, 1))
    left, right = blend_row([left, right], above, (2, 2))
    assert left[0, 0, :, :, 0].tolist() == [[1, 1], [0.5, 0.5]]
    assert right[0, 0, :, :, 0].tolist() == [[1, 2], [0.5, 1]]


def test_frames_of_one_tile_are_not_tiled():
    params, latents = random_params(SMALL), np.ones((1, 7, 2, 2, 2), np.float32)
    assert np.array_equal(tiled_decode(SMALL, params, latents), vae.decode(SMALL, params, latents))


def test_moments_with_the_optimisations_of_users(model, params, full_optimisation):
    case = longest("enc", ".x")
    assert_moments(vae.encode(model, params, golden(f"{case}.x")), case)


def test_pixels_with_the_optimisations_of_users(model, params, full_optimisation):
    check_pixels(longest("dec", ".z"), model, params)

"""The image tokenizer against the released torch code: ids, latents, three decoders, round trip."""

import functools

import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.convert.vq_names import from_official, to_official
from cogvideo_jax.models.cogvideo.vq.config import Norm, VQConfig
from cogvideo_jax.models.cogvideo.vq.networks import VQNetworks, normalise
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer
from tests.parity.goldens import golden_files, load, parameters

FILES = golden_files("a_*.npz")
SMALL_GAP = 1e-4  # two codes closer than this may swap by rounding
TOLERANCE = 2e-4

pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def official_config(config: dict, arrays: dict) -> VQConfig:
    """Sizes from the released constructor's arguments; where there is attention is read off the names."""
    made, names = config["constructor"], parameters(arrays)
    encoder = made["enc_config"]["params"]
    decoders = [entry["params"] for entry in reversed(made["dec_configs"])]
    count = len(decoders)
    multipliers = tuple(tuple(entry["channels_mult"]) for entry in decoders)
    lowest = (f"decs.{count - 1 - i}.up.{len(levels) - 1}.attn.0.q.weight" for i, levels in enumerate(multipliers))
    return VQConfig(
        rates=tuple(sorted(int(rate) for rate in config["rates"])),
        codebook_size=made["quantize_config"]["params"]["n_embed"],
        code_width=made["quantize_config"]["params"]["embedding_dim"],
        latent_channels=encoder["z_channels"],
        encoder_channels=encoder["channels"],
        encoder_multipliers=tuple(encoder["channels_mult"]),
        encoder_res_blocks=encoder["num_res_blocks"],
        encoder_patch=1,
        encoder_kernel=3,
        encoder_downsample_kernel=3,
        encoder_norm=Norm.GROUP,
        encoder_attention="enc.mid.attn_1.q.weight" in names,
        decoder_channels=decoders[0]["channels"],
        decoder_multipliers=multipliers,
        decoder_res_blocks=decoders[0].get("num_res_blocks", 1),
        decoder_patch=1,
        decoder_kernel=3,
        decoder_norm=Norm.GROUP,
        decoder_attention="decs.0.mid.attn_1.q.weight" in names,
        decoder_lowest_attention=tuple(name in names for name in lowest),
        groups=32,
        mean=tuple(config["norm_mean"]),
        std=tuple(config["norm_std"]),
    )


@functools.cache
def tokenizer_of(path) -> tuple[VQTokenizer, dict]:
    config, arrays = load(path)
    sizes = official_config(config, arrays)
    return VQTokenizer(sizes, from_official(parameters(arrays), sizes)), arrays


def compare(name: str, ours, theirs, record_property):
    difference = float(np.abs(np.asarray(ours, np.float64) - theirs).max())
    record_property(f"difference {name}", difference)
    print(f"{name}: greatest difference {difference:.2e}, greatest value {np.abs(theirs).max():.2f}")
    assert difference < TOLERANCE, name


def channels_last(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def test_every_rate_gives_the_released_ids(path, record_property):
    tokenizer, arrays = tokenizer_of(path)
    for rate in tokenizer.config.rates:
        ids = np.asarray(tokenizer.encode(channels_last(arrays["image_uint8"]), rate))
        clear = arrays[f"id_gap_rate{rate}"] > SMALL_GAP
        wrong = int((ids != arrays[f"ids_rate{rate}"])[clear].sum())
        record_property(f"wrong ids at rate {rate}", wrong)
        print(f"rate {rate}: {wrong} wrong ids of {clear.sum()}, {(~clear).sum()} too close to judge")
        assert clear.mean() > 0.9
        assert wrong == 0


def test_latents_agree_at_every_rate(path, record_property):
    tokenizer, arrays = tokenizer_of(path)
    images = normalise(channels_last(arrays["image_uint8"]), tokenizer.config)
    for rate in tokenizer.config.rates:
        theirs = arrays[f"z_rate{rate}"]
        variables = {"params": tokenizer.params["networks"]}
        ours = VQNetworks(tokenizer.config).apply(variables, images[: len(theirs)], rate=rate, method="encode")
        compare(f"z at rate {rate}", ours, channels_last(theirs), record_property)


def test_every_decoder_gives_the_released_image(path, record_property):
    tokenizer, arrays = tokenizer_of(path)
    for rate in tokenizer.config.rates:
        ours = tokenizer.decode_float(arrays[f"decode_in_rate{rate}"][None], rate)
        theirs = channels_last(arrays[f"decode_out_rate{rate}"])
        compare(f"decoder of rate {rate}", ours, theirs, record_property)


def test_round_trip_agrees(path, record_property):
    tokenizer, arrays = tokenizer_of(path)
    ids = tokenizer.encode(channels_last(arrays["image_uint8"])[:1], 8)
    ours = tokenizer.decode_float(ids, 8)
    compare("round trip at rate 8", ours, channels_last(arrays["recon_rate8_first"]), record_property)


def test_large_grid_of_super_resolution_decodes(path, record_property):
    tokenizer, arrays = tokenizer_of(path)
    ours = tokenizer.decode_float(arrays["decode60_in"][None], 8)[:, ::4, ::4]
    compare("60x60 grid", ours, channels_last(arrays["decode60_out_stride4"]), record_property)


def test_names_convert_there_and_back_bit_for_bit(path):
    tokenizer, arrays = tokenizer_of(path)
    theirs = parameters(arrays)
    back = to_official(tokenizer.params, tokenizer.config)
    assert back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_wrong_names_and_shapes_are_listed_together(path):
    tokenizer, arrays = tokenizer_of(path)
    broken = parameters(arrays)
    del broken["enc.conv_in.bias"]
    broken["enc.conv_in.weight"] = broken["enc.conv_in.weight"][:, :2]
    broken["quantize.extra"] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        from_official(broken, tokenizer.config)
    for fault in ("missing enc.conv_in.bias", "unexpected quantize.extra", "misshapen enc.conv_in.weight"):
        assert fault in str(error.value)

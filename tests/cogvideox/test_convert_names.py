"""Names of SAT and of diffusers: both ways against the output of the public conversion script, exactly."""

import functools

import numpy as np
import pytest

from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideox.convert.names import (
    SAT_PREFIX,
    TRANSFORMER_DROPPED,
    VAE_DROPPED,
    Source,
    inverse,
    rows,
    sat_lora_name,
    sat_shapes,
    sources,
    transformer_source,
    vae_source,
)
from tests.cogvideox.goldens import load

CONFIG, ARRAYS = load("x_convert")
PARTS = sorted(CONFIG["configs"])
ADALN = "mixins.adaln_layer.adaLN_modulations.7.1.weight"

every_part = pytest.mark.parametrize("part", PARTS)


def of_part(part: str, kind: str) -> dict[str, np.ndarray]:
    start = f"{part}.{kind}:"
    return {name.removeprefix(start): array for name, array in ARRAYS.items() if name.startswith(start)}


@functools.cache
def sat(part: str) -> dict[str, np.ndarray]:
    """Tensors of SAT, the prefix removed."""
    return {name.removeprefix(SAT_PREFIX): array for name, array in of_part(part, "sat").items()}


@functools.cache
def diffusers(part: str) -> dict[str, np.ndarray]:
    """All tensors of diffusers: those that the script cut, and those that it only renamed."""
    renamed = CONFIG["report"][part]["one_to_one"]
    return of_part(part, "diffusers") | {name: ARRAYS[f"{part}.sat:{other}"] for name, other in renamed.items()}


@functools.cache
def table(part: str) -> dict[str, Source]:
    if part != "vae":
        return sources(diffusers(part), transformer_source)
    levels = len(CONFIG["configs"][part]["block_out_channels"])
    return sources(diffusers(part), functools.partial(vae_source, levels=levels))


@every_part
def test_renamed_tensors_come_from_the_names_of_the_script(part):
    for name, other in CONFIG["report"][part]["one_to_one"].items():
        assert table(part)[name] == Source(other.removeprefix(SAT_PREFIX))


@every_part
def test_every_tensor_of_diffusers_is_made_exactly(part):
    assert len(diffusers(part)) == CONFIG["report"][part]["diffusers_keys"]
    for name, expected in diffusers(part).items():
        source = table(part)[name]
        np.testing.assert_array_equal(rows(sat(part)[source.name], source), expected)


@every_part
def test_the_way_back_is_exact(part):
    back = inverse(table(part))
    assert back.keys() == sat(part).keys() and len(back) == CONFIG["report"][part]["sat_keys"]
    for name, expected in sat(part).items():
        made = np.concatenate([rows(diffusers(part)[one.name], one) for one in back[name]])
        np.testing.assert_array_equal(made, expected)


@every_part
def test_shapes_of_sat_follow_from_those_of_diffusers(part):
    shapes = {name: array.shape for name, array in diffusers(part).items()}
    assert sat_shapes(shapes, table(part)) == {name: array.shape for name, array in sat(part).items()}


@every_part
def test_of_the_goldens_only_stored_positions_may_be_dropped(part):
    dropped = VAE_DROPPED if part == "vae" else TRANSFORMER_DROPPED
    assert {name for name in sat(part) if dropped.fullmatch(name)} <= {"mixins.pos_embed.pos_embedding"}


def test_what_diffusers_computes_is_dropped():
    for name in ("mixins.pos_embed.freqs_sin", "mixins.pos_embed.freqs_cos", "transformer.word_embeddings.weight"):
        assert TRANSFORMER_DROPPED.fullmatch(name) and not VAE_DROPPED.fullmatch(name)
    assert VAE_DROPPED.fullmatch("loss.discriminator.blocks.0.weight")


def test_twelve_modulations_go_to_two_norms_and_back():
    names = [f"transformer_blocks.7.norm{norm}.linear.weight" for norm in (1, 2)]
    made = sources(names, transformer_source)
    assert made[names[0]] == Source(ADALN, (0, 1, 2, 6, 7, 8), 12)
    assert made[names[1]] == Source(ADALN, (3, 4, 5, 9, 10, 11), 12)
    first, last = (0, 1, 2), (3, 4, 5)
    expected = [Source(names[norm], blocks, 6) for blocks in (first, last) for norm in (0, 1)]
    assert inverse(made) == {ADALN: tuple(expected)}


def test_up_blocks_are_counted_from_the_other_end():
    assert (
        vae_source("decoder.up_blocks.0.resnets.1.conv1.conv.bias", levels=4).name
        == "decoder.up.3.block.1.conv1.conv.bias"
    )
    assert vae_source("decoder.up_blocks.2.upsamplers.0.conv.bias", levels=3).name == "decoder.up.0.upsample.conv.bias"


def test_rows_that_follow_each_other_are_not_copied():
    tensor = np.arange(12.0).reshape(6, 2)
    assert np.shares_memory(rows(tensor, Source("x", (1,), 3)), tensor)
    np.testing.assert_array_equal(rows(tensor, Source("x", (2, 0), 3)), tensor[[4, 5, 0, 1]])


@pytest.mark.parametrize(
    "name",
    [
        "time_embedding.linear_3.weight",
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.x.attn1.to_q.weight",
        "transformer_blocks.0.attn2.to_q.weight",
        "transformer_blocks.0.norm_final.weight",
        "attn1.to_q.weight",
        "patch_embed.pos_embedding.weight",
        "",
    ],
)
def test_an_unknown_tensor_of_a_transformer_is_refused(name):
    with pytest.raises(ConversionError, match="transformer has no tensor"):
        transformer_source(name)


@pytest.mark.parametrize("name", ["quant_conv.weight", "decoder.up_blocks.4.resnets.0.norm1.norm_layer.weight"])
def test_an_unknown_tensor_of_a_vae_is_refused(name):
    with pytest.raises(ConversionError, match=r"VAE of 4 levels has no tensor"):
        vae_source(name, levels=4)


def test_a_missing_part_of_a_sat_tensor_is_refused():
    names = [f"transformer_blocks.0.attn1.{matrix}.bias" for matrix in ("to_q", "to_v")]
    with pytest.raises(ConversionError, match=r"only some .* transformer\.layers\.0\.attention\.query_key_value\.bias"):
        inverse(sources(names, transformer_source))


def test_a_tensor_that_cannot_be_cut_is_refused():
    with pytest.raises(ConversionError, match=r"3 blocks of rows, but its shape is \(7, 2\)"):
        rows(np.zeros((7, 2)), Source("x", (0,), 3))


@pytest.mark.parametrize(
    "key, name",
    [
        ("attention.query_key_value.matrix_A.0", "attn1.to_q.lora_A.weight"),
        ("attention.query_key_value.matrix_B.1", "attn1.to_k.lora_B.weight"),
        ("attention.query_key_value.matrix_A.2", "attn1.to_v.lora_A.weight"),
        ("attention.dense.matrix_B.0", "attn1.to_out.0.lora_B.weight"),
        ("attention.dense.matrix_B.1", None),
        ("attention.query_key_value.matrix_A.3", None),
        ("attention.query_key_value.matrix_C.0", None),
        ("attention.query_key_value.weight", None),
        ("mlp.dense_h_to_4h.matrix_A.0", None),
    ],
)
def test_lora_tensors_of_sat_have_names_of_peft(key, name):
    assert sat_lora_name(f"transformer.layers.29.{key}") == (name and f"transformer_blocks.29.{name}")

"""`cogvideo convert --family cogvideox`: SAT -> a snapshot, and a snapshot -> one for diffusers, bit for bit."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cogvideo_jax.cli.main import main
from cogvideo_jax.interface import Lora
from cogvideo_jax.models.cogvideox.config import RELEASED
from cogvideo_jax.models.cogvideox.convert import snapshot_files
from cogvideo_jax.models.cogvideox.convert.from_sat import convert
from cogvideo_jax.models.cogvideox.convert.names import SAT_PREFIX, sat_lora_name
from cogvideo_jax.models.cogvideox.convert.sizes import OFS, TABLE, transformer_config, vae_config
from cogvideo_jax.models.cogvideox.convert.snapshot_files import shards, state_dict_order
from cogvideo_jax.models.cogvideox.snapshot import (
    TEXT,
    TRANSFORMER,
    VAE,
    Snapshot,
    read_schedule,
    read_task,
    read_transformer,
    read_vae,
)
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.lora import merged, read_lora
from cogvideo_jax.runtime import schemas
from cogvideo_jax.runtime.safetensors_stream import Leaf
from tests.cogvideox.goldens import load
from tests.cogvideox.sat import (
    CONVERT,
    CONVERTED,
    LORA_RANK,
    TEXT_TO_VIDEO,
    TWO_B,
    as_sat,
    assert_same_bits,
    diffusers_arrays,
    files_of,
    pipeline_arrays,
    read_json,
    sat_arrays,
    sat_lora,
    sat_transformer,
    save,
    t5_folder,
    tensors_of,
    write_json,
    write_transformer,
)
from tests.cogvideox.snapshots import write_snapshot

TRANSFORMERS = sorted(part for part in CONVERTED["configs"] if part.startswith("transformer"))
PARTS = (TEXT, TRANSFORMER, VAE)


def write_config(folder: Path, part: str, golden: str | None = None) -> Path:
    """The config of a golden checkpoint, or of a pipeline's part."""
    config = load(golden)[0][part] if golden else CONVERTED["configs"][part]
    return write_json(folder / f"{part}.json", config)


# There ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", TRANSFORMERS)
def test_a_transformer_becomes_what_the_script_of_the_authors_makes(tmp_path, part):
    source = write_transformer(tmp_path / "sat", sat_arrays(part))
    config = write_config(tmp_path, part)
    assert main([*CONVERT, str(source), str(tmp_path / "ours"), "--config", str(config)]) == 0
    assert_same_bits(tensors_of(tmp_path / "ours" / TRANSFORMER), diffusers_arrays(part))
    written = read_json(tmp_path / "ours" / TRANSFORMER / "config.json")
    assert {key: written[key] for key in read_json(config)} == read_json(config)
    expected = {"model_index.json", "scheduler/scheduler_config.json", "transformer/config.json"}
    assert files_of(tmp_path / "ours") == expected | {"transformer/diffusion_pytorch_model.safetensors"}
    assert read_json(tmp_path / "ours" / "model_index.json")["_class_name"] == "CogVideoXImageToVideoPipeline"


def test_a_vae_becomes_what_the_script_of_the_authors_makes(tmp_path):
    noise = {"loss.logvar": np.zeros(1, np.float32)}
    source = save(tmp_path / "3d-vae.pt", sat_arrays("vae") | noise, key="state_dict")
    latents = CONVERTED["configs"]["vae"]["latent_channels"]
    write_json(tmp_path / "ours/transformer/config.json", {"in_channels": latents, "out_channels": latents})
    convert(source, tmp_path / "ours", config=write_config(tmp_path, "vae"))
    assert_same_bits(tensors_of(tmp_path / "ours" / VAE), diffusers_arrays("vae"))
    assert read_vae(tmp_path / "ours") == schemas.read_json(tmp_path / "vae.json", VaeConfig)


@pytest.mark.parametrize("golden", [TWO_B, "x_pipeline_i2v_15"])
def test_sat_files_become_the_snapshot_that_they_were_made_of(tmp_path, golden):
    snapshot, ours = write_snapshot(tmp_path / "snapshot", golden), tmp_path / "ours"
    stored = {"mixins.pos_embed.pos_embedding": np.zeros((1, 17776, 1), np.float16)} if golden == TWO_B else {}
    text = t5_folder(tmp_path / "t5-v1_1-xxl", snapshot)
    convert(sat_transformer(tmp_path / "sat", golden, stored), ours, text_encoder=text)
    vae = save(tmp_path / "3d-vae.pt", as_sat(VAE, pipeline_arrays(golden, VAE)), key="state_dict")
    convert(vae, ours, config=write_config(tmp_path, VAE, golden))
    for part in PARTS:
        assert_same_bits(tensors_of(ours / part), tensors_of(snapshot / part))
    opened, theirs = Snapshot(ours), read_transformer(snapshot)
    assert (opened.task, opened.schedule) == (read_task(snapshot), read_schedule(snapshot))
    for told in (
        "num_attention_heads",
        "attention_head_dim",
        "num_layers",
        "patch_size_t",
        "ofs_embed_dim",
        "adds_table",
    ):
        assert getattr(opened.transformer.config, told) == getattr(theirs, told)


@pytest.mark.parametrize("name", RELEASED)
def test_shapes_tell_the_released_variant(name):
    config = RELEASED[name]
    width, area = config.width, 4 * config.frames_per_token
    deep = config.patch_size_t is not None
    shapes = {
        "mixins.patch_embed.proj.weight": (width, config.in_channels * area)
        if deep
        else (width, config.in_channels, 2, 2),
        "mixins.patch_embed.text_proj.weight": (width, 4096),
        "mixins.adaln_layer.query_layernorm_list.0.weight": (64,),
        "mixins.final_layer.linear.weight": (config.out_channels * area, width),
        "time_embed.0.weight": (512, width),
    }
    shapes |= {f"transformer.layers.{i}.attention.dense.bias": (width,) for i in range(config.num_layers)}
    shapes |= {OFS.removeprefix(SAT_PREFIX): (512, 512)} if config.ofs_embed_dim else {}
    shapes |= {TABLE.removeprefix(SAT_PREFIX): (1, 17776, width)} if config.adds_table else {}
    leaves = {SAT_PREFIX + key: Leaf(np.dtype(np.float16), shape) for key, shape in shapes.items()}
    assert transformer_config(leaves, source="it") == config


@pytest.mark.parametrize(
    "name, scaling, inverted",
    [("CogVideoX-2B", 1.15258426, False), ("CogVideoX-5B-I2V", 0.7, False), ("CogVideoX1.5-5B", 0.7, True)],
)
def test_the_transformer_tells_how_latents_are_scaled(name, scaling, inverted):
    window, expected = (3, 3, 3), VaeConfig(scaling_factor=scaling, invert_scale_latents=inverted)
    widths, blocks = expected.block_out_channels, expected.layers_per_block
    shapes = {
        f"encoder.down.{level}.block.{block}.conv1.conv.weight": (width, width, *window)
        for level, width in enumerate(widths)
        for block in range(blocks)
    }
    shapes |= {"encoder.conv_in.conv.weight": (widths[0], 3, *window)}
    shapes |= {"encoder.conv_out.conv.weight": (2 * expected.latent_channels, widths[-1], *window)}
    shapes |= {"decoder.conv_out.conv.weight": (3, widths[0], *window)}
    leaves = {name: Leaf(np.dtype(np.float32), shape) for name, shape in shapes.items()}
    assert vae_config(leaves, RELEASED[name], source="it") == expected


def test_a_part_is_replaced_only_by_force(tmp_path, capsys):
    source, ours = sat_transformer(tmp_path / "sat"), tmp_path / "ours"
    command = [*CONVERT, str(source), str(ours)]
    assert main(command) == 0
    before = files_of(ours)
    assert main(command) == 2
    assert "pass --force" in capsys.readouterr().err
    (ours / TRANSFORMER / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert main([*command, "--force"]) == 0
    assert files_of(ours) == before
    assert_same_bits(tensors_of(ours / TRANSFORMER), pipeline_arrays(TEXT_TO_VIDEO, TRANSFORMER))


# Shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS[:2])
def test_tensors_go_into_shards_in_the_order_of_a_state_dict(part):
    names = list(pipeline_arrays("x_pipeline_i2v_15", part))
    assert sorted(reversed(names), key=state_dict_order) == names


def test_a_shard_is_filled_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(snapshot_files, "LIMIT", 10)
    leaves = {f"layer.{i}": Leaf(np.dtype(np.int8), (size,)) for i, size in enumerate([4, 6, 1, 12, 3])}
    expected = [["layer.0", "layer.1"], ["layer.2"], ["layer.3"], ["layer.4"]]
    assert list(shards(leaves, "model").values()) == expected
    assert list(shards(leaves, "model"))[1] == "model-00002-of-00004.safetensors"


def test_a_large_part_has_shards_and_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_files, "LIMIT", 60_000)
    convert(sat_transformer(tmp_path / "sat"), tmp_path / "ours")
    folder, expected = tmp_path / "ours" / TRANSFORMER, pipeline_arrays(TEXT_TO_VIDEO, TRANSFORMER)
    index = read_json(folder / "diffusion_pytorch_model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in expected.values())
    assert len(set(index["weight_map"].values())) > 2
    for file in set(index["weight_map"].values()):
        held = load_file(folder / file)
        assert {name for name, of in index["weight_map"].items() if of == file} == held.keys()
        assert len(held) == 1 or sum(array.nbytes for array in held.values()) <= 60_000
    assert_same_bits(tensors_of(folder), expected)


# And back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "golden, dtype",
    [("x_pipeline_i2v", np.float32), (TWO_B, np.float16), ("x_pipeline_t2v_15", ml_dtypes.bfloat16)],
)
def test_a_snapshot_comes_back_bit_for_bit(tmp_path, monkeypatch, golden, dtype):
    folder, out = write_snapshot(tmp_path / "snapshot", golden, shards=False), tmp_path / "out"
    for path in folder.rglob("*.safetensors"):
        save_file({name: array.astype(dtype) for name, array in load_file(path).items()}, path, {"format": "pt"})
    monkeypatch.setattr(snapshot_files, "LIMIT", 30_000)
    assert main([*CONVERT, "--to-diffusers", str(folder), str(out)]) == 0
    for part in PARTS:
        assert_same_bits(tensors_of(out / part), tensors_of(folder / part))
        before, after = (read_json(where / part / "config.json") for where in (folder, out))
        assert after.items() >= {key: value for key, value in before.items() if key != "_class_name"}.items()
    classes = read_json(out / "model_index.json")
    assert classes["_class_name"] == read_json(folder / "model_index.json")["_class_name"]
    assert classes[TRANSFORMER] == ["diffusers", "CogVideoXTransformer3DModel"]
    assert classes["scheduler"] == ["diffusers", "CogVideoXDDIMScheduler"]
    assert (out / "tokenizer/spiece.model").read_bytes() == (folder / "tokenizer/spiece.model").read_bytes()
    assert (read_schedule(out), read_transformer(out)) == (read_schedule(folder), read_transformer(folder))


def test_a_lora_of_sat_changes_weights_by_its_product_over_its_rank(tmp_path, capsys):
    made = sat_lora()
    base = as_sat(TRANSFORMER, pipeline_arrays(TEXT_TO_VIDEO, TRANSFORMER))
    source, target = save(tmp_path / "lora.pt", base | made, key="module"), tmp_path / "style.safetensors"
    assert main([*CONVERT, str(source), str(target)]) == 0
    assert f"left out {len(base)} tensors" in capsys.readouterr().err
    weights = pipeline_arrays(TEXT_TO_VIDEO, TRANSFORMER)
    lora = read_lora(target, {name: x.shape for name, x in weights.items() if x.ndim == 2}, prefix="transformer.")
    assert lora.scale == 1 / LORA_RANK and len(lora.factors) == len(made) // 2
    named = {sat_lora_name(name.removeprefix(SAT_PREFIX)): array for name, array in made.items()}
    for name in lora.factors:
        a, b = (named[name.replace(".weight", f".lora_{factor}.weight")] for factor in "AB")
        expected = weights[name] + (b @ a) * np.float32(1 / LORA_RANK)
        np.testing.assert_array_equal(merged(weights[name], lora.change(name), scale=lora.scale), expected)


def test_loras_are_merged_on_the_way_back_as_in_sampling(tmp_path):
    folder, file = write_snapshot(tmp_path / "snapshot"), tmp_path / "style.safetensors"
    convert(save(tmp_path / "lora.pt", sat_lora(), key=None), file)
    command = [
        *CONVERT,
        "--to-diffusers",
        str(folder),
        str(tmp_path / "out"),
        "--lora",
        f"{file}=0.5",
        "--lora",
        str(file),
    ]
    assert main(command) == 0
    loras = [Lora(path=str(file), scale=scale) for scale in (0.5, 1.0)]
    sampled, written = Snapshot(folder).params(TRANSFORMER, loras), Snapshot(tmp_path / "out").params(TRANSFORMER)
    matrix = sampled["transformer_blocks_1"]["attn1"]["to_out_0"]["kernel"]
    np.testing.assert_array_equal(matrix, written["transformer_blocks_1"]["attn1"]["to_out_0"]["kernel"])
    assert not np.array_equal(matrix.T, tensors_of(folder / TRANSFORMER)["transformer_blocks.1.attn1.to_out.0.weight"])
    assert_same_bits(tensors_of(tmp_path / "out" / VAE), tensors_of(folder / VAE))

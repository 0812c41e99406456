"""What `cogvideo convert --family cogvideox` refuses: one sentence each, and nothing half-written is left."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.convert import snapshot_files
from cogvideo_jax.models.cogvideox.convert.from_sat import convert
from cogvideo_jax.models.cogvideox.convert.names import SAT_PREFIX
from cogvideo_jax.models.cogvideox.convert.to_diffusers import convert_back
from cogvideo_jax.models.cogvideox.snapshot import TEXT, TRANSFORMER, VAE
from tests.cogvideox.goldens import load
from tests.cogvideox.sat import (
    CONVERT,
    TEXT_TO_VIDEO,
    TWO_B,
    as_sat,
    files_of,
    pipeline_arrays,
    read_json,
    sat_arrays,
    sat_lora,
    sat_transformer,
    save,
    t5_folder,
    write_json,
    write_transformer,
)
from tests.cogvideox.snapshots import write_snapshot

TO_Q = "transformer.layers.0.attention.query_key_value.matrix_A.0"
TEXT_MATRIX = "mixins.patch_embed.text_proj.weight"


def refusal(work) -> str:
    with pytest.raises(UserError) as caught:
        work()
    sentence = str(caught.value)
    assert sentence.isprintable() and ". " not in sentence, sentence
    return sentence


DAMAGES = {
    "a missing tensor": ({"time_embed.2.bias": None}, "missing model.diffusion_model.time_embed.2.bias"),
    "a tensor that tells a size": (
        {TEXT_MATRIX: None},
        "no model.diffusion_model.mixins.patch_embed.text_proj.weight, which",
    ),
    "an unknown tensor": ({"extra.weight": np.ones(2)}, "unexpected model.diffusion_model.extra.weight"),
    "another shape": ({"time_embed.0.bias": np.ones(3)}, "misshapen model.diffusion_model.time_embed.0.bias"),
    "qkv that is no triple": (
        {"transformer.layers.1.attention.query_key_value.bias": np.ones(5)},
        "misshapen model.diffusion_model.transformer.layers.1.attention.query_key_value.bias",
    ),
    "whole numbers": ({"time_embed.0.weight": np.ones((1, 1), int)}, "not of a type that weights have"),
    "an axis of no size": ({"time_embed.0.weight": np.ones((0, 4))}, "which should tell the sizes"),
    "a missing layer": ({"transformer.layers.9.mlp.dense_4h_to_h.bias": np.ones(4)}, "does not fit: missing"),
    "channels": ({"mixins.final_layer.linear.weight": np.ones((4000, 4))}, "channels and writes 1000;"),
    "head of half a number": ({"mixins.adaln_layer.query_layernorm_list.0.weight": np.ones(17)}, "attention_head_dim"),
    "numbers that are NaN": ({"time_embed.0.bias": lambda bias: np.full_like(bias, np.nan)}, "NaN or infinite"),
    "an unknown matrix of a LoRA": ({"transformer.layers.0.mlp.matrix_A.0": np.ones(4)}, "is a LoRA; name a .safetens"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_transformer_is_refused_and_leaves_nothing(tmp_path, damage):
    changed, words = DAMAGES[damage]
    source = sat_transformer(tmp_path / "sat", changed=changed)
    sentence = refusal(lambda: convert(source, tmp_path / "ours"))
    assert words in sentence and str(source) in sentence
    assert not (tmp_path / "ours" / TRANSFORMER).exists()
    assert not (tmp_path / "ours").exists() or "NaN" in sentence


def test_unknown_names_can_be_left_out(tmp_path):
    source = sat_transformer(tmp_path / "sat", changed={"extra.weight": np.ones(2)})
    done = convert(source, tmp_path / "ours", drop_unexpected=True)
    assert done.notes[-1] == "left out of transformer: model.diffusion_model.extra.weight"


def test_a_table_whose_rows_do_not_tell_the_clips_asks_for_the_config(tmp_path):
    source = write_transformer(tmp_path / "sat", sat_arrays("transformer_5b_i2v"))
    assert "pass its config.json with --config" in refusal(lambda: convert(source, tmp_path / "ours"))


def test_a_config_of_another_model_is_refused(tmp_path):
    other = load(TEXT_TO_VIDEO)[0][TRANSFORMER]
    config = write_json(tmp_path / "config.json", other | {"time_embed_dim": other["time_embed_dim"] + 8})
    source = sat_transformer(tmp_path / "sat")
    assert "misshapen" in refusal(lambda: convert(source, tmp_path / "ours", config=config))


def test_a_vae_needs_its_transformer_and_groups_that_are_known(tmp_path):
    source = save(tmp_path / "vae.pt", as_sat(VAE, pipeline_arrays(TEXT_TO_VIDEO, VAE)), key="state_dict")
    assert "has no transformer yet" in refusal(lambda: convert(source, tmp_path / "ours"))
    convert(sat_transformer(tmp_path / "sat"), tmp_path / "ours")
    assert "do not tell the groups of its norms" in refusal(lambda: convert(source, tmp_path / "ours"))
    config = write_json(tmp_path / "config.json", load(TEXT_TO_VIDEO)[0][VAE] | {"latent_channels": 7})
    assert "latents of 7 channels" in refusal(lambda: convert(source, tmp_path / "ours", config=config))


@pytest.mark.parametrize("file", ["model_index.json", "scheduler/scheduler_config.json", "vae/config.json"])
def test_parts_of_another_variant_are_not_mixed(tmp_path, file):
    other = write_snapshot(tmp_path / "other", TWO_B if file != "model_index.json" else "x_pipeline_i2v")
    (tmp_path / "ours" / file).parent.mkdir(parents=True)
    shutil.copy(other / file, tmp_path / "ours" / file)
    source = sat_transformer(tmp_path / "sat")
    assert f"{file} is of another variant" in refusal(lambda: convert(source, tmp_path / "ours"))


def test_what_is_no_checkpoint_of_sat_is_refused(tmp_path):
    target = tmp_path / "ours"
    other = save(tmp_path / "other.pt", {"conv.weight": np.ones(2)}, key=None)
    assert "neither a transformer nor a VAE" in refusal(lambda: convert(other, target))
    (tmp_path / "text.pt").write_text("no torch file")
    assert "damaged" in refusal(lambda: convert(tmp_path / "text.pt", target))
    assert "does not exist" in refusal(lambda: convert(tmp_path / "none.pt", target))
    parallel = sat_transformer(tmp_path / "sat")
    save(parallel / "1000/mp_rank_01_model_states.pt", {"a": np.ones(1)}, key="module")
    assert "model-parallel save of 2 files" in refusal(lambda: convert(parallel, target))
    assert not target.exists()


def test_a_lora_that_does_not_fit_is_refused(tmp_path):
    made, target = sat_lora(), tmp_path / "style.safetensors"

    def of(changed: dict) -> str:
        arrays = {name: array for name, array in (made | changed).items() if array is not None}
        return refusal(lambda: convert(save(tmp_path / "lora.pt", arrays, key=None), target))

    key = SAT_PREFIX + TO_Q
    width = made[key].shape[1]
    assert "unknown key" in of({f"{SAT_PREFIX}transformer.layers.0.mlp.matrix_A.0": made[key]})
    assert "has no A beside it" in of({key: None})
    assert "has the shape" in of({key: made[key][:, :-1]})
    pair = {key: made[key][:2], key.replace("_A", "_B"): np.ones((width, 2), np.float32)}
    assert "of the ranks [2, 3]" in of(pair)
    assert "damaged" in of({key: np.full_like(made[key], np.inf)})
    plain = sat_transformer(tmp_path / "sat")
    assert "is not a LoRA" in refusal(lambda: convert(plain, target))
    assert not target.exists()


def test_t5_of_another_kind_is_refused_before_anything_is_written(tmp_path):
    source, snapshot = sat_transformer(tmp_path / "sat"), write_snapshot(tmp_path / "snapshot")
    config = read_json(snapshot / TEXT / "config.json")
    for folder, changed, words in (
        (tmp_path / "wide", {"d_model": config["d_model"] + 8}, "misshapen"),
        (tmp_path / "none", None, "spiece"),
    ):
        text = t5_folder(folder, snapshot)
        write_json(text / "config.json", config | (changed or {}))
        if changed is None:
            (text / "spiece.model").unlink()
        assert words in refusal(lambda text=text: convert(source, tmp_path / "ours", text_encoder=text))
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--lora", "a.safetensors"], "--lora needs --to-diffusers"),
        (["--to-diffusers", "--text-encoder", "t5"], "--text-encoder is for checkpoints of SAT"),
        (["--to-diffusers", "--drop-unexpected"], "--drop-unexpected is for checkpoints of SAT"),
        (["--to-diffusers", "--lora", "none.safetensors"], "none.safetensors does not exist"),
        (["--to-diffusers", "--lora", "a=1000"], "--lora a=1000"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, capsys, options, words):
    folder = write_snapshot(tmp_path / "snapshot")
    assert main([*CONVERT, str(folder), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_snapshot_is_not_written_over_other_files(tmp_path):
    folder, out = write_snapshot(tmp_path / "snapshot"), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "has 'notes.txt' already" in refusal(lambda: convert_back(folder, out, replace=True))
    (out / "notes.txt").unlink()
    convert_back(folder, out)
    assert "already" in refusal(lambda: convert_back(folder, out))
    convert_back(folder, out, replace=True)


@pytest.mark.parametrize("back", [False, True])
def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch, back):
    source = write_snapshot(tmp_path / "source") if back else sat_transformer(tmp_path / "source")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert "MB free" in refusal(lambda: (convert_back if back else convert)(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("back", [False, True])
def test_a_stopped_conversion_leaves_no_part_and_the_next_one_is_whole(tmp_path, monkeypatch, back):
    source = write_snapshot(tmp_path / "source") if back else sat_transformer(tmp_path / "source")
    work, real, calls = (convert_back if back else convert), snapshot_files.write_stream, iter(range(100))

    def stopping(*args, **kwargs):
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_files, "write_stream", stopping)
        patch.setattr(snapshot_files, "LIMIT", 20_000)
        with pytest.raises(KeyboardInterrupt):
            work(source, tmp_path / "out")
    left = files_of(tmp_path / "out") if (tmp_path / "out").exists() else set()
    assert left == (set() if back else {"model_index.json", "scheduler/scheduler_config.json"})
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "out"}
    work(source, tmp_path / "out")
    assert (tmp_path / "out" / TRANSFORMER / "config.json").exists()

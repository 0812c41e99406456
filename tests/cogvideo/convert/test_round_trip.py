"""Official checkpoints -> our weights -> official checkpoints, without the loss of a bit."""

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.config import from_dict
from cogvideo_jax.models.cogvideo.convert import superres_names, transformer_names, vq_names
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.models.cogvideo.superres.config import from_dict as superres_from_dict
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS
from cogvideo_jax.runtime.digests import check_digests, read_digests
from cogvideo_jax.runtime.weights import load_weights
from tests.cogvideo.convert.checkpoints import (
    assert_same_bits,
    goldens,
    official,
    read_sat,
    tensors,
    torch,
    write_sat,
    write_source,
)

STAGE1 = "b_train_stage1_full"


def joined(folder: Path, part: str) -> dict:
    """All leaves of a part, with those of its base."""
    tree, description = load_weights(folder / f"{part}.safetensors")
    base = f"{part}_base" if description["own_base"] else "base"
    return flatten_dict(load_weights(folder / f"{base}.safetensors")[0]) | flatten_dict(tree)


@pytest.mark.parametrize(("stem", "changes"), goldens())
def test_every_golden_checkpoint_comes_back_bit_for_bit(stem, changes, tmp_path):
    made = official(stem, **changes)
    if made.part == "tokenizer":
        source = write_source("pt", tmp_path, made)
        convert(source, tmp_path / "ours")
        back = convert_back(tmp_path / "ours", tmp_path / "back.pt", part="tokenizer")
        saved = torch.load(back, weights_only=True, mmap=True)["module"]
        assert_same_bits({name: tensor.numpy() for name, tensor in saved.items()}, made.arrays)
    else:
        source = write_source("folder", tmp_path, made)
        convert(source, tmp_path / "ours")
        back = convert_back(tmp_path / "ours", tmp_path / "back", part=made.part)
        assert_same_bits(read_sat(back), made.arrays)
    again = convert(back, tmp_path / "again", part=made.part)
    for path in again.files:
        tree, description = load_weights(path)
        ours, ours_description = load_weights(tmp_path / "ours" / path.name)
        assert description == ours_description
        assert_same_bits(flatten_dict(tree), flatten_dict(ours))


@pytest.mark.parametrize("form", ["folder", "zip", "stored zip", "safetensors", "pt"])
def test_every_form_of_a_source_gives_the_tree_of_the_name_tables(form, tmp_path):
    made = official("e_itersr") if form == "pt" else official(STAGE1)
    if form == "pt":  # a bare file says nothing of sizes: made as large as the release in what shapes do not tell
        made.arrays["transformer.word_embeddings.weight"] = np.ones((150_010, 64), np.float16)
    convert(write_source(form, tmp_path, made), tmp_path / "ours", part=made.part, heads=4)
    _, description = load_weights(tmp_path / "ours" / f"{made.part}.safetensors")
    if form == "pt":
        config, table = superres_from_dict(description["config"]), superres_names.rules(direct=False)
    else:
        config = from_dict(description["config"])
        table = transformer_names.rules(config)
    expected = transformer_names.from_official(made.arrays, config, table=table)
    assert_same_bits(joined(tmp_path / "ours", made.part), flatten_dict(expected))
    assert list(check_digests(tmp_path / "ours")) == [] and len(read_digests(tmp_path / "ours")) > 1
    assert not [path for path in (tmp_path / "ours").iterdir() if path.suffix not in (".safetensors", ".json", "")]


def test_the_tree_of_the_tokenizer_is_that_of_its_name_table(tmp_path):
    made = official("a_vqvae")
    convert(write_source("safetensors", tmp_path, made), tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.safetensors")
    expected = vq_names.from_official(made.arrays, tokenizer.config)
    assert_same_bits(flatten_dict(tokenizer.params["networks"]), flatten_dict(expected["networks"]))
    np.testing.assert_array_equal(tokenizer.params["codebook"].embed_avg, expected["codebook"].embed_avg)


def test_what_the_config_says_of_layers_windows_and_layout(tmp_path):
    settings = official("b_train_stage2_win10").settings
    open_ones = {"inner_hidden_size": None, "hidden_dropout": None, "additional_seqlen": None}
    made = official("b_train_stage2_win10", layout="64, 464, 2064", **open_ones)
    convert(write_source("folder", tmp_path, made), tmp_path / "ours")
    config = from_dict(load_weights(tmp_path / "ours" / "stage2.safetensors")[1]["config"])
    base = from_dict(load_weights(tmp_path / "ours" / "base.safetensors")[1]["config"])
    assert (config.window, config.layers, config.heads, config.boi) == (10, 4, 4, 381)
    assert config.layout.frame_times == (0, 2, 4, 1, 3) and config.layout.text_length == settings["layout"][0]
    assert base.layout.frames == 1 and not base.temporal and base.extra_positions == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_what_it_is(dtype, tmp_path):
    made = official(STAGE1)
    small = {name: array.astype(dtype) for name, array in made.arrays.items()}
    form = "folder" if dtype == np.float16 else "safetensors"
    convert(write_source(form, tmp_path, made._replace(arrays=small)), tmp_path / "ours")
    leaves = flatten_dict(load_weights(tmp_path / "ours" / "stage1.safetensors")[0])
    assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(dtype)}
    back = convert_back(tmp_path / "ours", tmp_path / "back.safetensors", part="stage1")
    convert(back, tmp_path / "again")
    for part in ("base", "stage1"):
        trees = [load_weights(tmp_path / where / f"{part}.safetensors")[0] for where in ("ours", "again")]
        assert_same_bits(*map(flatten_dict, trees))
    saved = convert_back(tmp_path / "ours", tmp_path / "back.pt", part="stage1")
    theirs = torch.load(saved, weights_only=True)["module"]
    assert {str(tensor.dtype) for tensor in theirs.values()} == {f"torch.{np.dtype(dtype).name}"}
    name = "transformer.layers.1.mlp.dense_4h_to_h.weight"
    np.testing.assert_array_equal(theirs[name].float().numpy(), small[name].astype(np.float32))


def test_random_states_and_arguments_beside_the_weights_do_no_harm(tmp_path):
    made = official(STAGE1)
    beside = {"iteration": 6000, "np_rng_state": np.random.RandomState(0).get_state(), "lr_scheduler": {"lr": 1e-4}}
    beside |= {"args": argparse.Namespace(layers=4), "torch_rng_state": torch.get_rng_state()}
    beside |= {
        "milestones": Counter([1, 2]),
        "names": {"a", "b"},
        "shapes": [torch.Size([1, 2])],
        "type": torch.float16,
    }
    convert(write_sat(tmp_path / "sat", [made.arrays], made.settings, beside=beside), tmp_path / "ours")
    assert_same_bits(read_sat(convert_back(tmp_path / "ours", tmp_path / "back", part="stage1")), made.arrays)


def test_a_file_of_torch_before_1_6_is_read(tmp_path):
    made = official("a_vqvae")
    path = tmp_path / "ice_image.pt"
    torch.save({"module": tensors(made.arrays)}, path, _use_new_zipfile_serialization=False)
    convert(path, tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back.pt", part="tokenizer")


@pytest.mark.parametrize("part", ["base", "stage1", "stage2", "superres"])
def test_the_demo_can_be_shared_and_comes_back_whole(part, tmp_path):
    back = convert_back(DEMO_WEIGHTS, tmp_path / "official", part=part)
    convert(back, tmp_path / "ours", part=part)
    tree, description = load_weights(tmp_path / "ours" / f"{part}.safetensors")
    ours, ours_description = load_weights(DEMO_WEIGHTS / f"{part}.safetensors")
    assert description["config"] == ours_description["config"]
    assert_same_bits(flatten_dict(tree), flatten_dict(ours))
    assert json.loads((back / "model_config.json").read_text())["num_layers"] == 4


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_demo_tokenizer_comes_back_whole(suffix, tmp_path):
    back = convert_back(DEMO_WEIGHTS, tmp_path / f"tokenizer{suffix}", part="tokenizer")
    convert(back, tmp_path / "ours")
    ours, theirs = (load_tokenizer(folder / "tokenizer.safetensors") for folder in (tmp_path / "ours", DEMO_WEIGHTS))
    assert ours.config == theirs.config and ours.fingerprint == theirs.fingerprint


def test_a_file_tells_its_settings(tmp_path):
    back = convert_back(DEMO_WEIGHTS, tmp_path / "file.pt", part="stage2")
    assert convert(back, tmp_path / "ours").files[-1].name == "stage2.safetensors"
    ours, theirs = (load_weights(folder / "stage2.safetensors")[1] for folder in (tmp_path / "ours", DEMO_WEIGHTS))
    assert ours["config"] == theirs["config"]


def test_parts_name_the_tokenizer_they_lie_beside(tmp_path):
    shutil.copyfile(DEMO_WEIGHTS / "tokenizer.safetensors", tmp_path / "tokenizer.safetensors")
    convert(convert_back(DEMO_WEIGHTS, tmp_path / "official", part="stage1"), tmp_path)
    description = load_weights(tmp_path / "stage1.safetensors")[1]
    assert description["tokenizer"] == load_tokenizer(DEMO_WEIGHTS / "tokenizer.safetensors").fingerprint


def test_the_command_converts_there_and_back(tmp_path, capsys):
    made = official(STAGE1)
    source = write_source("zip", tmp_path, made)
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(source), str(ours)]) == 0
    assert capsys.readouterr().out.split() == [str(ours / "base.safetensors"), str(ours / "stage1.safetensors")]
    assert main(["convert", "--to-official", "--part", "stage1", str(ours), str(back)]) == 0
    assert_same_bits(read_sat(back), made.arrays)


def test_unexpected_names_can_be_left_out_and_are_told(tmp_path):
    made = official("a_vqvae")
    more = made.arrays | {"loss.weight": np.ones(3, np.float32), "steps": np.ones(1, np.int64)}
    path = write_source("pt", tmp_path, made._replace(arrays=more))
    with pytest.raises(ValueError, match=r"unexpected loss.weight, steps"):
        convert(path, tmp_path / "ours")
    done = convert(path, tmp_path / "ours", drop_unexpected=True)
    assert done.notes == ["left out of tokenizer: loss.weight, steps"]


def test_super_resolution_adds_the_local_channel_to_the_paths_of_the_base():
    direct, iterative = superres_names.rules(direct=True), superres_names.rules(direct=False)
    assert set(direct) - set(iterative) == {
        ("layers", "local", name) for name in ("qkv_kernel", "qkv_bias", "out_kernel", "out_bias")
    }
    assert set(iterative) - set(transformer_names.base_rules()) == {("extra_positions",)}

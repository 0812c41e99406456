"""A folder of weights is refused before anything is loaded if its parts do not fit."""

import json
import os
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, WeightsFolder, read_labels
from cogvideo_jax.runtime.weights import load_weights, save_weights

TABLE = ("position_table",)


@pytest.fixture
def folder(tmp_path):
    """The demo's weights, whose files may be changed."""
    shutil.copytree(DEMO_WEIGHTS, tmp_path / "weights")
    return tmp_path / "weights"


def change(folder, part, change_leaves=lambda leaves: None, change_description=lambda description: None):
    """Writes a part anew with other leaves or another description."""
    path = folder / f"{part}.safetensors"
    tree, description = load_weights(path)
    leaves = flatten_dict(tree)
    change_leaves(leaves)
    change_description(description)
    save_weights(path, unflatten_dict(leaves), description, replace=True)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda leaves: leaves.pop(TABLE), "base.safetensors does not fit: missing position_table"),
        (lambda leaves: leaves.update({("more",): np.ones(2)}), "unexpected more"),
        (lambda leaves: leaves.update({TABLE: leaves[TABLE][:-1]}), "misshapen position_table"),
        (lambda leaves: leaves.update({TABLE: leaves[TABLE].astype(np.int32)}), "position_table .the first is int32"),
    ],
)
def test_leaves_that_are_not_those_of_the_model_are_refused(folder, damage, words):
    change(folder, "base", damage)
    with pytest.raises(UserError, match=words):
        WeightsFolder(folder)


def test_a_stage_must_fit_the_base_that_it_stands_on(folder):
    change(folder, "stage1", change_description=lambda description: description["config"].update(mlp_width=256))
    with pytest.raises(UserError, match=r"stage1\.safetensors does not fit: misshapen layers/mlp/"):
        WeightsFolder(folder)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(kind="base"), "holds 'base', not 'stage2'"),
        (dict(kind=3), "kind is 3; it should be a text"),
        (dict(tokenizer="none"), "tokenizer is 'none'; it should be 16 hexadecimal digits"),
        (dict(own_base=1), "own_base is 1; it should be true or false"),
        (dict(trained="yes"), "unknown key trained"),
        (dict(config=None), "config is None; it should be an object"),
    ],
)
def test_a_wrong_description_is_refused_by_its_key(folder, changes, words):
    change(folder, "stage2", change_description=lambda description: description.update(changes))
    with pytest.raises(UserError, match=words):
        WeightsFolder(folder)


def test_a_tokenizer_of_other_codes_or_pixels_is_refused(folder):
    config = folder / "pipeline.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pixels": 128}))
    with pytest.raises(UserError, match=r"makes 256 tokens of the 128 pixels of pipeline\.json"):
        _ = WeightsFolder(folder).tokenizer
    change(folder, "tokenizer", lambda leaves: leaves.pop(("codebook", "embed_avg")))
    with pytest.raises(UserError, match="missing codebook/embed_avg"):
        load_tokenizer(folder / "tokenizer.safetensors")


@pytest.mark.parametrize("labels", [np.full(4, 4), np.array([0, -1]), np.ones((2, 2), int), np.ones(3), np.arange(0)])
def test_labels_that_number_no_clusters_are_refused(tmp_path, labels):
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(UserError, match=r"labels\.npy"):
        read_labels(tmp_path / "labels.npy")


@pytest.mark.parametrize("name", ["base.safetensors", "tokenizer.safetensors", "pipeline.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused(folder, name, make):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(UserError, match=r"is not a regular file|has no readable"):
        _ = WeightsFolder(folder).tokenizer

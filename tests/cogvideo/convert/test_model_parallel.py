"""Ranks of a model-parallel save become the checkpoint that was cut."""

import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.convert.model_parallel import Split, merge_ranks, split_of
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.runtime.safetensors_stream import Leaf
from tests.cogvideo.convert.checkpoints import assert_same_bits, official, read_sat, write_sat


def cut(arrays: dict, ranks: int) -> list[dict]:
    """What each rank of a parallel save holds; written apart from the code under test."""
    chunks = [{} for _ in range(ranks)]
    for name, array in arrays.items():
        if "query_key_value" in name:
            parts = zip(*(np.split(third, ranks) for third in np.split(array, 3)))
            parts = [np.concatenate(part) for part in parts]
        elif "word_embeddings" in name or "dense_h_to_4h" in name:
            parts = np.split(array, ranks)
        elif name.endswith("weight") and ("dense_4h_to_h" in name or ".dense." in name):
            parts = np.split(array, ranks, axis=1)
        else:
            parts = [array] * ranks
        for chunk, part in zip(chunks, parts):
            chunk[name] = part
    return chunks


@pytest.mark.parametrize(
    ("stem", "ranks"), [("b_train_stage1_win10", 2), ("c_cache_stage1_first_frame", 4), ("e_dsr", 2)]
)
def test_merged_ranks_are_the_whole(stem, ranks, tmp_path):
    made = official(stem)
    source = write_sat(tmp_path / "sat", cut(made.arrays, ranks), made.settings)
    convert(source, tmp_path / "ours")
    assert_same_bits(read_sat(convert_back(tmp_path / "ours", tmp_path / "back", part=made.part)), made.arrays)


def test_heads_stay_together():
    """Two ranks, two heads of one row each: rank 0 holds q0 k0 v0, the whole is q0 q1 k0 k1 v0 v1."""
    name = "transformer.layers.7.attention.query_key_value.bias"
    ranks = [np.array([0.0, 2.0, 4.0], np.float32), np.array([1.0, 3.0, 5.0], np.float32)]
    leaves = {name: Leaf(np.dtype(np.float32), (3,))}
    whole, read = merge_ranks([(leaves, lambda _, rank=rank: rank) for rank in ranks], "two ranks")
    assert whole[name].shape == (6,)
    np.testing.assert_array_equal(read(name), np.arange(6))


def test_which_arrays_are_cut():
    assert split_of("mixins.attention_plus.query_key_value.11.weight") == Split.QKV
    assert split_of("mixins.attention_plus.dense.11.weight") == Split.COLUMNS
    assert split_of("mixins.attention_plus.dense.11.bias") == Split.NONE
    assert split_of("mixins.attention_plus.attn_distribution.11") == Split.NONE
    assert split_of("transformer.position_embeddings.weight") == Split.NONE


def test_ranks_that_disagree_or_are_missing_are_refused(tmp_path):
    made = official("b_train_stage1_full")
    ranks = cut(made.arrays, 2)
    ranks[1]["transformer.final_layernorm.bias"] = ranks[1]["transformer.final_layernorm.bias"] + 1
    source = write_sat(tmp_path / "sat", ranks, made.settings)
    with pytest.raises(ValueError, match=r"disagree on transformer.final_layernorm.bias"):
        convert(source, tmp_path / "ours")
    (source / "6000" / "mp_rank_00_model_states.pt").rename(source / "6000" / "mp_rank_02_model_states.pt")
    with pytest.raises(ValueError, match=r"only the model-parallel files \[1, 2\]"):
        convert(source, tmp_path / "ours")
    (source / "6000" / "mp_rank_02_model_states.pt").unlink()
    assert not (tmp_path / "ours").exists()


def test_one_rank_of_two_does_not_pass_for_the_whole(tmp_path):
    made = official("b_train_stage1_full")
    source = write_sat(tmp_path / "sat", cut(made.arrays, 2)[:1], made.settings)
    with pytest.raises(ValueError, match="misshapen"):
        convert(source, tmp_path / "ours")

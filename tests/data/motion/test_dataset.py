"""The TFDS set: built and read without TensorFlow, with honest splits."""

import sys
from collections import Counter

import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.data.motion.dataset import CaptionedMotion, MotionConfig, _train_clips
from cogvideo_jax.data.sources import MotionSource


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    config = MotionConfig.of(train_clips=64, test_clips=8)
    builder = CaptionedMotion(data_dir=str(tmp_path_factory.mktemp("tfds")), config=config)
    builder.download_and_prepare()
    return builder


def test_clips_come_back_as_they_were_drawn_and_without_tensorflow(builder):
    for row in builder.as_data_source("test"):
        spec = {key: row[key].decode() for key in ("object", "colour", "action")}
        assert row["frames"].shape == (33, 64, 64, 3) and row["frames"].dtype == np.uint8
        assert spec["colour"] in row["english"].decode()
        assert bool(row["held_out"]) == motion.held_out(**spec)
        start = tuple(row["path"][0].astype(int))
        np.testing.assert_array_equal(row["frames"], motion.render(motion.MotionSpec(**spec, start=start)))
    assert "tensorflow" not in sys.modules


def test_no_held_out_combination_is_in_the_training_split(builder):
    rows = list(builder.as_data_source("train"))
    assert len(rows) == 64
    assert not any(motion.held_out(*(r[k].decode() for k in ("object", "colour", "action"))) for r in rows)


def test_hard_actions_come_twice_as_often():
    rows = list(_train_clips(600))
    actions = Counter(features["action"] for _, features in rows)
    assert set(actions) == set(motion.ACTIONS)
    hard = sum(actions[action] for action in motion.HARD)
    assert abs(hard / 600 - 10 / 19) < 0.06


def test_half_of_the_test_split_is_held_out(builder):
    assert [bool(row["held_out"]) for row in builder.as_data_source("test")] == [True, False] * 4


def test_the_source_gives_both_captions_and_draws_the_set_only_once(builder):
    source = MotionSource(builder.data_dir.rsplit("captioned_motion", 1)[0], split="test", train_clips=64, test_clips=8)
    clip = source[1]
    assert len(source) == 8 and clip.fps == 8.0 and clip.name == "test/1" and len(clip.texts) == 2
    assert [c.name for c in source] == [f"test/{i}" for i in range(8)]


def test_the_source_can_draw_the_same_clips_larger(builder):
    folder = builder.data_dir.rsplit("captioned_motion", 1)[0]
    sources = [MotionSource(folder, split="test", train_clips=64, test_clips=8, scale=scale) for scale in (1, 3)]
    for small, large in zip(*sources):
        assert large.frames.shape == (33, 192, 192, 3) and large.texts == small.texts
        shrunk = large.frames.reshape(33, 64, 3, 64, 3, 3).mean((2, 4))
        assert np.abs(shrunk - small.frames).max() < 26  # a tenth of the way from ink to white: finer samples of edges
        assert np.abs(shrunk - small.frames).mean() < 0.2


def test_the_default_sizes_can_be_asked_for_by_number(tmp_path):
    by_number = CaptionedMotion(data_dir=str(tmp_path), config=MotionConfig.of(train_clips=10_000, test_clips=1_000))
    assert by_number.builder_config is CaptionedMotion(data_dir=str(tmp_path)).builder_config


def test_empty_splits_are_refused():
    with pytest.raises(ValueError, match="each split needs a clip"):
        MotionConfig.of(train_clips=0, test_clips=8)

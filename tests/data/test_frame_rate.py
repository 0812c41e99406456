"""The paper's rule for the frame rate of a training clip."""

import numpy as np
import pytest

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.frame_rate import PRESET_RATES


@pytest.mark.parametrize(
    "num_frames, fps, rate",
    [
        (33, 8.0, 1.0),  # four seconds and a frame: just enough for 1 frame/s
        (32, 8.0, 2.0),  # one frame less is not
        (17, 8.0, 2.0),
        (9, 8.0, 4.0),
        (5, 8.0, 8.0),
        (129, 8.0, 0.25),  # 16 seconds
        (10_000, 8.0, 0.25),
        (97, 24.0, 1.0),
        (121, 29.97, 1.0),
        (120, 30.0, 2.0),
    ],
)
def test_the_lowest_preset_rate_that_yields_five_frames_is_taken(num_frames, fps, rate):
    assert frame_rate.lowest_rate(num_frames, fps, rates=PRESET_RATES) == rate


def test_rates_that_the_config_does_not_allow_are_not_taken():
    assert frame_rate.lowest_rate(1000, 8.0, rates=(1.0, 2.0)) == 1.0


def test_a_rate_above_the_video_s_own_yields_nothing():
    assert frame_rate.frames_at_rate(100, 5.0, rate=8.0) == 0


def test_a_video_that_is_too_short_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="4 frames at 8 frames/s does not yield 5 frames at any of the rates 0"):
        frame_rate.lowest_rate(4, 8.0, rates=PRESET_RATES)


def test_indices_keep_the_rate_of_an_uneven_source():
    offsets = frame_rate.offsets_at_rate(23.8, rate=4.0)
    np.testing.assert_array_equal(offsets, [0, 6, 12, 18, 24])


def test_random_starts_reach_both_ends_and_never_leave_the_video():
    rng = np.random.default_rng(0)
    drawn = [frame_rate.random_indices(rng, 12, source_fps=8.0, rate=4.0) for _ in range(100)]
    assert {int(d[0]) for d in drawn} == {0, 1, 2, 3}
    assert max(d[-1] for d in drawn) == 11


def test_tiled_clips_start_where_the_one_before_ends():
    rng = np.random.default_rng(0)
    drawn = [frame_rate.random_indices(rng, 35, source_fps=8.0, rate=4.0, tiled=True) for _ in range(100)]
    assert {int(d[0]) for d in drawn} == {0, 8, 16, 24}
    assert all((np.diff(d) == 2).all() for d in drawn)
    np.testing.assert_array_equal(frame_rate.random_indices(rng, 40, source_fps=8.0, rate=1.0, tiled=True)[0], 0)


def test_later_frames_are_those_after_the_first_or_the_first_alone():
    assert frame_rate.later_frames(33, source_fps=8.0, rate=1.0).tolist() == [8, 16, 24, 32]
    assert frame_rate.later_frames(10, source_fps=3.0, rate=2.0).tolist() == [2, 3, 4, 6, 8, 9]
    assert frame_rate.later_frames(4, source_fps=8.0, rate=1.0).tolist() == [0]
    assert frame_rate.later_frames(4, source_fps=0.5, rate=1.0).tolist() == [0]

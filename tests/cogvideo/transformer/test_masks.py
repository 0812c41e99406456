"""Masks as matrices, and what they mean for a whole model."""

import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.transformer import masks
from tests.cogvideo.transformer import tiny


def test_stage_1_is_a_triangle_over_all_frames():
    assert (masks.across_frames(2, 0, 2) == np.tril(np.ones((4, 4)))).all()


def test_stage_2_reads_given_frames_in_both_directions_and_writes_the_others_in_order():
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert (masks.across_frames(5, 3, 1) == np.array(expected, bool)).all()


def test_windows_of_plain_layers_cut_the_grid_and_shifted_ones_wrap_around():
    plain = masks.window_order(4, 2, shifted=False)
    assert plain.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    shifted = masks.window_order(4, 2, shifted=True)
    assert shifted[0].tolist() == [5, 6, 9, 10] and shifted[3].tolist() == [15, 12, 3, 0]


def test_regions_of_the_released_grid():
    rows = masks.window_labels(20, 10, shifted=True).reshape(20, 20)[:, 0]
    assert [int((rows == label).sum()) for label in np.unique(rows)] == [5, 10, 5]
    assert len(set(rows[:5])) == len(set(rows[5:15])) == len(set(rows[15:])) == 1
    rows = masks.window_labels(20, 10, shifted=False).reshape(20, 20)[:, 0]
    assert len(set(rows[:10])) == len(set(rows[10:])) == 1


def changed_positions(config, slot: int, offset: int) -> set[tuple[int, int]]:
    """(slot, offset) of the hidden states that change when one input token changes."""
    text, mask, frames = tiny.random_batch(config, rows=1)
    inputs = shift_right(frames, boi=config.boi)
    other = inputs.at[0, slot, offset].set((inputs[0, slot, offset] + 1) % config.image_codes)
    before, after = (tiny.hidden_states(config, text, mask, x) for x in (inputs, other))
    moved = np.abs(before - after)[0].max(axis=-1) > 1e-5
    assert not moved[: config.layout.text_length].any()
    return {divmod(int(i), config.layout.frame_tokens) for i in np.flatnonzero(moved[config.layout.text_length :])}


def test_frame_three_cannot_see_frame_four():
    seen = changed_positions(tiny.config(tiny.KEYFRAMES), 3, 5)
    assert min(seen) == (3, 5) and all(place >= (3, 5) for place in seen)
    assert (4, 0) in seen


@pytest.mark.parametrize("window", [None, 2])
def test_given_frames_never_see_written_ones(window):
    seen = changed_positions(tiny.config(tiny.INTERPOLATION, window=window), 3, 0)
    assert seen and all(slot >= 3 for slot, _ in seen)


def test_given_frames_see_each_other_in_both_directions():
    seen = changed_positions(tiny.config(tiny.INTERPOLATION), 2, 9)
    assert (0, 0) in seen and (4, 15) in seen


def test_text_reaches_every_frame():
    config = tiny.config(tiny.KEYFRAMES)
    text, mask, frames = tiny.random_batch(config, rows=1)
    inputs = shift_right(frames, boi=config.boi)
    before = tiny.hidden_states(config, text, mask, inputs)
    after = tiny.hidden_states(config, text.at[0, -1].set(41), mask, inputs)
    assert (np.abs(before - after)[0, config.layout.text_length :].max(axis=-1) > 1e-5).all()

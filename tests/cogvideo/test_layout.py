"""Slots and times, and the shift from targets to inputs."""

import jax.numpy as jnp
import pytest

from cogvideo_jax.models.cogvideo.layout import ClipLayout, interpolation_layout, keyframe_layout, shift_right


def test_released_layout_has_2064_positions():
    layout = keyframe_layout(text_length=64, grid=20)
    assert (layout.frame_tokens, layout.image_length, layout.length) == (400, 2000, 2064)


def test_interpolation_puts_given_frames_first():
    layout = interpolation_layout(text_length=4, grid=2)
    assert layout.frame_times == (0, 2, 4, 1, 3)
    assert (layout.context_slots, layout.first_loss_slot) == (3, 3)
    assert layout.times()[layout.slot_of_time()].tolist() == [0, 1, 2, 3, 4]


def test_the_last_token_of_a_frame_is_never_an_input():
    inputs = shift_right(jnp.asarray([[[1, 2, 3], [4, 5, 6]]]), boi=9)
    assert inputs.tolist() == [[[9, 1, 2], [9, 4, 5]]]


def test_times_must_be_a_permutation():
    with pytest.raises(ValueError, match="permutation"):
        ClipLayout(4, 2, (0, 2), context_slots=0, first_loss_slot=0)

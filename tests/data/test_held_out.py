"""Clips that are kept out of training."""

import pytest

from cogvideo_jax.data.cache import TokenClip
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.data.held_out import MOST_CLIPS, TrainingClips, held_out_clips, is_held_out
from cogvideo_jax.errors import UserError

CLIPS = [TokenClip(frames=None, fps=8.0, texts=("",), name=f"clip {i}") for i in range(2000)]


class Damaged(ClipSource):
    """Every third row cannot be read, and no row that need not be is read."""

    def __len__(self):
        return len(CLIPS)

    def name(self, row):
        return CLIPS[row].name

    def __getitem__(self, row):
        assert is_held_out(self.name(row), 0.1)
        if row % 3 == 0:
            raise UserError("damaged")
        return Clip(None, 8.0, ("",), self.name(row))


def names(clips):
    return {clip.name for clip in clips}


def held_out(source, *, share, most=10_000):
    return held_out_clips(source, share=share, most=most)


def test_training_and_validation_share_no_clip_and_leave_none_out():
    held, kept = names(held_out(CLIPS, share=0.1)), names(TrainingClips(CLIPS, share=0.1))
    assert not held & kept and held | kept == names(CLIPS)
    assert 150 < len(held) < 250


def test_the_choice_depends_on_the_name_alone_and_grows_with_the_share():
    small, large = (names(held_out(CLIPS[::-1], share=share)) for share in (0.02, 0.1))
    assert small < large == names(held_out(CLIPS, share=0.1))
    assert [is_held_out(f"clip {i}", 0.5) for i in range(6)] == [True, False, False, False, False, True]


def test_without_a_share_every_row_stays_where_it_is():
    assert list(TrainingClips(CLIPS, share=0.0)) == CLIPS


def test_a_large_source_is_not_searched_to_its_end():
    assert len(held_out(CLIPS, share=0.5)) == MOST_CLIPS
    assert len(held_out(CLIPS, share=0.5, most=3)) == 3


def test_damaged_clips_are_passed_over():
    assert names(held_out(Damaged(), share=0.1)) < names(held_out(CLIPS, share=0.1))


@pytest.mark.parametrize("share, words", [(1e-9, "holds out none of 2000 clips"), (1.0, "holds out all 2000 clips")])
def test_a_share_that_leaves_nothing_is_refused(share, words):
    with pytest.raises(UserError, match=words):
        TrainingClips(CLIPS, share=share)[0] if share == 1.0 else held_out(CLIPS, share=share)

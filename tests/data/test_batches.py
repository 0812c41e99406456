"""Batches: endless, shuffled, shared among processes, and resumed to exactly the same place."""

import itertools
import json

import numpy as np
import pytest

from cogvideo_jax.data.batches import frame_batches, token_batches
from cogvideo_jax.data.cache import TokenClip
from cogvideo_jax.data.clips import Clip, ReadableClips

CLIPS = [TokenClip(np.full((5, 4), row), 8.0, ("text",), str(row)) for row in range(12)]


def make_example(clip, rng):
    return {"frames": clip.frames, "text": rng.integers(1_000_000, size=3)}


def tokens(*, seed=0, batch_size=4, **part):
    return token_batches(CLIPS, make_example, batch_size=batch_size, seed=seed, **part)


def rows(batch):
    return batch["frames"][:, 0, 0].tolist()


def test_an_iterator_resumed_from_json_gives_the_same_batches():
    first = tokens()
    list(itertools.islice(first, 5))
    state = json.loads(json.dumps(first.get_state()))
    resumed = tokens()
    resumed.set_state(state)
    for expected, got in itertools.islice(zip(first, resumed), 5):
        np.testing.assert_array_equal(expected["frames"], got["frames"])
        np.testing.assert_array_equal(expected["text"], got["text"])


def test_every_epoch_holds_every_clip_in_another_order():
    iterator = tokens()
    epochs = [[row for _ in range(3) for row in rows(next(iterator))] for _ in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_clip_is_drawn_anew_in_every_epoch():
    iterator = tokens(batch_size=12)
    a, b = next(iterator), next(iterator)
    assert set(a["text"].ravel().tolist()).isdisjoint(b["text"].ravel().tolist())


def test_seeds_differ():
    assert rows(next(tokens(seed=0, batch_size=12))) != rows(next(tokens(seed=1, batch_size=12)))


@pytest.mark.parametrize("parts", [([0, 1], [2, 3]), ([0], [1], [2], [3]), ([0, 2], [1, 3])])
def test_processes_read_together_what_one_reads_alone(parts):
    whole = tokens()
    shares = [tokens(rows=np.array(part)) for part in parts]
    for _ in range(5):
        batch = next(whole)
        for part, share in zip(parts, shares):
            mine = next(share)
            for key in batch:
                np.testing.assert_array_equal(mine[key], batch[key][part])


def test_a_run_goes_on_with_another_number_of_processes():
    whole, half = tokens(), tokens(rows=np.array([2, 3]))
    list(itertools.islice(whole, 5))
    half.set_state(whole.get_state())
    np.testing.assert_array_equal(next(half)["text"], next(whole)["text"][2:])


def test_a_batch_larger_than_the_set_goes_on_into_the_next_epoch():
    assert sorted(rows(next(tokens(batch_size=24)))) == sorted(list(range(12)) * 2)


VIDEOS = [
    Clip(np.tile((10 * r + np.arange(6, dtype=np.uint8))[:, None, None, None], (1, 2, 2, 3)), 8.0, ("x",), "x")
    for r in range(12)
]


class Damaged(list):
    """Clips of which the first can still be read and the others cannot."""

    reads = 0

    def __getitem__(self, row):
        self.reads += 1
        if row:
            raise ValueError(f"clip {row} is broken")
        return super().__getitem__(row)


def pictures(videos=VIDEOS, **settings):
    return frame_batches(videos, seed=0, **settings)


def test_picture_batches_hold_different_frames_of_several_clips():
    batch = next(pictures(batch_size=12, frames_per_clip=3))
    assert batch.shape == (12, 2, 2, 3) and batch.dtype == np.uint8
    values = batch[:, 0, 0, 0].astype(int)
    assert len(set(values.tolist())) == 12
    assert len({value // 10 for value in values}) == 4


def test_picture_batches_resume():
    first = pictures(batch_size=4, frames_per_clip=2)
    list(itertools.islice(first, 7))
    resumed = pictures(batch_size=4, frames_per_clip=2)
    resumed.set_state(first.get_state())
    for expected, got in itertools.islice(zip(first, resumed), 5):
        np.testing.assert_array_equal(expected, got)


def test_damaged_videos_are_passed_over_and_read_only_once():
    videos = Damaged(VIDEOS)
    iterator = pictures(videos, batch_size=8, frames_per_clip=2)
    for _ in range(5):
        assert next(iterator).max() < 10
    assert videos.reads <= 2 * len(videos)  # two threads may meet at the same row


def test_clips_that_do_not_fit_into_memory_are_read_again():
    videos = Damaged(VIDEOS[:1])
    for memory, reads in ((0, 2), (VIDEOS[0].frames.nbytes, 1)):
        videos.reads = 0
        readable = ReadableClips(videos, memory=memory)
        assert readable[0] is VIDEOS[0] and readable[0] is VIDEOS[0]
        assert videos.reads == reads


def test_without_a_readable_video_the_reason_is_given():
    class Broken(Damaged):
        def __getitem__(self, row):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="none of 12 clips can be read"):
        ReadableClips(Broken(VIDEOS), memory=0)[3]


def test_short_videos_give_frames_twice():
    assert next(pictures(batch_size=8, frames_per_clip=8)).shape == (8, 2, 2, 3)


def test_processes_share_pictures_even_of_one_clip():
    whole, share = (
        pictures(batch_size=8, frames_per_clip=4),
        pictures(batch_size=8, frames_per_clip=4, rows=np.array([1, 6])),
    )
    for _ in range(3):
        np.testing.assert_array_equal(next(share), next(whole)[[1, 6]])


def test_frames_of_a_clip_must_divide_the_batch():
    with pytest.raises(ValueError, match="frames_per_clip 3 does not divide the 4"):
        pictures(batch_size=4, frames_per_clip=3)

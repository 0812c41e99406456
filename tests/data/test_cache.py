"""The token cache: what goes in comes out, interruptions cost nothing, what has changed is made again."""

import numpy as np
import pytest

from cogvideo_jax.data.cache import TokenCache, shrink, write_token_cache
from cogvideo_jax.data.cache_format import TokenClip, pack, unpack
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.errors import UserError


class CountingSource(ClipSource):
    """Clips of different lengths; row r, frame t is filled with 10 r + t. Row 3 is damaged."""

    def __init__(self, rows=7, fps=8.0, changed=(), **settings):
        super().__init__()
        self.rows, self.fps, self.read, self.changed, self.given = rows, fps, [], changed, settings

    def __len__(self):
        return self.rows

    @property
    def settings(self):
        return self.given

    def name(self, row):
        return f"clip {row}"

    def stamp(self, row):
        return f"{row}, {row in self.changed}"

    def __getitem__(self, row):
        self.read.append(row)
        if row == 3:
            raise ValueError("broken")
        values = (10 * row + np.arange(5 + row)).astype(np.uint8)
        return Clip(
            np.tile(values[:, None, None, None], (1, 4, 4, 3)),
            self.fps,
            (f"text {row}", "视频"),
            self.name(row),
        )


def encode(frames):
    assert frames.shape == (16, 4, 4, 3)  # always the same, or a compiled encoder would compile again
    return frames[:, ::2, ::2, 0].reshape(16, 4).astype(np.int32)


def write(source, out, *, encode=encode, fingerprint="tokenizer A", top_fps=8.0, **settings):
    sizes = dict(clips_per_shard=2, frames_per_call=16)
    return write_token_cache(source, encode, out, fingerprint=fingerprint, top_fps=top_fps, **sizes, **settings)


def test_every_clip_comes_back_with_its_own_ids_and_texts(tmp_path):
    cache = write(CountingSource(), tmp_path / "cache")
    assert len(cache) == 6 and cache.grid == 2
    for clip, row in zip([cache[i] for i in range(6)], [0, 1, 2, 4, 5, 6]):
        np.testing.assert_array_equal(clip.frames, np.tile(10 * row + np.arange(5 + row)[:, None], 4))
        assert clip.texts == (f"text {row}", "视频") and clip.name == f"clip {row}" and clip.fps == 8.0
        assert clip.frames.dtype == np.int32


def test_damaged_clips_are_named_in_the_meta_file(tmp_path):
    cache = write(CountingSource(), tmp_path)
    assert cache.meta.skipped == (("clip 3", "broken"),)
    assert cache.meta.clips_in_shard == (2, 1, 2, 1)


def test_rows_that_a_source_refused_at_once_are_named_too(tmp_path):
    source = CountingSource()
    source.skip("captions.jsonl line 9", "not a line of JSON")
    skipped = write(source, tmp_path).meta.skipped
    assert skipped == (("captions.jsonl line 9", "not a line of JSON"), ("clip 3", "broken"))


def test_clips_of_a_higher_rate_are_thinned_to_the_top_rate(tmp_path):
    clip = write(CountingSource(fps=16.0), tmp_path)[0]
    assert clip.fps == 8.0
    np.testing.assert_array_equal(clip.frames[:, 0], [0, 2, 4])


def test_an_interrupted_run_is_completed_and_not_redone(tmp_path):
    whole = write(CountingSource(), tmp_path / "whole")
    calls = []

    def failing(frames):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(frames)

    with pytest.raises(KeyboardInterrupt):
        write(CountingSource(), tmp_path / "cut", encode=failing)
    with pytest.raises(ValueError, match="no finished token cache"):
        TokenCache(tmp_path / "cut")
    source = CountingSource()
    cut = write(source, tmp_path / "cut")
    assert source.read == [4, 5, 6]  # shards 0 and 1 were whole
    assert cut.meta == whole.meta
    assert all((cut[i].frames == whole[i].frames).all() for i in range(len(whole)))
    source = CountingSource()
    write(source, tmp_path / "cut")
    assert source.read == []


def test_another_tokenizer_is_refused_in_one_sentence(tmp_path):
    write(CountingSource(), tmp_path)
    with pytest.raises(ValueError, match="made by tokenizer tokenizer A, not by tokenizer B"):
        TokenCache(tmp_path, "tokenizer B")
    assert len(TokenCache(tmp_path)) == 6


def test_a_folder_begun_with_other_settings_is_refused(tmp_path):
    write(CountingSource(), tmp_path)
    with pytest.raises(ValueError, match="another fingerprint, top_fps; choose a new folder"):
        write(CountingSource(), tmp_path, fingerprint="tokenizer B", top_fps=4.0)


def test_a_source_without_one_good_clip_is_refused(tmp_path):
    class Broken(CountingSource):
        def __getitem__(self, row):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="not one clip could be used"):
        write(Broken(), tmp_path)


def test_ids_above_65535_survive(tmp_path):
    cache = write(CountingSource(), tmp_path, encode=lambda frames: encode(frames) + 70_000)
    assert cache[0].frames[0, 0] == 70_000


def test_ids_of_smaller_frames_can_be_kept_beside_the_others(tmp_path):
    def pixels(frames):
        assert len(frames) == 16
        return frames[..., 0].reshape(16, -1).astype(np.int32)

    options = dict(fingerprint="tokenizer A", clips_per_shard=2, frames_per_call=16)
    cache = write_token_cache(CountingSource(), pixels, tmp_path, coarse_size=2, **options)
    assert cache.grid == 4 and cache.coarse_grid == 2
    for clip, row in zip([cache[i] for i in range(6)], [0, 1, 2, 4, 5, 6]):
        values = 10 * row + np.arange(5 + row)[:, None]
        np.testing.assert_array_equal(clip.frames, np.tile(values, 16))
        np.testing.assert_array_equal(clip.coarse, np.tile(values, 4))
    with pytest.raises(ValueError, match="another coarse_size"):
        write_token_cache(CountingSource(), pixels, tmp_path, **options)


def test_a_cache_without_smaller_frames_says_so(tmp_path):
    cache = write(CountingSource(), tmp_path)
    assert cache.coarse_grid is None and cache[0].coarse is None


def test_a_smaller_pixel_is_the_mean_of_those_it_covers():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[0, :2, :2, 0] = [[0, 10], [20, 33]]
    frames[0, 2:, 2:] = 255
    small = shrink(frames, side=2)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small[0, ..., 0], [[16, 0], [0, 255]])
    with pytest.raises(ValueError, match="whole factor"):
        shrink(frames, side=3)


def test_workers_share_the_shards_and_the_last_joins_them(tmp_path):
    alone = write(CountingSource(), tmp_path / "alone")
    sources = [CountingSource() for _ in range(3)]
    for index in (2, 0):
        assert write(sources[index], tmp_path / "shared", worker=(index, 3)) is None
    with pytest.raises(ValueError, match="no finished token cache"):
        TokenCache(tmp_path / "shared")
    cache = write(sources[1], tmp_path / "shared", worker=(1, 3))
    assert cache.meta == alone.meta
    assert sorted(row for source in sources for row in source.read) == list(range(7))


def test_a_worker_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="worker 3 of 3: workers are counted from 0"):
        write(CountingSource(), tmp_path, worker=(3, 3))


def test_settings_that_no_cache_can_have_are_refused(tmp_path):
    with pytest.raises(UserError, match="top_fps is 0; it should be greater than 0"):
        write(CountingSource(), tmp_path, top_fps=0)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_damaged_shard_is_named_before_training(tmp_path):
    write(CountingSource(), tmp_path)
    shard = tmp_path / "shard-00001.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        TokenCache(tmp_path)
    shard.write_bytes((tmp_path / "shard-00000.array_record").read_bytes())
    with pytest.raises(UserError, match=r"has 7 records, but meta\.json says 6"):
        TokenCache(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=r"lacks shard-00001\.array_record"):
        TokenCache(tmp_path)
    source = CountingSource()
    write(source, tmp_path)
    assert source.read == [2, 3] and shard.read_bytes() == whole


def test_ids_that_the_model_does_not_have_are_refused(tmp_path):
    write(CountingSource(), tmp_path)
    assert TokenCache(tmp_path, codes=71)[5].frames.max() == 70
    with pytest.raises(UserError, match=r"record 5 of .*: frames has ids 60\.\.70; they should be 0\.\.69"):
        TokenCache(tmp_path, codes=70)[5]


CLIP = TokenClip(np.arange(8).reshape(2, 4), 8.0, ("a ball",), "clip", None)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(frames=np.zeros((2, 5), int)), r"frames are uint16 \[2, 5\]; expected uint16 or int32 \[T, 4\]"),
        (dict(frames=np.zeros((0, 4), int)), "frames are"),
        (dict(frames=np.full((2, 4), -1)), "they should be 0 or more"),
        (dict(fps=-1.0), "fps is -1.0"),
        (dict(fps=float("nan")), "fps is nan"),
        (dict(texts=()), "texts is"),
        (dict(texts=(3,)), r"texts\[0\] is 3"),
        (dict(name=7), "name is 7"),
        (dict(coarse=np.zeros((2, 1), int)), "coarse ids should not be there"),
    ],
)
def test_a_record_that_is_no_clip_is_refused(changes, words):
    how = dict(grid=2, coarse_grid=None, codes=None, where="record 3")
    assert unpack(pack(CLIP), **how).texts == ("a ball",)
    with pytest.raises(UserError, match=words):
        unpack(pack(CLIP._replace(**changes)), **how)


@pytest.mark.parametrize("record", [b"", b"\xc1", pack(CLIP)[:-3], b"\x91" * 5000, b"\x00"])
def test_a_record_of_damaged_bytes_is_refused(record):
    with pytest.raises(UserError, match="record 3"):
        unpack(record, grid=2, coarse_grid=None, codes=None, where="record 3")

"""A token cache notices what has changed, is damaged or is written by others, and makes it again or says so."""

import json
import resource
import signal
import threading

import numpy as np
import pytest

from cogvideo_jax.data.batches import token_batches
from cogvideo_jax.data.token_cache import TokenCache
from cogvideo_jax.errors import UserError
from tests.data.test_cache import CountingSource, encode, write


def test_what_has_changed_is_made_again_and_said(tmp_path, caplog):
    write(CountingSource(), tmp_path)
    source = CountingSource(changed=[5])
    write(source, tmp_path)
    assert source.read == [4, 5]
    assert "shard-00002.array_record is made again: its videos or captions have changed" in caplog.text
    longer = CountingSource(rows=9, changed=[5])
    assert len(write(longer, tmp_path)) == 8 and longer.read == [6, 7, 8]
    shorter = CountingSource(rows=4)
    assert len(write(shorter, tmp_path)) == 3 and shorter.read == []
    assert len(list(tmp_path.glob("shard-*"))) == 4


def test_other_settings_of_the_source_are_refused_unless_forced(tmp_path):
    write(CountingSource(size="64"), tmp_path)
    with pytest.raises(UserError, match=r"another source\.size; choose a new folder, or pass --force"):
        write(CountingSource(size="32"), tmp_path)
    source = CountingSource(rows=2, size="32")
    cache = write(source, tmp_path, replace=True)
    assert source.read == [0, 1] and cache.meta.source == {"size": "32"} and len(list(tmp_path.glob("shard-*"))) == 2


@pytest.mark.parametrize(
    "key, value",
    [
        ("top_fps", 1.0),
        ("shortest_seconds", 3.75),
        ("clips_in_shard", [1, 2, 2, 1]),
        ("digests", ["0" * 16] * 4),
        ("fingerprint", "tokenizer B"),
    ],
)
def test_a_meta_file_that_says_something_else_than_the_shards_is_refused(tmp_path, key, value):
    write(CountingSource(), tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {key: value}))
    with pytest.raises(UserError, match=rf"meta\.json says {key} .*, its shards "):
        TokenCache(tmp_path)
    source = CountingSource()
    write(source, tmp_path)
    assert source.read == [] and json.loads((tmp_path / "meta.json").read_text()) == meta


@pytest.mark.parametrize("file", ["plan.json", "meta.json", "shard-00001.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[]", b"["])
def test_a_damaged_description_is_named(tmp_path, file, content):
    write(CountingSource(), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=file):
        TokenCache(tmp_path)


def test_no_byte_of_a_record_changes_a_token(tmp_path):
    good = list(write(CountingSource(2), tmp_path))
    shard = tmp_path / "shard-00000.array_record"
    whole = np.frombuffer(shard.read_bytes(), np.uint8)
    places = {place + side for place in np.flatnonzero(whole) for side in (-1, 0, 1)}
    noticed = 0
    for place in sorted(places & set(range(len(whole)))) + list(range(0, len(whole), 2048)):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        shard.write_bytes(damaged.tobytes())
        try:
            clips = list(TokenCache(tmp_path))
        except UserError as error:
            assert shard.name in str(error)
            noticed += 1
        else:
            assert all(np.array_equal(a.frames, b.frames) and a[1:] == b[1:] for a, b in zip(clips, good))
    assert noticed > 400


def test_batches_of_a_damaged_cache_end_in_a_sentence(tmp_path):
    write(CountingSource(), tmp_path)
    shard = tmp_path / "shard-00002.array_record"
    whole = bytearray(shard.read_bytes())
    whole[whole.index(b"frames") + 40] ^= 1
    shard.write_bytes(whole)
    batches = token_batches(TokenCache(tmp_path), lambda clip, rng: {"x": clip.frames[0]}, batch_size=2, seed=0)
    with pytest.raises(UserError, match=r"shard-00002\.array_record is damaged"):
        for _ in range(8):
            next(batches)


def test_a_video_that_vanishes_ends_the_run_and_the_next_goes_on(tmp_path):
    class Vanishing(CountingSource):
        gone = False

        def stamp(self, row):
            if self.gone and row >= 4:
                raise UserError(f"clip {row} is gone")
            return super().stamp(row)

        def __getitem__(self, row):
            self.gone = row >= 4
            if self.gone:
                raise ValueError("cannot be read")
            return super().__getitem__(row)

    with pytest.raises(UserError, match="clip 4 is gone"):
        write(Vanishing(), tmp_path)
    assert not list(tmp_path.glob(".*"))
    source = CountingSource()
    cache = write(source, tmp_path)
    assert source.read == [4, 5, 6] and cache.meta.skipped == (("clip 3", "broken"),)


def test_a_video_that_is_replaced_while_it_is_read_ends_the_run(tmp_path):
    class Replaced(CountingSource):
        def __getitem__(self, row):
            self.changed = (row,)
            return super().__getitem__(row)

    with pytest.raises(UserError, match=r"videos changed while .*shard-00000\.array_record was made"):
        write(Replaced(), tmp_path)


def test_two_processes_share_the_shards_of_one_folder(tmp_path):
    first, second = CountingSource(), CountingSource()
    second_cache = []

    def encode_slowly(frames):
        if not second_cache:  # another run starts and ends meanwhile
            second_cache.append(write(second, tmp_path))
        return encode(frames)

    cache = write(first, tmp_path, encode=encode_slowly)
    assert second_cache == [None] and first.read == [0, 1] and second.read == [2, 3, 4, 5, 6]
    assert len(cache) == 6


def test_processes_that_start_together_agree(tmp_path):
    whole = write(CountingSource(rows=40), tmp_path / "whole")
    results, sources = [], [CountingSource(rows=40) for _ in range(3)]
    threads = [threading.Thread(target=lambda s=s: results.append(write(s, tmp_path / "shared"))) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    cache = write(CountingSource(rows=40), tmp_path / "shared")
    assert cache.meta == whole.meta and list(cache)[-1].name == "clip 39"


def test_a_full_disk_is_a_sentence_and_the_next_run_finishes(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"shard-00000\.array_record cannot be written"):
            write(CountingSource(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert len(write(CountingSource(), tmp_path)) == 6


def test_shards_of_a_cache_that_lost_its_plan_are_kept_only_with_the_same_settings(tmp_path):
    write(CountingSource(), tmp_path)
    for settings, read in ((dict(), []), (dict(top_fps=4.0), list(range(7)))):
        (tmp_path / "plan.json").unlink()
        source = CountingSource()
        write(source, tmp_path, **settings)
        assert source.read == read


def test_a_cache_of_an_older_version_is_refused_unless_forced(tmp_path):
    (tmp_path / "plan.json").write_text('{"fingerprint": "A", "top_fps": 8.0, "rows": 3}')
    with pytest.raises(UserError, match=r"plan\.json .*pass --force to make the cache anew"):
        write(CountingSource(), tmp_path)
    assert len(write(CountingSource(), tmp_path, replace=True)) == 6

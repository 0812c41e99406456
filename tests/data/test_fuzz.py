"""Damaged lists of captions and damaged files of a cache: an error is one sentence, and what is skipped is counted.

COGVIDEO_FUZZ sets how many of each are tried.
"""

import os
import random
import shutil
import time

import numpy as np
import pytest

from cogvideo_jax.data.cache import TokenCache, write_token_cache
from cogvideo_jax.data.cache_check import damages
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.data.folder import FolderSource
from cogvideo_jax.errors import UserError
from tests.damages import damaged

TRIES = int(os.environ.get("COGVIDEO_FUZZ", "60"))
SECONDS = 10  # longest for one
LISTS = {
    "captions.jsonl": '{"file": "a.gif", "text": "a lion"}\n{"file": "b/a.gif", "text": ["红色的球", "x"], "id": 3}\n'
    * 4,
    "captions.csv": 'file,text\na.gif,a lion\nb/a.gif,"red, ""round"" 球"\n' * 4,
    "webvid/captions.csv": "videoid,contentUrl,duration,page_dir,name\n12,u,PT1S,b,a lion\n13,u,PT1S,b,a cat\n" * 4,
    "kinetics/captions.csv": "label,youtube_id,time_start,time_end,split\na lion,xYz,3,13,train\n" * 4,
}
FOUND = ("a.gif", "b/a.gif", "b/12.mp4", "b/13.mp4", "xYz_000003_000013.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTS)
def test_damaged_lists_are_refused_or_their_rows_skipped(tmp_path, name):
    folder = (tmp_path / name).parent
    for file in FOUND:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    for number in range(TRIES):
        content = damaged(LISTS[name].encode(), random.Random(f"{name} {number}"))
        (tmp_path / name).write_bytes(content)
        since = time.monotonic()
        try:
            source = FolderSource(folder, size=16)
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
        else:
            assert len(source) and all(text.strip() for text in source.captions())
            assert all(source.name(row) in FOUND and source.stamp(row) for row in range(len(source)))
            assert all(reason.isprintable() and len(reason) < 400 for _, reason in source.skipped)
        assert time.monotonic() - since < SECONDS


class Clips(ClipSource):
    """Three clips, the second damaged."""

    def __len__(self):
        return 3

    def name(self, row):
        return f"clip {row}"

    def __getitem__(self, row):
        if row == 1:
            raise UserError("broken")
        return Clip(np.full((5, 4, 4, 3), row, np.uint8), 8.0, ("grey", "灰"), self.name(row))


def write(out):
    encode = lambda frames: frames[:, ::2, ::2, 0].reshape(-1, 4).astype(np.int32)  # noqa: E731
    return write_token_cache(Clips(), encode, out, fingerprint="A", clips_per_shard=2, frames_per_call=8)


def read(out) -> list[tuple]:
    return [(clip.frames.tolist(), *clip[1:]) for clip in TokenCache(out)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "meta.json", "shard-00000.json", "shard-00001.array_record"])
def test_damaged_files_of_a_cache_are_refused_or_made_again(tmp_path, name):
    write(tmp_path / "good")
    good, content = read(tmp_path / "good"), (tmp_path / "good" / name).read_bytes()
    folder = tmp_path / "damaged"
    for number in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder)
        (folder / name).write_bytes(damaged(content, random.Random(f"{name} {number}")))
        since = time.monotonic()
        found = list(damages(folder))
        assert all(said.isprintable() and len(said) < 1000 for said in found)
        for attempt in (lambda: read(folder), lambda: read(write(folder).path)):
            try:
                assert attempt() == good
            except UserError as error:
                assert found and str(error).isprintable() and len(str(error)) < 1000
        if name != "plan.json":
            assert read(folder) == good and not list(damages(folder))
        assert time.monotonic() - since < SECONDS

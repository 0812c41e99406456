"""Damaged media files: a sentence or frames, soon, and nothing written.

COGVIDEO_FUZZ is the number of files; 60 if it is not set.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.media import read_image, read_video
from tests.runtime.media_files import greys, quarters, write

COUNT = int(os.environ.get("COGVIDEO_FUZZ", "60"))
LONGEST = 10.0  # seconds
VIDEOS = """
a.mp4 libx264 yuv420p | b.mp4 libx265 yuv420p | c.mp4 libsvtav1 yuv420p | a.mov prores_ks yuva444p10le
b.mov qtrle argb | a.mkv ffv1 yuv420p | a.webm libvpx yuva420p | b.webm libvpx-vp9 yuva420p | a.avi mpeg4 yuv420p
b.avi mjpeg yuvj420p | a.ts libx264 yuv420p | a.h264 libx264 yuv420p | a.flv flv yuv420p | a.mpg mpeg2video yuv420p
a.wmv wmv2 yuv420p | a.mxf mpeg2video yuv420p | a.nut utvideo gbrp | a.m4v mpeg4 yuv420p | a.rm rv20 yuv420p
"""
PICTURES = ("gif", "webp", "png", "avif", "jpg", "tif", "bmp", "jp2", "ppm")


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[tuple[str, bytes]]:
    """Names and bytes of good files."""
    folder = tmp_path_factory.mktemp("good")
    for kind in VIDEOS.replace("\n", "|").split("|"):
        if kind.strip():
            name, codec, pixels = kind.split()
            options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
            write(folder / name, greys(8), codec, pixels, rate=25, options=options)
    first, *others = (Image.fromarray(frame) for frame in greys(8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in PICTURES:
        moving = {"save_all": True, "append_images": others} if suffix in PICTURES[:4] else {"exif": exif}
        (first if "save_all" in moving else Image.fromarray(quarters())).save(folder / f"a.{suffix}", **moving)
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes flipped, zeroed, cut off, left out or written twice."""
    data = bytearray(content)
    for _ in range(random.integers(1, 3)):
        start = int(random.integers(max(1, len(data) >> int(random.integers(0, 3)))))  # heads more often than tails
        stop = start + int(random.integers(1, 200))
        how = random.integers(5)
        if how == 0:
            for place in random.integers(len(data) or 1, size=random.integers(1, 30)):
                data[place : place + 1] = bytes([random.integers(256)])
        elif how == 1:
            data[start:stop] = bytes(len(data[start:stop]))
        elif how == 2:
            del data[max(start, 1) :]
        elif how == 3:
            del data[start:stop]
        else:
            data[start:start] = data[start:stop]
    return bytes(data)


def frames_or_sentence(read, path: Path, **kwargs) -> str:
    start = time.monotonic()
    try:
        frames = read(path, **kwargs)
    except UserError as error:
        assert "\n" not in str(error) and path.name in str(error)
        outcome = "sentence"
    else:
        assert frames.dtype == np.uint8 and frames.shape[-1] == 3 and frames.size
        outcome = "frames"
    assert time.monotonic() - start < LONGEST
    return outcome


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(COUNT))
def test_a_damaged_file_is_a_sentence_or_frames(tmp_path, monkeypatch, contents, number):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(number)
    name, content = contents[number % len(contents)]
    path = tmp_path / f"damaged_{name}"
    path.write_bytes(damaged(content, random))
    video = frames_or_sentence(read_video, path, fps=8, max_seconds=60, size=32)
    picture = frames_or_sentence(read_image, path, size=32)
    print(f"{name}: {video}, {picture}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

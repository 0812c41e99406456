"""Files are known by their content, and no file makes the reader open another one."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.media import read_image, read_video
from tests.runtime.media_files import colours, greys, numbers, quarters, write


def read(path, **kwargs):
    return read_video(path, fps=10, max_seconds=60, **kwargs)


def moving(path, suffix):
    """Five grey frames as gif, webp, png, avif or a video."""
    file = path / f"original.{suffix}"
    if suffix in ("gif", "webp", "png", "avif"):
        first, *others = (Image.fromarray(frame) for frame in greys(5))
        lossless = {"lossless": True} if suffix == "webp" else {}
        first.save(file, save_all=True, append_images=others, duration=100, **lossless)
    else:
        write(file, greys(5), "libvpx" if suffix == "webm" else "libx264")
    return file


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.gif", "a.png", "a.mp4", "a.webm", "a.txt", "a", "a.m3u8", "im%d.png", "файл 视频.GIF"]
)
@pytest.mark.parametrize("suffix", ["mp4", "webm", "avi", "gif", "webp", "png", "avif"])
def test_the_content_tells_the_kind(tmp_path, suffix, name):
    shutil.copy(moving(tmp_path, suffix), tmp_path / name)
    assert numbers(read(tmp_path / name)) == list(range(5))


@pytest.mark.parametrize("name", ["a.mp4", "a.jpg", "a.gif"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "avif", "bmp", "tif", "ppm", "jp2"])
def test_the_content_of_a_picture_tells_its_kind(tmp_path, suffix, name):
    Image.fromarray(quarters()).save(tmp_path / f"original.{suffix}")
    shutil.copy(tmp_path / f"original.{suffix}", tmp_path / name)
    assert colours(read_image(tmp_path / name)) == "rgby"


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_a_moving_picture_begins_with_its_first_frame(tmp_path, suffix):
    assert (read_image(moving(tmp_path, suffix)) < 4).all()


@pytest.mark.parametrize(
    "name", ["file:a.mp4", "subfile,,start,0,end,0,,:a.mp4", "concat:a.mp4|a.mp4", "http:a.mp4", "-"]
)
def test_a_name_with_the_syntax_of_a_protocol_is_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", greys(2))
    with pytest.raises(UserError, match="does not exist"):
        read(name)
    shutil.copy("a.mp4", name)
    assert numbers(read(name)) == [0, 1]


# Files that name other files ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.gif", "list.sdp"])
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'OTHER'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nOTHER\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>OTHER</BaseURL></MPD>',
        '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://OTHER"/></svg>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "[playlist]\nFile1=OTHER\n",
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(OTHER) run\n",
    ],
)
def test_a_file_that_names_others_is_refused(tmp_path, text, name):
    other = write(tmp_path / "other.ts", greys(3))
    (tmp_path / name).write_text(text.replace("OTHER", str(other)))
    with pytest.raises(UserError, match="it is damaged, or no video of a known kind"):
        read(tmp_path / name)
    with pytest.raises(UserError, match="it is damaged, or no picture of a known kind"):
        read_image(tmp_path / name)


def test_only_regular_files_are_read(tmp_path):
    for path in ("/dev/zero", tmp_path):
        with pytest.raises(UserError, match=r"is not a regular file|Is a directory"):
            read(path)
        with pytest.raises(UserError, match=r"is not a regular file|Is a directory"):
            read_image(path)


def test_a_cover_is_no_video(tmp_path):
    from av.stream import Disposition

    def mark(stream):
        stream.disposition = Disposition.attached_pic

    write(tmp_path / "a.mp4", greys(1), "png", "rgb24", set_up=mark)
    with pytest.raises(UserError, match="it has no video stream"):
        read(tmp_path / "a.mp4")


def test_a_heif_picture_is_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64))
    with pytest.raises(UserError, match="it is a HEIF picture"):
        read(tmp_path / "a.heic")


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(65535, 1), (1, 40000), (10000, 10000)])
@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, suffix, width, height):
    Image.new("1", (width, height)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(UserError, match=f"{width} x {height} pixels"):
        read_image(tmp_path / f"a.{suffix}", size=64)


def test_a_long_thin_picture_is_cropped_before_it_is_enlarged(tmp_path):
    Image.new("RGB", (30000, 1), "white").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", size=192).shape == (192, 192, 3)
    assert read(tmp_path / "a.png", size=192).shape == (1, 192, 192, 3)


def test_a_huge_video_is_refused_before_it_is_decoded(tmp_path):
    path = write(tmp_path / "a.y4m", greys(1, height=2, width=2), "wrapped_avframe", container="yuv4mpegpipe")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"W2 H2", b"W90000 H2"))
    with pytest.raises(UserError, match=r"90000 x 2 pixels|damaged"):
        read(path)


def test_frames_of_changing_size_are_read(tmp_path):
    small, large = (
        write(tmp_path / name, greys(3, height=side, width=side)) for name, side in (("a.ts", 32), ("b.ts", 64))
    )
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    assert numbers(read(tmp_path / "c.ts", size=16)) == [0, 1, 2] * 2
    with pytest.raises(UserError, match="its frames have several sizes"):
        read(tmp_path / "c.ts")


@pytest.mark.parametrize("fps, seconds", [(0, 1), (-1, 1), (np.nan, 1), (np.inf, 1), (8, -1), (8, np.nan)])
def test_rates_and_lengths_have_a_range(tmp_path, fps, seconds):
    with pytest.raises(UserError, match="fps must be positive"):
        read_video(write(tmp_path / "a.mp4", greys(2)), fps=fps, max_seconds=seconds)

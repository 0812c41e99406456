"""Frames of a video are where their times say, or, without times, where their numbers say."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.runtime.media import read_video
from tests.runtime.media_files import greys, numbers, write

B_FRAMES = {"bf": "2", "x264-params": "threads=1:bframes=2:b-adapt=0"}


def order(path, rate=10):
    return numbers(read_video(path, fps=rate, max_seconds=60))


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.h264", "libx264"),
        ("a.hevc", "libx265"),
        ("a.m4v", "mpeg4"),
        ("a.avi", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.flv", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mp4", "libx264"),
        ("a.nut", "libx264"),
        ("a.mpg", "mpeg2video"),
        ("a.mxf", "mpeg2video"),
    ],
)
def test_b_frames_come_in_order_and_once(tmp_path, name, codec):
    rate = 25 if codec == "mpeg2video" else 10
    options = B_FRAMES if codec == "libx264" else {} if codec == "libx265" else {"bf": "2"}
    write(tmp_path / name, greys(12), codec, rate=rate, options=options)
    assert order(tmp_path / name, rate) == list(range(12))


@pytest.mark.parametrize("name, codec", [("a.mjpeg", "mjpeg"), ("a.obu", "libsvtav1"), ("a.m2v", "mpeg2video")])
def test_raw_streams_are_read_at_their_rate(tmp_path, name, codec):
    write(tmp_path / name, greys(12), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", rate=25)
    assert order(tmp_path / name, 25) == list(range(12))


HOLES = [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mjpeg"), ("a.nut", "ffv1")]


@pytest.mark.parametrize("name, codec", HOLES)
def test_a_frame_lasts_until_the_next(tmp_path, name, codec):
    write(tmp_path / name, greys(4), codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", times=(0, 1, 6, 7))
    assert order(tmp_path / name) == [0, 1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.flv"])
def test_a_late_start_is_no_part_of_the_video(tmp_path, name):
    write(tmp_path / name, greys(4), times=(20, 21, 22, 23))
    assert order(tmp_path / name) == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix, options", [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("avif", {})])
def test_the_last_picture_lasts_as_long_as_the_file_says(tmp_path, suffix, options):
    first, *others = (Image.fromarray(frame) for frame in greys(3))
    path, durations = tmp_path / f"a.{suffix}", [100, 300, 500]
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    assert order(path) == [0] + [1] * 3 + [2] * 5


@pytest.mark.parametrize(
    "name, codec", [("a.mp4", "libx264"), ("a.mov", "mjpeg"), ("a.mkv", "libx264"), ("a.webm", "libvpx")]
)
def test_the_last_frame_lasts_as_long_as_the_container_says(tmp_path, name, codec):
    def lengthen(packet):
        tenths = 4 if packet.pts * packet.time_base > 0.15 else 1
        packet.duration = round(tenths / (10 * packet.time_base))

    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    write(tmp_path / name, greys(3), codec, pixels, change=lengthen, options={"bf": "0"})
    assert order(tmp_path / name) == [0, 1, 2, 2, 2, 2]


def test_a_gif_frame_of_no_duration_lasts_as_in_browsers(tmp_path):
    first, *others = (Image.fromarray(frame) for frame in greys(3))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=0)
    assert order(tmp_path / "a.gif") == [0, 1, 2]


def test_the_default_picture_of_an_animated_png_is_no_frame(tmp_path):
    first, *others = (Image.fromarray(frame) for frame in greys(4))
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=100, default_image=True)
    assert order(tmp_path / "a.png") == [1, 2, 3]


def test_a_recording_may_begin_between_key_frames(tmp_path):
    write(tmp_path / "a.ts", greys(12), options={"x264-params": "threads=1:keyint=6:min-keyint=6:bframes=0"})
    content = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "b.ts").write_bytes(content[188 * 8 :])
    shown = order(tmp_path / "b.ts")
    assert shown and shown == list(range(shown[0], 12))


def test_time_does_not_run_backwards(tmp_path):
    write(tmp_path / "a.ts", greys(4))
    write(tmp_path / "b.ts", greys(4))
    both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "c.ts").write_bytes(both)
    assert order(tmp_path / "c.ts") == [0, 1, 2, 3] * 2


def test_many_frames_are_read_without_all_of_them_in_memory(tmp_path):
    write(tmp_path / "a.mkv", np.zeros((60, 480, 640, 3), np.uint8), "ffv1")
    read_video(tmp_path / "a.mkv", fps=10, max_seconds=0, size=8)
    tracemalloc.start()
    try:
        assert len(read_video(tmp_path / "a.mkv", fps=10, max_seconds=60, size=8)) == 60
        assert tracemalloc.get_traced_memory()[1] < 8 << 20  # ten frames
    finally:
        tracemalloc.stop()  # it would slow down all tests that follow

"""Videos on disk: frames by timestamp, deterministic files, one sentence for every failure."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.runtime import media as video_io


def grey_clip(frames, *, height=32, width=32, step=6):
    values = (np.arange(frames) * step).astype(np.uint8)
    return np.tile(values[:, None, None, None], (1, height, width, 3))


def levels(frames):
    return frames.mean((1, 2, 3))


def test_a_written_video_reads_back_with_the_same_frames(tmp_path):
    video_io.write_mp4(tmp_path / "a.mp4", grey_clip(33), fps=8)
    frames = video_io.read_video(tmp_path / "a.mp4", fps=8, max_seconds=60)
    assert frames.shape == (33, 256, 256, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(levels(frames), np.arange(33) * 6, atol=3)


def test_lower_and_higher_rates_follow_the_clock(tmp_path):
    video_io.write_mp4(tmp_path / "a.mp4", grey_clip(33), fps=8)
    slow = video_io.read_video(tmp_path / "a.mp4", fps=1, max_seconds=60, size=16)
    np.testing.assert_allclose(levels(slow), [0, 48, 96, 144, 192], atol=3)
    fast = video_io.read_video(tmp_path / "a.mp4", fps=16, max_seconds=60, size=16)
    np.testing.assert_allclose(levels(fast), np.repeat(np.arange(33) * 6, 2), atol=3)


def test_reading_stops_at_the_last_second_asked_for(tmp_path):
    video_io.write_mp4(tmp_path / "a.mp4", grey_clip(33), fps=8)
    assert len(video_io.read_video(tmp_path / "a.mp4", fps=8, max_seconds=1.0)) == 9


def test_a_variable_frame_rate_is_read_by_timestamp(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 10)
        for tenths, value in ((0, 0), (1, 100), (9, 200)):  # shown for 0.1, 0.8 and one more interval
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tenths, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = video_io.read_video(tmp_path / "a.mkv", fps=10, max_seconds=60)
    np.testing.assert_allclose(levels(frames)[:10], [0] + [100] * 8 + [200], atol=4)


def test_a_gif_keeps_its_frames_and_its_clock(tmp_path):
    video_io.write_gif(tmp_path / "a.gif", grey_clip(17), fps=8)
    frames = video_io.read_video(tmp_path / "a.gif", fps=8, max_seconds=60, size=16)
    np.testing.assert_allclose(levels(frames), np.arange(17) * 6, atol=2)


def test_wide_pictures_lose_their_sides_and_not_their_middle(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (video_io.read_image(tmp_path / "a.png", size=20) == 255).all()
    assert video_io.read_image(tmp_path / "a.png").shape == (20, 60, 3)


def test_the_same_frames_give_the_same_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        video_io.write_mp4(tmp_path / name, noise, fps=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("height, width", [(33, 47), (257, 301)])
def test_odd_sizes_are_written(tmp_path, height, width):
    video_io.write_mp4(tmp_path / "a.mp4", grey_clip(5, height=height, width=width), fps=8)
    shape = video_io.read_video(tmp_path / "a.mp4", fps=8, max_seconds=9).shape
    assert min(shape[1:3]) >= 256 and shape[1] % 2 == shape[2] % 2 == 0


def test_a_contact_sheet_has_a_row_for_each_clip(tmp_path):
    clips = [grey_clip(5), grey_clip(3)]
    video_io.write_contact_sheet(tmp_path / "a.png", clips, labels=["grey", "灰色"])
    assert Image.open(tmp_path / "a.png").size == (5 * 33 - 1, 2 * (33 + video_io.LABEL_HEIGHT) - 1)
    video_io.write_contact_sheet(tmp_path / "b.png", clips)
    assert (video_io.read_image(tmp_path / "b.png")[:32, 33:65] == 6).all()


@pytest.mark.parametrize("frames, columns, rows", [(1, 1, 1), (3, 2, 2), (5, 3, 2), (33, 6, 6)])
def test_a_contact_sheet_of_one_clip_is_a_grid_in_reading_order(tmp_path, frames, columns, rows):
    video_io.write_contact_sheet(tmp_path / "a.png", [grey_clip(frames)])
    sheet = video_io.read_image(tmp_path / "a.png")
    assert sheet.shape == (rows * 33 - 1, columns * 33 - 1, 3)
    for index in range(frames):
        row, column = divmod(index, columns)
        assert (sheet[row * 33 :, column * 33 :][:32, :32] == index * 6).all()


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "gone.mp4"])
def test_what_cannot_be_read_is_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no video")
    if name == "gone.mp4":
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="cannot read video .*" + name) as caught:
        video_io.read_video(tmp_path / name, fps=8, max_seconds=9)
    assert "\n" not in str(caught.value)


def test_a_sound_file_has_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="it has no video stream"):
        video_io.read_video(tmp_path / "a.mkv", fps=8, max_seconds=9)


def test_a_failed_write_leaves_no_file_behind(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot be written|is a folder"):
        video_io.write_mp4(tmp_path / "file" / "a.mp4", grey_clip(3), fps=8)
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(ValueError, match=r"cannot be written|is a folder"):
        video_io.write_gif(tmp_path / "folder.gif", grey_clip(3), fps=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.gif"]


def test_frames_of_another_kind_are_refused(tmp_path, unchecked_annotations):
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, H, W, 3\], got float64 \[4, 8, 8, 3\]"):
        video_io.write_mp4(tmp_path / "a.mp4", np.zeros((4, 8, 8, 3)), fps=8)

"""Small media files for tests, written by PyAV."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

QUIET = {"libx264": {"x264-params": "threads=1"}, "libx265": {"x265-params": "log-level=none:pools=1"}}


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture of red, green, blue and yellow quarters, in reading order."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = (255, 0, 0), (0, 255, 0)
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = (0, 0, 255), (255, 255, 0)
    return picture


def colours(picture: np.ndarray) -> str:
    """Initials of the colours of the quarters, in reading order."""
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 0): "y", (255, 255, 255): "w"}
    height, width = picture.shape[:2]
    points = [picture[y * height // 4, x * width // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    return "".join(names[min(names, key=lambda name: abs(np.subtract(name, point)).sum())] for point in points)


def greys(count: int, *, height: int = 48, width: int = 64, step: int = 20) -> np.ndarray:
    """Frames 0, 1, ... of the grey levels 0, step, ..."""
    return np.tile((np.arange(count) * step).astype(np.uint8)[:, None, None, None], (1, height, width, 3))


def numbers(frames: np.ndarray, step: int = 20) -> list[int]:
    """Which of the frames of `greys` they are."""
    return np.rint(frames.mean((1, 2, 3)) / step).astype(int).tolist()


def write(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    rate: int = 10,
    times: Sequence[int] | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    set_up: Callable[[Any], None] = lambda stream: None,
    tags: dict[str, int] | None = None,
    change: Callable[[Any], None] = lambda packet: None,
) -> Path:
    """Writes frames of RGB, or RGBA, at `times` / `rate` seconds.

    Args:
      container: a format of FFmpeg; None for that of the name.
      options: of the encoder.
      set_up: changes the stream before the first frame.
      tags: color_range, colorspace and the like, of the stream and of its frames.
      change: changes every packet.
    """
    tags = tags or {}
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options={**QUIET.get(codec, {}), **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = Fraction(1, rate)
        set_up(stream)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        pictures = [_picture(frame, pixels, tags) for frame in frames]
        for time, picture in [*zip(times or range(len(frames)), pictures), (None, None)]:
            if picture is not None:
                picture.pts, picture.time_base = time, Fraction(1, rate)
            for packet in stream.encode(picture):
                change(packet)
                output.mux(packet)
    return path


def _picture(frame: np.ndarray, pixels: str, tags: dict[str, int]) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[-1] == 4 else "rgb24")
    matrix, levels = tags.get("colorspace"), tags.get("color_range")
    picture = picture.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=levels)
    for name, value in tags.items():
        setattr(picture, name, value)
    return picture

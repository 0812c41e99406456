"""Videos and pictures on disk <-> uint8 frames [T, H, W, 3].

Files are read as a player shows them: upright, with square pixels, transparency over white, HDR tone-mapped. Reading
follows timestamps, so any frame rate, even a variable one, is resampled to the requested one.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import UInt8
from cogvideo_jax.runtime.decoding import Shown, moving_pictures, still_picture
from cogvideo_jax.runtime.files import open_input, reason, whole_file
from cogvideo_jax.runtime.pictures import fit_square as fit_square

Frames = UInt8[np.ndarray, "T H W 3"]

LIBRARY_ERRORS = (OSError, ValueError, EOFError, SyntaxError, LookupError, ArithmeticError, TypeError, MemoryError)
LIBRARY_ERRORS += (RuntimeError, struct.error, Image.DecompressionBombError)
SMALLEST_SIDE = 256  # players shrink or blur smaller videos
TIMESTAMP_ROUNDING = 6e-3  # a gif keeps hundredths of a second, webm thousandths
LABEL_HEIGHT = 14
SHEET_GREY = (128, 128, 128)


# Reading ------------------------------------------------------------------------------------------


def read_video(path: str | Path, *, fps: float, max_seconds: float, size: int | None = None) -> Frames:
    """Frames shown at times 0, 1/fps, 2/fps, ... up to and including `max_seconds`.

    Args:
      path: a video, gif, animated webp, png or avif; its content tells which.
      fps: frames/s of the result; frames of the file are dropped or repeated.
      max_seconds: later frames are not read.
      size: side of the square result (see `fit_square`); None keeps the picture's size.
    Raises:
      UserError: the file cannot be read or has no frames.
    """
    if not 0 < fps < math.inf or not max_seconds >= 0:
        raise UserError(f"fps must be positive and max_seconds not negative, got {fps} and {max_seconds}")
    with _opened("video", path) as file, closing(moving_pictures(file)) as shown:
        pictures = list(_at_rate(shown, fps=fps, max_seconds=max_seconds, size=size))
        if not pictures:
            raise UserError("it has no frames")
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError("its frames have several sizes")
        return np.stack(pictures)


def read_image(path: str | Path, *, size: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels of a picture as a viewer shows it, the first of several; `size` as in `read_video`.

    Raises:
      UserError: the file cannot be read.
    """
    with _opened("image", path) as file:
        return still_picture(file, size=size)


@contextmanager
def _opened(kind: str, path: str | Path) -> Iterator[BinaryIO]:
    """`open_input`, with the libraries' own errors as sentences."""
    try:
        with open_input(path) as file, _said():
            yield file
    except UserError as error:
        raise UserError(f"cannot read {kind} {path}: {str(error).removeprefix(f'{path} ')}") from error


@contextmanager
def _said(failure: str = "") -> Iterator[None]:
    try:
        yield
    except LIBRARY_ERRORS as error:
        raise error if isinstance(error, UserError) else UserError(failure + reason(error)) from error


def _at_rate(shown: Iterable[Shown], *, fps: float, max_seconds: float, size: int | None) -> Iterator[np.ndarray]:
    """Pixels on the screen at 0, 1/fps, 2/fps, ..."""
    count = 0
    for _, until, draw in shown:
        pixels = None
        while count / fps < until - TIMESTAMP_ROUNDING:
            if count / fps > max_seconds + TIMESTAMP_ROUNDING:
                return
            pixels = draw(size=size) if pixels is None else pixels
            yield pixels
            count += 1


# Writing ------------------------------------------------------------------------------------------


def write_mp4(path: str | Path, frames: Frames, *, fps: float, replace: bool = False) -> None:
    """Writes H.264 in 4:2:0, which every player shows. Small frames are enlarged. Equal frames give equal bytes.

    Raises:
      UserError: frames of another type or shape, or the file cannot be written.
    """
    import av  # lazily: PyAV is needed for videos only

    frames = _to_even(_enlarge(_checked(frames, fps)))
    rate = Fraction(fps).limit_denominator(1001)
    # One thread: the stream depends on the number of threads, and so on the machine.
    options = {"crf": "18", "preset": "medium", "x264-params": "threads=1"}
    with _written(path, replace) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_gif(path: str | Path, frames: Frames, *, fps: float, replace: bool = False) -> None:
    """Writes an endless gif. Small frames are enlarged. Errors as in `write_mp4`."""
    frames = _enlarge(_checked(frames, fps))
    ends = np.rint(np.arange(len(frames) + 1) * 100 / fps)  # a gif counts in hundredths of a second
    durations = [int(d) * 10 for d in np.diff(ends)]
    first, *others = (Image.fromarray(frame) for frame in frames)
    with _written(path, replace) as part:
        first.save(part, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def write_png(path: str | Path, picture: UInt8[np.ndarray, "H W 3"], *, replace: bool = False) -> None:
    """Writes one picture as it is. Errors as in `write_mp4`."""
    with _written(path, replace) as part:
        Image.fromarray(picture).save(part, format="PNG")


def write_contact_sheet(
    path: str | Path,
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    *,
    labels: Sequence[str] = (),
    replace: bool = False,
) -> None:
    """Writes a PNG of frames: one clip as a near-square grid in reading order, several clips as one row each.

    Args:
      labels: one for each clip, written above its frames; or none.
    Raises:
      UserError: frames of another type or of unequal sizes, or the file cannot be written.
    """
    clips = [_checked(clip, 1.0) for clip in clips]
    if len({clip.shape[1:] for clip in clips}) != 1 or len(labels) not in (0, len(clips)):
        raise UserError(f"a sheet needs clips of one frame size and a label for each, got {len(clips)} clips")
    head = LABEL_HEIGHT if labels else 0
    columns = math.ceil(math.sqrt(len(clips[0]))) if len(clips) == 1 else max(len(clip) for clip in clips)
    grids = [_grid(clip, columns) for clip in clips]
    total = sum(head + grid.height + 1 for grid in grids) - 1
    sheet, top = Image.new("RGB", (grids[0].width, total), SHEET_GREY), 0
    for index, grid in enumerate(grids):
        sheet.paste(grid, (0, top + head))
        if labels:  # Pillow's own font has no Chinese
            text = labels[index].encode("latin-1", "replace").decode("latin-1")
            ImageDraw.Draw(sheet).text((2, top + 1), text, fill="white")
        top += grid.height + head + 1
    with _written(path, replace) as part:
        sheet.save(part, format="PNG")


def _grid(clip: Frames, columns: int) -> Image.Image:
    """Frames in rows of `columns`, one grey pixel between them."""
    height, width = clip.shape[1:3]
    rows = math.ceil(len(clip) / columns)
    grid = Image.new("RGB", (columns * (width + 1) - 1, rows * (height + 1) - 1), SHEET_GREY)
    for index, frame in enumerate(clip):
        row, column = divmod(index, columns)
        grid.paste(Image.fromarray(frame), (column * (width + 1), row * (height + 1)))
    return grid


@contextmanager
def _written(path: str | Path, replace: bool) -> Iterator[Path]:
    """`whole_file`, with the libraries' own errors as sentences."""
    with whole_file(path, replace=replace) as draft, _said(f"{path} cannot be written: "):
        yield draft


def _checked(frames: Frames, fps: float) -> Frames:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise UserError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if not 0 < fps < math.inf:
        raise UserError(f"fps must be positive, got {fps}")
    return frames


def _enlarge(frames: Frames) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Enlarges by an integer factor (nearest neighbour) until the shorter side has SMALLEST_SIDE pixels."""
    factor = math.ceil(SMALLEST_SIDE / min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _to_even(frames: Frames) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """Makes both sides even, as 4:2:0 needs, by repeating the last line."""
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    return np.pad(frames, odd, mode="edge")

"""Multi-frame-rate training (paper section 3.1): selects the frames of a video that make one clip of 5 frames.

Training clips of a fixed frame rate cut actions in half: "a lion is drinking water" cut to the half second in which it
bends down teaches the wrong thing. So every video uses the LOWEST preset frame rate that still yields 5 frames, which
spreads them over as much of the action as possible. A phrase before the caption states the rate as the seconds from the
first to the last of five frames, "4.0秒" at 1 frame/s.

Source frame i is at time i / source_fps.
"""

from collections.abc import Sequence

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int

PRESET_RATES = (
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
)  # frames/s; stage 1 uses the lower ones, stage 2 the last three
ROUNDING = 1e-6


def frames_at_rate(num_frames: int, source_fps: float, *, rate: float) -> int:
    """Number of frames that a video of `num_frames` yields at `rate`; 0 if the rate exceeds the video's own."""
    if num_frames < 1 or rate > source_fps * (1 + ROUNDING):
        return 0
    return int((num_frames - 1) * rate / source_fps + ROUNDING) + 1


def lowest_rate(num_frames: int, source_fps: float, *, rates: Sequence[float], frames: int = 5) -> float:
    """Lowest of `rates` (frames/s) at which the video yields at least `frames` frames, the paper's rule.

    Raises:
      UserError: no rate gives enough frames.
    """
    return min(enough_rates(num_frames, source_fps, rates=rates, frames=frames))


def enough_rates(num_frames: int, source_fps: float, *, rates: Sequence[float], frames: int = 5) -> list[float]:
    """All of `rates` (frames/s) at which the video yields at least `frames` frames, in the given order.

    Raises:
      UserError: no rate gives enough frames.
    """
    enough = [rate for rate in rates if frames_at_rate(num_frames, source_fps, rate=rate) >= frames]
    if not enough:
        raise UserError(
            f"a video of {num_frames} frames at {source_fps:g} frames/s does not yield {frames} frames"
            f" at any of the rates {', '.join(f'{rate:g}' for rate in rates)}"
        )
    return enough


def offsets_at_rate(source_fps: float, *, rate: float, frames: int = 5) -> Int[np.ndarray, "T"]:
    """Indices of the source frames that make `frames` frames at `rate`, from 0."""
    return np.rint(np.arange(frames) * (source_fps / rate)).astype(np.int64)


def random_indices(
    rng: np.random.Generator, num_frames: int, *, source_fps: float, rate: float, frames: int = 5, tiled: bool = False
) -> Int[np.ndarray, "T"]:
    """Indices of `frames` source frames at `rate`, from a random start if the video is longer than needed.

    Args:
      tiled: allow only the starts of clips that tile the video from its beginning, each starting at the last frame of
        the one before.
    """
    offsets = offsets_at_rate(source_fps, rate=rate, frames=frames)
    latest = num_frames - 1 - int(offsets[-1])
    if latest < 0:
        raise UserError(f"{num_frames} frames at {source_fps:g} frames/s do not hold {frames} at {rate:g} frames/s")
    step = max(int(offsets[-1]), 1) if tiled else 1
    return step * rng.integers(latest // step + 1) + offsets


def later_frames(num_frames: int, *, source_fps: float, rate: float) -> Int[np.ndarray, "N"]:
    """Indices of the source frames after the first when the video is read at `rate`; the first if there are none."""
    count = max(1, frames_at_rate(num_frames, source_fps, rate=rate))
    return np.rint(np.arange(min(1, count - 1), count) * (source_fps / rate)).astype(int)

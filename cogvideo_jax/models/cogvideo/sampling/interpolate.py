"""Recursive interpolation by stage 2, 5 -> 9 -> 17 -> 33 frames (paper section 3.1, figure 2).

A window of three consecutive frames gets one new frame in each of its two gaps; consecutive windows share a frame. All
windows of a pass are independent and go through the model in chunks of one fixed size, so that all passes use one
compiled program.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, write_slots
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.notation import Array, Bool, Int, Key, PyTree
from cogvideo_jax.runtime.batching import in_chunks
from cogvideo_jax.runtime.rng import fold


def interpolate_once(
    params: PyTree,
    text: Int[Array, "B S"],
    text_mask: Bool[Array, "B S"],
    frames: Int[Array, "B T N"],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
    chunk: int,
    on_call: Callable[[], Any] = lambda: None,
) -> Int[np.ndarray, "B 2*T-1 N"]:
    """Runs one pass and returns 2T - 1 frames in order of time.

    Args:
      text: text with the duration phrase of the pass.
      frames: frames in order of time; T is odd and at least 3.
      rngs: one key per clip.
      chunk: windows in one call; the last chunk is padded with copies.
      on_call: called after each call of the model.
    """
    batch, length, _ = frames.shape
    if length < 3 or length % 2 == 0:
        raise UserError(f"interpolation needs an odd number of at least 3 frames, got {length}")
    windows = split_windows(frames)
    count = windows.shape[1]
    clips, numbers = np.divmod(np.arange(batch * count), count)
    given = windows.reshape(batch * count, *windows.shape[2:])

    def write(*rows: Array) -> Int[np.ndarray, "chunk T N"]:
        return write_slots(params, *rows, labels, model=model, settings=settings, on_call=on_call)

    rows = text[clips], text_mask[clips], given, fold(rngs, clips, numbers)
    written = in_chunks(write, rows, rows=chunk)
    return merge_windows(written.reshape(batch, count, *written.shape[1:]))


def split_windows(frames: Int[Array, "B T N"]) -> Int[Array, "B windows 3 N"]:
    """Windows of three frames; window i has frames 2i, 2i + 1, 2i + 2."""
    count = (frames.shape[1] - 1) // 2
    return frames[:, 2 * np.arange(count)[:, None] + np.arange(3)]


def merge_windows(slots: Int[Array, "B windows 5 N"]) -> Int[np.ndarray, "B T N"]:
    """Frames in order of time from windows with times 0, 2, 4, 1, 3 in their slots; shared frames appear once."""
    batch, count, _, tokens = slots.shape
    body = slots[:, :, np.asarray([0, 3, 1, 4])].reshape(batch, 4 * count, tokens)
    return np.concatenate([body, slots[:, -1:, 2]], axis=1)

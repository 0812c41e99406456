"""Stage 2: frames between frames, recursively 5 -> 9 -> 17 -> 33 (paper section 3.1, figure 2).

A window of three neighbouring frames gets one new frame in each of its two gaps; neighbours share a frame. All windows
of a round are independent and go through the model in chunks of one fixed size, so that every round uses one
compiled program.
"""

import functools

import jax
import jax.numpy as jnp

from cogvideo_jax.model.transformer import Transformer
from cogvideo_jax.notation import Array, Bool, Int, Key, PyTree
from cogvideo_jax.sampling.decode import DecodeSettings, write_slots


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
    on_frame=lambda: None,
) -> Int[Array, "B 2T-1 N"]:
    """One round: 2T - 1 frames in order of time.

    Args:
      text: of the round's duration.
      frames: T odd, at least 3, in order of time.
      rngs: one key a clip.
      chunk: windows that go through the model together; the last chunk is filled up with copies.
    """
    batch, length, _ = frames.shape
    if length < 3 or length % 2 == 0:
        raise ValueError(f"interpolation needs an odd number of at least 3 frames, got {length}")
    count = (length - 1) // 2
    inputs = _window_rows(text, text_mask, frames, rngs, rows=-(-batch * count // chunk) * chunk)
    written = []
    for start in range(0, len(inputs[0]), chunk):
        part = (x[start : start + chunk] for x in inputs)
        written.append(write_slots(params, *part, labels, model=model, settings=settings, on_frame=on_frame))
    return _joined(written, batch=batch, count=count)


@functools.partial(jax.jit, static_argnames="rows")
def _window_rows(text, text_mask, frames, rngs, *, rows: int) -> tuple[Array, ...]:
    """Text, mask, frames and key of every window of all clips, one a row; filled up with copies."""
    windows = split_windows(frames)
    batch, count = windows.shape[:2]
    keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))(rngs)
    pick = jnp.arange(rows) % (batch * count)
    clip = pick // count
    return text[clip], text_mask[clip], windows.reshape(batch * count, *windows.shape[2:])[pick], keys.reshape(-1)[pick]


@functools.partial(jax.jit, static_argnames=("batch", "count"))
def _joined(written: list[Int[Array, "chunk 5 N"]], *, batch: int, count: int) -> Int[Array, "B T N"]:
    """Clips of the slots of `count` windows each, without what they were filled up with."""
    slots = jnp.concatenate(written)[: batch * count]
    return merge_windows(slots.reshape(batch, count, *slots.shape[1:]))


def split_windows(frames: Int[Array, "B T N"]) -> Int[Array, "B windows 3 N"]:
    """Window i holds frames 2i, 2i + 1, 2i + 2."""
    count = (frames.shape[1] - 1) // 2
    index = 2 * jnp.arange(count)[:, None] + jnp.arange(3)
    return frames[:, index]


def merge_windows(slots: Int[Array, "B windows 5 N"]) -> Int[Array, "B T N"]:
    """Slots hold times 0, 2, 4, 1, 3: each window gives its first four times, the last window its end as well."""
    batch, count, _, tokens = slots.shape
    body = slots[:, :, jnp.asarray([0, 3, 1, 4])].reshape(batch, 4 * count, tokens)
    return jnp.concatenate([body, slots[:, -1:, 2]], axis=1)

"""Stage 2: frames between frames, recursively 5 -> 9 -> 17 -> 33 (paper section 3.1, figure 2).

A window of three neighbouring frames gets one new frame in each of its two gaps; neighbours share a frame. All windows
of a round are independent and go through the model in chunks of one fixed size, so that every round uses one
compiled program.
"""

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
    batch, length, tokens = frames.shape
    if length < 3 or length % 2 == 0:
        raise ValueError(f"interpolation needs an odd number of at least 3 frames, got {length}")
    windows = split_windows(frames)
    count = windows.shape[1]
    rows = batch * count
    flat = windows.reshape(rows, 3, tokens)
    keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))(rngs).reshape(rows)
    row_text, row_mask = (jnp.repeat(x, count, axis=0) for x in (text, text_mask))
    filler = jnp.arange(-(-rows // chunk) * chunk) % rows
    written = []
    for start in range(0, rows, chunk):
        pick = filler[start : start + chunk]
        written.append(
            write_slots(
                params,
                row_text[pick],
                row_mask[pick],
                flat[pick],
                keys[pick],
                labels,
                model=model,
                settings=settings,
                on_frame=on_frame,
            )
        )
    slots = jnp.concatenate(written)[:rows].reshape(batch, count, 5, tokens)
    return merge_windows(slots)


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

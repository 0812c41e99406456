"""Key/value cache of both channels, written in place by the sampling loop, and attention of single tokens to it.

Positions count from the end of the text: slot * N + offset. The spatial channel never looks at another frame, so its
cache can be limited to the frame in progress ("limited spatial channel memory"): same numbers, less memory. The
temporal cache is stored by window, each contiguous, so that a token reads its own window only.

Several frames may be decoded in parallel; each has a spatial cache of its own.

Arrays are shaped for the two products that read them, with text and frames in one array. XLA then writes a token in
place inside a loop; any other shape costs a copy of the whole cache at every step.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.transformer.masks import window_labels, window_order
from cogvideo_jax.nn.attention import KeysValues
from cogvideo_jax.nn.blocked_attention import MASKED
from cogvideo_jax.nn.quantized import to_int8
from cogvideo_jax.notation import Array, Bool, Float, Int, Int8
from cogvideo_jax.runtime.mesh import batch_parts, constrain


@flax.struct.dataclass
class Kept:
    """Keys and values of one channel: S text tokens, then a number of places for image tokens.

    Rows are heads and clips, R = A*B: all heads of the first device's clips, then those of the next.

    Attributes:
      k: [R, K, S + places].
      v: [R, S + places, K].
      k_scale, v_scale: [R, S + places], scales of int8 values; None for floats.
    """

    k: Array
    v: Array
    k_scale: Array | None = None
    v_scale: Array | None = None


@flax.struct.dataclass
class LayerCache:
    """Caches of one layer.

    Attributes:
      spatial: one cache for each parallel frame, of that frame's tokens.
      temporal: [windows, R, ...] if there are windows, else [R, ...]; places for all slots, or for fewer if the cache
        grows. None in a model without the temporal channel.
    """

    spatial: tuple[Kept, ...]
    temporal: Kept | None


@flax.struct.dataclass
class Cache:
    """Caches of all layers, and the mask of their text."""

    layers: tuple[LayerCache, ...]
    text_mask: Bool[Array, "B S"]


@flax.struct.dataclass
class Asked:
    """Arguments of one step that all layers share.

    Attributes:
      index: positions of the tokens, one per frame.
      text_mask: [B, S].
      text_log_weight: added to text scores; a number, or one per clip.
    """

    index: Int[Array, "P"]
    text_mask: Bool[Array, "B S"]
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"]


def spatial_step(
    kept: tuple[Kept, ...], query: Float[Array, "B P A K"], new: KeysValues, asked: Asked, frame_tokens: int
) -> tuple[Float[Array, "B P A K"], tuple[Kept, ...]]:
    """Stores one token per frame and attends from it to the text and to its frame up to itself."""
    length = asked.text_mask.shape[1]
    contexts, channels = [], []
    for frame, channel in enumerate(kept):
        capacity, index = channel.k.shape[-1] - length, asked.index[frame]
        offset = index % frame_tokens
        place, first = (offset, 0) if capacity == frame_tokens else (index, index - offset)
        channel = _put(channel, _of_frame(new, frame), length + place)
        entry = jnp.arange(capacity)
        contexts.append(_attend(query[:, frame], channel, (entry <= place) & (entry >= first), asked))
        channels.append(channel)
    return jnp.stack(contexts, axis=1), tuple(channels)


def temporal_step(
    kept: Kept,
    query: Float[Array, "B P A K"],
    new: KeysValues,
    asked: Asked,
    config: TransformerConfig,
    *,
    shifted: bool,
) -> tuple[Float[Array, "B P A K"], Kept]:
    """Stores one token per frame and attends from it to the text and to its window: same region, not later."""
    layout, length = config.layout, asked.text_mask.shape[1]
    order = windows(config, shifted=shifted)
    window_of, place_of = (jnp.asarray(table) for table in _whereabouts(order))
    labels = jnp.asarray(window_labels(layout.grid, config.window, shifted=shifted))
    slot, offsets = asked.index // layout.frame_tokens, asked.index % layout.frame_tokens
    own = [window_of[offset] for offset in offsets] if len(order) > 1 else [None] * len(offsets)
    for frame, window in enumerate(own):  # all are stored before any is read
        place = length + slot[frame] * order.shape[1] + place_of[offsets[frame]]
        kept = _put(kept, _of_frame(new, frame), place, window)
    contexts = []
    slots = (kept.v.shape[-2] - length) // order.shape[1]
    for frame, window in enumerate(own):
        there = jnp.asarray(order)[0 if window is None else window]
        positions = jnp.arange(slots)[:, None] * layout.frame_tokens + there
        visible = (positions <= asked.index[frame]) & (labels[there] == labels[offsets[frame]])
        part = kept if window is None else jax.tree.map(lambda x, window=window: x[window], kept)
        contexts.append(_attend(query[:, frame], part, visible.reshape(-1), asked))
    return jnp.stack(contexts, axis=1), kept


def windows(config: TransformerConfig, *, shifted: bool) -> Int[np.ndarray, "windows places"]:
    """Tokens of a frame that form each window; a model without windows has one."""
    if config.window is None:
        return np.arange(config.layout.frame_tokens)[None]
    return window_order(config.layout.grid, config.window, shifted=shifted)


def from_prefix(
    keys: list[tuple[KeysValues, KeysValues | None]],
    text_mask: Bool[Array, "B S"],
    *,
    config: TransformerConfig,
    limited: bool,
    parallel_frames: int,
    slots: int,
    int8: bool,
) -> Cache:
    """Cache after a prefix of text and g complete frames, whose keys and values are [B S+gN A K] in every layer.

    Args:
      limited: keep only the frames in progress in the spatial channel.
      parallel_frames: number of frames in progress.
      slots: capacity of the temporal channel.
      int8: store int8 with a scale for every token and head.
    """
    layout, length = config.layout, config.layout.text_length
    given = (keys[0][0].k.shape[1] - length) // layout.frame_tokens
    kept = 0 if limited else given * layout.frame_tokens  # complete frames are never looked at again
    capacity = length + (layout.frame_tokens if limited else layout.image_length)
    layers = []
    for number, (spatial, temporal) in enumerate(keys):
        frames = _stored(_map(lambda x: x[:, : length + kept], spatial), capacity, int8=int8)
        across = None
        if temporal is not None:
            order = windows(config, shifted=bool(number % 2))
            parts = [_window(temporal, length, given, places) for places in order]
            parts = [_stored(part, length + slots * order.shape[1], int8=int8) for part in parts]
            across = parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *parts)
        layers.append(LayerCache((frames,) * parallel_frames, across))
    return Cache(tuple(layers), text_mask)


@functools.partial(jax.jit, static_argnames=("slots", "config", "length"))
def with_room(kept: Kept, slots: int, *, config: TransformerConfig, length: int) -> Kept:
    """Temporal cache after `length` text tokens, enlarged to `slots` slots."""
    places = windows(config, shifted=False).shape[1] * slots + length

    def pad(x: Array | None, axis: int) -> Array | None:
        if x is None:
            return None
        ends = [(0, 0)] * x.ndim
        ends[axis] = (0, places - x.shape[axis])
        return jnp.pad(x, ends)

    return Kept(pad(kept.k, -1), pad(kept.v, -2), pad(kept.k_scale, -1), pad(kept.v_scale, -1))


def _attend(
    query: Float[Array, "B A K"], kept: Kept, visible: Bool[Array, "places"], asked: Asked
) -> Float[Array, "B A K"]:
    """`nn.attention.attend` for one query per clip: softmax over the text and the visible places."""
    batch, heads, size = query.shape
    text = jnp.asarray(asked.text_log_weight, jnp.float32) * jnp.ones(batch)
    weight = jnp.where(jnp.arange(kept.k.shape[-1]) < asked.text_mask.shape[1], text[:, None], 0.0)
    seen = jnp.concatenate([asked.text_mask, jnp.broadcast_to(visible, (batch, len(visible)))], axis=1)
    weight, seen = (_rows(jnp.broadcast_to(x[:, None], (batch, heads, x.shape[1]))) for x in (weight, seen))
    query = _rows(query / jnp.sqrt(size).astype(query.dtype))
    scores = _product(query, kept.k, jnp.float32)
    if kept.k_scale is not None:
        scores *= kept.k_scale
    probabilities = jax.nn.softmax(jnp.where(seen, scores + weight, MASKED), axis=-1)
    if kept.v_scale is not None:
        probabilities *= kept.v_scale
    return _clips(_product(probabilities.astype(query.dtype), kept.v, query.dtype), batch)


def _product(x: Float[Array, "R n"], y: Float[Array, "R n m"] | Int8[Array, "R n m"], dtype) -> Float[Array, "R m"]:
    y = y.astype(x.dtype)
    return jax.lax.dot_general(x[:, None], y, (((2,), (1,)), ((0,), (0,))), preferred_element_type=dtype)[:, 0]


def _put(kept: Kept, new: KeysValues, place: Int[Array, ""], window: Int[Array, ""] | None = None) -> Kept:
    """Writes the keys and values [B A K] of one token."""
    token = _as_kept(KeysValues(_rows(new.k)[:, None], _rows(new.v)[:, None]), int8=kept.k_scale is not None)
    starts = Kept((0, 0, place), (0, place, 0), (0, place), (0, place))

    def write(name: str) -> Array | None:
        whole, part, start = (getattr(x, name) for x in (kept, token, starts))
        if whole is None:
            return None
        part = part.astype(whole.dtype)
        if window is not None:
            part, start = part[None], (window, *start)
        return jax.lax.dynamic_update_slice(whole, part, start)

    return Kept(*map(write, ("k", "v", "k_scale", "v_scale")))


def _as_kept(rows: KeysValues, *, int8: bool) -> Kept:
    """Keys and values [R, places, K] in the cache's format."""
    if not int8:
        return Kept(rows.k.swapaxes(1, 2), rows.v)
    (k, k_scale), (v, v_scale) = (to_int8(x, 2) for x in rows)
    return Kept(k.swapaxes(1, 2), v, k_scale, v_scale)


def _rows(x: Array) -> Array:
    """[B, A, ...] -> [A*B, ...], grouped by device, so that each device's rows are contiguous."""
    parts = batch_parts(x.shape[0])
    x = x.reshape(parts, -1, *x.shape[1:]).swapaxes(1, 2)
    return constrain(x.reshape(-1, *x.shape[3:]), "rows", *[None] * (x.ndim - 3))


def _clips(x: Float[Array, "R K"], batch: int) -> Float[Array, "B A K"]:
    """[A*B, K] -> [B, A, K]; the inverse of `_rows`."""
    parts = batch_parts(batch)
    x = x.reshape(parts, -1, batch // parts, x.shape[-1]).swapaxes(1, 2)
    return constrain(x.reshape(batch, -1, x.shape[-1]), "batch", "heads", None)


def _window(keys: KeysValues, length: int, given: int, places: Int[np.ndarray, "n"]) -> KeysValues:
    """Keys and values of the text and of some places in each of the given frames: [B S+g*n A K]."""

    def cut(x):
        text, frames = x[:, :length], x[:, length:]
        frames = frames.reshape(frames.shape[0], given, -1, *frames.shape[2:])[:, :, places]
        return jnp.concatenate([text, frames.reshape(text.shape[0], -1, *text.shape[2:])], axis=1)

    return keys if given == 0 else _map(cut, keys)


def _stored(keys: KeysValues, capacity: int, *, int8: bool) -> Kept:
    """Cache of [B, places, A, K] with room for `capacity` places."""

    def rows(x):
        x = jnp.pad(x, ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0)))
        return _rows(x.swapaxes(1, 2))

    return _as_kept(_map(rows, keys), int8=int8)


def _whereabouts(order: Int[np.ndarray, "windows places"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Window, and place in the window, of every token of a frame."""
    window, place = np.divmod(np.argsort(order.reshape(-1)), order.shape[1])
    return window, place


def _of_frame(keys: KeysValues, frame: int) -> KeysValues:
    return _map(lambda x: x[:, frame], keys)


def _map(change: Callable[[Array], Array], keys: KeysValues) -> KeysValues:
    return KeysValues(*map(change, keys))

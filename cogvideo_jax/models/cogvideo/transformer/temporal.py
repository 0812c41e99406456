"""Temporal channel (attention-plus): frames see text and other frames, in full or in shifted windows (paper 3.2-3.3).

Windowed layers cut every frame into the same windows and join each window over all slots, so that its sequence is
(slot, row, column). Even layers are plain; odd layers are shifted by half a window (Swin).
"""

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.layout import ClipLayout
from cogvideo_jax.models.cogvideo.transformer.masks import across_frames, window_labels, window_order
from cogvideo_jax.nn.attention import Groups, Kernel, KeysValues, attend
from cogvideo_jax.nn.dropout import Drops
from cogvideo_jax.notation import Array, Bool, Float, Int


def temporal_attention(
    query: Float[Array, "B L A K"],
    keys: KeysValues,
    *,
    layout: ClipLayout,
    window: int | None,
    shifted: int | Int[Array, ""],
    regions: bool,
    text_mask: Bool[Array, "B S"],
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"],
    drops: Drops | None,
    kernel: Kernel,
) -> Float[Array, "B TN A K"]:
    """Attention at frame positions; this channel has no text queries.

    Args:
      window: side of the windows; None for full attention.
      shifted: 1 in odd layers; traced where all layers are one scanned body.
      regions: False lets shifted windows join opposite borders of the picture, as the released prefill does.
    """
    text_length = layout.text_length
    text = KeysValues(keys.k[:, :text_length], keys.v[:, :text_length])
    slots = (query.shape[1] - text_length) // layout.frame_tokens
    frames = [x[:, text_length:] for x in (query, keys.k, keys.v)]
    orders, masks = _windows(layout, window, slots, regions)
    kind = 0 if window is None else shifted
    order = jnp.asarray(orders)[kind]
    frame_query, frame_k, frame_v = (_to_windows(x, order, slots) for x in frames)
    context = attend(
        frame_query,
        text=text,
        text_mask=text_mask,
        text_log_weight=text_log_weight,
        groups=Groups(KeysValues(frame_k, frame_v), masks, kind),
        drops=drops,
        kernel=kernel,
    )
    return _from_windows(context, order, slots)


def _windows(
    layout: ClipLayout, window: int | None, slots: int, regions: bool
) -> tuple[Int[np.ndarray, "kinds windows tokens"], Bool[np.ndarray, "kinds windows Q Q"]]:
    """Tokens of each window and their masks, for plain and for shifted layers (one kind without windows)."""
    if window is None:
        order = np.arange(layout.frame_tokens)
        return order[None, None], across_frames(slots, layout.context_slots, layout.frame_tokens)[None, None]
    orders, masks = [], []
    for odd in (False, True):
        order = window_order(layout.grid, window, shifted=odd)
        time = across_frames(slots, layout.context_slots, order.shape[1])
        labels = np.tile(window_labels(layout.grid, window, shifted=odd)[order], (1, slots))
        same_region = labels[:, :, None] == labels[:, None, :]
        orders.append(order)
        masks.append(time & (same_region if regions else np.ones_like(same_region)))
    return np.stack(orders), np.stack(masks)


def _to_windows(x: Float[Array, "B TN A K"], order: Int[Array, "windows tokens"], slots: int) -> Array:
    """[B TN A K] -> [B windows T*tokens A K]."""
    batch, length, heads, size = x.shape
    windows, tokens = order.shape
    x = x.reshape(batch, slots, length // max(slots, 1), heads, size)
    if windows == 1:
        return x.reshape(batch, 1, length, heads, size)
    x = x[:, :, order]  # [B T windows tokens A K]
    return x.swapaxes(1, 2).reshape(batch, windows, slots * tokens, heads, size)


def _from_windows(x: Array, order: Int[Array, "windows tokens"], slots: int) -> Float[Array, "B TN A K"]:
    """The inverse of `_to_windows`."""
    windows, tokens = order.shape
    batch, heads, size = x.shape[0], *x.shape[3:]
    flat = (batch, slots * windows * tokens, heads, size)
    if windows == 1:
        return x.reshape(flat)
    x = x.reshape(batch, windows, slots, tokens, heads, size).swapaxes(1, 2)
    x = x.reshape(batch, slots, windows * tokens, heads, size)
    return x[:, :, jnp.argsort(order.reshape(-1))].reshape(flat)

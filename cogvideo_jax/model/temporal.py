"""Temporal channel (attention-plus): frames see text and other frames, in full or in shifted windows (paper 3.2-3.3).

Windowed layers cut every frame into the same windows and join the windows at one place over all slots, so a window's
sequence is (slot, row, column). Even layers are plain, odd layers shifted by half a window (Swin).
"""

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.model.attention import KeysValues, Local, attend
from cogvideo_jax.model.masks import across_frames, window_labels, window_order
from cogvideo_jax.notation import Array, Bool, Float, Int
from cogvideo_jax.tokens.sequence import ClipLayout


def temporal_attention(
    query: Float[Array, "B L A K"],
    keys: KeysValues,
    *,
    layout: ClipLayout,
    window: int | None,
    shifted: Int[Array, ""],
    regions: bool,
    text_mask: Bool[Array, "B S"],
    text_log_weight: float,
    dropout=None,
) -> Float[Array, "B TN A K"]:
    """Frame positions only; text queries of this channel are never used.

    Args:
      window: side of the windows, None for full attention.
      shifted: 1 in odd layers (a traced number: all layers are one scanned body).
      regions: False lets shifted windows join opposite borders of the picture, as the released prefill does.
    """
    text_length = layout.text_length
    text = KeysValues(keys.k[:, :text_length], keys.v[:, :text_length])
    slots = (query.shape[1] - text_length) // layout.frame_tokens
    frames = [x[:, text_length:] for x in (query, keys.k, keys.v)]
    if window is None:
        order = np.arange(layout.frame_tokens)[None]
        masks = across_frames(slots, layout.context_slots, layout.frame_tokens)[None, None]
    else:
        orders = [window_order(layout.grid, window, shifted=odd) for odd in (False, True)]
        order = jnp.asarray(np.stack(orders))[shifted]
        masks = jnp.asarray(np.stack(_window_masks(layout, window, orders, slots, regions)))[shifted, :, None]
    frame_query, frame_k, frame_v = (_to_windows(x, order, slots) for x in frames)
    context = attend(
        frame_query,
        text,
        text_mask=text_mask,
        text_log_weight=text_log_weight,
        local=(Local(KeysValues(frame_k, frame_v), jnp.asarray(masks)),),
        dropout=dropout,
    )
    return _from_windows(context, order, slots)


def _window_masks(layout, window, orders, slots, regions) -> list[Bool[np.ndarray, "windows Q Q"]]:
    """For plain and shifted layers, the mask of every window."""
    masks = []
    for odd, order in zip((False, True), orders):
        time = across_frames(slots, layout.context_slots, order.shape[1])
        labels = np.tile(window_labels(layout.grid, window, shifted=odd)[order], (1, slots))
        same_region = labels[:, :, None] == labels[:, None, :]
        masks.append(time & (same_region if regions else True) & np.ones_like(same_region))
    return masks


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

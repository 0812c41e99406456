"""Spatial channel, the attention of CogView2: text sees text, a frame sees the text and itself (paper section 3.2)."""

from collections.abc import Callable

import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.layout import ClipLayout
from cogvideo_jax.models.cogvideo.transformer.masks import within_frame
from cogvideo_jax.nn.attention import Groups, Kernel, KeysValues, attend
from cogvideo_jax.nn.dropout import Drops
from cogvideo_jax.notation import Array, Bool, Float


def spatial_attention(
    query: Float[Array, "B L A K"],
    keys: KeysValues,
    *,
    layout: ClipLayout,
    text_mask: Bool[Array, "B S"],
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"],
    next_drops: Callable[[], Drops | None],
    kernel: Kernel,
) -> Float[Array, "B L A K"]:
    """Attention at all positions, L = S + slots * N; there may be fewer slots than in the layout.

    Args:
      next_drops: called for each of two attentions; see `Dropout.drops`.
    """
    text_length = layout.text_length
    text = KeysValues(keys.k[:, :text_length], keys.v[:, :text_length])
    on_text = attend(query[:, None, :text_length], text=text, text_mask=text_mask, drops=next_drops())[:, 0]

    slots = (query.shape[1] - text_length) // layout.frame_tokens
    by_frame = (query.shape[0], slots, layout.frame_tokens, *query.shape[2:])
    frame_query, frame_k, frame_v = (x[:, text_length:].reshape(by_frame) for x in (query, keys.k, keys.v))
    masks = within_frame(slots, layout.context_slots, layout.frame_tokens)
    on_frames = attend(
        frame_query,
        text=text,
        text_mask=text_mask,
        text_log_weight=text_log_weight,
        groups=Groups(KeysValues(frame_k, frame_v), masks[None]),
        drops=next_drops(),
        kernel=kernel,
    )
    flat = (query.shape[0], slots * layout.frame_tokens, *query.shape[2:])
    return jnp.concatenate([on_text, on_frames.reshape(flat)], axis=1)

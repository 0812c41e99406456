"""Typed key/value cache of both channels, written in place by the sampling loop.

Positions are counted behind the text: slot * N + offset. The spatial channel never looks at another frame, so its
cache can be limited to the frame in progress ("limited spatial channel memory"): same numbers, less memory.
"""

import flax.struct
import jax
import jax.numpy as jnp

from cogvideo_jax.model.attention import KeysValues, Local
from cogvideo_jax.model.config import TransformerConfig
from cogvideo_jax.model.masks import window_labels
from cogvideo_jax.notation import Array, Bool, Int


@flax.struct.dataclass
class ChannelCache:
    """One channel; a leading layer axis [G] stands before every shape outside the layer loop."""

    text: KeysValues  # [B, S, A, K]
    frames: KeysValues  # [B, capacity, A, K]


@flax.struct.dataclass
class Cache:
    """Both channels and the mask of the text they hold."""

    spatial: ChannelCache
    temporal: ChannelCache | None
    text_mask: Bool[Array, "B S"]

    def layers(self) -> tuple[ChannelCache, ChannelCache | None]:
        """What the layer loop takes apart."""
        return self.spatial, self.temporal


def spatial_positions(capacity: int, index: Int[Array, ""], frame_tokens: int) -> Bool[Array, "capacity"]:
    """Entries of the spatial cache that belong to the frame in progress, before the token at `index`."""
    offset = index % frame_tokens
    entry = jnp.arange(capacity)
    if capacity == frame_tokens:
        return entry < offset
    return (entry < index) & (entry >= index - offset)


def temporal_positions(config: TransformerConfig, index: Int[Array, ""], shifted: Int[Array, ""]) -> Bool[Array, "TN"]:
    """Entries of the temporal cache that the token at `index` sees: earlier, and in its own window and region."""
    layout = config.layout
    entry = jnp.arange(layout.image_length)
    earlier = entry < index
    if config.window is None:
        return earlier
    labels = [window_labels(layout.grid, config.window, shifted=odd) for odd in (False, True)]
    labels = jnp.stack([jnp.asarray(label) for label in labels])[shifted]
    return earlier & (labels[entry % layout.frame_tokens] == labels[index % layout.frame_tokens])


def cached_and_self(cache: KeysValues, own: KeysValues, visible: Bool[Array, "capacity"]) -> tuple[Local, Local]:
    """The two local sources of a single-token step."""
    past = KeysValues(cache.k[:, None], cache.v[:, None])
    this = KeysValues(own.k[:, None], own.v[:, None])
    return Local(past, visible), Local(this, jnp.ones((1,), bool))


def write(cache: Cache, step: tuple[KeysValues, KeysValues | None], index: Int[Array, ""], frame_tokens: int) -> Cache:
    """Stores one token's keys and values, [G B 1 A K], of both channels."""
    spatial, temporal = step
    capacity = cache.spatial.frames.k.shape[2]
    place = index % frame_tokens if capacity == frame_tokens else index
    cache = cache.replace(spatial=_write_channel(cache.spatial, spatial, place))
    if temporal is None:
        return cache
    return cache.replace(temporal=_write_channel(cache.temporal, temporal, index))


def _write_channel(cache: ChannelCache, step: KeysValues, place: Int[Array, ""]) -> ChannelCache:
    put = lambda buffer, new: jax.lax.dynamic_update_slice_in_dim(buffer, new.astype(buffer.dtype), place, axis=2)  # noqa: E731
    return cache.replace(frames=jax.tree.map(put, cache.frames, step))


def from_prefix(
    keys: tuple[KeysValues, KeysValues | None],
    text_mask: Bool[Array, "B S"],
    *,
    config: TransformerConfig,
    limited: bool,
) -> Cache:
    """Cache after a prefix of text and complete frames, whose keys and values are [G B S+gN A K]."""
    layout = config.layout
    spatial, temporal = keys
    given = spatial.k.shape[2] - layout.text_length
    spatial_prefix = 0 if limited else given  # complete frames are never looked at again
    spatial_capacity = layout.frame_tokens if limited else layout.image_length
    return Cache(
        spatial=_channel(spatial, layout.text_length, spatial_prefix, spatial_capacity),
        temporal=None if temporal is None else _channel(temporal, layout.text_length, given, layout.image_length),
        text_mask=text_mask,
    )


def _channel(keys: KeysValues, text_length: int, kept: int, capacity: int) -> ChannelCache:
    def frames(x):
        x = x[:, :, text_length : text_length + kept]
        return jnp.pad(x, ((0, 0), (0, 0), (0, capacity - kept), (0, 0), (0, 0)))

    text = KeysValues(keys.k[:, :, :text_length], keys.v[:, :, :text_length])
    return ChannelCache(text=text, frames=KeysValues(frames(keys.k), frames(keys.v)))

"""Stage 1: the first frame by the base, then the other key frames one after another (paper section 3.1)."""

import numpy as np

from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, write_slots
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.notation import Array, Bool, Int, Key, PyTree


def first_frame(
    params: PyTree,
    text: Int[Array, "B S"],
    text_mask: Bool[Array, "B S"],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> Int[np.ndarray, "B 1 N"]:
    """One image by the inherited model alone."""
    given = np.zeros((text.shape[0], 0, model.config.layout.frame_tokens), np.int32)
    return write_slots(params, text, text_mask, given, rngs, labels, model=model, settings=settings)


def key_frames(
    params: PyTree,
    text: Int[Array, "R S"],
    text_mask: Bool[Array, "R S"],
    first: Int[Array, "B 1 N"],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
    on_frame=lambda: None,
) -> Int[np.ndarray, "B T N"]:
    """The clip's key frames behind a given first frame; slots are in order of time."""
    return write_slots(params, text, text_mask, first, rngs, labels, model=model, settings=settings, on_frame=on_frame)

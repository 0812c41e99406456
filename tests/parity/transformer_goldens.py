"""Configurations of our transformer that match a golden file's official sizes."""

import dataclasses
import math

import numpy as np

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.layout import base_layout, interpolation_layout, keyframe_layout


def first_frame_position(golden: dict, arrays: dict) -> int:
    """Position id of the first frame's first token, read from the ids that the official code used."""
    if "position_ids" in arrays:
        return int(arrays["position_ids"][0, golden["layout"][0]])
    if golden["given_frames"]:
        return int(arrays["prefill_position_ids"][0, golden["text_len"]])
    offset = int(arrays["counters"][0]) - 1 - golden["text_len"]
    return int(arrays["step_position_ids"][0]) - offset


def transformer_config(golden: dict, arrays: dict, *, text_length: int) -> TransformerConfig:
    """The two-channel model of a b- or c-file; `layout[0:2]` of the official config gives one frame's tokens."""
    frame_tokens = golden["layout"][1] - golden["layout"][0]
    frames = (golden["layout"][2] - golden["layout"][0]) // frame_tokens
    grid = math.isqrt(frame_tokens)
    make = keyframe_layout if golden["cogvideo_stage"] == 1 else interpolation_layout
    layout = make(text_length=text_length, grid=grid, frames=frames)
    width = golden["hidden_size"]
    return TransformerConfig(
        layout=layout,
        vocab_size=golden["vocab_size"],
        image_codes=golden["num_image_tokens"],
        boi=golden["special_ids"]["<start_of_image>"],
        width=width,
        heads=golden["num_attention_heads"],
        layers=golden["num_layers"],
        mlp_width=4 * width,
        base_positions=golden["max_sequence_length"],
        first_frame_position=first_frame_position(golden, arrays),
        extra_positions=golden["additional_seqlen"],
        temporal=True,
        window=golden["window_size"] if golden["window_size"] > 0 else None,
        dropout=0.0,
    )


def base_config(golden: dict, arrays: dict, *, text_length: int) -> TransformerConfig:
    """The inherited one-frame model inside the same checkpoint."""
    frame_tokens = golden["layout"][1] - golden["layout"][0]
    config = transformer_config(golden, arrays, text_length=text_length)
    layout = base_layout(text_length=text_length, grid=math.isqrt(frame_tokens))
    return dataclasses.replace(config, layout=layout, temporal=False, extra_positions=0)


def largest(a, b) -> float:
    """Largest absolute difference."""
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))

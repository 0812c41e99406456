"""A stage of a few kilobytes: two layers of width 8, grids of 2 x 2, five frames."""

from types import SimpleNamespace

import numpy as np

from cogvideo_jax.models.cogvideo.convert.transformer_names import official_shapes, video_rules
from tests.cogvideo.convert.checkpoints import Official

SETTINGS = {
    "num_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "max_sequence_length": 12,
    "additional_seqlen": 16,
    "layout": [4, 8, 24],
    "window_size": -1,
    "cogvideo_stage": 1,
    "num_image_tokens": 32,
    "special_ids": {"<start_of_image>": 38},
    "first_frame_position": 4,
}


def stage(**changes) -> Official:
    """Random weights; `changes` go into its settings only."""
    sizes = SimpleNamespace(width=8, layers=2, mlp_width=32, vocab_size=40, base_positions=12, extra_positions=16)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in official_shapes(sizes, video_rules()).items()
    }
    return Official("stage1", arrays, SETTINGS | changes)

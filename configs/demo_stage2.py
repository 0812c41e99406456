"""The demo's stage 2: two frames between three at 2, 4 and 8 frames a second.

    cogvideo train --config=configs/demo_stage2.py --workdir=runs/stage2

4,750 of its 5,000 steps took 35.9 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh. Last 500 steps: 0.15
nats a frame. Windows of 4 x 4 are too small for this grid: a token's right neighbour is in another window at every
fourth column, and even copying costs twice the nats there.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_stage2
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.demo(
        "stage2",
        model=demo_stage2(),
        steps=5000,
        batch_size=8,
        checkpoint_every=250,
        base="runs/base/weights.safetensors",
        attention_plus="runs/stage1/weights.safetensors",
        data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
        example=dict(rates=(2.0, 4.0, 8.0), tiled=True, text_dropout=0.1),
    )

"""The demo's stage 1: five key frames one second apart, attention-plus trained beside the frozen base.

    cogvideo train --config=configs/demo_stage1.py --workdir=runs/stage1

4,000 steps took 41.5 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, tests beside most of them. Last
500 steps: 0.11 nats a frame.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_stage1
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.demo(
        "stage1",
        model=demo_stage1(),
        steps=4000,
        batch_size=8,
        checkpoint_every=250,
        base="runs/base/weights.safetensors",
        attention_plus="",
        data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
        example=dict(rates=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), text_dropout=0.1),
    )

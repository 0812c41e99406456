"""The demo's base (CogView2's part): text -> one frame of 8 x 8 codes.

    cogvideo train --config=configs/demo_base.py --workdir=runs/base

6,000 steps took 47 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, tests beside most of them. Last 500
steps: 4.3 nats a frame, nearly all of it what cannot be known: where the object starts, and which frame is asked for
where no moment is said.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_base
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.demo(
        "base",
        model=demo_base(),
        steps=6000,
        batch_size=32,
        checkpoint_every=500,
        data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
        example=dict(
            first_frame_suffix=" 高清摄影",
            first_frame_probability=0.15,
            moment_probability=0.55,
            moments_a_second=1.0,
            rates=(1.0, 2.0, 4.0, 8.0),
            text_dropout=0.1,
        ),
    )

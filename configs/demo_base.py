"""The demo's base (CogView2's part): text -> one frame of 8 x 8 codes.

    cogvideo train --config=configs/demo_base.py --workdir=runs/base

6,000 steps took 47 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, tests beside most of them. Last 500
steps: 4.3 nats a frame, nearly all of it what cannot be known: where the object starts, and which frame is asked for
where no moment is said.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_base


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="base",
            seed=0,
            steps=6000,
            batch_size=32,
            log_every=20,
            checkpoint_every=500,
            keep_checkpoints=2,
            dtype="float32",
            remat="nothing",
            microbatches=1,
            attention="auto",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            model=dataclasses.asdict(demo_base()),
            data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
            example=dict(
                first_frame_suffix=" 高清摄影",
                first_frame_probability=0.15,
                moment_probability=0.55,
                moments_a_second=1.0,
                rates=(1.0, 2.0, 4.0, 8.0),
                text_dropout=0.1,
            ),
            optimizer=dict(
                learning_rate=1.5e-3,
                warmup_steps=200,
                final_fraction=0.05,
                b1=0.9,
                b2=0.98,
                eps=1e-8,
                weight_decay=1e-4,
                clip_norm=1.0,
                muon=True,
            ),
        )
    )

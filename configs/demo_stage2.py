"""The demo's stage 2: two frames between three at 2, 4 and 8 frames a second.

    cogvideo train --config=configs/demo_stage2.py --workdir=runs/stage2

4,750 of its 5,000 steps took 35.9 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh. Last 500 steps: 0.15
nats a frame. Windows of 4 x 4 are too small for this grid: a token's right neighbour is in another window at every
fourth column, and even copying costs twice the nats there.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_stage2


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="stage2",
            seed=0,
            steps=5000,
            batch_size=8,
            log_every=20,
            checkpoint_every=250,
            keep_checkpoints=2,
            dtype="float32",
            remat="nothing",
            microbatches=1,
            attention="auto",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            base="runs/base/weights.safetensors",
            added="runs/stage1/weights.safetensors",
            model=dataclasses.asdict(demo_stage2()),
            data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
            example=dict(rates=(2.0, 4.0, 8.0), tiled=True, text_dropout=0.1),
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

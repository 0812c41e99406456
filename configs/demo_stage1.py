"""The demo's stage 1: five key frames one second apart, attention-plus trained beside the frozen base.

    cogvideo train --config=configs/demo_stage1.py --workdir=runs/stage1

4,000 steps took 41.5 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, tests beside most of them. Last
500 steps: 0.11 nats a frame.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import demo_stage1


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="stage1",
            seed=0,
            steps=4000,
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
            added="",
            model=dataclasses.asdict(demo_stage1()),
            data=dict(cache="data/demo_tokens", text_model="data/demo_tokens/text.model"),
            example=dict(rates=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), text_dropout=0.1),
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

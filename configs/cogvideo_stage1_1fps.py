"""CogVideo's stage 1, second phase: five key frames at one frame a second or more.

    cogvideo train --config=configs/cogvideo_stage1_1fps.py --workdir=runs/cogvideo_stage1_1fps

Goes on from the first phase with its settings. A clip shorter than five seconds is read at a higher rate. Not yet run
on any hardware.

| devices   | settings                                                    |
|-----------|-------------------------------------------------------------|
| v5e-256   | as in the file: fsdp 32, tensor 8                           |
| v5p-128   | --config.mesh.tensor=2 (64 chips: fsdp 32)                  |
| 8 x H100  | --config.mesh.tensor=1 --config.microbatches=13             |
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogvideo_stage1


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="stage1",
            seed=0,
            steps=15_000,
            batch_size=416,
            log_every=20,
            checkpoint_every=500,
            keep_checkpoints=3,
            dtype="bfloat16",
            remat="everything",
            microbatches=1,
            attention="auto",
            mesh=dict(data=1, fsdp=-1, tensor=8),
            base="weights/cogvideo/base.safetensors",
            added="runs/cogvideo_stage1/weights.safetensors",
            model=dataclasses.asdict(cogvideo_stage1()),
            data=dict(cache="data/tokens", text_model="weights/cogvideo/text.model"),
            example=dict(rates=(1.0, 2.0, 4.0, 8.0), text_dropout=0.1),
            optimizer=dict(
                learning_rate=2e-4,
                warmup_steps=15,
                final_fraction=0.1,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                weight_decay=1e-2,
                clip_norm=0.1,
                muon=False,
            ),
        )
    )

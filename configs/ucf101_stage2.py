"""CogVideo's stage 2, tuned on UCF-101 for the tables of the paper; the class label is the text.

    cogvideo train --config=configs/ucf101_stage2.py --workdir=runs/ucf101_stage2

10,000 steps of 192 clips, as in the paper, from the released weights after `cogvideo convert`. The learning rate of
the tuning is not told; it is that of the pre-training. Not yet run on any hardware.

| devices   | settings                                                    |
|-----------|-------------------------------------------------------------|
| v5e-256   | as in the file: fsdp 32, tensor 8                           |
| v5p-128   | --config.mesh.tensor=2 (64 chips: fsdp 32)                  |
| 8 x H100  | --config.mesh.tensor=1 --config.microbatches=6              |
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogvideo_stage2


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="stage2",
            seed=0,
            steps=10_000,
            batch_size=192,
            log_every=20,
            checkpoint_every=500,
            keep_checkpoints=3,
            dtype="bfloat16",
            remat="everything",
            microbatches=1,
            attention="auto",
            mesh=dict(data=1, fsdp=-1, tensor=8),
            base="weights/cogvideo/base.safetensors",
            added="weights/cogvideo/stage2.safetensors",
            model=dataclasses.asdict(cogvideo_stage2()),
            data=dict(cache="data/ucf101_tokens", text_model="weights/cogvideo/text.model"),
            example=dict(rates=(2.0, 4.0, 8.0), tiled=False, text_dropout=0.1),
            optimizer=dict(
                learning_rate=2e-4,
                warmup_steps=10,
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

"""CogVideo's stage 1, tuned on UCF-101 for the tables of the paper; the class label is the text.

    cogvideo train --config=configs/ucf101_stage1.py --workdir=runs/ucf101_stage1

10,000 steps of 192 clips, as in the paper, from the released weights after `cogvideo convert`. The learning rate of
the tuning is not told; it is that of the pre-training. Not yet run on any hardware.

| devices   | settings                                                    |
|-----------|-------------------------------------------------------------|
| v5e-256   | as in the file: fsdp 32, tensor 8                           |
| v5p-128   | --config.mesh.tensor=2 (64 chips: fsdp 32)                  |
| 8 x H100  | --config.mesh.tensor=1 --config.microbatches=6              |
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogvideo_stage1
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.tuned(
        "stage1",
        model=cogvideo_stage1(),
        clips="ucf101",
        steps=10_000,
        batch_size=192,
    )

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

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogvideo_stage1
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.released(
        "stage1",
        model=cogvideo_stage1(),
        steps=15_000,
        batch_size=416,
        warmup_steps=15,
        base="weights/cogvideo/base.safetensors",
        attention_plus="runs/cogvideo_stage1/weights.safetensors",
        data=dict(cache="data/tokens", text_model="weights/cogvideo/text.model"),
        example=dict(rates=(1.0, 2.0, 4.0, 8.0), text_dropout=0.1),
    )

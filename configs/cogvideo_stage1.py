"""CogVideo's stage 1, first phase: five key frames, down to one every four seconds.

    cogvideo train --config=configs/cogvideo_stage1.py --workdir=runs/cogvideo_stage1

7.7 billion parameters, 1.8 billion of them trained beside the frozen base. Steps, batch, optimizer and clip are the
paper's; that a tenth of the captions is replaced by the guidance text is our choice. Not yet run on any hardware.

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
        steps=76_000,
        batch_size=416,
        warmup_steps=76,
        base="weights/cogvideo/base.safetensors",
        attention_plus="",
        data=dict(cache="data/tokens", text_model="weights/cogvideo/text.model"),
        example=dict(rates=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0), text_dropout=0.1),
    )

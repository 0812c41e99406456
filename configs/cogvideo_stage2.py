"""CogVideo's stage 2: two frames between three, at 2, 4 and 8 frames a second, in shifted windows.

    cogvideo train --config=configs/cogvideo_stage2.py --workdir=runs/cogvideo_stage2

7.7 billion parameters, 1.8 billion of them trained beside the frozen base. Steps, batch, optimizer and clip are the
paper's; that a tenth of the captions is replaced by the guidance text is our choice. Not yet run on any hardware.

| devices   | settings                                                    |
|-----------|-------------------------------------------------------------|
| v5e-256   | as in the file: fsdp 32, tensor 8                           |
| v5p-128   | --config.mesh.tensor=2 (64 chips: fsdp 32)                  |
| 8 x H100  | --config.mesh.tensor=1 --config.microbatches=13             |
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogvideo_stage2
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.released(
        "stage2",
        model=cogvideo_stage2(),
        steps=78_500,
        batch_size=416,
        warmup_steps=78,
        base="weights/cogvideo/base.safetensors",
        attention_plus="",
        data=dict(cache="data/tokens", text_model="weights/cogvideo/text.model"),
        example=dict(rates=(2.0, 4.0, 8.0), tiled=False, text_dropout=0.1),
    )

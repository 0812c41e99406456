"""CogView2, the base: a sentence -> 20 x 20 codes of one picture.

    cogvideo train --config=configs/cogview2_base.py --workdir=runs/cogview2_base

5.9 billion parameters, all trained. CogVideo inherits it ready made; for those who train their own: the optimizer is
that of CogVideo's stages, steps and batch are our choice. Not yet run on any hardware.

| devices   | settings                                                    |
|-----------|-------------------------------------------------------------|
| v5e-256   | as in the file: fsdp 32, tensor 8                           |
| v5p-128   | --config.mesh.tensor=2 --config.microbatches=4              |
| 8 x H100  | --config.mesh.tensor=1 --config.microbatches=64             |
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.config import cogview2
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.released(
        "base",
        model=cogview2(),
        steps=300_000,
        batch_size=2048,
        warmup_steps=300,
        data=dict(cache="data/tokens", text_model="weights/cogvideo/text.model"),
        example=dict(
            first_frame_suffix=" 高清摄影",
            first_frame_probability=0.3,
            moment_probability=0.0,
            moments_a_second=1.0,
            rates=(),
            text_dropout=0.1,
        ),
    )

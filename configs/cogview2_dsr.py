"""CogView2's direct super-resolution in its released size: 20 x 20 -> 60 x 60 codes, 160 -> 480 pixels.

    cogvideo train --config=configs/cogview2_dsr.py --workdir=runs/cogview2_dsr

7.7 billion parameters, 1.8 billion of them trained beside the frozen base. Not yet measured, on no hardware.
How super-resolution was trained was never released: the optimizer is that of CogVideo's stages; steps and batch are
our choice; all fine tokens are masked, since sampling draws them in one pass.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import cogview2_direct
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.released(
        "superres",
        model=cogview2_direct(),
        steps=80_000,
        batch_size=256,
        checkpoint_every=1000,
        warmup_steps=80,
        weight_decay=1e-4,
        base="weights/cogview2/base.safetensors",
        train_base=False,
        data=dict(cache="data/fine_tokens", text_model="data/fine_tokens/text.model"),
        example=dict(mask_ratios=(1.0, 1.0)),
    )

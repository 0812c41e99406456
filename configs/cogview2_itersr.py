"""CogView2's iterative super-resolution in its released size: repairs 60 x 60 codes in six rounds.

    cogvideo train --config=configs/cogview2_itersr.py --workdir=runs/cogview2_itersr

5.9 billion parameters, all trained from the base. Not yet measured, on no hardware.
How super-resolution was trained was never released: the optimizer is that of CogVideo's stages; steps, batch and the
range of masked shares (sampling masks 64 % in its first round and 6 % in its last) are our choice.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import cogview2_iterative
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.released(
        "itersr",
        model=cogview2_iterative(),
        steps=80_000,
        batch_size=256,
        checkpoint_every=1000,
        warmup_steps=80,
        weight_decay=1e-4,
        base="weights/cogview2/base.safetensors",
        train_base=True,
        data=dict(cache="data/fine_tokens", text_model="data/fine_tokens/text.model"),
        example=dict(mask_ratios=(0.05, 0.75)),
    )

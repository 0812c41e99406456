"""The demo's iterative super-resolution: repairs 24 x 24 codes in rounds; the whole model trains, from the base.

    cogvideo train --config=configs/demo_itersr.py --workdir=runs/itersr

Reads the token cache of configs/demo_superres.py. Not yet measured. The share of masked tokens is drawn from the
range that sampling meets: 64 % in the first of the six rounds, 6 % in the last.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import demo_iterative
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.demo(
        "itersr",
        model=demo_iterative(),
        steps=2000,
        batch_size=4,
        checkpoint_every=250,
        learning_rate=1e-3,
        base="runs/base/weights.safetensors",
        train_base=True,
        data=dict(cache="data/demo_fine_tokens", text_model="data/demo_fine_tokens/text.model"),
        example=dict(mask_ratios=(0.05, 0.75)),
    )

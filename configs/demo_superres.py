"""The demo's direct super-resolution: 8 x 8 -> 24 x 24 codes, 64 -> 192 pixels.

    cogvideo tokenize --source captioned_motion --size 192 --coarse-size 64 --clips 2000 \\
        --tokenizer runs/tokenizer/weights.safetensors --text-model data/demo_tokens/text.model \\
        --out data/demo_fine_tokens
    cogvideo train --config=configs/demo_superres.py --workdir=runs/superres

3,000 steps took 57.9 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, tests beside most of them. Last
500 steps: 0.0008 nats a token, 99.99 % of the tokens right. All fine tokens are masked, since sampling draws them in
one pass.

What is inherited is trained, too: training only what is added to a base so small got 97 % of all tokens right in 2,000
steps of half the batch, but 21 % of the object's.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import demo_direct
from cogvideo_jax.models.cogvideo.training import presets


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.demo(
        "superres",
        model=demo_direct(),
        steps=3000,
        batch_size=8,
        checkpoint_every=250,
        base="runs/base/weights.safetensors",
        train_base=True,
        data=dict(cache="data/demo_fine_tokens", text_model="data/demo_fine_tokens/text.model"),
        example=dict(mask_ratios=(1.0, 1.0)),
    )

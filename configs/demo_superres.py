"""The demo's direct super-resolution: 8 x 8 -> 24 x 24 codes, 64 -> 192 pixels; only what is added to the base trains.

    cogvideo tokenize --source captioned_motion --size 192 --coarse-size 64 --clips 2000 \\
        --tokenizer runs/tokenizer/weights.safetensors --text-model data/demo_tokens/text.model \\
        --out data/demo_fine_tokens
    cogvideo train --config=configs/demo_superres.py --workdir=runs/superres

2,000 steps took 30.1 minutes on two CPU cores, other work beside them, and are not enough: 97 % of all tokens are
right, but only 21 % of the object's, and enlarged frames are worse (11 dB on the object's pixels) than stretched ones
(22). No weights are shipped. All fine tokens are masked, since sampling draws them in one pass.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.superres.config import demo_direct


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="superres",
            seed=0,
            steps=2000,
            batch_size=4,
            log_every=20,
            checkpoint_every=250,
            keep_checkpoints=2,
            dtype="float32",
            remat="nothing",
            microbatches=1,
            attention="auto",
            mesh=dict(data=-1, fsdp=1, tensor=1),
            base="runs/base/weights.safetensors",
            train_inherited=False,
            model=dataclasses.asdict(demo_direct()),
            data=dict(cache="data/demo_fine_tokens", text_model="data/demo_fine_tokens/text.model"),
            example=dict(mask_ratios=(1.0, 1.0)),
            optimizer=dict(
                learning_rate=1.5e-3,
                warmup_steps=200,
                final_fraction=0.05,
                b1=0.9,
                b2=0.98,
                eps=1e-8,
                weight_decay=1e-4,
                clip_norm=1.0,
                muon=True,
            ),
        )
    )

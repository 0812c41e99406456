"""The demo's iterative super-resolution: repairs 24 x 24 codes in rounds; the whole model trains, from the base.

    cogvideo train --config=configs/demo_itersr.py --workdir=runs/itersr

Reads the token cache of configs/demo_superres.py. Not yet measured. The share of masked tokens is drawn from the
range that sampling meets: 64 % in the first of the six rounds, 6 % in the last.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import demo_iterative


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="itersr",
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
            train_inherited=True,
            model=dataclasses.asdict(demo_iterative()),
            data=dict(cache="data/demo_fine_tokens", text_model="data/demo_fine_tokens/text.model"),
            example=dict(mask_ratios=(0.05, 0.75)),
            optimizer=dict(
                learning_rate=1e-3,
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

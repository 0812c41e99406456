"""CogView2's iterative super-resolution in its released size: repairs 60 x 60 codes in six rounds.

    cogvideo train --config=configs/cogview2_itersr.py --workdir=runs/cogview2_itersr

5.9 billion parameters, all trained from the base. Not yet measured, on no hardware.
How super-resolution was trained was never released: the optimizer is that of CogVideo's stages; steps, batch and the
range of masked shares (sampling masks 64 % in its first round and 6 % in its last) are our choice.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import cogview2_iterative


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="itersr",
            seed=0,
            steps=80_000,
            batch_size=256,
            log_every=20,
            checkpoint_every=1000,
            keep_checkpoints=3,
            dtype="bfloat16",
            remat="everything",
            microbatches=1,
            attention="auto",
            mesh=dict(data=1, fsdp=-1, tensor=8),
            base="weights/cogview2/base.safetensors",
            train_inherited=True,
            model=dataclasses.asdict(cogview2_iterative()),
            data=dict(cache="data/fine_tokens", text_model="data/fine_tokens/text.model"),
            example=dict(mask_ratios=(0.05, 0.75)),
            optimizer=dict(
                learning_rate=2e-4,
                warmup_steps=80,
                final_fraction=0.1,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                weight_decay=1e-4,
                clip_norm=0.1,
                muon=False,
            ),
        )
    )

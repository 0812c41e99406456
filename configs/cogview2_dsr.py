"""CogView2's direct super-resolution in its released size: 20 x 20 -> 60 x 60 codes, 160 -> 480 pixels.

    cogvideo train --config=configs/cogview2_dsr.py --workdir=runs/cogview2_dsr

7.7 billion parameters, 1.8 billion of them trained beside the frozen base. Not yet measured, on no hardware.
How super-resolution was trained was never released: the optimizer is that of CogVideo's stages; steps and batch are
our choice; all fine tokens are masked, since sampling draws them in one pass.
"""

import dataclasses

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.superres.config import cogview2_direct


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return ConfigDict(
        dict(
            part="superres",
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
            train_inherited=False,
            model=dataclasses.asdict(cogview2_direct()),
            data=dict(cache="data/fine_tokens", text_model="data/fine_tokens/text.model"),
            example=dict(mask_ratios=(1.0, 1.0)),
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

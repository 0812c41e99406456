"""The demo's image tokenizer: 64 x 64 pixels <-> 8 x 8 codes of 1,024, local encoder.

    cogvideo train --config=configs/demo_tokenizer.py --workdir=runs/tokenizer

12,000 steps took 13.4 minutes on two CPU cores, with the XLA_FLAGS of launch/demo.sh, other work beside it. Last step:
PSNR 34.0 dB, 29.2 dB on the object's pixels, in pictures of 64 and of 192 pixels together: a code book that serves both
can be taught super-resolution. The shipped weights were made when growth was even; the pictures are the same.
"""

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.training import presets
from cogvideo_jax.models.cogvideo.vq.config import DEMO


def get_config() -> ConfigDict:
    """Settings of `cogvideo train`."""
    return presets.task(
        "tokenizer",
        model=DEMO,
        steps=12_000,
        batch_size=24,
        log_every=100,
        checkpoint_every=2000,
        keep_checkpoints=2,
        mesh=dict(data=-1, fsdp=1, tensor=1),
        validation=presets.NO_VALIDATION,
        samples=dict(every=0, frames=8),
        vq=dict(
            commitment=0.25,
            ema_decay=0.985,
            restart_below=0.03,
            foreground_weight=4.0,
            background=(255, 255, 255),
            window=40,
            scales=(3, 3, 1),
        ),
        data=dict(
            name="captioned_motion",
            data_dir="data/tfds",
            train_clips=10_000,
            test_clips=1_000,
            size=192,
            frames_per_clip=4,
        ),
        optimizer=dict(
            learning_rate=3e-3,
            warmup_steps=100,
            final_fraction=0.02,
            b1=0.9,
            b2=0.99,
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=1.0,
            muon=False,
        ),
    )

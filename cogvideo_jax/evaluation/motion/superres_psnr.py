"""How near enlarged frames come to the same clips drawn large.

Of real clips, so that nothing is counted that the stages before did wrong. Beside it what the tokenizer alone keeps of
large frames, and the small decoded frames stretched.
"""

from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.notation import Array, Key, UInt8

EVERY = 4  # frames between those that are looked at


def superres_psnr(video: TextToVideo, clips: Sequence[motion.MotionSpec], rng: Key[Array, ""]) -> dict:
    """PSNR in decibels over the object's pixels: enlarged, kept by the tokenizer alone, stretched."""
    rows = {"enlarged": [], "encoded and decoded": [], "stretched": []}
    for number, spec in enumerate(clips):
        small = motion.render(spec)[::EVERY]
        ids = video.tokenizer.encode(small)
        key = jax.random.fold_in(rng, number)[None]
        enlarged = video.pixels(ids[None], [motion.captions(spec)[0]], key)[0]
        large = motion.render(spec, scale=enlarged.shape[1] // motion.SIZE)[::EVERY]
        kept = np.asarray(video.tokenizer.decode(video.tokenizer.encode(large)))
        stretched = stretch(np.asarray(video.tokenizer.decode(ids)), side=large.shape[1])
        for errors, made in zip(rows.values(), (enlarged, kept, stretched)):
            errors.append(squared_error(made, large))
    return {"clips": len(clips)} | {name: round(decibels(np.mean(errors)), 1) for name, errors in rows.items()}


def squared_error(made: UInt8[np.ndarray, "T H W 3"], truth: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Mean over the object's pixels, those of the truth that are not white; a channel's range is 0..1."""
    inside = (truth < 255).any(axis=-1)
    difference = (made[inside].astype(np.float32) - truth[inside]) / 255
    return float(np.square(difference).mean())


def decibels(error: float) -> float:
    """PSNR."""
    return float(-10 * np.log10(error + 1e-10))


def stretch(frames: UInt8[np.ndarray, "T h w 3"], *, side: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Made larger without knowing what they show, bicubic."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.BICUBIC)) for frame in frames])

"""PSNR of super-resolution against the same clips drawn large.

Measured on real clips, so that errors of earlier stages do not count; compared with large frames that the tokenizer
only encodes and decodes, and with small decoded frames that are stretched.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.interface import Start, make_request
from cogvideo_jax.notation import UInt8
from cogvideo_jax.text_to_video import TextToVideo

EVERY = 4  # every fourth frame is measured


def superres_psnr(pipe: TextToVideo, clips: Sequence[motion.MotionSpec], *, seed: int) -> dict:
    """PSNR in decibels over the object's pixels: super-resolution, the tokenizer alone, a bicubic stretch."""
    rows = {"super-resolution": [], "encoded and decoded": [], "stretched": []}
    tokenizer = pipe.sampler.tokenizer
    for number, spec in enumerate(clips):
        small = motion.render(spec)[::EVERY]
        # At the full frame rate nothing is interpolated: frames are encoded, super-resolved and decoded.
        how = dict(seeds=(seed,), copies=(number,), start=Start(small, motion.FPS))
        [made] = pipe.run(make_request(prompts=(motion.captions(spec)[0],), **how)).frames
        large = motion.render(spec, scale=made.shape[1] // motion.SIZE)[::EVERY]
        kept = np.asarray(tokenizer.decode(tokenizer.encode(large)))
        stretched = stretch(np.asarray(tokenizer.decode(tokenizer.encode(small))), side=large.shape[1])
        for errors, frames in zip(rows.values(), (made, kept, stretched)):
            errors.append(squared_error(frames, large))
    return {"clips": len(clips)} | {name: round(decibels(np.mean(errors)), 1) for name, errors in rows.items()}


def squared_error(made: UInt8[np.ndarray, "T H W 3"], truth: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Mean squared error over the object's pixels, those that are not white in the truth; channels range over 0..1."""
    inside = (truth < 255).any(axis=-1)
    difference = (made[inside].astype(np.float32) - truth[inside]) / 255
    return float(np.square(difference).mean())


def decibels(error: float) -> float:
    """PSNR of a mean squared error."""
    return float(-10 * np.log10(error + 1e-10))


def stretch(frames: UInt8[np.ndarray, "T h w 3"], *, side: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Bicubic enlargement."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.BICUBIC)) for frame in frames])

"""PSNR of super-resolution against clips drawn large."""

import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.evaluation.motion.superres_psnr import decibels, squared_error, superres_psnr
from cogvideo_jax.interface import Clips


class Repeats:
    """Enlarges by repeating pixels; its tokenizer loses nothing, and its codes are the pictures themselves."""

    sampler = tokenizer = property(lambda self: self)

    def encode(self, frames):
        return frames

    def decode(self, ids):
        return ids

    def run(self, request):
        assert "grows" in request.prompts[0] and request.start.fps == 8.0
        return Clips(request.start.frames[None].repeat(3, axis=2).repeat(3, axis=3), 8.0)


def test_the_enlarged_are_worse_than_what_the_tokenizer_keeps():
    report = superres_psnr(Repeats(), [motion.MotionSpec("seven", "red", "grows", (32, 32))], seed=0)
    assert report["clips"] == 1 and report["encoded and decoded"] == 100.0
    assert 5 < report["super-resolution"] < 30 and 5 < report["stretched"] < 30


def test_only_the_object_counts():
    truth = np.full((1, 4, 4, 3), 255, np.uint8)
    truth[0, 0, 0] = 0
    made = truth.copy()
    made[0, 3, 3] = 0
    assert squared_error(made, truth) == 0.0
    made[0, 0, 0] = 51
    assert squared_error(made, truth) == pytest.approx(0.04)
    assert decibels(0.01) == pytest.approx(20.0)

"""How near enlarged frames come to the truth."""

import jax
import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.evaluation.motion.superres_psnr import decibels, squared_error, superres_psnr


class Repeats:
    """Enlarges by repeating pixels; its tokenizer loses nothing, and its codes are the pictures themselves."""

    tokenizer = property(lambda self: self)

    def encode(self, frames):
        return frames

    def decode(self, ids):
        return ids

    def pixels(self, ids, prompts, rngs):
        assert len(prompts) == len(rngs) == len(ids) == 1 and "grows" in prompts[0]
        return ids.repeat(3, axis=2).repeat(3, axis=3)


def test_the_enlarged_are_worse_than_what_the_tokenizer_keeps():
    report = superres_psnr(Repeats(), [motion.MotionSpec("seven", "red", "grows", (32, 32))], jax.random.key(0))
    assert report["clips"] == 1 and report["encoded and decoded"] == 100.0
    assert 5 < report["enlarged"] < 30 and 5 < report["stretched"] < 30


def test_only_the_object_counts():
    truth = np.full((1, 4, 4, 3), 255, np.uint8)
    truth[0, 0, 0] = 0
    made = truth.copy()
    made[0, 3, 3] = 0
    assert squared_error(made, truth) == 0.0
    made[0, 0, 0] = 51
    assert squared_error(made, truth) == pytest.approx(0.04)
    assert decibels(0.01) == pytest.approx(20.0)

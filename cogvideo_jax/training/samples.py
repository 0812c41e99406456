"""What a task has learned so far, as files: WORKDIR/samples/step_NNNNNN_I.mp4, or .png where it is one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cogvideo_jax.notation import UInt8
from cogvideo_jax.runtime.media import write_mp4, write_png


class Sample(NamedTuple):
    """One clip, or one picture if `fps` is None."""

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float | None


def write_samples(folder: Path, step: int, samples: Sequence[Sample]) -> None:
    """Writes the samples of a step."""
    for number, sample in enumerate(samples):
        path = folder / f"step_{step:06d}_{number}"
        if sample.fps is None:
            write_png(path.with_suffix(".png"), sample.frames[0], replace=True)
        else:
            write_mp4(path.with_suffix(".mp4"), sample.frames, fps=sample.fps, replace=True)

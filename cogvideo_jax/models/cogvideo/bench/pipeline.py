"""How long a whole video takes, from opened weights to pixels, part by part."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from cogvideo_jax.bench.machine import Machine, profile
from cogvideo_jax.models.cogvideo.memory_plan import Request, plan_generation
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.models.cogvideo.weights import TOKENIZER
from cogvideo_jax.runtime.memory import measured_peak, require
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.rng import row_keys

PROMPT = "a red ball moves to the right"


class Made(NamedTuple):
    """Seconds of each part of a call.

    Attributes:
      batch: videos together.
      frames: of a video.
      started: from the start of the process until all modules were there.
      load: weights onto the device.
      compile: all large programs.
      first: the first call, with what small programs it still compiles.
      key_frames, interpolation, superres, pixels: of the second call.
      peak: bytes of memory at the fullest moment of the process.
    """

    batch: int
    frames: int
    started: float
    load: float
    compile: float
    first: float
    key_frames: float
    interpolation: float
    superres: float
    pixels: float
    peak: int

    @property
    def again(self) -> float:
        """A call when everything is compiled."""
        return self.key_frames + self.interpolation + self.superres + self.pixels


def measure_pipeline(
    open_weights: Callable[[], TextToVideo],
    *,
    machine: Machine,
    batch: int,
    started: float = 0.0,
    trace: str | None = None,
) -> Made:
    """Makes the longest videos at the highest rate that the weights give, twice."""
    del machine  # seconds only
    video, load = _timed(open_weights)
    batch = round_up(batch)
    _, rounds = video.schedule(None, None)
    planned, compiled = _timed(lambda: plan_generation(video, Request(batch, rounds=len(rounds))))
    require(planned)
    _, loaded = _timed(lambda: [video.weights.stage(part).params for part in video.weights.files if part != TOKENIZER])
    first = sum(seconds for _, seconds in _make(video, batch, rounds, seed=0))
    with profile(trace):
        parts = _make(video, batch, rounds, seed=1)
    frames = parts[-1][0].shape[1]
    return Made(batch, frames, started, load + loaded, compiled, first, *(s for _, s in parts), measured_peak())


def _make(video: TextToVideo, batch: int, rounds: list[float], *, seed: int) -> list[tuple[Any, float]]:
    """Result and seconds of key frames, interpolation, super-resolution and pixels."""
    prompts, keys = [PROMPT] * batch, row_keys(jax.random.key(seed), batch)
    keyed = _timed(lambda: video.key_frames(prompts, keys))
    filled = _timed(lambda: video.rounds(keyed[0], prompts, keys, rounds))
    fine = _timed(lambda: video.enlarge(filled[0], prompts, keys) if video.has_superres else filled[0])
    return [keyed, filled, fine, _timed(lambda: video.pixels(np.asarray(fine[0]), prompts, keys, superres=False))]


def since_start() -> float:
    """Seconds that this process has run."""
    return time.time() - psutil.Process().create_time()


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - begun


def cells(row: Made) -> dict[str, str]:
    """As text, by column."""
    names = ("started", "load", "compile", "first", "key_frames", "interpolation", "superres", "pixels", "again")
    seconds = {name.replace("_", " "): f"{getattr(row, name):.2f}" for name in names}
    return {"batch": f"{row.batch}", "frames": f"{row.frames}", **seconds, "GiB": f"{row.peak / 2**30:.2f}"}

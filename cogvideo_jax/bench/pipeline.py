"""Time to make whole videos with any family, step by step, from opening the weights to pixels."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

from cogvideo_jax import chain
from cogvideo_jax.bench.machine import Machine, profile
from cogvideo_jax.bench.report import Measured
from cogvideo_jax.interface import Request, Sampler, make_request
from cogvideo_jax.runtime.memory import measured_peak, require
from cogvideo_jax.runtime.mesh import round_up

PROMPT = "a red ball moves to the right"


class PipelineTiming(NamedTuple):
    """Seconds of each part of a call.

    Attributes:
      batch: videos made together.
      frames: frames of a video.
      started: from the start of the process until all modules were imported.
      load: opening the weights.
      compile: compiling all large programs.
      first: the first call, including reading weights and compiling small programs.
      steps: seconds of each step in the second call.
      peak: peak memory of the process in bytes.
    """

    batch: int
    frames: int
    started: float
    load: float
    compile: float
    first: float
    steps: dict[str, float]
    peak: int


def measure_pipeline(
    open_sampler: Callable[[], Sampler],
    *,
    machine: Machine,
    batch: int,
    started: float = 0.0,
    trace: str | None = None,
) -> Measured:
    """Makes videos of the greatest length and frame rate that the weights give, twice."""
    del machine  # seconds only
    sampler, load = _timed(open_sampler)
    batch = round_up(batch)
    planned, compiled = _timed(lambda: chain.plan(sampler, _request(batch, seed=0)))
    require(planned.phases)
    _, first = _timed(lambda: chain.run(planned.steps))
    steps: dict[str, float] = {}
    again = sampler.steps(_request(batch, seed=1), {step.limit: step.rows for step in planned.steps if step.limit})
    with profile(trace):
        clips = chain.run(again, on_step=steps.__setitem__)
    row = PipelineTiming(batch, clips.frames.shape[1], started, load, compiled, first, steps, measured_peak())
    return Measured(row._asdict(), cells(row))


def _request(batch: int, *, seed: int) -> Request:
    return make_request(prompts=(PROMPT,) * batch, seeds=(seed,) * batch, copies=tuple(range(batch)))


def since_start() -> float:
    """Seconds since the start of this process."""
    return time.time() - psutil.Process().create_time()


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = run()
    return result, time.perf_counter() - begun


def cells(row: PipelineTiming) -> dict[str, str]:
    """Values as text, by column."""
    seconds = dict(start=row.started, load=row.load, compile=row.compile, first=row.first)
    seconds |= row.steps | {"again": sum(row.steps.values())}
    shown = {name: f"{value:.2f}" for name, value in seconds.items()}
    return {"batch": f"{row.batch}", "frames": f"{row.frames}", **shown, "GiB": f"{row.peak / 2**30:.2f}"}

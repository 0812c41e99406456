"""Speed of each step of the chain with random weights: one call of every program on zeros, times its calls."""

import time
from typing import Any, NamedTuple

from cogvideo_jax.bench.machine import Machine, profile
from cogvideo_jax.chain import seconds_of
from cogvideo_jax.interface import Request, make_request
from cogvideo_jax.models.cogvideox.bench.sizes import RandomSnapshot, Size
from cogvideo_jax.models.cogvideox.flops import counted_flops
from cogvideo_jax.models.cogvideox.pipeline import CogVideoXSampler
from cogvideo_jax.runtime.memory import Phase, compile_all, require, working_bytes

PARTS = ("text", "denoising", "pixels")  # steps of the chain


class Timing(NamedTuple):
    """Result for one step of the chain.

    Attributes:
      what: the step.
      batch, frames, height, width: of the clips.
      calls: of its programs.
      seconds: of all calls.
      flops: useful operations of all calls.
      share: reached share of the machine's matrix rate.
      reads: share of its read bandwidth, if reading the weights at each call were all.
      compile_seconds: of all programs.
      other: seconds of diffusers for the same; None if it was not measured.
    """

    what: str
    batch: int
    frames: int
    height: int
    width: int
    calls: int
    seconds: float
    flops: float
    share: float
    reads: float
    compile_seconds: float
    other: float | None = None


def measure_step(
    size: Size,
    *,
    machine: Machine,
    dtype: Any,
    what: str,
    batch: int,
    frames: int | None = None,
    pixels: tuple[int, int] | None = None,
    beside: bool = False,
    trace: str | None = None,
) -> Timing:
    """Times one step of a chain of guided clips.

    Args:
      frames, pixels: of the clips; by default those that the weights are made for.
      beside: time the same in diffusers, in float32 on the CPU.
    """
    sampler = CogVideoXSampler(RandomSnapshot(size, dtype=dtype))
    fields = {name: value for name, value in dict(frames=frames, size=pixels).items() if value is not None}
    request = make_request(prompts=("a cat",) * batch, **fields)
    sampler.check_fields(request)
    step = next(one for one in sampler.steps(request) if one.name == what)
    begun = time.perf_counter()
    programs = step.programs()
    compiled = list(zip(compile_all(one.lowered for one in programs), (one.calls for one in programs)))
    compile_seconds, memory = time.perf_counter() - begun, step.memory()
    working = max(working_bytes(program, memory.own) for program, _ in compiled)
    require([Phase(what, memory.own, working, advice="use a smaller --size, --frames or --batch")])
    with profile(trace):
        seconds = sum(calls * seconds_of(program) for program, calls in compiled)
    calls, work = sum(calls for _, calls in compiled), step.flops or counted_flops(compiled)
    height, width = sampler.size(request)
    return Timing(
        what,
        batch,
        sampler.frames(request),
        height,
        width,
        calls,
        seconds,
        work,
        share=work / seconds / machine.flops,
        reads=calls * memory.own / seconds / machine.reads,
        compile_seconds=compile_seconds,
        other=_beside(size, sampler, request, what) if beside else None,
    )


def _beside(size: Size, sampler: CogVideoXSampler, request: Request, what: str) -> float:
    from cogvideo_jax.models.cogvideox.bench.beside_diffusers import seconds_of_diffusers

    steps = len(sampler.table(request)[0].timestep)
    return seconds_of_diffusers(
        size,
        what,
        clips=len(request.prompts),
        frames=sampler.frames(request),
        pixels=sampler.size(request),
        steps=steps,
    )


def cells(row: Timing) -> dict[str, str]:
    """Values as text, by column."""
    shown = {
        "step": row.what,
        "clips": f"{row.batch}",
        "clip": f"{row.frames}x{row.height}x{row.width}",
        "calls": f"{row.calls}",
        "s a call": f"{row.seconds / row.calls:.3f}",
        "s in all": f"{row.seconds:.2f}",
        "TFLOP": f"{row.flops / 1e12:.2f}",
        "of matrices": f"{row.share:.0%}",
        "of reads": f"{row.reads:.0%}",
        "compile s": f"{row.compile_seconds:.1f}",
    }
    if row.other is not None:
        shown |= {"diffusers": f"{row.other:.2f}", "ratio": f"{row.other / row.seconds:.2f}"}
    return shown

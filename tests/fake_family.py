"""A second family in few lines: its videos are one grey, brighter in every frame; it can be sampled and measured."""

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.bench.pipeline import measure_pipeline
from cogvideo_jax.interface import Benchmark, Clips, Family, Program, Sampler, Step, StepMemory

FRAMES, SIDE = 4, 16


@jax.jit
def brighten(seeds):
    return (seeds[:, None] + 40 * jnp.arange(FRAMES)).astype(jnp.uint8)


class GreySampler(Sampler):
    takes = frozenset({"guidance"})

    def fps(self, request):
        return 2.0

    def steps(self, request, rows=None):
        seeds = np.asarray(request.seeds or [0] * len(request.prompts), np.int32)

        def run(before, report):
            greys = np.asarray(brighten(seeds))
            report()
            return Clips(np.tile(greys[:, :, None, None, None], (1, 1, SIDE, SIDE, 3)), 2.0)

        lower = lambda: [Program(brighten.lower(seeds), 1)]  # noqa: E731
        return [Step("greys", 1, lower, lambda: StepMemory(0, 0), run, rows=len(seeds))]


def measure(options, *, machine, trace, batch):
    return measure_pipeline(GreySampler, machine=machine, batch=batch)


GREYS = Benchmark("greys", lambda parser: None, lambda options: [dict(batch=2)], measure)
FAMILY = Family("grey", lambda folder, opening: GreySampler(), benchmarks={"greys": GREYS})

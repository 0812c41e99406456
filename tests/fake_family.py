"""A second family in few lines: its videos are one grey that brightens, and it learns the mean of the data."""

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.bench.pipeline import measure_pipeline
from cogvideo_jax.data.batches import token_batches
from cogvideo_jax.interface import Benchmark, Clips, Family, Program, Sampler, Step, StepMemory
from cogvideo_jax.training import config, export, gradient_task, task


class GreySampler(Sampler):
    fps = lambda self, request: 2.0  # noqa: E731

    def steps(self, request, rows=None):
        brighten = jax.jit(lambda seed: (seed + 40 * jnp.arange(4)).astype("uint8").repeat(768).reshape(4, 16, 16, 3))
        seeds = request.seeds or [0] * len(request.prompts)
        run = lambda before, report: report() or Clips(np.stack([brighten(seed) for seed in seeds]), 2.0)  # noqa: E731
        return [Step("greys", 1, lambda: [Program(brighten.lower(0), 1)], lambda: StepMemory(0, 0), run)]


class MeanTask(gradient_task.GradientTask):
    def __init__(self, settings, mesh):
        error = lambda params, batch, rng: jnp.square(params["mean"] - batch["grey"]).mean()  # noqa: E731
        loss = lambda *given: (error(*given), {"loss": error(*given)})  # noqa: E731
        how = dict(learner=gradient_task.Learner(lambda rng: {"mean": jnp.zeros(())}, loss))
        super().__init__(settings, mesh, batch={"grey": jax.ShapeDtypeStruct((settings.batch_size,), "float32")}, **how)
        self.tokens_per_batch = settings.batch_size

    def batches(self):
        return token_batches([3.0], lambda x, rng: {"grey": np.float32(x)}, batch_size=self.config.batch_size, seed=0)

    def export(self, state, path):
        export.export(path, state.trained, {"kind": "mean"})


GREYS = Benchmark("", lambda _: None, lambda _: [{"batch": 2}], lambda _, **how: measure_pipeline(GreySampler, **how))
MEAN = task.TaskType(config.TrainConfig, MeanTask, check=lambda _: None)
FAMILY = Family("grey", lambda *_: GreySampler(), benchmarks={"greys": GREYS}, tasks=lambda: {"mean": MEAN})

"""Samplers as tables: every step is the same linear map, with numbers that are computed on the host in float64.

    x0  = data_x * x - data_v * v                                  what the model says the clean sample is
    x'  = keep * x + data * x0 + previous * x0_before + noise * e  the next, less noisy sample

v is the velocity sqrt(a) e - sqrt(1-a) x_0 (arXiv 2202.00512, appendix D). A table is the `xs` of a scan over steps.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.diffusion.schedules import Schedule, trailing_timesteps
from cogvideo_jax.notation import Array, Float, Int


class StepTable(NamedTuple):
    """Numbers of each step of a run; see the module.

    Attributes:
      timestep: what the model is told.
    """

    timestep: Int[Array, "n"]
    data_x: Float[Array, "n"]
    data_v: Float[Array, "n"]
    keep: Float[Array, "n"]
    data: Float[Array, "n"]
    previous: Float[Array, "n"]
    noise: Float[Array, "n"]

    @property
    def needs_noise(self) -> bool:
        """Whether any step adds noise; of a table on the host."""
        return bool(np.any(self.noise))


def ddim(schedule: Schedule, steps: int, *, skip: int = 0) -> StepTable:
    """Deterministic sampler (arXiv 2010.02502, equation 12 with sigma = 0).

    Args:
      skip: first steps to leave out, for a start that is not pure noise.
    """

    def row(alpha: float, before: float, _: float | None) -> tuple[float, ...]:
        keep = math.sqrt((1 - before) / (1 - alpha))
        return keep, math.sqrt(before) - keep * math.sqrt(alpha), 0.0, 0.0

    return _table(schedule, steps, skip, row)


def dpm_solver(schedule: Schedule, steps: int, *, skip: int = 0) -> StepTable:
    """Second-order multistep SDE solver, DPM-Solver++ (SDE 2M; arXiv 2211.01095), with zero signal at the start.

    Infinite log ratios at zero signal and at zero noise have the right limits in float64.
    """

    def row(alpha: float, before: float, last: float | None) -> tuple[float, ...]:
        with np.errstate(divide="ignore", invalid="ignore"):
            step = _log_ratio(before) - _log_ratio(alpha)
            keep = np.sqrt((1 - before) / (1 - alpha)) * np.exp(-step)
            data = -np.expm1(-2 * step) * np.sqrt(before)
            noise = np.sqrt(1 - before) * np.sqrt(1 - np.exp(-2 * step))
            if last is None or before == 1:
                return keep, data, 0.0, noise
            half = 0.5 * step / (_log_ratio(alpha) - _log_ratio(last))
        return keep, data * (1 + half), -data * half, noise

    return _table(schedule, steps, skip, row)


SAMPLERS = {"ddim": ddim, "dpm": dpm_solver}


def next_sample(
    row: StepTable,
    x: Float[Array, "*shape"],
    v: Float[Array, "*shape"],
    *,
    before: Float[Array, "*shape"],
    noise: Float[Array, "*shape"] | float,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """One step: the next sample and the predicted clean one.

    Args:
      row: numbers of this step.
      before: clean sample that the step before predicted; anything finite for the first.
      noise: standard normal; anything finite where a sampler adds none.
    """
    clean = row.data_x * x - row.data_v * v
    return row.keep * x + row.data * clean + row.previous * before + row.noise * noise, clean


def on_device(table: StepTable) -> StepTable:
    """The table in float32 and int32, as a scan takes it."""
    numbers = (jnp.asarray(column, jnp.float32) for column in table[1:])
    return StepTable(jnp.asarray(table.timestep, jnp.int32), *numbers)


def _table(schedule: Schedule, steps: int, skip: int, row) -> StepTable:
    """Rows of (a of a timestep, a after the step, a of the timestep before or None).

    A step leads `stride` timesteps down, which is not the next listed timestep unless steps divide the schedule; as in
    diffusers.
    """
    timesteps, stride = trailing_timesteps(schedule, steps)[skip:], schedule.steps // steps
    alphas = schedule.alphas_cumprod
    rows = []
    for number, timestep in enumerate(timesteps):
        last = alphas[timesteps[number - 1]] if number else None
        rows.append(row(alphas[timestep], schedule.alpha_before(timestep - stride), last))
    columns = map(np.asarray, zip(*rows))
    return StepTable(timesteps, np.sqrt(alphas[timesteps]), np.sqrt(1 - alphas[timesteps]), *columns)


def _log_ratio(alpha: float) -> np.float64:
    """Half of the log signal-to-noise ratio."""
    return np.log(np.sqrt(np.float64(alpha) / (1 - np.float64(alpha))))

"""Noise schedules: how much of the data is left at each timestep.

x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e, where a_t is the cumulative product of 1 - beta ("alphas_cumprod"). Everything
here is float64 on the host: in float32 the last steps before zero signal lose most of their digits.
"""

import dataclasses
import functools

import numpy as np

from cogvideo_jax.notation import Float, Int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Betas whose square roots are evenly spaced ("scaled linear"), shifted, and rescaled to end without signal.

    Attributes:
      steps: number of training timesteps.
      beta_start, beta_end: first and last beta.
      snr_shift: s in a / (s + (1 - s) a), which divides the signal-to-noise ratio by s (SD3 paper, section 5.3.2).
      zero_terminal_snr: rescale so that the last timestep is pure noise (arXiv 2305.08891, algorithm 1).
      final_alpha_one: data without noise precede timestep 0; otherwise a_0 itself does.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift: float = 1.0
    zero_terminal_snr: bool = True
    final_alpha_one: bool = True

    @functools.cached_property
    def betas(self) -> Float[np.ndarray, "steps"]:
        """Variances added at each timestep, before shift and rescaling."""
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps) ** 2

    @functools.cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, "steps"]:
        """Share of the data's variance that is left at each timestep."""
        left = np.cumprod(1 - self.betas)
        left = left / (self.snr_shift + (1 - self.snr_shift) * left)
        return zero_terminal_snr(left) if self.zero_terminal_snr else left

    def alpha_before(self, timestep: int) -> float:
        """a of a timestep that may lie before the first."""
        if timestep >= 0:
            return float(self.alphas_cumprod[timestep])
        return 1.0 if self.final_alpha_one else float(self.alphas_cumprod[0])


def zero_terminal_snr(alphas_cumprod: Float[np.ndarray, "steps"]) -> Float[np.ndarray, "steps"]:
    """Shifts and scales square roots so that the first stays and the last is zero."""
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def trailing_timesteps(schedule: Schedule, steps: int) -> Int[np.ndarray, "n"]:
    """Timesteps of a run, spaced from the last one down ("trailing").

    As in diffusers, rounding gives one step more than asked for with some numbers of steps; it is timestep -1.
    """
    return np.round(np.arange(schedule.steps, 0, -schedule.steps / steps)).astype(np.int64) - 1


def step_warnings(schedule: Schedule, steps: int) -> list[str]:
    """What goes wrong with a number of steps that does not divide the schedule."""
    timesteps, stride = trailing_timesteps(schedule, steps), schedule.steps // steps
    divisors = ", ".join(str(n) for n in (50, 40, 25, 20, 10) if schedule.steps % n == 0)
    if len(timesteps) > steps:
        return [f"rounding makes {len(timesteps)} steps of {steps}, the last of them useless; choose {divisors}"]
    if timesteps[-1] - stride >= 0:
        return [f"{steps} steps end before all noise is gone; choose {divisors}"]
    return []

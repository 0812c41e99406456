"""Classifier-free guidance (arXiv 2207.12598), with one scale for all steps or one for each."""

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.notation import Array, Float, Int


def guide(
    unconditional: Float[Array, "*shape"], conditional: Float[Array, "*shape"], scale: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Moves a prediction away from the unconditional one, in float32."""
    unconditional, conditional = (x.astype(jnp.float32) for x in (unconditional, conditional))
    return unconditional + scale * (conditional - unconditional)


def constant_scales(scale: float, timesteps: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The same scale at every step."""
    return np.full(len(timesteps), scale, np.float64)


def dynamic_scales(scale: float, timesteps: Int[np.ndarray, "n"], *, steps: int) -> Float[np.ndarray, "n"]:
    """Scales between 1 and 1 + `scale` of the released code's dynamic guidance ("use_dynamic_cfg").

    Timesteps of 0..999 are compared with the number of steps, so the phase of the cosine is in the millions and the
    scales jump. Float64 keeps them; float32 would be off by whole units.

    Args:
      steps: of the run, after those that a start video saves.
    """
    phase = np.pi * ((steps - np.asarray(timesteps, np.float64)) / steps) ** 5.0
    return 1 + scale * ((1 - np.cos(phase)) / 2)

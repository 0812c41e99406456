"""Exponential moving average of the trained weights, kept by the last element of an optimizer chain.

Validation, samples and the exported weights use the average, which is smoother than the weights of the last step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.notation import Array, Int, PyTree


class EmaState(NamedTuple):
    """Updates so far, and the average; its leaves bear the names of the parameters."""

    count: Int[Array, ""]
    average: PyTree


def average_params(decay: float) -> optax.GradientTransformation:
    """Passes updates on and averages the parameters that they lead to.

    The first updates decay faster, by (1 + n) / (10 + n), so that the average soon forgets the initialisation.
    """

    def init(params: PyTree) -> EmaState:
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: PyTree, state: EmaState, params: PyTree) -> tuple[PyTree, EmaState]:
        keep = jnp.minimum(decay, (1.0 + state.count) / (10.0 + state.count))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, leaf: keep * old + (1.0 - keep) * leaf, state.average, new)
        return updates, EmaState(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: PyTree, params: PyTree) -> PyTree:
    """The average that an optimizer keeps; the parameters themselves where it keeps none."""
    last = opt_state[-1]
    return last.average if isinstance(last, EmaState) else params

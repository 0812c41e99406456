"""One optimisation step of any loss, in microbatches where memory is short."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.notation import Array, Float, Key, PyTree
from cogvideo_jax.runtime.mesh import constrain
from cogvideo_jax.training.ema import averaged
from cogvideo_jax.training.state import TrainState, merge

# (params, batch, key of dropout or None for evaluation) -> (loss, scalars)
Loss = Callable[[PyTree, PyTree, Key[Array, ""] | None], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]


def train_step(
    state: TrainState,
    frozen: PyTree,
    batch: PyTree,
    rng: Key[Array, ""],
    *,
    loss: Loss,
    tx: optax.GradientTransformation,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Updates the trained parameters to lower the loss; `frozen` is only read.

    Args:
      microbatches: parts of the batch that are read one after the other, for less memory; losses and gradients are
        the means of theirs.
    """

    def objective(trained, batch, rng):
        return loss(merge(frozen, trained), batch, rng)

    gradient = functools.partial(jax.grad(objective, has_aux=True), state.trained)
    if microbatches == 1:
        gradients, metrics = gradient(batch, rng)
    else:
        gradients, metrics = _mean_over_parts(gradient, batch, rng, microbatches)
    updates, opt_state = tx.update(gradients, state.opt_state, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    return TrainState(state.step + 1, trained, opt_state), metrics | norms(gradients, updates)


def norms(gradients: PyTree, updates: PyTree) -> dict[str, Float[Array, ""]]:
    """Figures that tell of a bad step whose loss is still finite."""
    return {"gradient_norm": optax.global_norm(gradients), "update_norm": optax.global_norm(updates)}


def evaluate(state: TrainState, frozen: PyTree, batch: PyTree, *, loss: Loss) -> dict[str, Float[Array, ""]]:
    """Scalars of a batch without dropout, with the averaged weights where there are any."""
    return loss(merge(frozen, averaged(state.opt_state, state.trained)), batch, None)[1]


def _mean_over_parts(gradient: Callable, batch: PyTree, rng: Key[Array, ""], parts: int) -> tuple[PyTree, dict]:
    """(gradients, metrics), the means over parts of the batch; every device cuts its own rows, so none travel."""

    def cut(x):
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(*part)), None

    given = (jax.tree.map(cut, batch), jax.random.split(rng, parts))
    shapes = jax.eval_shape(lambda: gradient(*jax.tree.map(lambda x: x[0], given)))
    total, _ = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), given)
    return jax.tree.map(lambda x: x / parts, total)

"""One optimisation step of the base, of stage 1 or of stage 2: they differ in layout and in what is frozen only.

Super-resolution takes the same step with a loss of its own (superres_step.py).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.training.losses import frame_losses, token_losses
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, Transformer
from cogvideo_jax.notation import Array, Float, Key, PyTree
from cogvideo_jax.runtime.mesh import constrain
from cogvideo_jax.training.state import TrainState, merge


def loss_and_metrics(
    params: PyTree, batch: dict, rng: Key[Array, ""] | None, *, model: Transformer
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy in nats a token over the slots with loss.

    Args:
      batch: "text" [B S], "text_mask" [B S], "frames" [B T N] targets in slot order.
      rng: dropout; None for evaluation.
    """
    config, layout = model.config, model.config.layout
    inputs = shift_right(batch["frames"], boi=config.boi)
    rngs = None if rng is None else {"dropout": rng}
    variables = {"params": params}
    hidden = model.apply(variables, batch["text"], batch["text_mask"], inputs, train=rng is not None, rngs=rngs)
    first = layout.text_length + layout.first_loss_slot * layout.frame_tokens
    logits = model.apply(variables, hidden[:, first:], method=Transformer.image_logits)
    losses = token_losses(logits, batch["frames"][:, layout.first_loss_slot :])
    loss = losses.mean()
    return loss, {"loss": loss, "nats_per_frame": loss * layout.frame_tokens} | frame_losses(losses, layout)


def train_step(
    state: TrainState,
    frozen: PyTree,
    batch: dict,
    rng: Key[Array, ""],
    *,
    model: Backbone,
    tx: optax.GradientTransformation,
    loss: Callable = loss_and_metrics,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Updates the trained part to lower `loss(params, batch, rng, model=...)`; `frozen` is only read.

    Args:
      microbatches: parts of the batch that are read one after the other, for less memory; losses and gradients are
        the means of theirs.
    """

    def objective(trained, batch, rng):
        return loss(merge(frozen, trained), batch, rng, model=model)

    gradient = functools.partial(jax.grad(objective, has_aux=True), state.trained)
    if microbatches == 1:
        gradients, metrics = gradient(batch, rng)
    else:
        gradients, metrics = _mean_over_parts(gradient, batch, rng, microbatches)
    updates, opt_state = tx.update(gradients, state.opt_state, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    return TrainState(state.step + 1, trained, opt_state), metrics | {"gradient_norm": optax.global_norm(gradients)}


def _mean_over_parts(gradient: Callable, batch: dict, rng: Key[Array, ""], parts: int) -> tuple[PyTree, dict]:
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

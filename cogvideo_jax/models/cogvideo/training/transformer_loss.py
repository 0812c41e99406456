"""Training objective of the base, stage 1 and stage 2, which differ in layout only."""

import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.training.losses import cross_entropy, frame_losses
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head
from cogvideo_jax.notation import Array, Float, Key, PyTree


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
    first, targets = layout.first_loss_slot, batch["frames"][:, layout.first_loss_slot :]
    hidden = hidden[:, layout.text_length + first * layout.frame_tokens :]
    flat = targets.reshape(len(targets), -1)
    weights = jnp.full(flat.shape, 1 / flat.size, jnp.float32)
    loss, losses, _ = cross_entropy(hidden.astype(model.dtype), image_head(params, config).values, flat, weights)
    frames = frame_losses(losses.reshape(targets.shape), layout)
    return loss, {"loss": loss, "nats_per_frame": loss * layout.frame_tokens} | frames

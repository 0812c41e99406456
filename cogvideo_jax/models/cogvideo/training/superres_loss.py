"""Training objective of super-resolution: cross-entropy of the masked fine tokens."""

import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.training.losses import cross_entropy
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, image_head
from cogvideo_jax.notation import Array, Float, Key, PyTree


def loss_and_metrics(
    params: PyTree, batch: dict, rng: Key[Array, ""] | None, *, model: Backbone
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy in nats a masked fine token; tokens that are shown carry no loss.

    Args:
      batch: "text" [B S], "text_mask" [B S], "fine" [B N] targets, "masked" [B N]; "coarse" [B n] for the direct model.
      rng: dropout; None for evaluation.
    """
    variables, masked, config = {"params": params}, batch["masked"], model.config
    known = jnp.where(masked, config.boi, batch["fine"])
    given = (batch["text"], batch["text_mask"], *([batch["coarse"]] if config.coarse else []))
    rngs = None if rng is None else {"dropout": rng}
    hidden = model.apply(variables, *given, known, train=rng is not None, rngs=rngs)
    hidden = hidden[:, -config.fine_tokens :].astype(model.dtype)
    count = masked.sum()
    loss, _, right = cross_entropy(hidden, image_head(params, config).values, batch["fine"], masked / count)
    return loss, {"loss": loss, "accuracy": (right & masked).sum() / count, "masked": masked.mean()}

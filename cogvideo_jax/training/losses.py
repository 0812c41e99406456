"""Cross-entropy over image codes, weighted by slot: given frames carry no loss."""

import jax.numpy as jnp
import optax

from cogvideo_jax.notation import Array, Float, Int
from cogvideo_jax.tokens.sequence import ClipLayout


def token_losses(logits: Float[Array, "B TN C"], targets: Int[Array, "B T N"]) -> Float[Array, "B T N"]:
    """Cross-entropy of every frame token, in nats and float32."""
    flat = targets.reshape(targets.shape[0], -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), flat)
    return losses.reshape(targets.shape)


def clip_loss(losses: Float[Array, "B T N"], layout: ClipLayout) -> Float[Array, ""]:
    """Mean over the slots that are generated."""
    return losses[:, layout.first_loss_slot :].mean()


def frame_losses(losses: Float[Array, "B T N"], layout: ClipLayout) -> dict[str, Float[Array, ""]]:
    """Mean of each slot with loss, named by frame time; in nats a token."""
    means = losses.mean(axis=(0, 2))
    slots = range(layout.first_loss_slot, layout.frames)
    return {f"loss_frame_{layout.frame_times[slot]}": means[slot] for slot in slots}

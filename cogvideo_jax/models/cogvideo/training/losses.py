"""Cross-entropy over image codes, weighted by slot: given frames carry no loss."""

import jax.numpy as jnp
import optax

from cogvideo_jax.models.cogvideo.layout import ClipLayout
from cogvideo_jax.notation import Array, Float, Int


def token_losses(logits: Float[Array, "B tN C"], targets: Int[Array, "B t N"]) -> Float[Array, "B t N"]:
    """Cross-entropy of every token of t frames, in nats and float32."""
    flat = targets.reshape(targets.shape[0], -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), flat)
    return losses.reshape(targets.shape)


def frame_losses(losses: Float[Array, "B t N"], layout: ClipLayout) -> dict[str, Float[Array, ""]]:
    """Mean of each slot with loss, named by frame time; in nats a token."""
    means = losses.mean(axis=(0, 2))
    times = layout.frame_times[layout.first_loss_slot :]
    return {f"loss_frame_{time}": mean for time, mean in zip(times, means)}

"""Cross-entropy over image codes, a chunk of positions at a time.

All logits together are the largest array of a step: 20,000 for each position at full size. The forward pass already
makes the gradients of a chunk, while its logits are there; the backward pass only scales them.
"""

import jax
import jax.numpy as jnp

from cogvideo_jax.models.cogvideo.layout import ClipLayout
from cogvideo_jax.models.cogvideo.transformer.transformer import project
from cogvideo_jax.nn.quantized import Matrix
from cogvideo_jax.notation import Array, Bool, Float, Int, Shaped

CHUNK = 512  # positions of a row, at most


def cross_entropy(
    hidden: Float[Array, "B n D"], table: Float[Array, "C D"], targets: Int[Array, "B n"], weights: Float[Array, "B n"]
) -> tuple[Float[Array, ""], Float[Array, "B n"], Bool[Array, "B n"]]:
    """Weighted sum of the losses; each position's loss, and whether its likeliest code is right, without gradients.

    Args:
      hidden: final hidden states in the compute type.
      table: embeddings of the image codes, which are also the output head.
      weights: of the positions; without gradients, too.

    Returns:
      All in nats and float32.
    """
    total, losses, right = _cross_entropy(hidden, table.astype(hidden.dtype), targets, weights)
    return total, jax.lax.stop_gradient(losses), right


def frame_losses(losses: Float[Array, "B t N"], layout: ClipLayout) -> dict[str, Float[Array, ""]]:
    """Mean of each slot with loss, named by frame time; in nats a token."""
    means = losses.mean(axis=(0, 2))
    times = layout.frame_times[layout.first_loss_slot :]
    return {f"loss_frame_{time}": mean for time, mean in zip(times, means)}


@jax.custom_vjp
def _cross_entropy(hidden, table, targets, weights):
    def chunk(_, part):
        one = _Chunk(*part[:2], table)
        return None, (one.losses, one.right)

    losses, right = _joined(jax.lax.scan(chunk, None, _cut(hidden, targets, weights))[1], weights.shape)
    return (weights * losses).sum(), losses, right


def _forward(hidden, table, targets, weights):
    """The outputs, and their gradients towards hidden states and table for a gradient of 1."""

    def chunk(d_table, part):
        hidden, targets, weights = part
        one = _Chunk(hidden, targets, table)
        d_logits = one.gradient(weights).astype(hidden.dtype)
        d_hidden = _product("bnc,cd->bnd", d_logits, table).astype(hidden.dtype)
        return d_table + _product("bnc,bnd->cd", d_logits, hidden), (one.losses, one.right, d_hidden)

    start = jnp.zeros(table.shape, jnp.float32)
    d_table, kept = jax.lax.scan(chunk, start, _cut(hidden, targets, weights))
    losses, right, d_hidden = _joined(kept, weights.shape)
    return ((weights * losses).sum(), losses, right), (d_hidden, d_table.astype(table.dtype))


def _backward(gradients, given):
    scale, *_ = given
    return *(scale.astype(x.dtype) * x for x in gradients), None, None


_cross_entropy.defvjp(_forward, _backward)


class _Chunk:
    """Logits of some positions, and what follows from them."""

    def __init__(self, hidden: Float[Array, "B n D"], targets: Int[Array, "B n"], table: Float[Array, "C D"]):
        self.logits = project(hidden, Matrix(table), hidden.dtype)
        self.is_target = targets[..., None] == jnp.arange(len(table))  # no gather: codes may be split over devices
        self.log_sum = jax.nn.logsumexp(self.logits, axis=-1)
        self.losses = self.log_sum - jnp.where(self.is_target, self.logits, 0).sum(axis=-1)
        self.right = jnp.argmax(self.logits, axis=-1) == targets

    def gradient(self, weights: Float[Array, "B n"]) -> Float[Array, "B n C"]:
        """Of the weighted sum of losses towards the logits."""
        probabilities = jnp.exp(self.logits - self.log_sum[..., None])
        return weights[..., None] * (probabilities - self.is_target)


def _cut(*arrays: Shaped[Array, "B n ..."]) -> tuple[Shaped[Array, "chunks B m ..."], ...]:
    """Equal chunks of the positions; zeros, which weigh nothing, fill up the last."""
    positions = arrays[0].shape[1]
    chunks = -(-positions // CHUNK)
    missing = -positions % chunks

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], chunks, -1, *x.shape[2:]).swapaxes(0, 1)

    return tuple(map(cut, arrays))


def _joined(parts: tuple[Shaped[Array, "chunks B m ..."], ...], shape: tuple[int, int]) -> list[Array]:
    """The positions of all chunks."""
    flat = (x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:]) for x in parts)
    return [x[:, : shape[1]] for x in flat]


def _product(formula: str, x: Array, y: Array) -> Float[Array, "..."]:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)

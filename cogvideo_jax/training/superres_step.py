"""What super-resolution is trained on: cross-entropy of the fine tokens that are masked, and where it starts from."""

import jax.numpy as jnp
import optax
from flax.traverse_util import unflatten_dict

from cogvideo_jax.model.config import TransformerConfig
from cogvideo_jax.model.transformer import Backbone
from cogvideo_jax.notation import Array, Float, Key, PyTree
from cogvideo_jax.superres.config import SuperResolutionConfig
from cogvideo_jax.training.state import overlay_base


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
    logits = model.apply(variables, hidden[:, -config.fine_tokens :], method=Backbone.image_logits)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["fine"])
    right = jnp.argmax(logits, axis=-1) == batch["fine"]
    count = masked.sum()
    loss = (losses * masked).sum() / count
    return loss, {"loss": loss, "accuracy": (right & masked).sum() / count, "masked": masked.mean()}


def inherit_fine(
    params: PyTree, base: PyTree, *, base_config: TransformerConfig, config: SuperResolutionConfig
) -> PyTree:
    """Puts the base's weights under a fresh super-resolution tree (CogView2: both halves start as the base).

    The local channel starts as the base's attention; fine positions as the base's positions of one picture, the whole
    picture repeated (2022 code), not enlarged:

        a b    ->    a b a b
        c d          c d c d
                     a b a b
                     c d c d

    Raises:
      ValueError: if the base has other sizes.
    """
    flat = overlay_base(params, base)
    grid, start = base_config.layout.grid, base_config.first_frame_position
    rows = flat[("position_table",)][start : start + grid * grid].reshape(grid, grid, -1)
    copies = -(-config.fine_grid // grid)
    tiled = jnp.tile(rows, (copies, copies, 1))[: config.fine_grid, : config.fine_grid]
    flat[("extra_positions",)] = tiled.reshape(config.fine_tokens, -1)
    for path in [path for path in flat if path[:2] == ("layers", "local")]:
        flat[path] = jnp.array(flat[("layers", "spatial", path[2])])
    return unflatten_dict(flat)

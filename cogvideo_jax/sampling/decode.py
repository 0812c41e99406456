"""The jitted heart of sampling: read what is given once, then write frames token by token.

`begin` fills a cache, `write_frame` writes one slot with a scan over its tokens and updates the cache in place. Both
have static shapes: a stage compiles them once, whatever the prompt.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cogvideo_jax.model.cache import Cache
from cogvideo_jax.model.config import Compat
from cogvideo_jax.model.transformer import Transformer
from cogvideo_jax.notation import Array, Bool, Float, Int, Key, PyTree
from cogvideo_jax.sampling.logits import Strategy, guide, sample
from cogvideo_jax.tokens.sequence import shift_right


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """What is fixed while a stage writes.

    Attributes:
      strategy: how tokens are drawn.
      clusters: number of clusters in `labels`.
      guidance: scale of classifier-free guidance; None runs without (half the rows).
      text_log_weight: added to scores towards text.
      limited: the spatial cache keeps the frame in progress only.
      compat: see Compat.
      last_token: strategy of a frame's last token where it differs (release, first frame).
    """

    strategy: Strategy
    clusters: int
    guidance: float | None
    text_log_weight: float
    limited: bool = True
    compat: Compat = Compat.EXACT
    last_token: Strategy | None = None


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def begin(
    params: PyTree,
    text: Int[Array, "R S"],
    text_mask: Bool[Array, "R S"],
    given: Int[Array, "B g N"],
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> Cache:
    """Cache after text and given frames.

    Args:
      text: R = B rows, or with guidance 2B rows: the prompts, then the guidance texts.
      given: complete frames in slot order; g may be 0.
    """
    inputs = _for_rows(shift_right(given, boi=model.config.boi), settings)
    _, cache = model.apply(
        {"params": params},
        text,
        text_mask,
        inputs,
        text_log_weight=settings.text_log_weight,
        limited=settings.limited,
        compat=settings.compat,
        method=Transformer.prefill,
    )
    return cache


@functools.partial(jax.jit, static_argnames=("model", "settings"), donate_argnames="cache")
def write_frame(
    params: PyTree,
    cache: Cache,
    slot: Int[Array, ""],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> tuple[Cache, Int[Array, "B N"]]:
    """Writes the frame of one slot.

    Args:
      rngs: one key a row; the token at a position depends on its row's key and the position only.
      labels: cluster of every image code.
    """
    frame_tokens = model.config.layout.frame_tokens

    def one_token(carry, offset):
        cache, token = carry
        index = slot * frame_tokens + offset
        token = jnp.where(offset == 0, model.config.boi, token)
        cache, logits = step_logits(params, cache, token, index, model=model, settings=settings)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, index)
        drawn = sample(keys, logits, settings.strategy, labels, settings.clusters)
        if settings.last_token is not None:
            last = sample(keys, logits, settings.last_token, labels, settings.clusters)
            drawn = jnp.where(offset == frame_tokens - 1, last, drawn)
        return (cache, drawn.astype(jnp.int32)), drawn.astype(jnp.int32)

    start = jnp.zeros(rngs.shape[0], jnp.int32)
    (cache, _), tokens = jax.lax.scan(one_token, (cache, start), jnp.arange(frame_tokens))
    return cache, tokens.T


def step_logits(
    params: PyTree,
    cache: Cache,
    token: Int[Array, "B"],
    index: Int[Array, ""],
    *,
    model: Transformer,
    settings,
) -> tuple[Cache, Float[Array, "B C"]]:
    """One cached step: input tokens at `index` -> logits over image codes, guided where asked."""
    weight = settings.text_log_weight
    if settings.guidance is not None and settings.compat == Compat.RELEASE:
        weight = jnp.repeat(jnp.asarray([weight, 0.0]), token.shape[0])
    variables = {"params": params}
    rows = _for_rows(token, settings)
    hidden, cache = model.apply(variables, rows, index, cache, text_log_weight=weight, method=Transformer.step)
    logits = model.apply(variables, hidden, method=Transformer.image_logits)
    return cache, logits if settings.guidance is None else guide(logits, settings.guidance)


def write_slots(
    params: PyTree,
    text: Int[Array, "R S"],
    text_mask: Bool[Array, "R S"],
    given: Int[Array, "B g N"],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
    on_frame=lambda: None,
) -> Int[Array, "B T N"]:
    """All slots of the layout: those given, then those written. `on_frame` is called as each frame is written."""
    cache = begin(params, text, text_mask, given, model=model, settings=settings)
    slots = [given]
    for slot in range(given.shape[1], model.config.layout.frames):
        cache, frame = write_frame(params, cache, jnp.int32(slot), rngs, labels, model=model, settings=settings)
        slots.append(frame.block_until_ready()[:, None])
        on_frame()
    return jnp.concatenate(slots, axis=1)


def _for_rows(x: Array, settings: DecodeSettings) -> Array:
    """Doubles the batch when guidance runs a second half."""
    return x if settings.guidance is None else jnp.concatenate([x, x])

"""Jitted sampling loop: reads the given text and frames once, then writes frames token by token.

`begin` fills a cache; `write_frames` writes slots with a scan over their tokens and updates the cache in place. Both
have static shapes, so a stage compiles them once for all prompts; with a growing cache, `write_frames` once per frame.

Frames are written sequentially, or in parallel where windows allow it (paper section 3.3): a token looks at earlier
frames in its own window only, so a frame can follow the one before at a fixed lag, a wavefront:

    frame 0  1 2 3 4 5 6 7 8 9 . . . .
    frame 1  . . 1 2 3 4 5 6 7 8 9 . .      each column is one step
    frame 2  . . . . 1 2 3 4 5 6 7 8 9
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.config import Compat, TransformerConfig
from cogvideo_jax.models.cogvideo.layout import shift_right
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy, guide, require_drawn, sample
from cogvideo_jax.models.cogvideo.transformer.cache import Cache, Kept, with_room
from cogvideo_jax.models.cogvideo.transformer.masks import smallest_lag
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head, project
from cogvideo_jax.nn.quantized import Matrix
from cogvideo_jax.notation import Array, Bool, Float, Int, Key, PyTree
from cogvideo_jax.runtime.mesh import constrain, platform


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """Settings of a stage's sampling loop.

    Attributes:
      strategy: sampling strategy of tokens.
      clusters: number of clusters in `labels`.
      guidance: scale of classifier-free guidance; None for none, which halves the rows.
      text_log_weight: added to text scores.
      limited: keep only the frames in progress in the spatial cache.
      parallel_frames: frames written in one wavefront; must divide the number of frames to write. The tokens are the
        same as in sequential decoding.
      int8_cache: store keys and values as int8, which reads fewer bytes and changes the tokens.
      growing_cache: make room in the temporal cache for existing frames only, so that a step reads no others. Each
        number of frames is a separate program, so this pays in long work.
      compat: see Compat.
      last_token: strategy of a frame's last token, if different (release, first frame).
    """

    strategy: Strategy
    clusters: int
    guidance: float | None
    text_log_weight: float
    limited: bool = True
    parallel_frames: int = 1
    int8_cache: bool = False
    growing_cache: bool = False
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
    """Cache after the text and the given frames.

    Args:
      text: R = B rows, or 2B rows with guidance: the prompts, then the guidance texts.
      given: complete frames in slot order; g may be 0.
    """
    inputs = _for_rows(shift_right(given, boi=model.config.boi), settings)
    _, cache = model.apply(
        {"params": params},
        _in_pairs(text, settings),
        _in_pairs(text_mask, settings),
        inputs,
        text_log_weight=settings.text_log_weight,
        limited=settings.limited,
        parallel_frames=settings.parallel_frames,
        slots=room(model.config, settings, given.shape[1]),
        int8=settings.int8_cache,
        compat=settings.compat,
        method=Transformer.prefill,
    )
    return cache


@functools.partial(jax.jit, static_argnames=("model", "settings"), donate_argnames="cache")
def write_frames(
    params: PyTree,
    cache: Cache,
    slot: Int[Array, ""],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> tuple[Cache, Int[Array, "B P N"]]:
    """Writes the frames of `parallel_frames` slots, starting at `slot`.

    Args:
      rngs: one key per row; a token's randomness depends on its row's key and its position only.
      labels: cluster of every image code.
    """
    config, numbers, rows = model.config, jnp.arange(settings.parallel_frames), rngs.shape[0]
    head = image_head(params, config)
    frame_tokens = config.layout.frame_tokens
    behind = lag(config, settings.parallel_frames) * numbers

    def one_step(carry, step):
        cache, inputs = carry
        # A frame that has not started, or is done, repeats its first or last token: same numbers, same place.
        offset = jnp.clip(step - behind, 0, frame_tokens - 1)
        index = (slot + numbers) * frame_tokens + offset
        tokens = inputs[:, numbers, offset]
        cache, logits = step_logits(params, head, cache, tokens, index, model=model, settings=settings)
        drawn = _draw(rngs, logits, index, offset == frame_tokens - 1, labels, settings)
        return (cache, inputs.at[:, numbers, offset + 1].set(drawn)), None

    inputs = jnp.full((rows, settings.parallel_frames, frame_tokens + 1), config.boi, jnp.int32)
    steps = jnp.arange(frame_tokens + lag(config, settings.parallel_frames) * (settings.parallel_frames - 1))
    (cache, inputs), _ = jax.lax.scan(one_step, (cache, inputs), steps)
    return cache, inputs[:, :, 1:]


def step_logits(
    params: PyTree,
    head: Matrix,
    cache: Cache,
    tokens: Int[Array, "B P"],
    index: Int[Array, "P"],
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> tuple[Cache, Float[Array, "B P C"]]:
    """Runs one cached step: input tokens at `index` -> logits over image codes, with guidance if set.

    Args:
      head: output head, sliced before the loop, which would otherwise copy its rows at every step.
    """
    weight = settings.text_log_weight
    if settings.guidance is not None and settings.compat == Compat.RELEASE:
        weight = jnp.tile(jnp.asarray([weight, 0.0]), tokens.shape[0])
    variables = {"params": params}
    rows = _for_rows(tokens, settings)
    hidden, cache = model.apply(variables, rows, index, cache, text_log_weight=weight, method=Transformer.step)
    logits = project(hidden, head, model.dtype)
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
    on_call: Callable[[], Any] = lambda: None,
) -> Int[np.ndarray, "B T N"]:
    """Writes the remaining slots of the layout and returns all of them. Calls `on_call` after each writing program."""
    cache = begin(params, text, text_mask, given, model=model, settings=settings)
    slots, parallel_frames = [np.asarray(given)], settings.parallel_frames
    for slot in range(given.shape[1], model.config.layout.frames, parallel_frames):
        if settings.growing_cache and slot > given.shape[1]:
            cache = grown(cache, slot + parallel_frames, model.config)
        cache, frames = write_frames(params, cache, np.int32(slot), rngs, labels, model=model, settings=settings)
        slots.append(np.asarray(frames))
        require_drawn(slots[-1], model.config.image_codes)
        on_call()
    return np.concatenate(slots, axis=1)


def lower_slots(
    params: PyTree,
    text: jax.ShapeDtypeStruct,
    text_mask: jax.ShapeDtypeStruct,
    given: jax.ShapeDtypeStruct,
    rngs: jax.ShapeDtypeStruct,
    labels: jax.ShapeDtypeStruct,
    *,
    model: Transformer,
    settings: DecodeSettings,
) -> list[jax.stages.Lowered]:
    """Lowered programs of `write_slots`, from shapes: `begin`, then `write_frames` for each cache size."""
    static, config = dict(model=model, settings=settings), model.config
    start = begin.lower(params, text, text_mask, given, **static)
    cache = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), start.out_info)
    programs, number = [start], jax.ShapeDtypeStruct((), jnp.int32)
    first, last = given.shape[1], config.layout.frames - settings.parallel_frames
    for slots in sorted({room(config, settings, slot) for slot in range(first, last + 1, settings.parallel_frames)}):
        cache = grown(cache, slots, config, jax.eval_shape)
        programs.append(write_frames.lower(params, cache, number, rngs, labels, **static))
    return programs


def room(config: TransformerConfig, settings: DecodeSettings, slot: int) -> int:
    """Slots in the temporal cache while the frames starting at `slot` are written."""
    return slot + settings.parallel_frames if settings.growing_cache else config.layout.frames


def _replaced(change: Callable[[Kept], Kept], kept: Kept) -> Kept:
    """Waits for each change, so that at most one layer is in memory twice."""
    changed = change(kept)
    for leaf in jax.tree.leaves(kept):
        leaf.delete()
    return changed


def grown(cache: Cache, slots: int, config: TransformerConfig, call: Callable = _replaced) -> Cache:
    """Enlarges the temporal cache to `slots` and consumes `cache`. `call` applies a function to a layer's cache."""
    grow = functools.partial(with_room, slots=slots, config=config, length=cache.text_mask.shape[1])
    layers = (layer.replace(temporal=layer.temporal and call(grow, layer.temporal)) for layer in cache.layers)
    return cache.replace(layers=tuple(layers))


def lag(config: TransformerConfig, parallel_frames: int) -> int:
    """Steps by which each parallel frame follows the one before it."""
    return 0 if parallel_frames == 1 else smallest_lag(config.layout.grid, config.window)


def default_parallel_frames(config: TransformerConfig) -> int:
    """Frames decoded in parallel by default: as many as the windows allow on accelerators, which are bound by weight
    bandwidth; one on CPU, which is bound by arithmetic.
    """
    return 1 if platform() == "cpu" else most_parallel_frames(config)


def most_parallel_frames(config: TransformerConfig) -> int:
    """Largest number of parallel frames: all that a stage writes if it has windows, else one."""
    layout = config.layout
    return 1 if config.window is None else layout.frames - layout.first_loss_slot


def _draw(rngs, logits, index, is_last, labels, settings: DecodeSettings) -> Int[Array, "B P"]:
    """Draws a token for every row and parallel frame."""
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(rngs, index)
    flat = keys.reshape(-1), constrain(logits.reshape(-1, logits.shape[-1]), "batch", None)
    drawn = sample(*flat, settings.strategy, labels, settings.clusters).reshape(keys.shape)
    if settings.last_token is not None:
        last = sample(*flat, settings.last_token, labels, settings.clusters).reshape(keys.shape)
        drawn = jnp.where(is_last, last, drawn)
    return constrain(drawn.astype(jnp.int32), "batch", None)


def _for_rows(x: Array, settings: DecodeSettings) -> Array:
    """Repeats every row, each beside its copy, if there is guidance."""
    return x if settings.guidance is None else jnp.repeat(x, 2, axis=0)


def _in_pairs(x: Array, settings: DecodeSettings) -> Array:
    """Interleaves the two halves of rows, so that each pair is on one device."""
    return x if settings.guidance is None else jnp.stack(jnp.split(x, 2), axis=1).reshape(x.shape)

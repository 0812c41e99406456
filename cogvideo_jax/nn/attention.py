"""Joint softmax attention over the text and the keys of a query's own group, and the kernels that compute it.

| kernel  | hardware   | masks                                                          | dropout |
|---------|------------|----------------------------------------------------------------|---------|
| PLAIN   | any        | data; keeps all scores for the backward pass                   | yes     |
| BLOCKED | any        | known when traced; keys that a block cannot see are left out   | yes     |
| SPLASH  | TPU        | known when compiled; fully masked blocks are not computed      | no      |
| CUDNN   | NVIDIA GPU | data, added to the scores; bfloat16 or float16 only            | no      |

Scores and softmax are float32 whatever the compute dtype. The released training code of 2022 divides the query by 16
and multiplies the scores again after subtracting their maximum ("PB-relax", to keep float16 in range). In exact
arithmetic that is an ordinary softmax; bfloat16 and float32 do not need it, so it is not repeated here.

SPLASH and CUDNN do not drop attention probabilities.  # Differs from the 2022 code: it does, in training
"""

import dataclasses
import functools
from enum import StrEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.nn import fused_attention
from cogvideo_jax.nn.blocked_attention import MASKED, blocked_attention
from cogvideo_jax.nn.dropout import Drops, dropped
from cogvideo_jax.notation import Array, Bool, Float, Int
from cogvideo_jax.runtime.mesh import constrain, parts_of


class Kernel(StrEnum):
    """Attention implementations."""

    PLAIN = "plain"
    BLOCKED = "blocked"
    SPLASH = "splash"
    INTERPRETED = "interpreted"  # SPLASH on a CPU, step by step: slow, for tests
    CUDNN = "cudnn"


FUSED = {
    Kernel.SPLASH: fused_attention.splash,
    Kernel.INTERPRETED: functools.partial(fused_attention.splash, interpret=True),
    Kernel.CUDNN: fused_attention.cudnn,
}

UNMASKED = {
    Kernel.BLOCKED: lambda *grouped: blocked_attention(*(x[:, None] for x in grouped))[:, 0],
    Kernel.SPLASH: fused_attention.splash_unmasked,
    Kernel.INTERPRETED: functools.partial(fused_attention.splash_unmasked, interpret=True),
    Kernel.CUDNN: fused_attention.cudnn_unmasked,
}


def kernel_for(name: str, *, platform: str, dtype: jnp.dtype, fused: bool = True) -> Kernel:
    """Kernel named in a config; "auto" is the fastest on the platform.

    Args:
      name: "auto" or a Kernel.
      platform: of the devices that run it: "cpu", "gpu" or "tpu".
      fused: False if "auto" must be none of the fused kernels, which know no tiles.

    Raises:
      UserError: unknown kernel, or one that the platform lacks.
    """
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    if name == "auto":
        fastest = {"tpu": Kernel.SPLASH, "gpu": Kernel.CUDNN if half else Kernel.BLOCKED} if fused else {}
        return fastest.get(platform, Kernel.BLOCKED)
    if name not in list(Kernel):
        raise UserError(f"attention must be auto, {', '.join(Kernel)}; got {name!r}")
    if name == Kernel.SPLASH and platform != "tpu":
        raise UserError(f"attention=splash needs a TPU; this is {platform}")
    if name == Kernel.CUDNN and (platform != "gpu" or not half):
        raise UserError(f"attention=cudnn needs an NVIDIA GPU and dtype bfloat16; this is {platform} and {dtype}")
    return Kernel(name)


class KeysValues(NamedTuple):
    """Keys and values of one channel."""

    k: Float[Array, "... A K"]
    v: Float[Array, "... A K"]


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Keys that all queries of a group share: a frame, a window, a tile.

    Attributes:
      keys: [B g M A K].
      masks: of every kind, True where a query sees a key of its group.
      kind: which of the masks holds; traced where layers of several kinds are one scanned body.
    """

    keys: KeysValues
    masks: Bool[np.ndarray, "kinds g Q M"]
    kind: int | Int[Array, ""] = 0


def attend(
    query: Float[Array, "B g Q A K"],
    *,
    text: KeysValues | None = None,
    text_mask: Bool[Array, "B S"] | None = None,
    text_log_weight: float | Float[Array, ""] | Float[Array, "B"] = 0.0,
    groups: Groups | None = None,
    drops: Drops | None = None,
    kernel: Kernel = Kernel.BLOCKED,
) -> Float[Array, "B g Q A K"]:
    """Joint softmax attention over the text, the keys of the group, or both.

    Args:
      query: queries in groups (frames, windows, tiles, or one group).
      text: keys and values of the text, [B S A K].
      text_mask: False on padding.
      text_log_weight: added to all text scores; a number, or one per row ("log text attention weight").
      drops: dropped probabilities; the fused kernels drop none.
      kernel: of attention to groups; the text alone is short, and takes the plain one.
    """
    if groups is not None and kernel in FUSED:
        return _fused(query, text, text_mask, groups, kernel)
    if 0 in query.shape:  # a prefix without frames
        return query
    bias = None if text is None else _text_bias(text_mask, text_log_weight)
    if groups is None or kernel == Kernel.PLAIN:
        return _plain(query, text, bias, groups, drops)
    return _blocked(query, text, bias, groups, drops)


def attend_all(
    query: Float[Array, "B L A K"], keys: KeysValues, *, kernel: Kernel = Kernel.BLOCKED
) -> Float[Array, "B L A K"]:
    """Softmax attention of every position to every other, without masks.

    Devices that share a sequence exchange it for heads while they attend (arXiv 2309.14509); where the heads cannot be
    shared equally, empty ones are added for that time.
    """
    heads = query.shape[2]
    missing = -heads % parts_of("attended_heads")
    query, key, value = (
        constrain(jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))), "batch", None, "attended_heads", None)
        for x in (query, *keys)
    )
    if kernel == Kernel.PLAIN:
        out = _plain(query[:, None], KeysValues(key, value), jnp.zeros(key.shape[:2]), None, None)[:, 0]
    else:
        out = fused_attention.unmasked(query, key, value, implementation=UNMASKED[kernel])
    return constrain(out, "batch", None, "attended_heads", None)[:, :, :heads]


def _text_bias(mask: Bool[Array, "B S"], log_weight: float | Array) -> Float[Array, "B S"]:
    """What is added to the scores of the text."""
    return jnp.where(mask, jnp.asarray(log_weight, jnp.float32).reshape(-1, 1), MASKED)


def _blocked(query, text: KeysValues | None, bias, groups: Groups, drops: Drops | None):
    keys, masks = groups.keys, groups.masks
    if text is None:
        bias = jnp.zeros((len(query), keys.k.shape[2]), jnp.float32)
    else:
        keys = KeysValues(*map(fused_attention.joined, text, keys))
        bias = jnp.pad(bias, ((0, 0), (0, groups.keys.k.shape[2])))
        masks = np.pad(masks, ((0, 0), (0, 0), (0, 0), (text.k.shape[1], 0)), constant_values=True)
    return blocked_attention(query, *keys, bias, masks=masks, kind=groups.kind, drops=drops)


def _fused(query, text: KeysValues, text_mask, groups: Groups, kernel: Kernel):
    how = dict(text_mask=text_mask, implementation=FUSED[kernel])
    kinds = [functools.partial(fused_attention.fused_attention, masks=masks, **how) for masks in groups.masks]
    return jax.lax.switch(groups.kind, kinds, query, text, groups.keys)


def _plain(query, text: KeysValues | None, bias, groups: Groups | None, drops: Drops | None):
    """All scores at once; its backward pass is JAX's."""
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    scores, values = [], []
    if text is not None:
        scores.append(_scores("bgqak,bsak->bgaqs", query, text.k) + bias[:, None, None, None])
        values.append(("bgaqs,bsak->bgqak", text.v))
    if groups is not None:
        mask = jnp.asarray(groups.masks)[groups.kind][:, None]
        scores.append(jnp.where(mask, _scores("bgqak,bgmak->bgaqm", query, groups.keys.k), MASKED))
        values.append(("bgaqm,bgmak->bgqak", groups.keys.v))
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
    if drops is not None:
        probabilities = dropped(probabilities, drops)
    parts = jnp.split(probabilities, np.cumsum([part.shape[-1] for part in scores[:-1]]), axis=-1)
    return sum(jnp.einsum(formula, part, value) for part, (formula, value) in zip(parts, values))


def _scores(formula: str, query: Array, keys: Array) -> Float[Array, "B g A Q M"]:
    return jnp.einsum(formula, query, keys, preferred_element_type=jnp.float32)

"""Attention in blocks of queries, with a backward pass of its own, on any hardware.

A block of queries is multiplied with the keys up to the last one that any of its queries may see, so a causal mask
costs about half, and the whole matrix of scores is never in memory. Without masks the keys go by in blocks too, with a
running maximum, so that a block of scores stays in a CPU's cache. The backward pass makes scores and dropout again
from the inputs and the logarithm of each row's sum (FlashAttention; Dao et al. 2022, arXiv 2205.14135).

Inside, arrays are [batch, group, head, query or key, head size], so that every product is a plain batched product of
matrices.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from cogvideo_jax.nn.dropout import Drops
from cogvideo_jax.notation import Array, Bool, Float, Int, UInt32

MASKED = -10_000.0  # masked scores, as in the 2022 code; finite, so that a row of pads stays finite
BLOCK = 256  # queries
UNMASKED_BLOCK = 2, 768, 1024  # heads, queries, keys, where every query sees every key; fastest of many on a CPU
ATTENDED = "attended"  # name of the output and of the sums, for nn.remat


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is known of one attention when it is traced.

    Attributes:
      queries, keys: their numbers.
      masks: of every kind, True where a query sees a key; None if every query sees every key.
      rate: of dropout; 0 for none.
    """

    queries: int
    keys: int
    masks: Bool[np.ndarray, "kinds g Q M"] | None
    rate: float

    @functools.cached_property
    def blocks(self) -> list[tuple[slice, slice]]:
        """Queries of each block, all as large as the others, and the keys up to the last that one of them sees."""
        blocks = _even_slices(self.queries, BLOCK)
        if self.masks is None:
            return [(block, slice(0, self.keys)) for block in blocks]
        seen = self.masks.any(axis=(0, 1))
        return [(block, slice(0, int(np.flatnonzero(seen[block].any(axis=0))[-1]) + 1)) for block in blocks]

    def visible(self, kind: int | Int[Array, ""], queries: slice, keys: slice) -> Bool[Array, "g 1 q m"] | None:
        """Mask of a block; None where everything is seen."""
        if self.masks is None:
            return None
        masks = self.masks[:, :, queries, keys]
        return None if masks.all() else jnp.asarray(masks)[kind][:, None]


def blocked_attention(
    query: Float[Array, "B g Q A K"],
    key: Float[Array, "B g M A K"],
    value: Float[Array, "B g M A K"],
    bias: Float[Array, "B M"] | None = None,
    *,
    masks: Bool[np.ndarray, "kinds g Q M"] | None = None,
    kind: int | Int[Array, ""] = 0,
    drops: Drops | None = None,
) -> Float[Array, "B g Q A K"]:
    """Softmax attention of every group to its own keys.

    Args:
      bias: added to the scores of a key in all rows.
      masks: one for every kind, True where a query sees a key; every query sees at least one. None: it sees all.
      kind: which of the masks holds; may be traced.
      drops: dropped probabilities, rows [B g A Q].
    """
    plan = Plan(query.shape[2], key.shape[2], masks, drops.rate if drops else 0.0)
    query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
    by_head = (x.swapaxes(2, 3) for x in (query, key, value))
    seed = drops.seed if drops else jnp.zeros(2, jnp.uint32)
    return _attend(plan, *by_head, bias, jnp.asarray(kind), seed).swapaxes(2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan, query, key, value, bias, kind, seed):
    return _forward(plan, query, key, value, bias, kind, seed)[0]


def _forward(plan, query, key, value, bias, kind, seed):
    """Output [B g A Q K], and what the backward pass reads."""
    if plan.masks is None and bias is None and not plan.rate:
        out, log_sum = (checkpoint_name(x, ATTENDED) for x in _unmasked(query, key, value))
        return out, (query, key, value, bias, kind, seed, out, log_sum)
    outs, log_sums = [], []
    for queries, keys in plan.blocks:
        scores = _scores(plan, query, key, bias, kind, queries, keys)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        weights = _drop(plan, weights, seed, query, queries)
        out = _product("bgaqm,bgamk->bgaqk", weights.astype(value.dtype), value[:, :, :, keys])
        outs.append((out / total).astype(query.dtype))
        log_sums.append(largest + jnp.log(total))
    out = checkpoint_name(jnp.concatenate(outs, axis=3), ATTENDED)
    log_sum = checkpoint_name(jnp.concatenate(log_sums, axis=3), ATTENDED)
    return out, (query, key, value, bias, kind, seed, out, log_sum)


def _unmasked(query, key, value):
    """Output [B g A Q K] and logarithms of the sums [B g A Q 1], where every query sees every key."""
    most_heads, most_queries, most_keys = UNMASKED_BLOCK
    *lead, queries, features = query.shape
    blocks = -(-queries // most_queries)
    size = -(-queries // blocks)
    padded = jnp.pad(query, ((0, 0),) * 3 + ((0, blocks * size - queries), (0, 0)))
    heads = next(heads for heads in range(most_heads, 0, -1) if math.prod(lead) % heads == 0)
    split = padded.reshape(-1, heads, blocks, size, features).swapaxes(1, 2)
    key, value = (x.reshape(-1, heads, *x.shape[3:]) for x in (key, value))

    def of_heads(part):
        queries, keys, values = part
        parts = [(keys[:, one], values[:, one]) for one in _even_slices(keys.shape[1], most_keys)]
        return jax.lax.map(functools.partial(_running_softmax, parts), queries)

    found = jax.lax.map(of_heads, (split, key, value))
    return tuple(x.swapaxes(1, 2).reshape(*padded.shape[:4], -1)[:, :, :, :queries] for x in found)


def _running_softmax(parts, query):
    """Output [h q K] and logarithms of the sums [h q 1] of a block of queries.

    Args:
      parts: blocks of keys and values [h m K].
    """
    out, total, largest = 0.0, 0.0, jnp.full((*query.shape[:-1], 1), -jnp.inf)
    for keys, values in parts:
        scores = _product("hqk,hmk->hqm", query, keys)
        before, largest = largest, jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
        weights, kept = jnp.exp(scores - largest), jnp.exp(before - largest)
        total = kept * total + weights.sum(axis=-1, keepdims=True)
        out = kept * out + _product("hqm,hmk->hqk", weights.astype(values.dtype), values)
    return (out / total).astype(query.dtype), largest + jnp.log(total)


def _even_slices(total: int, most: int) -> list[slice]:
    """Slices of at most so many, all as large as the others."""
    edges = np.linspace(0, total, -(-total // most) + 1).astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _backward(plan, kept, d_out):
    """Gradients towards query, key, value and bias."""
    query, key, value, bias, kind, seed, out, log_sum = kept
    mean = (d_out.astype(jnp.float32) * out).sum(axis=-1, keepdims=True)
    dtype, d_query = query.dtype, []
    d_key, d_value = (jnp.zeros(x.shape, jnp.float32) for x in (key, value))
    d_bias = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    for queries, keys in plan.blocks:
        d_block, values = d_out[:, :, :, queries], value[:, :, :, keys]
        scores = _scores(plan, query, key, bias, kind, queries, keys)
        weights = jnp.exp(scores - log_sum[:, :, :, queries])
        d_weights = _drop(plan, _product("bgaqk,bgamk->bgaqm", d_block, values), seed, query, queries)
        dropped = _drop(plan, weights, seed, query, queries)
        d_scores = weights * (d_weights - mean[:, :, :, queries])
        if d_bias is not None:
            d_bias = d_bias.at[:, keys].add(d_scores.sum(axis=(1, 2, 3)))
        d_scores, dropped = d_scores.astype(dtype), dropped.astype(dtype)
        d_value = d_value.at[:, :, :, keys].add(_product("bgaqm,bgaqk->bgamk", dropped, d_block))
        d_query.append(_product("bgaqm,bgamk->bgaqk", d_scores, key[:, :, :, keys]).astype(dtype))
        d_key = d_key.at[:, :, :, keys].add(_product("bgaqm,bgaqk->bgamk", d_scores, query[:, :, :, queries]))
    return jnp.concatenate(d_query, axis=3), d_key.astype(dtype), d_value.astype(dtype), d_bias, None, None


_attend.defvjp(_forward, _backward)


def _scores(plan, query, key, bias, kind, queries: slice, keys: slice) -> Float[Array, "B g A q m"]:
    """Float32 scores of a block."""
    scores = _product("bgaqk,bgamk->bgaqm", query[:, :, :, queries], key[:, :, :, keys])
    scores = scores if bias is None else scores + bias[:, None, None, None, keys]
    visible = plan.visible(kind, queries, keys)
    return scores if visible is None else jnp.where(visible, scores, MASKED)


def _drop(plan, weights: Float[Array, "B g A q m"], seed: UInt32[Array, "2"], query: Array, queries: slice) -> Array:
    """Weights of a block, partly dropped: the same in the forward and in the backward pass."""
    if not plan.rate:
        return weights
    drops = Drops(seed, plan.rate)
    rows = (words[:, :, :, queries] for words in drops.rows(query.shape[:-1]))
    return weights * drops.factors(tuple(rows), weights.shape[-1])


def _product(formula: str, x: Array, y: Array) -> Float[Array, "..."]:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)

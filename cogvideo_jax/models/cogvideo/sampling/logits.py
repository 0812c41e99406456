"""Guidance and cluster sampling of one token from logits ("CogLM strategy" of the 2022 code).

A cluster is a set of similar image codes. A cluster is drawn among the most likely ones at one temperature, then a code
inside it at that temperature times another. Models without cluster labels use one cluster per code.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Float, Int, Key
from cogvideo_jax.runtime.schemas import STRICT, Size

Temperature = Annotated[float, Field(gt=0, le=1000)]

MOST_PASSES = 16  # largest number of clusters that the release keeps
FORBIDDEN = -65_504.0  # masked logits, the lowest float16, as in the 2022 code


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Sampling strategy of a token.

    Attributes:
      temperature: temperature of the clusters.
      top_clusters: number of most likely clusters to keep.
      token_temperature: further factor for the codes inside the chosen cluster.
      greedy: take the most likely cluster and its most likely code.
    """

    __pydantic_config__ = STRICT

    temperature: Temperature
    top_clusters: Size
    token_temperature: Temperature = 0.89
    greedy: bool = False

    def __post_init__(self):
        if self.temperature <= 0 or self.token_temperature <= 0 or self.top_clusters < 1:
            raise UserError(f"temperatures must be positive and top_clusters at least 1, got {self}")


FIRST_FRAME = Strategy(temperature=1.0, top_clusters=16)
VIDEO = Strategy(temperature=1.05, top_clusters=12)


def guide(logits: Float[Array, "R ..."], scale: float) -> Float[Array, "R//2 ..."]:
    """Classifier-free guidance; the first row of each pair has the prompt, the second the guidance text."""
    conditional, unconditional = logits[::2], logits[1::2]
    return unconditional + scale * (conditional - unconditional)


def sample(
    rngs: Key[Array, "B"],
    logits: Float[Array, "B C"],
    strategy: Strategy,
    labels: Int[Array, "C"],
    clusters: int,
) -> Int[Array, "B"]:
    """Draws one code per row; a row's draw depends on its own key and logits only. A row with a NaN gets C.

    Args:
      labels: cluster of every code, 0..clusters-1.
    """
    keys = jax.vmap(lambda key: jax.random.split(key, 2))(rngs)
    scaled = logits.astype(jnp.float32) / strategy.temperature
    cluster = _draw(keys[:, 0], cluster_logits(scaled, strategy, labels, clusters), greedy=strategy.greedy)
    inside = jnp.where(labels[None] == cluster[:, None], scaled / strategy.token_temperature, FORBIDDEN)
    code = _draw(keys[:, 1], inside, greedy=strategy.greedy)
    return _or_none(code, scaled)


def require_drawn(ids: Int[Array, "*any"], codes: int) -> None:
    """Raises UserError if a token could not be drawn because its logits were no numbers; see `sample`."""
    if np.any(np.asarray(ids) >= codes):
        raise UserError(
            "the model computed NaN in place of a token: the weights are damaged, or their type is too small"
        )


def cluster_logits(
    scaled: Float[Array, "B C"], strategy: Strategy, labels: Int[Array, "C"], clusters: int
) -> Float[Array, "B clusters"]:
    """Log probability of every cluster, masked outside the top ones and not renormalised."""
    probabilities = jax.nn.softmax(scaled, axis=-1)
    totals = jax.ops.segment_sum(probabilities.T, labels, num_segments=clusters).T
    lowest_kept = kth_largest(totals, min(strategy.top_clusters, clusters))[:, None]
    return jnp.where(totals >= lowest_kept, jnp.log(totals), FORBIDDEN)  # ties with the smallest survive


def kth_largest(x: Float[Array, "B n"], k: int) -> Float[Array, "B"]:
    """k-th largest number of each row, counting duplicates. Takes a few passes, while `top_k` on a CPU sorts."""
    if k > MOST_PASSES:
        return jax.lax.top_k(x, k)[0][:, -1]
    found = x.max(axis=-1)
    for _ in range(k - 1):
        below = jnp.where(x < found[:, None], x, -jnp.inf).max(axis=-1)
        found = jnp.where((x >= found[:, None]).sum(axis=-1) < k, below, found)
    return found


def sample_top_k(
    rngs: Key[Array, "B"], logits: Float[Array, "B C"], *, top_k: Int[Array, ""], most: int, greedy: bool
) -> Int[Array, "B"]:
    """Draws one of each row's `top_k` most likely codes, from logits divided by the temperature.

    Args:
      top_k: may be traced, so that rounds with different numbers share one compiled body.
      most: upper limit of `top_k`.
      greedy: take the most likely code.

    A row with a NaN gets C.
    """
    kept = top_k_logits(logits.astype(jnp.float32), top_k=top_k, most=most)
    return _or_none(_draw(rngs, kept, greedy=greedy), logits)


def _or_none(codes: Int[Array, "B"], logits: Float[Array, "B C"]) -> Int[Array, "B"]:
    """The codes, and C in rows whose logits are no numbers: masks hide a NaN from what is drawn."""
    return jnp.where(jnp.isfinite(logits.max(axis=-1)), codes, logits.shape[1])


def top_k_logits(logits: Float[Array, "B C"], *, top_k: Int[Array, ""], most: int) -> Float[Array, "B C"]:
    """Masks all but the `top_k` largest logits of each row; ties with the smallest kept logit survive."""
    highest = jax.lax.top_k(logits, min(most, logits.shape[1]))[0]
    lowest_kept = jnp.take(highest, jnp.minimum(top_k, highest.shape[1]) - 1, axis=1)
    return jnp.where(logits >= lowest_kept[:, None], logits, FORBIDDEN)


def token_probabilities(
    logits: Float[Array, "B C"], strategy: Strategy, labels: Int[Array, "C"], clusters: int
) -> Float[Array, "B C"]:
    """Exact probabilities of `sample`."""
    scaled = logits.astype(jnp.float32) / strategy.temperature
    cluster = jax.nn.softmax(cluster_logits(scaled, strategy, labels, clusters), axis=-1)
    inside = jnp.exp(scaled / strategy.token_temperature - (scaled / strategy.token_temperature).max(1, keepdims=True))
    totals = jax.ops.segment_sum(inside.T, labels, num_segments=clusters).T
    return cluster[:, labels] * inside / totals[:, labels]


def _draw(keys: Key[Array, "B"], logits: Float[Array, "B n"], *, greedy: bool) -> Int[Array, "B"]:
    """Draws one index per row from the softmax of its logits, or takes the most likely."""
    if not greedy:
        logits += jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return first_of_largest(logits)


def first_of_largest(x: Float[Array, "B n"]) -> Int[Array, "B"]:
    """`argmax` of every row in two passes; with `jnp.argmax` a draw took twice as long on a CPU."""
    last = x.shape[-1] - 1
    return jnp.where(x == x.max(axis=-1, keepdims=True), jnp.arange(last + 1), last).min(axis=-1)

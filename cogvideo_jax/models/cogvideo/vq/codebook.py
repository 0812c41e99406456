"""Code book: nearest code, straight-through gradient, look-up, and learning by moving averages.

As in VQ-VAE (van den Oord 2017, appendix A.1) codes get no gradient: each follows the mean of the latents that chose
it. An unused code restarts at a latent of the batch that no code fits.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from cogvideo_jax.notation import Array, Float, Int

LATENTS_PER_CHUNK = 4096  # bounds the distance table to 4096 x C floats (330 MB at C = 20,000)
SMALLEST_COUNT = 1e-5  # codes used less than this do not move


@flax.struct.dataclass
class Codebook:
    """Code vectors and their running statistics; the released checkpoint stores the same three arrays.

    Attributes:
      vectors: the codes.
      cluster_size: running mean of the number of latents of a batch that chose each code.
      embed_avg: running mean of the sum of those latents.
    """

    vectors: Float[Array, "C E"]
    cluster_size: Float[Array, "C"]
    embed_avg: Float[Array, "C E"]


class Nearest(NamedTuple):
    """Result of a search."""

    ids: Int[Array, "*M"]
    squared_distance: Float[Array, "*M"]


def nearest(latents: Float[Array, "*M E"], vectors: Float[Array, "C E"]) -> Nearest:
    """Nearest code by squared Euclidean distance in float32; ties go to the first index."""
    flat = latents.reshape(-1, latents.shape[-1]).astype(jnp.float32)
    vectors = vectors.astype(jnp.float32)
    lengths = jnp.square(vectors).sum(axis=-1)

    def search(latent: Float[Array, "E"]) -> Nearest:
        products = jnp.matmul(vectors, latent, precision=jax.lax.Precision.HIGHEST)
        partial = lengths - 2.0 * products  # |c|^2 - 2 z.c orders the codes like |z - c|^2
        index = jnp.argmin(partial).astype(jnp.int32)
        return Nearest(index, jnp.maximum(partial[index] + jnp.square(latent).sum(), 0.0))

    found = jax.lax.map(search, flat, batch_size=min(LATENTS_PER_CHUNK, flat.shape[0]))
    return Nearest(*(x.reshape(latents.shape[:-1]) for x in found))


def nearest_code(latents: Float[Array, "*M E"], vectors: Float[Array, "C E"]) -> Int[Array, "*M"]:
    """Ids of the nearest codes, int32."""
    return nearest(latents, vectors).ids


def look_up(ids: Int[Array, "*M"], vectors: Float[Array, "C E"]) -> Float[Array, "*M E"]:
    """Code vectors of ids; callers must check the range."""
    return jnp.take(vectors, ids, axis=0)


def straight_through(latents: Float[Array, "*M E"], quantised: Float[Array, "*M E"]) -> Float[Array, "*M E"]:
    """The value of `quantised` with the gradient of `latents`."""
    return latents + jax.lax.stop_gradient(quantised - latents)


def init_from_latents(latents: Float[Array, "M E"], rng: Array, *, size: int) -> Codebook:
    """Initialises codes at latents, drawn with probability proportional to the squared distance to earlier ones.

    This is the seeding of k-means++ (Arthur 2007): the background, however frequent, is drawn once, because its
    distance is zero afterwards. If there are fewer distinct latents than codes, the spare codes get a count of 0 and
    restart with the first batch that has more.
    """
    first_rng, rng = jax.random.split(rng)
    first = latents[jax.random.randint(first_rng, (), 0, latents.shape[0])]

    def choose(distance, step_rng):
        drawn = jax.random.categorical(step_rng, jnp.log(distance + 1e-12))
        vector = latents[drawn]
        return jnp.minimum(distance, jnp.square(latents - vector).sum(axis=-1)), vector

    distance = jnp.square(latents - first).sum(axis=-1)
    _, others = jax.lax.scan(choose, distance, jax.random.split(rng, size - 1))
    vectors = jnp.concatenate([first[None], others])
    ids = nearest_code(latents, vectors)
    used = jnp.zeros(size).at[ids].set(1.0)
    return Codebook(vectors, used, vectors * used[:, None])


def ema_update(
    codebook: Codebook, latents: Float[Array, "M E"], ids: Int[Array, "M"], *, decay: float
) -> tuple[Codebook, Float[Array, "C"]]:
    """Moves every code towards the mean of the latents that chose it; also returns their number for each code."""
    size = codebook.vectors.shape[0]
    counts = jax.ops.segment_sum(jnp.ones(ids.shape, jnp.float32), ids, size)
    sums = jax.ops.segment_sum(latents.astype(jnp.float32), ids, size)
    cluster_size = decay * codebook.cluster_size + (1.0 - decay) * counts
    embed_avg = decay * codebook.embed_avg + (1.0 - decay) * sums
    mean = embed_avg / jnp.maximum(cluster_size, SMALLEST_COUNT)[:, None]
    vectors = jnp.where(cluster_size[:, None] > SMALLEST_COUNT, mean, codebook.vectors)
    return Codebook(vectors, cluster_size, embed_avg), counts


def restart_dead_codes(
    codebook: Codebook,
    latents: Float[Array, "M E"],
    squared_distance: Float[Array, "M"],
    rng: Array,
    *,
    below: float,
) -> tuple[Codebook, Int[Array, ""]]:
    """Restarts codes with `cluster_size < below` at latents of the batch; also returns their number.

    Latents are drawn without replacement, with probability proportional to their squared distance to a code. Latents
    much closer than the average, such as the background, are already well described and are not drawn; a dead code for
    which no latent is left waits for the next batch. A restarted code starts with a count of 1, so it has
    log(1 / below) / log(1 / decay) batches to gain users.
    """
    dead = codebook.cluster_size < below
    ill_fitted = squared_distance > 0.5 * squared_distance.mean()
    noise = jax.random.gumbel(rng, squared_distance.shape)
    scores = jnp.where(ill_fitted, jnp.log(squared_distance) + noise, -jnp.inf)
    order = jnp.argsort(-scores)
    rank = jnp.cumsum(dead) - 1
    moved = dead & (rank < ill_fitted.sum())
    candidates = latents[order[jnp.clip(rank, 0, latents.shape[0] - 1)]].astype(jnp.float32)
    vectors = jnp.where(moved[:, None], candidates, codebook.vectors)
    cluster_size = jnp.where(moved, 1.0, codebook.cluster_size)
    embed_avg = jnp.where(moved[:, None], candidates, codebook.embed_avg)
    return Codebook(vectors, cluster_size, embed_avg), moved.sum()

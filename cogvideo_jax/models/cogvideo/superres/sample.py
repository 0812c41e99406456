"""Sampling of fine tokens: direct passes on a LoPAR schedule, and rounds of iterative refinement (CogView2, 3.3).

LoPAR ("local parallel auto-regressive") draws distant tokens in parallel and neighbours one after another. Both
functions take any number of rows; every row has its own key, and a token depends on its row's key and inputs only.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy, require_drawn, sample, sample_top_k
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone
from cogvideo_jax.notation import Array, Bool, Float, Int, Key, PyTree
from cogvideo_jax.runtime.batching import in_chunks
from cogvideo_jax.runtime.schemas import STRICT, PositiveFloat, Size

DIRECT = Strategy(temperature=1.0, top_clusters=6, token_temperature=0.6)  # of the release
AT_ONCE = dict(warmup=1, block=(1, 0))  # all fine tokens in one pass, as in the released pipeline
TOP_K = (40, 40, 40, 20, 20, 10)  # of the release's six rounds

# Round r masks and redraws tokens where the pattern is at least r; the pattern tiles the picture (2022 code).
PATTERN = np.array(
    [
        [-1, 0, 1, 2, 3, 4],
        [0, -1, 2, -1, -2, 5],
        [1, -2, 3, 4, 5, 6],
        [2, 3, 4, 5, -1, 1],
        [3, -1, -2, 0, -1, 2],
        [4, 5, 6, 1, 3, -2],
    ]
)

Draw = Callable[[Key[Array, "R"], Float[Array, "R C"]], Int[Array, "R"]]


@dataclasses.dataclass(frozen=True)
class DirectSettings:
    """Sampling settings of the direct model. The release uses `warmup=1, block=(1, 0)`, everything in one pass.

    Attributes:
      strategy: sampling strategy of a token.
      clusters: number of clusters in `labels`.
      warmup: number of first steps, each of which draws all tokens.
      block: rows and columns of the blocks whose diagonals follow, one per step; (1, 0) for none.
    """

    strategy: Strategy
    clusters: int
    warmup: int
    block: tuple[int, int]

    def __post_init__(self):
        if self.warmup < 0 or min(self.block) < 0 or (self.warmup == 0 and min(self.block) == 0):
            raise UserError(f"a schedule needs warm-up steps or a block, got {self.warmup} and {self.block}")


@dataclasses.dataclass(frozen=True)
class RefineSettings:
    """Sampling settings of the iterative model.

    Attributes:
      temperature: temperature of the tokens.
      top_k: codes kept in each round; its length is the number of rounds.
      greedy: take the most likely code.
    """

    __pydantic_config__ = STRICT

    temperature: PositiveFloat
    top_k: Annotated[tuple[Size, ...], Field(min_length=1)]
    greedy: bool = False

    def __post_init__(self):
        if self.temperature <= 0 or not 1 <= len(self.top_k) <= PATTERN.max() or min(self.top_k) < 1:
            raise UserError(f"temperature and top_k must be positive, with 1 to {PATTERN.max()} rounds; got {self}")


# Schedules --------------------------------------------------------------------------------------------


def schedule(grid: int, *, warmup: int, block: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """Last step, counted from 1, that draws each token: diagonals of every block after the warm-up.

    A grid of 4 with blocks of 2 rows x 3 columns, no warm-up and one step of it:

        1 2 3 1     2 3 4 2
        2 3 4 2     3 4 5 3
        1 2 3 1     2 3 4 2
        2 3 4 2     3 4 5 3
    """
    if min(block) == 0:
        return np.full((grid, grid), warmup)
    line = np.arange(grid)
    return warmup + 1 + line[:, None] % block[0] + line[None, :] % block[1]


def drawn_at_step(grid: int, *, warmup: int, block: tuple[int, int]) -> Bool[np.ndarray, "steps N"]:
    """Mask of the tokens that each step draws: all in the warm-up, then one diagonal of each block."""
    last = schedule(grid, warmup=warmup, block=block).reshape(-1)
    steps = np.arange(1, last.max() + 1)[:, None]
    return (steps <= warmup) | (steps == last)


def drawn_in_round(grid: int, *, rounds: int) -> Bool[np.ndarray, "rounds N"]:
    """Mask of the tokens that each refinement round redraws, a subset of those of the round before."""
    copies = -(-grid // len(PATTERN))
    pattern = np.tile(PATTERN, (copies, copies))[:grid, :grid].reshape(-1)
    return pattern >= np.arange(1, rounds + 1)[:, None]


# Drawing -------------------------------------------------------------------------------------------


def superres_direct(
    params: PyTree,
    text: Int[Array, "B S"],
    text_mask: Bool[Array, "B S"],
    coarse: Int[Array, "B n"],
    rngs: Key[Array, "B"],
    labels: Int[Array, "C"],
    *,
    model: DirectSuperResolution,
    settings: DirectSettings,
    rows_per_call: int,
    on_call: Callable[[], Any] = lambda: None,
) -> Int[Array, "B N"]:
    """Fine ids of pictures, from their coarse ids.

    Args:
      text: left-padded ids of each picture's prompt.
      rngs: one key per row.
      labels: cluster of every image code.
      rows_per_call: pictures in one call.
      on_call: called after each call.
    """
    call = functools.partial(direct_program, params, labels, model=model, settings=settings)
    fine = in_chunks(call, (text, text_mask, coarse, rngs), rows=rows_per_call, on_call=on_call)
    require_drawn(fine, model.config.image_codes)
    return fine


def superres_iterative(
    params: PyTree,
    text: Int[Array, "B S"],
    text_mask: Bool[Array, "B S"],
    fine: Int[Array, "B N"],
    rngs: Key[Array, "B"],
    *,
    model: IterativeSuperResolution,
    settings: RefineSettings,
    rows_per_call: int,
    on_call: Callable[[], Any] = lambda: None,
) -> Int[Array, "B N"]:
    """Fine ids after all refinement rounds; arguments as in `superres_direct`, whose result is `fine`."""

    def last_round(*part):
        return refinement_rounds(params, *part, model=model, settings=settings)[-1]

    fine = in_chunks(last_round, (text, text_mask, fine, rngs), rows=rows_per_call, on_call=on_call)
    require_drawn(fine, model.config.image_codes)
    return fine


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def direct_program(params, labels, text, text_mask, coarse, rngs, *, model, settings) -> Int[Array, "B N"]:
    """Program of one call of `superres_direct`."""
    config = model.config
    writes = drawn_at_step(config.fine_grid, warmup=settings.warmup, block=settings.block)

    def draw(keys, logits):
        return sample(keys, logits, settings.strategy, labels, settings.clusters)

    def step(fine, item):
        number, written = item
        hidden = model.apply({"params": params}, text, text_mask, coarse, fine)
        drawn = _draw_everywhere(params, hidden, _fold(rngs, number), draw, model=model)
        return jnp.where(written, drawn, fine), None

    start = jnp.full((coarse.shape[0], config.fine_tokens), config.boi, jnp.int32)
    return jax.lax.scan(step, start, (jnp.arange(len(writes)), jnp.asarray(writes)))[0]


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def refinement_rounds(
    params: PyTree,
    text: Int[Array, "B S"],
    text_mask: Bool[Array, "B S"],
    fine: Int[Array, "B N"],
    rngs: Key[Array, "B"],
    *,
    model: IterativeSuperResolution,
    settings: RefineSettings,
) -> Int[Array, "rounds B N"]:
    """Picture after each round."""
    config, rounds = model.config, len(settings.top_k)

    def one_round(fine, item):
        number, masked, top_k = item
        hidden = model.apply({"params": params}, text, text_mask, jnp.where(masked, config.boi, fine))

        def draw(keys, logits):
            scaled = logits / settings.temperature
            return sample_top_k(keys, scaled, top_k=top_k, most=max(settings.top_k), greedy=settings.greedy)

        drawn = _draw_everywhere(params, hidden, _fold(rngs, number), draw, model=model)
        fine = jnp.where(masked, drawn, fine)
        return fine, fine

    masks = jnp.asarray(drawn_in_round(config.fine_grid, rounds=rounds))
    items = (jnp.arange(rounds), masks, jnp.asarray(settings.top_k))
    return jax.lax.scan(one_round, fine.astype(jnp.int32), items)[1]


def _draw_everywhere(
    params: PyTree, hidden: Float[Array, "B L D"], rngs: Key[Array, "B"], draw: Draw, *, model: Backbone
) -> Int[Array, "B N"]:
    """Draws all fine tokens, one grid row at a time, because logits of all would be N x C numbers per picture."""
    batch, grid = hidden.shape[0], model.config.fine_grid
    by_row = hidden[:, -grid * grid :].reshape(batch, grid, grid, -1).swapaxes(0, 1)
    places = jnp.arange(grid * grid).reshape(grid, grid)

    def one_row(item):
        row, place = item
        logits = model.apply({"params": params}, row, method=Backbone.image_logits)
        keys = jax.vmap(_fold, in_axes=(None, 0), out_axes=1)(rngs, place)  # [B w]
        return draw(keys.reshape(-1), logits.reshape(batch * grid, -1)).reshape(batch, grid)

    drawn = jax.lax.map(one_row, (by_row, places))  # [h B w]
    return drawn.swapaxes(0, 1).reshape(batch, grid * grid).astype(jnp.int32)


def _fold(rngs: Key[Array, "B"], number: Int[Array, ""]) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, number)

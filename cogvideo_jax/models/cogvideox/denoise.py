"""The denoising loop: one compiled program, of which every call runs as many steps as the caller wants.

    noise -> [model -> guidance -> sampler] x steps -> latents

The state stays in float32 from step to step.  # Differs from diffusers: it is rounded to the type of the prompt there
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from cogvideo_jax.diffusion.guidance import guide
from cogvideo_jax.diffusion.samplers import StepTable, next_sample
from cogvideo_jax.models.cogvideox.transformer import Positions, Transformer
from cogvideo_jax.notation import Array, Float, Int, Key, PyTree
from cogvideo_jax.runtime.compiling import least_memory


@flax.struct.dataclass
class Asked:
    """What the loop is conditioned on.

    Attributes:
      text: T5 states of the prompts; with guidance, of what is to be avoided before them, R = 2B.
      image: latents behind the noisy ones on channels; None for models that read none.
      ofs: see `Transformer.__call__`.
      positions: of the latents' grid.
    """

    text: Float[Array, "R S E"]
    image: Float[Array, "B F h w C"] | None
    ofs: Float[Array, ""] | None
    positions: Positions


@flax.struct.dataclass
class State:
    """Between two steps.

    Attributes:
      latents: noisy latents.
      clean: what the step before predicted; zeros before the first.
    """

    latents: Float[Array, "B F h w C"]
    clean: Float[Array, "B F h w C"]


def normal_of_step(keys: Key[Array, "B"], step: Int[Array, ""], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Noise that depends on a video's key and on the step only."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)


@least_memory(static_argnames=("model", "rows", "draw"), donate_argnames="state")
def denoise(
    params: PyTree,
    state: State,
    asked: Asked,
    table: StepTable,
    scales: Float[Array, "n"],
    randomness: PyTree,
    first: Int[Array, ""],
    more: Int[Array, ""],
    *,
    model: Transformer,
    rows: int,
    draw: Callable[..., Float[Array, "B ..."]] | None = normal_of_step,
) -> State:
    """Runs step `first` and as many `more`.

    Args:
      table: of the sampler.
      scales: of guidance, one a step.
      randomness: what `draw` draws from: one key a video.
      rows: rows that go through the model together; all by default, or half of them for guidance in two passes.
      draw: (randomness, step, shape) -> noise; None for samplers that add none.
    """

    def one_step(step: Int[Array, ""], state: State) -> State:
        row = jax.tree.map(lambda column: column[step], table)
        velocity = _velocity(params, state.latents, asked, row.timestep, scales[step], model=model, rows=rows)
        shape = state.latents.shape[1:]
        noise = 0.0 if draw is None else draw(randomness, step, shape)
        return State(*next_sample(row, state.latents, velocity, before=state.clean, noise=noise))

    return jax.lax.fori_loop(first, first + more + 1, one_step, state)


def _velocity(params, latents, asked: Asked, timestep, scale, *, model: Transformer, rows: int):
    """Guided velocity [B F h w C]."""
    batch = len(latents)
    guided = len(asked.text) == 2 * batch
    x = latents if asked.image is None else jnp.concatenate([latents, asked.image], axis=-1)
    x = jnp.concatenate([x, x]) if guided else x

    def run(x: Float[Array, "R F h w C"], text: Float[Array, "R S E"]) -> Float[Array, "R F h w c"]:
        times = jnp.broadcast_to(timestep.astype(jnp.float32), len(x))
        options: dict[str, Any] = {} if asked.ofs is None else {"ofs": jnp.broadcast_to(asked.ofs, len(x))}
        return model.apply({"params": params}, x, text, times, asked.positions, **options)

    velocity = in_passes(run, x, asked.text, rows=rows)
    return guide(velocity[:batch], velocity[batch:], scale) if guided else velocity


def in_passes(run: Callable[..., Array], *arrays: Array, rows: int) -> Float[Array, "R ..."]:
    """`run` on so many rows at a time, one pass after another in one program."""
    count = len(arrays[0])
    if rows >= count:
        return run(*arrays)
    parts = tuple(x.reshape(count // rows, rows, *x.shape[1:]) for x in arrays)
    out = jax.lax.map(lambda part: run(*part), parts)
    return out.reshape(count, *out.shape[2:])

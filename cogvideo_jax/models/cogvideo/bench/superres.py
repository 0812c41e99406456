"""Speed of direct super-resolution, with all fine tokens of a frame in one pass, as in the pipeline."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.bench.machine import Machine, best_seconds
from cogvideo_jax.models.cogvideo.bench.sizes import CLUSTERS, abstract_params, random_like
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution
from cogvideo_jax.models.cogvideo.superres.sample import AT_ONCE, DIRECT, DirectSettings, direct_program
from cogvideo_jax.models.cogvideo.training.flops import superres_flops
from cogvideo_jax.runtime.memory import Phase, require, tree_bytes, working_bytes
from cogvideo_jax.runtime.rng import row_keys


class SuperresTiming(NamedTuple):
    """Result for one setting.

    Attributes:
      batch: frames in one call.
      ms: milliseconds per frame.
      flops: operations per frame, counted from the sizes.
      share: reached share of the machine's matrix rate.
      bytes: memory for the weights and the program.
    """

    batch: int
    ms: float
    flops: float
    share: float
    bytes: int
    compile_seconds: float


def measure_superres(
    config: SuperResolutionConfig, *, machine: Machine, dtype: str, batch: int, trace: str | None = None
) -> SuperresTiming:
    """Times super-resolution of placeholder frames by random weights."""
    model = DirectSuperResolution(config, dtype=dtype, unrolled=True)
    params = abstract_params(model, jnp.dtype(dtype))
    settings = DirectSettings(DIRECT, CLUSTERS, **AT_ONCE)
    text, coarse = (jnp.zeros((batch, n), jnp.int32) for n in (config.text_length, config.coarse.grid**2))
    arguments = text, text == 0, coarse, row_keys(jax.random.key(0), batch)
    labels = jnp.arange(config.image_codes) % CLUSTERS
    begun = time.perf_counter()
    program = direct_program.lower(params, labels, *arguments, model=model, settings=settings).compile()
    compiled, weights = time.perf_counter() - begun, tree_bytes(params)
    working = working_bytes(program, weights)
    require([Phase("super-resolution", weights, working, advice="use a smaller --batch, --size or --dtype")])
    params = random_like(params)
    seconds = best_seconds(lambda: program(params, labels, *arguments), trace=trace) / batch
    flops = superres_flops(config, all_trained=False).forward
    share = flops / seconds / machine.flops
    return SuperresTiming(batch, 1e3 * seconds, flops, share, weights + working, compiled)


def cells(row: SuperresTiming) -> dict[str, str]:
    """Values as text, by column."""
    return {
        "batch": f"{row.batch}",
        "ms a frame": f"{row.ms:.1f}",
        "GFLOP": f"{row.flops / 1e9:.1f}",
        "of matrices": f"{row.share:.0%}",
        "GiB": f"{row.bytes / 2**30:.2f}",
        "compile s": f"{row.compile_seconds:.1f}",
    }

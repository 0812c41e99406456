"""Speed of writing tokens: milliseconds per step, compared with reading its bytes at this machine's bandwidth.

Weights are random, so nothing is downloaded. A step reads all matrices once, whatever the batch, and the caches of
every row.
"""

import functools
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.bench.machine import Machine, profile
from cogvideo_jax.models.cogvideo.bench.sizes import CLUSTERS, abstract_params, random_like
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, grown, lag, lower_slots, most_parallel_frames
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy
from cogvideo_jax.models.cogvideo.transformer.cache import Cache
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, image_head
from cogvideo_jax.notation import Array, PyTree
from cogvideo_jax.runtime.memory import Phase, compile_all, require, tree_bytes, working_bytes
from cogvideo_jax.runtime.rng import row_keys


class Decoded(NamedTuple):
    """Result for one setting.

    Attributes:
      batch: clips in parallel.
      guided: each clip has a second row, for guidance.
      parallel_frames: frames of a clip written in parallel.
      ms: milliseconds per step.
      bytes: bytes that a step reads, counted from shapes.
      share: reached share of the machine's copy bandwidth, if reading these bytes were all.
      share_of_reads: the same for the read bandwidth.
      tokens_a_second: tokens per second over all clips.
      steps: steps that write all frames of the stage.
      seconds: seconds for all steps.
    """

    batch: int
    guided: bool
    parallel_frames: int
    ms: float
    bytes: int
    share: float
    share_of_reads: float
    tokens_a_second: float
    steps: int
    seconds: float
    compile_seconds: float


def measure_decode(
    config: TransformerConfig,
    *,
    machine: Machine,
    dtype,
    batch: int,
    guided: bool,
    wavefront: bool = True,
    int8: Collection[str] = (),
    growing_cache: bool = False,
    trace: str | None = None,
) -> Decoded:
    """Times the writing of the frames after the given ones: all of them with a growing cache, else the first.

    Args:
      wavefront: write as many frames in parallel as the windows allow; otherwise one.
      int8: parts to store as int8, of "weights" and "cache".
      growing_cache: see `DecodeSettings`.
      trace: folder for a profile.
    """
    model, layout = Transformer(config, dtype=dtype, unrolled=True), config.layout
    parallel_frames, given_frames = most_parallel_frames(config) if wavefront else 1, max(1, layout.first_loss_slot)
    text = jnp.full((batch * (1 + guided), layout.text_length), config.image_codes, jnp.int32)
    given = jnp.zeros((batch, given_frames, layout.frame_tokens), jnp.int32)
    how = dict(parallel_frames=parallel_frames, int8_cache="cache" in int8, growing_cache=growing_cache)
    settings = DecodeSettings(Strategy(1.0, 12), CLUSTERS, 3.0 if guided else None, 0.0, **how)
    labels, keys = jnp.arange(config.image_codes) % CLUSTERS, row_keys(jax.random.key(0), batch)
    begun = time.perf_counter()
    params = abstract_params(model, dtype, int8="weights" in int8)
    start, *writes = compile_all(
        lower_slots(params, text, text >= 0, given, keys, labels, model=model, settings=settings)
    )
    compiled = time.perf_counter() - begun
    weights = tree_bytes(params)
    needed = max(working_bytes(program, weights) for program in (start, *writes))
    require([Phase("writing tokens", weights, needed, advice="use a smaller --batch, --size or --dtype")])

    params = random_like(params)
    cache, sizes, seconds = start(params, text, text >= 0, given), [], []
    for slot, write in zip(range(given_frames, layout.frames, parallel_frames), writes):
        cache = grown(cache, slot + parallel_frames, config) if sizes else cache
        sizes.append(step_bytes(params, config) + read_bytes(cache))
        cache, shortest = _best_of_two(
            lambda cache, write=write, slot=slot: write(params, cache, np.int32(slot), keys, labels), cache, trace
        )
        seconds.append(shortest)
    frame, size = sum(seconds) / len(seconds), sum(sizes) // len(sizes)
    frame_steps = layout.frame_tokens + (parallel_frames - 1) * lag(config, parallel_frames)
    speed, groups = size * frame_steps / frame, (layout.frames - given_frames) // parallel_frames
    return Decoded(
        batch,
        guided,
        parallel_frames,
        ms=1e3 * frame / frame_steps,
        bytes=size,
        share=speed / machine.bandwidth,
        share_of_reads=speed / machine.reads,
        tokens_a_second=batch * parallel_frames * layout.frame_tokens / frame,
        steps=frame_steps * groups,
        seconds=frame * groups,
        compile_seconds=compiled,
    )


def _best_of_two(run: Callable[..., tuple[Cache, Array]], cache: Cache, trace: str | None) -> tuple[Cache, float]:
    """Cache after two calls, which consume it, and the seconds of the faster one; profiles the second."""
    times = []
    for folder in (None, trace):  # the first may still allocate memory
        with profile(folder):
            begun = time.perf_counter()
            cache, _ = jax.block_until_ready(run(cache))
            times.append(time.perf_counter() - begun)
    return cache, min(times)


def step_bytes(params: PyTree, config: TransformerConfig) -> int:
    """Bytes of parameters that a step reads: the layers, the final norm, and the head's rows of image codes."""
    tables = ("token_table", "position_table", "extra_positions", "image_head", "image_head_scale")
    layers = {name: leaf for name, leaf in params.items() if name not in tables}
    return tree_bytes((layers, jax.eval_shape(functools.partial(image_head, config=config), params)))


def read_bytes(cache: Cache) -> int:
    """Bytes of caches that a step reads: its own frames, and one window per frame of the temporal channel."""
    size = 0
    for layer in cache.layers:
        size += tree_bytes(layer.spatial)
        if layer.temporal is not None:
            windows = layer.temporal.k.shape[0] if layer.temporal.k.ndim == 4 else 1
            size += tree_bytes(layer.temporal) * (len(layer.spatial) if windows > 1 else 1) // windows
    return size


def cells(row: Decoded) -> dict[str, str]:
    """Values as text, by column."""
    return {
        "batch": f"{row.batch}",
        "guided": "yes" if row.guided else "no",
        "parallel": f"{row.parallel_frames}",
        "ms a step": f"{row.ms:.2f}",
        "MB a step": f"{row.bytes / 1e6:.1f}",
        "bandwidth": f"{row.share:.0%}",
        "of reads": f"{row.share_of_reads:.0%}",
        "tokens/s": f"{row.tokens_a_second:.1f}",
        "steps": f"{row.steps}",
        "s a stage": f"{row.seconds:.1f}",
        "compile s": f"{row.compile_seconds:.1f}",
    }

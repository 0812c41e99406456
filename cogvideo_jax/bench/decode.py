"""How fast tokens are written: milliseconds a step, against the time that its bytes take at this machine's bandwidth.

Random weights of any size: nothing needs to be downloaded. A step reads all matrices once, whatever the batch, and the
caches of every row.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.bench.sizes import abstract_params, random_like
from cogvideo_jax.model.config import TransformerConfig
from cogvideo_jax.model.transformer import Transformer
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.memory import Phase, compile_all, require, tree_bytes, working_bytes
from cogvideo_jax.sampling.decode import DecodeSettings, begin, write_frame
from cogvideo_jax.sampling.keyframes import row_keys
from cogvideo_jax.sampling.logits import Strategy

CLUSTERS = 500
COLUMNS = ("ms a step", "MB a step", "bandwidth", "tokens/s", "compile s")


class Decoded(NamedTuple):
    """One measured setting.

    Attributes:
      batch: clips side by side.
      guided: whether each has a second row, for guidance.
      ms: milliseconds a step.
      bytes: that a step reads, by count.
      share: of the machine's bandwidth, were that all it does.
      tokens_a_second: over all clips.
    """

    batch: int
    guided: bool
    ms: float
    bytes: int
    share: float
    tokens_a_second: float
    compile_seconds: float


def measure_decode(config: TransformerConfig, machine: Machine, *, dtype, batch: int, guided: bool) -> Decoded:
    """Writes the first frame behind those that are given."""
    model = Transformer(config, dtype=dtype)
    layout, params = config.layout, abstract_params(model, dtype)
    given_frames = max(1, layout.context_slots)
    rows = batch * (1 + guided)
    text = jnp.full((rows, layout.text_length), config.image_codes, jnp.int32)
    given = jnp.zeros((batch, given_frames, layout.frame_tokens), jnp.int32)
    settings = DecodeSettings(Strategy(1.0, 12), CLUSTERS, 3.0 if guided else None, 0.0)
    labels = jnp.arange(config.image_codes) % CLUSTERS
    fixed = dict(model=model, settings=settings)
    slot, keys = jnp.int32(given_frames), row_keys(jax.random.key(0), batch)
    begun = time.perf_counter()
    start = begin.lower(params, text, text >= 0, given, **fixed)
    write = write_frame.lower(params, start.out_info, slot, keys, labels, **fixed)
    start, write = compile_all([start, write])
    compiled, weights = time.perf_counter() - begun, tree_bytes(params)
    working = max(working_bytes(program, weights) for program in (start, write))
    require([Phase("writing tokens", weights, working, advice="use a smaller --batch, --size or --dtype")])

    params = random_like(params)
    cache = start(params, text, text >= 0, given)
    size = step_bytes(params, config) + sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    times = []
    for _ in range(2):  # the first may still wait for memory
        begun = time.perf_counter()
        cache, _ = jax.block_until_ready(write(params, cache, slot, keys, labels))
        times.append(time.perf_counter() - begun)
    seconds = min(times) / layout.frame_tokens
    return Decoded(batch, guided, 1e3 * seconds, size, size / seconds / machine.bandwidth, batch / seconds, compiled)


def step_bytes(params: PyTree, config: TransformerConfig) -> int:
    """Of parameters that a step reads: the layers, the final norm, and the head's rows of image codes."""
    head = params["token_table"][:1].nbytes * config.image_codes
    return head + sum(leaf.nbytes for leaf in jax.tree.leaves((params["layers"], params["norm_final"])))


def table(rows: list[Decoded], machine: Machine) -> str:
    """As text."""
    lines = [
        machine.describe(),
        f"{'batch':>6}{'guided':>8}" + "".join(f"{name:>11}" for name in COLUMNS),
    ]
    for row in rows:
        numbers = f"{row.ms:11.2f}{row.bytes / 1e6:11.1f}{row.share:11.0%}{row.tokens_a_second:11.1f}"
        lines.append(f"{row.batch:6}{'yes' if row.guided else 'no':>8}{numbers}{row.compile_seconds:11.1f}")
    return "\n".join(lines)

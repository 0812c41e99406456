"""Speed of the image tokenizer, encoding and decoding."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.bench.machine import Machine, best_seconds
from cogvideo_jax.models.cogvideo.bench.sizes import random_tokenizer
from cogvideo_jax.models.cogvideo.vq.config import VQConfig


class Tokenized(NamedTuple):
    """Result for one setting.

    Attributes:
      what: encode or decode.
      batch: frames in one call.
      side: side of the frames in pixels.
      ms: milliseconds per frame.
      flops: operations per frame, counted by the compiler; 0 if it does not count.
      share: reached share of the machine's matrix rate.
    """

    what: str
    batch: int
    side: int
    ms: float
    flops: float
    share: float
    compile_seconds: float


def measure_tokenizer(
    config: VQConfig, *, machine: Machine, what: str, batch: int, side: int, trace: str | None = None
) -> Tokenized:
    """Times the encoding or decoding of random frames by a random tokenizer."""
    tokenizer = random_tokenizer(config)
    frames = jnp.zeros((batch, side, side, 3), jnp.uint8)
    ids = jnp.zeros((batch, tokenizer.tokens_per_frame(side)), jnp.int32)
    begun = time.perf_counter()
    program = tokenizer.lower_encode(batch, side) if what == "encode" else tokenizer.lower_decode(*ids.shape)
    flops = operations(program.compile()) / batch
    compiled = time.perf_counter() - begun
    run = (lambda: tokenizer.encode(frames)) if what == "encode" else (lambda: tokenizer.decode_float(ids))
    seconds = best_seconds(run, trace=trace) / batch
    return Tokenized(what, batch, side, 1e3 * seconds, flops, flops / seconds / machine.flops, compiled)


def operations(program: jax.stages.Compiled) -> float:
    """Operations of a program, counted by the compiler."""
    return (program.cost_analysis() or {}).get("flops", 0.0)


def cells(row: Tokenized) -> dict[str, str]:
    """Values as text, by column."""
    return {
        "what": row.what,
        "batch": f"{row.batch}",
        "pixels": f"{row.side}",
        "ms a frame": f"{row.ms:.2f}",
        "GFLOP": f"{row.flops / 1e9:.2f}",
        "of matrices": f"{row.share:.0%}",
        "compile s": f"{row.compile_seconds:.1f}",
    }

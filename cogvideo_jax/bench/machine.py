"""Best speed of this machine, measured in the same run as the parts that are compared with it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.notation import Array

TRIES = 20
COPY_BYTES = {"cpu": 2**28}  # far more than any processor cache
MATRIX_SIDE = {"cpu": 1536}
ELSEWHERE_BYTES, ELSEWHERE_SIDE = 2**31, 8192


class Machine(NamedTuple):
    """Measured speed of a machine.

    Attributes:
      device: its name.
      bandwidth: bytes per second of a copy, counting reads and writes.
      reads: bytes per second of a sum, which only reads.
      flops: operations per second of a matrix product.
    """

    device: str
    bandwidth: float
    reads: float
    flops: float

    def describe(self) -> str:
        """One line of text."""
        speeds = f"copies {self.bandwidth / 1e9:.1f} GB/s, reads {self.reads / 1e9:.1f} GB/s"
        return f"{self.device}: {speeds}, multiplies {self.flops / 1e9:.0f} GFLOP/s"


def measure(dtype: jnp.dtype) -> Machine:
    """Best of many runs on one device."""
    [device] = jax.devices()[:1]
    size = COPY_BYTES.get(device.platform, ELSEWHERE_BYTES)
    side = MATRIX_SIDE.get(device.platform, ELSEWHERE_SIDE)
    numbers, matrix = jnp.zeros(size // jnp.dtype(dtype).itemsize, dtype), jnp.zeros((side, side), dtype)
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place, without allocating memory

    def copy() -> Array:
        nonlocal numbers
        numbers = add_one(numbers)
        return numbers

    bandwidth = 2 * size / best_seconds(copy, repeats=TRIES)
    reads = size / best_seconds(lambda: jnp.sum(numbers), repeats=TRIES)
    flops = 2 * side**3 / best_seconds(lambda: matrix @ matrix, repeats=TRIES)
    return Machine(device.device_kind, bandwidth, reads, flops)


def peak_bytes() -> int:
    """Peak device memory of this process; 0 if the device does not report it."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def profile(folder: str | None) -> contextlib.AbstractContextManager:
    """Profiles the body to a folder for TensorBoard and Perfetto; does nothing without a folder."""
    return jax.profiler.trace(folder) if folder else contextlib.nullcontext()


def best_seconds(run: Callable[[], Any], *, repeats: int = 3, trace: str | None = None) -> float:
    """Seconds of the fastest call after a warm-up; profiles the last one."""
    jax.block_until_ready(run())
    times = []
    for repeat in range(repeats):
        with profile(trace if repeat == repeats - 1 else None):
            begun = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - begun)
    return min(times)

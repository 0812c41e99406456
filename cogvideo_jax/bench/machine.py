"""What this machine can do at best, measured in the same run as what is compared with it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.notation import Array

TRIES = 20
COPY_BYTES = {"cpu": 2**28}  # far more than any cache holds
MATRIX_SIDE = {"cpu": 1536}
ELSEWHERE_BYTES, ELSEWHERE_SIDE = 2**31, 8192


class Machine(NamedTuple):
    """Attributes:
    device: its name.
    bandwidth: bytes a second of a copy, read and written ones together.
    reads: bytes a second of a sum, which writes nothing.
    flops: operations a second of a matrix product.
    """

    device: str
    bandwidth: float
    reads: float
    flops: float

    def describe(self) -> str:
        """As text."""
        speeds = f"copies {self.bandwidth / 1e9:.1f} GB/s, reads {self.reads / 1e9:.1f} GB/s"
        return f"{self.device}: {speeds}, multiplies {self.flops / 1e9:.0f} GFLOP/s"


def measure(dtype: jnp.dtype) -> Machine:
    """The best of many tries, on one device."""
    [device] = jax.devices()[:1]
    size = COPY_BYTES.get(device.platform, ELSEWHERE_BYTES)
    side = MATRIX_SIDE.get(device.platform, ELSEWHERE_SIDE)
    numbers, matrix = jnp.zeros(size // jnp.dtype(dtype).itemsize, dtype), jnp.zeros((side, side), dtype)
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: fresh memory would have to be found first

    def copy() -> Array:
        nonlocal numbers
        numbers = add_one(numbers)
        return numbers

    bandwidth = 2 * size / best_seconds(copy, repeats=TRIES)
    reads = size / best_seconds(lambda: jnp.sum(numbers), repeats=TRIES)
    flops = 2 * side**3 / best_seconds(lambda: matrix @ matrix, repeats=TRIES)
    return Machine(device.device_kind, bandwidth, reads, flops)


def peak_bytes() -> int:
    """Of device memory at the fullest moment of this process; 0 where the device does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def profile(folder: str | None) -> contextlib.AbstractContextManager:
    """Writes what runs inside to a folder that TensorBoard and Perfetto show; nothing without a folder."""
    return jax.profiler.trace(folder) if folder else contextlib.nullcontext()


def best_seconds(run: Callable[[], Any], *, repeats: int = 3, trace: str | None = None) -> float:
    """The shortest call after one that warms up; a profile of the last."""
    jax.block_until_ready(run())
    times = []
    for repeat in range(repeats):
        with profile(trace if repeat == repeats - 1 else None):
            begun = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - begun)
    return min(times)

"""What this machine can do at best, measured in the same run as what is compared with it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

REPEATS = 5
COPY_BYTES = {"cpu": 2**28}  # far more than any cache holds
MATRIX_SIDE = {"cpu": 1536}
ELSEWHERE_BYTES, ELSEWHERE_SIDE = 2**31, 8192


class Machine(NamedTuple):
    """Attributes:
    device: its name.
    bandwidth: bytes a second of a copy, read and written ones together.
    flops: operations a second of a matrix product.
    """

    device: str
    bandwidth: float
    flops: float

    def describe(self) -> str:
        """As text."""
        return f"{self.device}: copies {self.bandwidth / 1e9:.1f} GB/s, multiplies {self.flops / 1e9:.0f} GFLOP/s"


def measure(dtype: jnp.dtype) -> Machine:
    """Best of REPEATS, on one device."""
    [device] = jax.devices()[:1]
    size = COPY_BYTES.get(device.platform, ELSEWHERE_BYTES) // jnp.dtype(dtype).itemsize
    side = MATRIX_SIDE.get(device.platform, ELSEWHERE_SIDE)
    numbers, square = jnp.ones(size, dtype), jnp.ones((side, side), dtype)
    copy, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    return Machine(
        device.device_kind,
        2 * numbers.nbytes / best_seconds(lambda: copy(numbers)),
        2 * side**3 / best_seconds(lambda: product(square)),
    )


def peak_bytes() -> int:
    """Of device memory at the fullest moment of this process; 0 where the device does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def best_seconds(run: Callable, *, repeats: int = REPEATS) -> float:
    """Shortest time of a call after the first, which compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
    return min(times)

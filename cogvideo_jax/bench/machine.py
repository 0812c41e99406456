"""What this machine can do at best, measured in the same run as what is compared with it."""

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogvideo_jax.notation import Array

REPEATS = 20
COPY_BYTES = {"cpu": 2**28}  # far more than any cache holds
MATRIX_SIDE = {"cpu": 1536}
ELSEWHERE_BYTES, ELSEWHERE_SIDE = 2**31, 8192


class Machine(NamedTuple):
    """Attributes:
    device: its name.
    bandwidth: bytes a second of a copy, read and written ones together.
    reads: bytes a second of a sum. Cores that wait for memory reach less than with a copy, a GPU as much.
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
    """Best of REPEATS, on one device."""
    [device] = jax.devices()[:1]
    size = COPY_BYTES.get(device.platform, ELSEWHERE_BYTES)
    side = MATRIX_SIDE.get(device.platform, ELSEWHERE_SIDE)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: fresh memory would have to be found first
    product = jax.jit(lambda x: x @ x)
    numbers = jnp.zeros(size // jnp.dtype(dtype).itemsize, dtype)
    reads = size / _best_seconds(lambda _: jnp.sum(numbers), numbers)
    return Machine(
        device.device_kind,
        2 * size / _best_seconds(copy, numbers),
        reads,
        2 * side**3 / _best_seconds(product, jnp.zeros((side, side), dtype)),
    )


def peak_bytes() -> int:
    """Of device memory at the fullest moment of this process; 0 where the device does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def profile(folder: str | None) -> contextlib.AbstractContextManager:
    """Writes what runs inside to a folder that TensorBoard and Perfetto show; nothing without a folder."""
    return jax.profiler.trace(folder) if folder else contextlib.nullcontext()


def _best_seconds(run: Callable[[Array], Array], x: Array) -> float:
    """Shortest time of a call on the result of the call before; the first compiles and does not count."""
    x, times = jax.block_until_ready(run(x)), []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        x = jax.block_until_ready(run(x))
        times.append(time.perf_counter() - begun)
    return min(times)

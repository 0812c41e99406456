"""Compiling for least memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from cogvideo_jax.runtime.mesh import platform

# XLA's usual scheduler for CPUs starts all that is ready, among it the copies of all bfloat16 weights in float32.
LEAST_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class LeastMemory:
    """`jax.jit` of a function, scheduled for least memory on a CPU, as programs for other devices always are.

    Nothing asks for a device before the first call.
    """

    def __init__(self, function: Callable[..., Any], **how: Any):
        self._function, self._how = function, how
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _compiled(self) -> Any:
        options = LEAST_MEMORY if platform() == "cpu" else None
        return jax.jit(self._function, compiler_options=options, **self._how)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._compiled(*arguments, **named)

    def lower(self, *arguments: Any, **named: Any) -> jax.stages.Lowered:
        """As of `jax.jit`."""
        return self._compiled.lower(*arguments, **named)


def least_memory(**how: Any) -> Callable[[Callable[..., Any]], LeastMemory]:
    """Decorator: `LeastMemory` with these arguments of `jax.jit`."""
    return functools.partial(LeastMemory, **how)

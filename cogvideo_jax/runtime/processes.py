"""Several processes that train as one, on many hosts or on one machine; the scripts in launch/ start them."""

import contextlib
import os
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from cogvideo_jax.errors import UserError

HEARTBEAT_SECONDS = 20  # a process that is silent for this long counts as dead, and the others stop
JOIN_SECONDS = 300  # time for all hosts to join
ABORTED = 134  # exit status of SIGABRT in a shell, after which launch/restart.sh restarts
LEAVE_SECONDS = 60  # time for all to finish


def join() -> None:
    """Joins the other processes. Call it before anything touches a device.

    JAX recognises TPU pods, Slurm and Kubernetes. Elsewhere set JAX_COORDINATOR_ADDRESS (host:port of the first
    process), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UserError: neither applies, or the others do not join.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        numbers = {key: os.environ.get(f"JAX_{key.upper()}") for key in ("num_processes", "process_id")}
        jax.distributed.initialize(
            **{key: int(value) for key, value in numbers.items() if value is not None},
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            initialization_timeout=JOIN_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
        # On CPUs the first collective waits only half a minute for other processes, less than compiling may take.
        multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--distributed: the other processes were not found; start it with a script of launch/, or set "
            f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID ({error})"
        ) from error


@contextlib.contextmanager
def aborting() -> Iterator[None]:
    """Aborts this process when its devices or its peers fail, as processes that lose a peer do.

    Otherwise it would wait for the others to leave, while they wait for it in the middle of a step.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        traceback.print_exc()
        os._exit(ABORTED)


def is_first() -> bool:
    """True in the process that writes files of which there is one for all."""
    return jax.process_index() == 0

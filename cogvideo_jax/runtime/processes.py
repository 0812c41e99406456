"""Several processes that train as one: one on every host, or several on one machine. launch/ starts them."""

import contextlib
import os
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from cogvideo_jax.errors import UserError

HEARTBEAT_SECONDS = 20  # a process that is silent for so long is dead, and the others stop
JOIN_SECONDS = 300  # until all hosts must be there
ABORTED = 134  # what a shell sees of SIGABRT; launch/restart.sh starts again
LEAVE_SECONDS = 60  # until all must have come to the end


def join() -> None:
    """Joins the other processes; to be called before anything touches a device.

    A TPU pod, Slurm and Kubernetes tell JAX who they are. Elsewhere the environment does: JAX_COORDINATOR_ADDRESS
    (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UserError: one sentence, if neither does, or the others do not come.
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
        # On CPUs a process that comes to the first collective waits half a minute only, less than compiling may take.
        multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--distributed: the other processes were not found; run it by a script of launch/, or set "
            f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID ({error})"
        ) from error


@contextlib.contextmanager
def aborting() -> Iterator[None]:
    """Ends this process at once, as those that lose a peer end, when its devices or its peers fail.

    Else it would wait for the others to leave, while they wait for it in the middle of a step.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        traceback.print_exc()
        os._exit(ABORTED)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0

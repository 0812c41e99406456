"""A process of several that fails must not keep the others waiting."""

import subprocess
import sys

FAILING = """
import jax
from cogvideo_jax.runtime.processes import aborting
with aborting():
    raise jax.errors.JaxRuntimeError("a peer is gone")
"""


def test_a_failure_of_devices_or_peers_ends_the_process_at_once():
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True)
    assert done.returncode == 134 and "a peer is gone" in done.stderr

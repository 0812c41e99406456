"""The real step, compiled for TPUs that are not there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.runtime.topology import needed_bytes, open_topology
from cogvideo_jax.training.compile_report import estimate_step
from cogvideo_jax.training.config_files import read_config

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS_OF = {"cogvideo": TASKS}.get
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu exists for Linux on x86_64"
)


COMPILE = f"""
import json
from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.training.compile_report import describe, estimate_step
from cogvideo_jax.training.config_files import read_config
config, task = read_config({str(CONFIGS / "demo_stage1.py")!r}, ["--config.mesh.fsdp=2"], {{"cogvideo": TASKS}}.get)
found = estimate_step(config, task, "v5e:2x2")
gathers = found.collectives["all-gather"].count
print(json.dumps([found.fits, found.mesh, found.arguments, gathers, config.model.layers, found.mfu, describe(found)]))
"""


@needs_libtpu
@pytest.mark.slow
def test_the_demo_is_compiled_for_four_chips():
    """In a process of its own: libtpu does not know the flags of CPUs, and JAX's profiler crashes beside it."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, check=True, capture_output=True, text=True)
    fits, mesh, arguments, gathers, layers, mfu, said = json.loads(done.stdout.splitlines()[-1])
    assert fits and mesh == {"data": 2, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert arguments > 0 and gathers >= layers
    assert 0 < mfu[0] <= mfu[1] <= 1
    assert "v5e:2x2" in said and "prediction" in said


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "two*v5e:2x2", "v5e:"])
def test_a_topology_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=r"should look like v5e:16x16 or 2\*v5e:16x16"):
        open_topology(name)


def test_the_tokenizer_is_planned_without_a_topology():
    with pytest.raises(ValueError, match="plan it without"):
        estimate_step(*read_config(CONFIGS / "demo_tokenizer.py", [], TASKS_OF), "v5e:2x2")


def test_what_does_not_fit_is_read_from_the_message():
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    assert needed_bytes(said) == int(20.5 * 2**30)
    assert needed_bytes("another error") is None

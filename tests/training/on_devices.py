"""Trains for some steps on every mesh that it is given; run in a process of its own, which has eight devices.

python -m tests.training.on_devices CONFIGS.json    (a list of configs; what they did comes out as JSON)
"""

import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cogvideo_jax.runtime import mesh as meshes
from tests.devices import environment
from tests.training.run import build


class Compiled(logging.Handler):
    """Counts how often the step is compiled."""

    count = 0

    def emit(self, record):
        self.count += "Compiling jit(train_step)" in record.getMessage()


def run_all(configs: Sequence[ConfigDict], folder: Path) -> list[dict]:
    """Results of `run` for each config, whose meshes have eight devices at most.

    Args:
      folder: for the file of the configs.
    """
    path = folder / "configs.json"
    path.write_text(json.dumps([config.to_dict() for config in configs]))
    command = [sys.executable, "-m", "tests.training.on_devices", str(path)]
    done = subprocess.run(command, env=environment(8), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(config: ConfigDict) -> dict:
    """Losses of the steps, compilations, and for every parameter what of it a device holds."""
    compiled = Compiled()
    logging.getLogger("jax").addHandler(compiled)
    axes = config.mesh.to_dict()
    mesh = meshes.make_mesh(axes, jax.devices()[: math.prod(axes.values())])
    with jax.set_mesh(mesh), jax.log_compiles():
        task = build(config, mesh)
        state, frozen, batches = task.first_state(), task.frozen(), task.batches()
        losses = []
        for step in range(config.steps):
            batch = meshes.put_batch(next(batches), mesh)
            state, scalars = task.step(state, frozen, batch, jax.random.fold_in(jax.random.key(0), step))
            losses.append(float(scalars["loss"]))
    logging.getLogger("jax").removeHandler(compiled)
    leaves = jax.tree_util.tree_leaves_with_path((frozen, task.trained(state)))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    parts = {name: leaf.size // leaf.addressable_shards[0].data.size for name, leaf in named.items()}
    return {"losses": losses, "compilations": compiled.count, "parts": parts}


if __name__ == "__main__":
    configs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(ConfigDict(config)) for config in configs]))

"""Runs tasks of configs that a test has changed, as the command does after it has read a file."""

import functools
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.runtime.mesh import make_mesh
from cogvideo_jax.training import config_files, loop
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.task import Task


def typed(config: ConfigDict) -> TrainConfig:
    """The config after its checks."""
    return config_files.typed(config, lambda family: TASKS, where="config").config


def build(config: ConfigDict, mesh: Mesh | None = None) -> Task:
    """Its task, by default on the config's mesh of all devices."""
    return _build(typed(config), mesh or make_mesh(config.mesh.to_dict()))


def train(config: ConfigDict, workdir: Path, **how: Any) -> Path:
    """Path of the trained weights; `how` as in `loop.train`."""
    TASKS[config.part].check(typed(config))
    return loop.train(typed(config), workdir, _build, **how)


@functools.cache
def _build(config: TrainConfig, mesh: Mesh) -> Task:
    """Runs of equal configs share what they trace and compile."""
    return TASKS[config.part].build(config, mesh)

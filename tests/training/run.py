"""Runs tasks of configs that a test has changed, as the command does after it has read a file."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.runtime.mesh import make_mesh
from cogvideo_jax.training import config_files, loop
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.task import Task


def typed(config: ConfigDict) -> TrainConfig:
    """The config after its checks."""
    return config_files.typed(config, lambda family: TASKS, where="config").config


def build(config: ConfigDict) -> Task:
    """Its task on the config's mesh."""
    return TASKS[config.part].build(typed(config), make_mesh(config.mesh.to_dict()))


def train(config: ConfigDict, workdir: Path, **how: Any) -> Path:
    """Path of the trained weights; `how` as in `loop.train`."""
    return loop.train(typed(config), workdir, TASKS[config.part].build, **how)

"""`cogvideo train`: trains one part of a family."""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError

if TYPE_CHECKING:
    from cogvideo_jax.training.task import TaskType


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo train`."""
    parser.description = "Any key of the config: --config.KEY=VALUE"
    parser.add_argument("--config", required=True, help="a file of configs/")
    parser.add_argument("--workdir", help="checkpoints, metrics and weights go here")
    parser.add_argument("--check", action="store_true", help="only check the config and the files that it names")
    parser.add_argument("--profile", metavar="START:STOP", help="write a profile of these steps to WORKDIR/profile")
    parser.add_argument("--distributed", action="store_true", help="as one of the processes that launch/ starts")
    parser.set_defaults(run=run)


def run(options: Namespace, overrides: list[str]) -> int:
    """Trains until the last step or until it is stopped."""
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.runtime.processes import aborting, join
    from cogvideo_jax.training import loop
    from cogvideo_jax.training.config_files import read_config
    from cogvideo_jax.training.profile import read_profiled

    config, task = read_config(options.config, overrides, tasks_of)
    if options.check:
        task.check(config)
        print(f"{options.config} is valid, and the files that it names fit")
        return 0
    if options.workdir is None:
        raise UserError("say where checkpoints and weights go: --workdir FOLDER")
    profiled = None if options.profile is None else read_profiled(options.profile)
    if options.distributed:
        join()
    try:
        with aborting() if options.distributed else contextlib.nullcontext():
            task.check(config)  # it uses devices, which exist after joining only
            weights = loop.train(config, options.workdir, task.build, profiled=profiled)
    except loop.Interrupted as stop:
        print(f"cogvideo train: {stop}", file=sys.stderr)
        return 130
    print(weights)
    return 0


def tasks_of(family: str) -> "Mapping[str, TaskType]":
    """Tasks of a family by name. Raises UserError for an unknown family."""
    from cogvideo_jax.models import registry

    return registry.family(family).tasks()

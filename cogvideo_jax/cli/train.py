"""`cogvideo train`: trains one part of a family."""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from cogvideo_jax.cli import options as shared


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo train`."""
    parser.description = "Any key of the config: --config.KEY=VALUE"
    parser.add_argument("--config", required=True, help="a file of configs/")
    parser.add_argument("--workdir", required=True, help="checkpoints, metrics and weights go here")
    parser.add_argument("--distributed", action="store_true", help="as one of the processes that launch/ starts")
    parser.set_defaults(run=run)


def run(options: Namespace, overrides: list[str]) -> int:
    """Trains until the last step or until it is stopped."""
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.runtime.processes import aborting, join
    from cogvideo_jax.training import loop
    from cogvideo_jax.training.config_files import load_config

    config = load_config(options.config, overrides)
    if options.distributed:
        join()
    try:
        with aborting() if options.distributed else contextlib.nullcontext():
            weights = loop.train(config, options.workdir)
    except loop.Interrupted as stop:
        print(f"cogvideo train: {stop}", file=sys.stderr)
        return 130
    print(weights)
    return 0

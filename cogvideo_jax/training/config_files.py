"""A config file plus overrides on the command line -> a locked ConfigDict."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags


def load_config(path: str | Path, overrides: Sequence[str]) -> ConfigDict:
    """Runs the file's `get_config` and applies `--config.key=value` arguments.

    Raises:
      ValueError: no such file, no `get_config` in it, an unknown key or a value of the wrong type.
    """
    if not Path(path).is_file():
        raise ValueError(f"config file {path} does not exist; see configs/")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        rest = values(["cogvideo", f"--config={path}", *overrides])
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if len(rest) > 1:
        raise ValueError(f"unknown argument {rest[1]}; overrides look like --config.steps=100")
    return values.config

"""A config file plus overrides on the command line -> a locked ConfigDict."""

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict


def load_config(path: str | Path, overrides: Sequence[str]) -> ConfigDict:
    """Runs the file's `get_config` and applies `--config.key=value` arguments.

    Raises:
      ValueError: no such file, no `get_config` in it, an unknown key or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist; see configs/")
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise ValueError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config().lock()
    except (SyntaxError, AttributeError, ImportError) as error:
        raise ValueError(f"config file {path} cannot be used: {error}") from error
    for override in overrides:
        _apply(config, override)
    return config


def _apply(config: ConfigDict, override: str) -> None:
    match = re.fullmatch(r"--config\.([\w.]+)=(.*)", override, flags=re.DOTALL)
    if match is None:
        raise ValueError(f"unknown argument {override}; overrides look like --config.steps=100")
    key, text = match.groups()
    try:
        old = _get(config, key)
        config.update_from_flattened_dict({key: text if isinstance(old, str) else _literal(text)})
    except (KeyError, AttributeError) as error:
        raise ValueError(f"the config has no key {key}") from error
    except TypeError as error:
        raise ValueError(f"{key} is {old!r} in the config; {text!r} is of another type") from error


def _get(config: ConfigDict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

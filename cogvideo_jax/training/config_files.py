"""Config file plus overrides on the command line -> checked, frozen config."""

import ast
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import check, shown
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.task import TaskType

TasksOf = Callable[[str], Mapping[str, TaskType]]  # family -> its tasks by name


class Training(NamedTuple):
    """A checked config, and the kind of task that it describes."""

    config: TrainConfig
    task: TaskType


def read_config(path: str | Path, overrides: Sequence[str], tasks_of: TasksOf) -> Training:
    """Loads a config file, applies overrides, and checks the result by the schema of its task.

    Args:
      tasks_of: tasks of a family, as the registry of models knows them.

    Raises:
      UserError: one sentence with file, key, what came and what is allowed.
    """
    return typed(load_config(path, overrides), tasks_of, where=str(path))


def typed(config: ConfigDict, tasks_of: TasksOf, *, where: str) -> Training:
    """Checks a config by the schema of the task that its `family` and `part` name. Raises UserError."""
    family = _named(config, "family", where)
    try:
        tasks = tasks_of(family)
    except UserError as error:
        raise UserError(f"{where}: family is {shown(family)}; {error}") from error
    part = _named(config, "part", where)
    if part not in tasks:
        raise UserError(f"{where}: part is {shown(part)}; it should be one of {', '.join(tasks)}")
    return Training(check(config.to_dict(), tasks[part].schema, where=where), tasks[part])


def load_config(path: str | Path, overrides: Sequence[str]) -> ConfigDict:
    """Runs the file's `get_config` and applies `--config.key=value` arguments; values are not checked yet.

    Raises:
      UserError: no such file, no `get_config` in it, or an override of a key that it does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"config file {path} does not exist; see configs/")
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise UserError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # the file is the user's own program, whatever it raises
        raise UserError(f"config file {path} cannot be used: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {path} returns {type(config).__name__}; it should return a ConfigDict")
    for override in overrides:
        _apply(config, override, path)
    return config.lock()


def _apply(config: ConfigDict, override: str, path: Path) -> None:
    match = re.fullmatch(r"--config\.([\w.]+)=(.*)", override, flags=re.DOTALL)
    if match is None:
        raise UserError(f"unknown argument {override}; overrides look like --config.steps=100")
    key, text = match.groups()
    *sections, name = key.split(".")
    section: Any = config
    for one in sections:
        section = section.get(one) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or name not in section:
        raise UserError(f"{path} has no key {key}, which {shown(override)} sets")
    with section.ignore_type():  # the schema checks the type, and says it better
        section[name] = text if isinstance(section[name], str) else _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: brackets nested too deep
        return text


def _named(config: ConfigDict, key: str, where: str) -> str:
    value = config.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where} lacks the key {key}" if value is None else f"{where}: {key} should be a name")
    return value

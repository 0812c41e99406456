"""WORKDIR/config.json: the settings of a run, which a later start must agree with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import write_text
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.schemas import read_json, shown
from cogvideo_jax.training.config import TrainConfig

FILE = "config.json"


def agree(config: TrainConfig, workdir: Path) -> None:
    """Writes the settings, after making sure that checkpoints in the folder were made with the same.

    Settings that change neither the model nor the data, `config.changeable`, may differ. Folders from before there was
    such a file are taken as they are.

    Raises:
      UserError: names the first setting that differs, with its old and its new value.
    """
    path = workdir / FILE
    if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        _compare(read_json(path, type(config)), config, path)
    if is_first():
        write_text(path, json.dumps(dataclasses.asdict(config), ensure_ascii=False, indent=1), replace=True)


def _compare(old: TrainConfig, new: TrainConfig, path: Path) -> None:
    before, now = _flat(old), _flat(new)
    for key in before | now:
        if before.get(key) == now.get(key):
            continue
        if not any(key == one or key.startswith(f"{one}.") for one in new.changeable):
            raise UserError(
                f"the checkpoints beside {path} were made with {key}={shown(before.get(key))}, now it is "
                f"{shown(now.get(key))}: change it back, or choose another --workdir"
            )
        logging.info("%s is %s now; it was %s", key, now.get(key), before.get(key))


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Settings by dotted names."""
    flat: dict[str, Any] = {}

    def add(values: dict, prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    add(dataclasses.asdict(config), "")
    flat["validation.share"] = config.validation.held_out  # what matters: it is 0 where validation is off
    return flat

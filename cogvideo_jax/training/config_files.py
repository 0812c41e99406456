"""A config file plus overrides on the command line -> a locked ConfigDict."""

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cogvideo_jax.errors import UserError

_SETTINGS = ["part", "seed", "steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"]
_SECTIONS = {
    "mesh": "data fsdp tensor",
    "optimizer": "learning_rate warmup_steps final_fraction b1 b2 eps weight_decay clip_norm muon",
}
_TOKENIZER = {
    "vq": "commitment ema_decay restart_below foreground_weight background window scales",
    "data": "name size data_dir train_clips test_clips frames_per_clip",
}
_TRANSFORMER = {"data": "cache text_model"}
_STARTS = {
    "base": [],
    "stage1": ["base", "added"],
    "stage2": ["base", "added"],
    "superres": ["base", "train_inherited"],
    "itersr": ["base", "train_inherited"],
}
_EXAMPLE = {
    "base": {
        "example": "first_frame_suffix first_frame_probability moment_probability moments_a_second rates text_dropout"
    },
    "stage1": {"example": "rates text_dropout"},
    "stage2": {"example": "rates tiled text_dropout"},
    "superres": {"example": "mask_ratios"},
    "itersr": {"example": "mask_ratios"},
}


def check_keys(config: ConfigDict) -> None:
    """Every key that a run reads stands in the config, and no other; those of `model` are checked where it is built.

    Raises:
      UserError: names the unknown and the missing keys.
    """
    part = config.get("part")
    if part == "tokenizer":
        plain, sections = _SETTINGS, _SECTIONS | _TOKENIZER
    elif part in _EXAMPLE:
        plain = [*_SETTINGS, "dtype", "remat", "microbatches", "attention", *_STARTS[part]]
        sections = _SECTIONS | _TRANSFORMER | _EXAMPLE[part]
    else:
        raise UserError(f"part must be tokenizer, {', '.join(_EXAMPLE)}; got {part!r}")
    expected = set(plain) | {f"{name}.{key}" for name, keys in sections.items() for key in keys.split()}
    found = {name for name, value in config.items() if not isinstance(value, ConfigDict)}
    found |= {
        f"{name}.{key}"
        for name, section in config.items()
        if isinstance(section, ConfigDict) and name != "model"
        for key in section
    }
    if found != expected or "model" not in config:
        unknown, missing = sorted(found - expected), sorted(expected - found)
        raise UserError(f"config of part {part}: unknown keys {unknown}, missing keys {missing}")


def load_config(path: str | Path, overrides: Sequence[str]) -> ConfigDict:
    """Runs the file's `get_config` and applies `--config.key=value` arguments.

    Raises:
      UserError: no such file, no `get_config` in it, an unknown key or a value of the wrong type.
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
        config = module.get_config().lock()
    except (SyntaxError, AttributeError, ImportError) as error:
        raise UserError(f"config file {path} cannot be used: {error}") from error
    for override in overrides:
        _apply(config, override)
    return config


def _apply(config: ConfigDict, override: str) -> None:
    match = re.fullmatch(r"--config\.([\w.]+)=(.*)", override, flags=re.DOTALL)
    if match is None:
        raise UserError(f"unknown argument {override}; overrides look like --config.steps=100")
    key, text = match.groups()
    try:
        old = _get(config, key)
        config.update_from_flattened_dict({key: text if isinstance(old, str) else _literal(text)})
    except (KeyError, AttributeError) as error:
        raise UserError(f"the config has no key {key}") from error
    except TypeError as error:
        raise UserError(f"{key} is {old!r} in the config; {text!r} is of another type") from error


def _get(config: ConfigDict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

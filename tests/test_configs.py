"""Every config file loads, and its model has shapes."""

import re
import shlex
from pathlib import Path

import jax
import pytest

from cogvideo_jax.models.cogvideo.sampling_config import read_sampling_config
from cogvideo_jax.models.cogvideo.training.inherit import abstract_params
from cogvideo_jax.models.cogvideo.training.tasks import build_model
from cogvideo_jax.models.cogvideo.vq.config import config_from_dict
from cogvideo_jax.models.cogvideo.vq.networks import init_networks
from cogvideo_jax.training.config_files import check_keys, load_config
from cogvideo_jax.training.state import make_optimizer

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.glob("*.py"))


def test_there_is_a_config_for_every_part_of_the_demo():
    parts = ("tokenizer", "base", "stage1", "stage2", "superres", "itersr")
    assert {path.stem for path in CONFIGS} >= {f"demo_{part}" for part in parts}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_its_model_has_shapes(path):
    config = load_config(path, [])
    check_keys(config)
    if config.part == "tokenizer":
        vq = config_from_dict(config.model.to_dict())
        params = jax.eval_shape(lambda rng: init_networks(vq, rng), jax.random.key(0))
    else:
        params = abstract_params(build_model(config))
    assert jax.tree.leaves(params)
    make_optimizer(config.optimizer, steps=config.steps)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_which_command_runs_it(path):
    assert f"cogvideo train --config=configs/{path.name}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_sampling_config_can_be_read(path):
    read_sampling_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_key_that_nobody_reads_and_a_missing_key_are_errors(path):
    config = load_config(path, []).unlock()
    config.optimizer.speed = 3
    del config.seed
    with pytest.raises(ValueError, match=r"unknown keys \['optimizer.speed'\], missing keys \['seed'\]"):
        check_keys(config)


def test_the_commands_of_the_readme_give_settings_that_exist():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\| `)?(cogvideo train --config=.*?)(?:`.*)?$", text, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        config, *overrides = (word for word in shlex.split(line)[2:] if not word.startswith("--workdir"))
        check_keys(load_config(FOLDER.parent / config.removeprefix("--config="), overrides))


def test_overrides_replace_keys_of_the_file():
    config = load_config(CONFIGS[0], ["--config.steps=7", "--config.optimizer.learning_rate=0.5"])
    assert config.steps == 7 and config.optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    "path, overrides, words",
    [
        (CONFIGS[0], ["--config.stepz=7"], "stepz"),
        (CONFIGS[0], ["--config.steps=many"], "steps"),
        (CONFIGS[0], ["--stepz=7"], "stepz"),
        (FOLDER / "none.py", [], "does not exist"),
    ],
)
def test_bad_configs_are_refused_in_one_sentence(path, overrides, words):
    with pytest.raises(ValueError, match=words):
        load_config(path, overrides)

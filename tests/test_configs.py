"""Every config file loads, and its model has shapes."""

import re
import shlex
from pathlib import Path

import jax
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.sampling_config import read_sampling_config
from cogvideo_jax.models.cogvideo.training.backbone_task import build_model
from cogvideo_jax.models.cogvideo.training.parameters import abstract_params
from cogvideo_jax.models.cogvideo.training.tasks import TASKS
from cogvideo_jax.models.cogvideo.vq.networks import init_networks
from cogvideo_jax.training.config_files import load_config, read_config, typed
from cogvideo_jax.training.optimizer import make_optimizer

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.glob("*.py"))
DEMO = FOLDER / "demo_stage1.py"
TASKS_OF = {"cogvideo": TASKS}.get


def test_there_is_a_config_for_every_part_of_the_demo():
    parts = ("tokenizer", "base", "stage1", "stage2", "superres", "itersr")
    assert {path.stem for path in CONFIGS} >= {f"demo_{part}" for part in parts}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_its_model_has_shapes(path):
    config, _ = read_config(path, [], TASKS_OF)
    if config.part == "tokenizer":
        params = jax.eval_shape(lambda rng: init_networks(config.model, rng), jax.random.key(0))
    else:
        params = abstract_params(build_model(config))
    assert jax.tree.leaves(params)
    make_optimizer(config.optimizer, steps=config.steps)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_but_the_demo_validate(path):
    config, _ = read_config(path, [], TASKS_OF)
    assert (config.validation.held_out > 0) == (not path.stem.startswith("demo"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_which_command_runs_it(path):
    assert f"cogvideo train --config=configs/{path.name}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_sampling_config_can_be_read(path):
    read_sampling_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_key_and_a_missing_key_are_errors(path):
    config = load_config(path, []).unlock()
    config.optimizer.speed = 3
    with pytest.raises(UserError, match=r"file has the unknown key optimizer\.speed"):
        typed(config, TASKS_OF, where="file")
    del config.optimizer.speed, config.seed
    with pytest.raises(UserError, match="file lacks the key seed"):
        typed(config, TASKS_OF, where="file")


def test_the_commands_of_the_readme_give_settings_that_exist():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\| `)?(cogvideo train --config=.*?)(?:`.*)?$", text, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        config, *overrides = (word for word in shlex.split(line)[2:] if not word.startswith("--workdir"))
        read_config(FOLDER.parent / config.removeprefix("--config="), overrides, TASKS_OF)


def test_overrides_replace_keys_of_the_file():
    config = load_config(CONFIGS[0], ["--config.steps=7", "--config.optimizer.learning_rate=0.5"])
    assert config.steps == 7 and config.optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    "override, words",
    [
        ("--config.stepz=7", "has no key stepz"),
        ("--config.model.layout.depth.x=7", "has no key model.layout.depth.x"),
        ("--stepz=7", "unknown argument --stepz=7"),
        ("--config.steps=many", "steps is 'many'; it should be a whole number"),
        ("--config.steps=0", "steps is 0; it should be greater than 0"),
        ("--config.steps=True", "steps is True; it should be a whole number"),
        ("--config.steps=" + 400 * "9", "steps is "),
        ("--config.steps=" + 300 * "(", "steps is "),
        ("--config.seed={1}", "something other than numbers"),
        ("--config.optimizer=3", "optimizer is 3; it should be an object"),
        ("--config.optimizer.learning_rate=1e400", "learning_rate is .*; it should be a finite number"),
        ("--config.optimizer.warmup_steps=4000", "warmup_steps=4000 must be fewer than steps=4000"),
        ("--config.microbatches=3", "batch_size 8 cannot be cut into 3 microbatches"),
        ("--config.mesh.tensor=0", "mesh: the axes data, fsdp, tensor are"),
        ("--config.example.rates=()", "example.rates is "),
        ("--config.base=", "base is ''; it should have at least 1 character"),
        ("--config.part=stage9", "part is 'stage9'; it should be one of tokenizer, base, "),
        ("--config.part=base", "lacks the key example.first_frame_suffix"),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence(override, words):
    with pytest.raises(UserError, match=words) as refused:
        read_config(DEMO, [override], TASKS_OF)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "AttributeError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError"),
        ("def get_config():\n    return {}", "returns dict; it should return a ConfigDict"),
        ("import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()", "lacks the key family"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, words):
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(UserError, match=words):
        read_config(tmp_path / "config.py", [], TASKS_OF)
    with pytest.raises(UserError, match="does not exist"):
        read_config(tmp_path / "none.py", [], TASKS_OF)
